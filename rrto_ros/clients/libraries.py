"""What a shared library holds for a GPU: owns reading its fatbins, and which CUDA runtime it has.

Files are mapped, and of the fatbins only the heads are read: a library of gigabytes takes a
fraction of a second. The formats of fatbins are `devices.images`'s.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rrto_ros.devices.images import held
from rrto_ros.errors import PtxError

_ELF64 = b"\x7fELF\x02\x01"
_MAGIC = struct.pack("<I", 0xBA55ED50)
_FATBINS = (b".nv_fatbin", b"__nv_relfatbin")
_TEXTS = (b".rodata", b".dynstr", b".data.rel.ro", b".data", b".lrodata")
_SONAME = re.compile(rb"libcudart\.so\.(\d+)")
_OWN_NAME = re.compile(r"libcudart\.so\.(\d+)")
_HANDSHAKE = bytes.fromhex("d4082055bde6704b8d34ba123c66e1f2")
"""Name of the table by which every copy of the CUDA runtime checks the driver."""
_SECTION_BYTES, _MOST_SECTIONS = 64, 1 << 16
_NO_BITS = 8


@dataclass(frozen=True)
class Contents:
    """What was found in one library, or in several together.

    Attributes:
        fatbins: How many there are.
        ptx: Architectures (90 for sm_90) for which there is PTX.
        machine_code: Those for which there is machine code.
        runtime: The CUDA runtimes it has: "libcudart.so.12" is loaded, "static" is inside it.
        damaged: Fatbins that could not be read.
        unread: Libraries that were not looked at, because the time was over.
    """

    fatbins: int = 0
    ptx: frozenset[int] = frozenset()
    machine_code: frozenset[int] = frozenset()
    runtime: frozenset[str] = frozenset()
    damaged: int = 0
    unread: int = 0

    def __add__(self, other: Contents) -> Contents:
        return Contents(
            self.fatbins + other.fatbins,
            self.ptx | other.ptx,
            self.machine_code | other.machine_code,
            self.runtime | other.runtime,
            self.damaged + other.damaged,
            self.unread + other.unread,
        )


@dataclass
class Budget:
    """How long the looking may take, of all libraries together.

    Attributes:
        seconds: From the first look on.
        progress: Is told of each library that is looked at.
    """

    seconds: float
    progress: Callable[[Path], object] = lambda _: None
    _end: float = field(default=0.0, init=False)

    def over(self) -> bool:
        """Whether nothing more may be looked at."""
        self._end = self._end or time.monotonic() + self.seconds
        return time.monotonic() > self._end


def contents(libraries: Iterable[Path], budget: Budget) -> Contents:
    """What some libraries hold together; files that are none or cannot be read hold nothing."""
    total = Contents()
    seen: set[tuple[int, int]] = set()
    for path in libraries:
        if budget.over():
            total += Contents(unread=1)
            continue
        budget.progress(path)
        with contextlib.suppress(OSError, ValueError):
            status = path.stat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += _library(path, budget)
    return total


def _library(path: Path, budget: Budget) -> Contents:
    """Of one library. ValueError: it is empty."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        if data[: len(_ELF64)] != _ELF64:
            return Contents()
        found = Contents()
        runtime: set[str] = set()
        for name, begin, end in _sections(data):
            if name in _FATBINS:
                with view[begin:end] as section:
                    found += _fatbins(data, section, begin, end, budget)
            elif name in _TEXTS:
                runtime |= _runtimes(data, begin, end)
        own = _OWN_NAME.match(path.name)
        if own is not None:
            runtime = {f"libcudart.so.{own[1]}"}
        return found + Contents(runtime=frozenset(runtime))


def _sections(data: mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """(name, begin, end) of the sections that lie inside the file; none of what is no ELF file."""
    if len(data) < _SECTION_BYTES:
        return
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    if size != _SECTION_BYTES or not table or table + size * count > len(data) or names >= count:
        return
    (texts,) = struct.unpack_from("<Q", data, table + names * size + 24)
    for i in range(min(count, _MOST_SECTIONS)):
        at = table + i * size
        offset, kind = struct.unpack_from("<II", data, at)
        begin, length = struct.unpack_from("<QQ", data, at + 24)
        if kind == _NO_BITS or begin + length > len(data):
            continue
        end = data.find(b"\0", texts + offset, texts + offset + 64)
        yield data[texts + offset : max(end, texts + offset)], begin, begin + length


def _fatbins(
    data: mmap.mmap, section: memoryview, begin: int, end: int, budget: Budget
) -> Contents:
    ptx: set[int] = set()
    machine_code: set[int] = set()
    count = damaged = 0
    at = begin
    while (at := data.find(_MAGIC, at, end)) >= 0 and not budget.over():
        try:
            texts, codes, after = held(section, at - begin)
        except PtxError:
            damaged += 1
            at += len(_MAGIC)
            continue
        count += 1
        ptx |= texts
        machine_code |= codes
        at = begin + after
    return Contents(count, frozenset(ptx), frozenset(machine_code), damaged=damaged,
                    unread=int(at >= 0))  # fmt: skip


def _runtimes(data: mmap.mmap, begin: int, end: int) -> set[str]:
    found = {f"libcudart.so.{int(number)}" for number in _SONAME.findall(data, begin, end)}
    if data.find(_HANDSHAKE, begin, end) >= 0:
        found.add("static")
    return found
