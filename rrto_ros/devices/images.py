"""Module images: PTX text and machine code out of text, fatbins and fatbin wrappers.

Formats: PTX is NUL-terminated text. A fatbin starts with 0xBA55ED50, u16 version, u16 header
size, u64 body size; its entries carry a kind (1 PTX, 2 ELF), sizes and compression flags.
A wrapper (0x466243B1) holds a pointer and cannot be followed here: the robot's side resolves it.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import struct
from dataclasses import dataclass
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cubins import architecture
from rrto_ros.errors import PtxError, UnavailableError
from rrto_ros.zstd import unpack

_FATBIN, _WRAPPER, _ELF = 0xBA55ED50, 0x466243B1, b"\x7fELF"
_KIND_PTX, _KIND_ELF = 1, 2
_ONLY_THIS, _FAMILY = 0x100000, 0x200000
"""Flags of an entry, from CUDA 13 on: for its architecture (sm_90a) or family (sm_100f) alone."""
_FLAG_COMPRESSED, _FLAG_ZSTD = 0x2000, 0x8000
MAX_PTX_BYTES = 64 << 20
MAX_CODE_BYTES = 1 << 30
_ENTRY_HEADER_BYTES = 64
_GAPS = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
"""What may stand before PTX's first directive."""
_TARGET = re.compile(r"^\s*\.target\s+sm_(\d+)([af]?)", re.MULTILINE)


@dataclass(frozen=True)
class _Entry:
    """One PTX or ELF of a fatbin, still packed."""

    kind: int
    payload: bytes | memoryview
    flags: int
    raw_bytes: int
    architecture: int

    def text(self) -> str:
        return _text(self.content())

    def content(self) -> bytes:
        most = MAX_PTX_BYTES if self.kind == _KIND_PTX else MAX_CODE_BYTES
        return _decompress(self.payload, self.flags, self.raw_bytes, most)

    def fits(self, compute_capability: tuple[int, int]) -> bool:
        """Whether a device of that capability runs this machine code."""
        own, (major, minor) = divmod(self.architecture, 10), compute_capability
        if self.flags & _ONLY_THIS:
            return own == (major, minor)
        return own[0] == major and own[1] <= minor


def ptx_text(image: bytes, compute_capability: tuple[int, int]) -> str:
    """The PTX text in a module image; of several, the best for a compute capability.

    Best is the highest architecture that is not above the device's. Text that is no fatbin is
    taken as it is, whatever its .target.

    Raises:
        PtxError: NO_BINARY_FOR_GPU for machine code without PTX for this device, INVALID_IMAGE
            for a damaged or unknown image, INVALID_PTX for text that is no PTX.
    """
    if image[:4] == _ELF:
        raise _machine_code({architecture(image)})
    magic = struct.unpack_from("<I", image)[0] if len(image) >= 4 else 0
    if magic == _WRAPPER:
        raise PtxError("a fatbin wrapper was sent instead of its contents", CUresult.INVALID_IMAGE)
    if magic == _FATBIN:
        return _best(_fatbin(image), compute_capability)
    return _text(image)


def machine_code(image: bytes, compute_capability: tuple[int, int]) -> bytes | None:
    """The machine code in an image that a device of that capability takes; None if none is for it.

    Raises:
        PtxError: NO_BINARY_FOR_GPU for a cubin of another architecture, INVALID_IMAGE for a
            damaged fatbin.
    """
    if image[:4] == _ELF:
        number = architecture(image)
        if not _Entry(_KIND_ELF, image, 0, 0, number).fits(compute_capability):
            own = compute_capability[0] * 10 + compute_capability[1]
            raise PtxError(
                f"machine code for sm_{number}; the device is sm_{own}",
                CUresult.NO_BINARY_FOR_GPU,
            )
        return image
    if len(image) < 4 or struct.unpack_from("<I", image)[0] != _FATBIN:
        return None
    fitting = [e for e in _fatbin(image) if e.kind == _KIND_ELF and e.fits(compute_capability)]
    if not fitting:
        return None
    # Of one architecture, what is made for it alone, then the later entry.
    best = max(
        enumerate(fitting),
        key=lambda e: (e[1].architecture, bool(e[1].flags & _ONLY_THIS), e[0]),
    )
    return best[1].content()


def contents(image: bytes) -> list[bytes]:
    """The PTX texts and ELF files in a module image; those that cannot be unpacked are left out.

    Raises:
        PtxError: INVALID_IMAGE for a damaged fatbin.
    """
    if len(image) < 4 or struct.unpack_from("<I", image)[0] != _FATBIN:
        return [image]
    out: list[bytes] = []
    for entry in _fatbin(image):
        with contextlib.suppress(PtxError):
            out.append(entry.content())
    return out


def held(image: memoryview, position: int) -> tuple[set[int], set[int], int]:
    """What the fatbin at a position holds; nothing is unpacked or copied.

    Returns:
        (architectures of its PTX, of its machine code, where it ends).

    Raises:
        PtxError: INVALID_IMAGE if no whole fatbin is there.
    """
    bounds = _bounds(image, position)
    if bounds is None:
        raise PtxError("no fatbin is there", CUresult.INVALID_IMAGE)
    found = _entries(image, *bounds)
    ptx, elf = (
        {entry.architecture for entry in found if entry.kind == kind}
        for kind in (_KIND_PTX, _KIND_ELF)
    )
    return ptx, elf, bounds[1]


def is_binary(image: bytes) -> bool:
    """Whether an image is a fatbin or an ELF file; otherwise it is text."""
    magic = struct.unpack_from("<I", image)[0] if len(image) >= 4 else 0
    return image[:4] == _ELF or magic in (_FATBIN, _WRAPPER)


def _best(entries: list[_Entry], compute_capability: tuple[int, int]) -> str:
    elves = [entry.architecture for entry in entries if entry.kind == _KIND_ELF]
    entries = [entry for entry in entries if entry.kind == _KIND_PTX]
    if not entries:
        raise _machine_code(set(elves))
    own = compute_capability[0] * 10 + compute_capability[1]
    # Those first whose header names none; of the same architecture, the later entry.
    numbered = sorted(enumerate(entries), key=lambda e: (e[1].architecture or 1 << 30, e[0]))
    for _, entry in numbered[::-1]:
        if entry.architecture > own:
            continue
        text = entry.text()
        if _runs_on(text, compute_capability):
            return text
    listed = ", ".join(str(e.architecture) for e in entries)
    raise PtxError(
        f"the fatbin holds PTX for architectures {listed}, the device has {own}; build "
        f"the program with PTX for {own} or below",
        CUresult.NO_BINARY_FOR_GPU,
    )


def _machine_code(architectures: set[int]) -> PtxError:
    """The refusal of an image without PTX, with what the program's user can do."""
    known = sorted(architectures - {0})
    named = " for " + ", ".join(f"sm_{n}" for n in known) if known else ""
    number = known[-1] if known else "XX"
    return PtxError(
        f"machine code{named} and no PTX, which is what this device executes: start the program "
        "by `rrto run` with RRTO_STAND_INS unset (NVRTC, nvJitLink and ptxas then give PTX), let "
        "it make the kernels anew that it keeps on disk (Triton: in ~/.triton), or build "
        f"it with PTX (nvcc -gencode arch=compute_{number},code=compute_{number})",
        CUresult.NO_BINARY_FOR_GPU,
    )


def _runs_on(text: str, compute_capability: tuple[int, int]) -> bool:
    """Whether the .target is the device's or below; sm_90a is for 9.0 only, sm_100f for 10.x."""
    found = _TARGET.search(text)
    if found is None:
        return True
    wanted = divmod(int(found[1]), 10)
    match found[2]:
        case "a":
            return wanted == compute_capability
        case "f":
            return wanted[0] == compute_capability[0] and wanted <= compute_capability
    return wanted <= compute_capability


def _text(data: bytes) -> str:
    end = data.find(b"\0")
    data = data if end < 0 else data[:end]
    if len(data) > MAX_PTX_BYTES:
        raise PtxError(f"PTX of {len(data)} bytes, at most {MAX_PTX_BYTES} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PtxError(
            f"the image is neither PTX text nor a known binary: {error}", CUresult.INVALID_IMAGE
        ) from error
    begin = _GAPS.match(text)
    if not text.startswith(".", begin.end() if begin else 0):
        raise PtxError(
            "the image is neither PTX (which begins with .version), nor a fatbin, nor "
            f"ELF: it begins with {text[:20]!r}",
            CUresult.INVALID_IMAGE,
        )
    if ".version" not in text:
        raise PtxError("the image is text without a .version directive, so it is no PTX")
    return text


def _fatbin(image: bytes) -> list[_Entry]:
    entries: list[_Entry] = []
    position = 0
    while (bounds := _bounds(image, position)) is not None:
        entries += _entries(image, *bounds)
        position = bounds[1]
    return entries


def _bounds(image: bytes | memoryview, position: int) -> tuple[int, int] | None:
    """Where the entries of the fatbin at a position begin and end; None if none is there."""
    if len(image) - position < 16:
        return None
    magic, _, header, body = struct.unpack_from("<IHHQ", image, position)
    if magic != _FATBIN:
        return None
    end = position + header + body
    if header < 16 or end > len(image):
        raise PtxError("the fatbin is cut short", CUresult.INVALID_IMAGE)
    return position + header, end


def _entries(image: bytes | memoryview, position: int, end: int) -> list[_Entry]:
    entries = []
    while position < end:
        if end - position < _ENTRY_HEADER_BYTES:
            raise PtxError("a fatbin entry is cut short", CUresult.INVALID_IMAGE)
        kind, _, header, size = struct.unpack_from("<HHIQ", image, position)
        (compressed,) = struct.unpack_from("<I", image, position + 16)
        (architecture,) = struct.unpack_from("<I", image, position + 28)
        (flags,) = struct.unpack_from("<Q", image, position + 40)
        (raw,) = struct.unpack_from("<Q", image, position + 56)
        start = position + header
        if header < _ENTRY_HEADER_BYTES or start + size > end:
            raise PtxError("a fatbin entry is cut short", CUresult.INVALID_IMAGE)
        if kind in (_KIND_PTX, _KIND_ELF):
            payload = image[start : start + (compressed or size)]
            entries.append(_Entry(kind, payload, flags, raw, architecture))
        position = start + size
    return entries


def _decompress(payload: bytes | memoryview, flags: int, raw: int, most: int) -> bytes:
    if not flags & (_FLAG_COMPRESSED | _FLAG_ZSTD):
        return bytes(payload)
    if raw > most:
        raise PtxError(
            f"an image of {raw} bytes in a fatbin, at most {most} are read", CUresult.INVALID_IMAGE
        )
    try:
        if flags & _FLAG_ZSTD:
            return unpack(payload, raw)
        return bytes(_lz4().decompress(payload, uncompressed_size=raw))
    except UnavailableError as error:
        raise PtxError(
            f"an image in the fatbin is compressed: {error}, where the server runs",
            CUresult.INVALID_IMAGE,
        ) from error
    except Exception as error:
        raise PtxError(
            f"a compressed image in the fatbin is damaged: {error}", CUresult.INVALID_IMAGE
        ) from error


def _lz4() -> Any:
    try:
        return importlib.import_module("lz4.block")
    except ImportError as error:
        raise UnavailableError("the Python package lz4 is not installed; install it") from error
