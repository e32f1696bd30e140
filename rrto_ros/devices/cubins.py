"""Kernels and variables out of machine code (a cubin, an ELF file), without a driver.

Kernels are functions that the symbol table marks as entries; how their parameters lie stands in
their section `.nv.info.<kernel>`, a list of attributes: u8 format, u8 attribute, u16 value or, in
format 4, bytes of what follows. Numbers as measured of CUDA 12 and 13.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rrto_ros.api.info import KernelInfo
from rrto_ros.api.results import CUresult
from rrto_ros.errors import PtxError

MACHINE, ABI_WITH_SHIFT = 190, 8
"""e_machine; the ABI version (CUDA 13) from which e_flags has the architecture higher up."""
MAX_THREADS = 1024
MAX_SYMBOLS = 1 << 20
_HEADER, _SECTION = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMBOL_TABLE, _NO_BITS, _OBJECT, _FUNCTION = 2, 8, 1, 2
_ENTRY = 0x10
_MAX_NTID, _FRAME, _PARAM, _REGISTERS, _LARGE_PARAM = 0x05, 0x11, 0x17, 0x2F, 0x45
_LONG = 4
_PARAM_INFO, _TWO = struct.Struct("<IHHI"), struct.Struct("<II")
_MOST_PARAM_BYTES = 1 << 16


@dataclass(frozen=True)
class Variable:
    """A variable of a cubin: its name and its size in bytes."""

    name: str
    bytes: int


class Cubin:
    """One ELF file.

    Args:
        image: Its bytes.

    Raises:
        PtxError: INVALID_IMAGE for one that is damaged or no 64-bit ELF file.
    """

    def __init__(self, image: bytes) -> None:
        self._image = image
        if len(image) < _HEADER.size or image[:4] != b"\x7fELF" or image[4] != 2:
            raise _damaged("it is no 64-bit ELF file")
        head = _HEADER.unpack_from(image)
        at, entry, count, names = head[6], *head[11:14]
        if count and (entry != _SECTION.size or at + entry * count > len(image)):
            raise _damaged("its sections lie outside")
        self._sections = [_SECTION.unpack_from(image, at + entry * i) for i in range(count)]
        self.architecture = architecture(image)
        self._names = b""
        if names < count:
            self._names = self._content(names)

    def kernels(self) -> tuple[KernelInfo, ...]:
        """The kernels in the order of their names, with what the file says of them."""
        sections = {self._name(i): i for i in range(len(self._sections))}
        numbers = self._by_symbol(sections.get(".nv.info"))
        found: dict[str, KernelInfo] = {}
        for number, name, info, other, _, _ in self._symbols():
            if info & 15 == _FUNCTION and other & _ENTRY and name not in found:
                params, threads = self._layout(sections.get(f".nv.info.{name}"))
                attributes = {
                    0: threads,
                    1: self._shared(sections, name),
                    2: 0,
                    3: numbers.get((_FRAME, number), 0),
                    4: numbers.get((_REGISTERS, number), 0),
                    5: self.architecture,
                    6: self.architecture,
                }
                found[name] = KernelInfo(name, params, attributes)
        return tuple(found[name] for name in sorted(found))

    def variables(self) -> tuple[Variable, ...]:
        """Data symbols that are defined here, each name once."""
        found: dict[str, Variable] = {}
        for _, name, info, _, section, size in self._symbols():
            if info & 15 == _OBJECT and section and name:
                found.setdefault(name, Variable(name, size))
        return tuple(found.values())

    def _symbols(self) -> Iterator[tuple[int, str, int, int, int, int]]:
        """(number, name, info, other, section, size) of each symbol."""
        for i, section in enumerate(self._sections):
            if section[1] != _SYMBOL_TABLE or section[6] >= len(self._sections):
                continue
            table, strings = self._content(i), self._content(section[6])
            for number in range(min(len(table) // _SYMBOL.size, MAX_SYMBOLS)):
                name, info, other, home, _, size = _SYMBOL.unpack_from(
                    table, number * _SYMBOL.size
                )
                yield number, _text(strings, name), info, other, home, size

    def _layout(self, section: int | None) -> tuple[tuple[tuple[int, int], ...], int]:
        """A kernel's parameters, and how many threads it may have."""
        params: dict[int, tuple[int, int]] = {}
        threads = MAX_THREADS
        for attribute, value in self._attributes(section):
            if attribute == _MAX_NTID and len(value) >= 12:
                x, y, z = struct.unpack_from("<III", value)
                threads = min(x * y * z, MAX_THREADS)
            if attribute in (_PARAM, _LARGE_PARAM) and len(value) >= _PARAM_INFO.size:
                _, ordinal, offset, word = _PARAM_INFO.unpack_from(value)
                size = word >> 18 if attribute == _PARAM else word & 0xFFFF
                params[ordinal] = (offset, size)
        layout = tuple(params[ordinal] for ordinal in sorted(params))
        if any(offset + size > _MOST_PARAM_BYTES for offset, size in layout):
            raise _damaged("a parameter lies outside")
        return layout, threads

    def _by_symbol(self, section: int | None) -> Mapping[tuple[int, int], int]:
        """Numbers that `.nv.info` gives for symbols."""
        return {
            (attribute, symbol): number
            for attribute, value in self._attributes(section)
            if attribute in (_FRAME, _REGISTERS) and len(value) >= _TWO.size
            for symbol, number in (_TWO.unpack_from(value),)
        }

    def _attributes(self, section: int | None) -> Iterator[tuple[int, bytes]]:
        data = b"" if section is None else self._content(section)
        at = 0
        while at + 4 <= len(data):
            kind, attribute, size = struct.unpack_from("<BBH", data, at)
            at += 4
            if kind == _LONG:
                yield attribute, data[at : at + size]
                at += size

    def _shared(self, sections: Mapping[str, int], kernel: str) -> int:
        """Static shared bytes: from sm_90 on the first 1,024 are the system's."""
        number = sections.get(f".nv.shared.{kernel}")
        size = 0 if number is None else int(self._sections[number][5])
        reserved = 1024 if ".nv.shared.reserved.0" in sections and size >= 1024 else 0
        return min(size - reserved, 1 << 20)

    def _content(self, number: int) -> bytes:
        section = self._sections[number]
        if section[1] == _NO_BITS:
            return b""
        start, size = section[4:6]
        if start + size > len(self._image):
            raise _damaged(f"section {number} lies outside")
        return self._image[start : start + size]

    def _name(self, number: int) -> str:
        return _text(self._names, self._sections[number][0])


def architecture(image: bytes) -> int:
    """The number in sm_90 of a cubin, 0 if it says none."""
    if len(image) < 52 or struct.unpack_from("<H", image, 18)[0] != MACHINE:
        return 0
    flags: int = struct.unpack_from("<I", image, 48)[0]
    return (flags >> 8 if image[8] >= ABI_WITH_SHIFT else flags) & 0xFF


def _text(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at)
    return strings[at : end if end >= 0 else len(strings)].decode("utf-8", "replace")


def _damaged(why: str) -> PtxError:
    return PtxError(f"the machine code is damaged: {why}", CUresult.INVALID_IMAGE)
