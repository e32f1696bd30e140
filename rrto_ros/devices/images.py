"""Module images: PTX text out of text, fatbins and fatbin wrappers.

Formats: PTX is NUL-terminated text. A fatbin starts with 0xBA55ED50, u16 version, u16 header
size, u64 body size; its entries carry a kind (1 PTX, 2 ELF), sizes and compression flags.
A wrapper (0x466243B1) holds a pointer and cannot be followed here: the robot's side resolves it.
"""

from __future__ import annotations

import importlib
import struct
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.errors import PtxError

_FATBIN, _WRAPPER, _ELF = 0xBA55ED50, 0x466243B1, b"\x7fELF"
_KIND_PTX = 1
_FLAG_COMPRESSED, _FLAG_ZSTD = 0x2000, 0x8000
MAX_PTX_BYTES = 64 << 20
_ENTRY_HEADER_BYTES = 64


def ptx_texts(image: bytes) -> list[str]:
    """The PTX texts in a module image, in order.

    Raises:
        PtxError: NO_BINARY_FOR_GPU for machine code without PTX, INVALID_IMAGE for a damaged or
            unknown image, INVALID_PTX for text that is no PTX.
    """
    if image[:4] == _ELF:
        raise PtxError("the image holds machine code (ELF) and no PTX; build the program with "
                       "PTX for the device's compute capability", CUresult.NO_BINARY_FOR_GPU)
    magic = struct.unpack_from("<I", image)[0] if len(image) >= 4 else 0
    if magic == _WRAPPER:
        raise PtxError("a fatbin wrapper was sent instead of its contents",
                       CUresult.INVALID_IMAGE)
    if magic == _FATBIN:
        texts = _fatbin(image)
        if not texts:
            raise PtxError("the fatbin holds machine code and no PTX",
                           CUresult.NO_BINARY_FOR_GPU)
        return texts
    return [_text(image)]


def _text(data: bytes) -> str:
    end = data.find(b"\0")
    data = data if end < 0 else data[:end]
    if len(data) > MAX_PTX_BYTES:
        raise PtxError(f"PTX of {len(data)} bytes, at most {MAX_PTX_BYTES} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PtxError(f"the image is neither PTX text nor a known binary: {error}",
                       CUresult.INVALID_IMAGE) from error
    if ".version" not in text:
        raise PtxError("the image is text without a .version directive, so it is no PTX")
    return text


def _fatbin(image: bytes) -> list[str]:
    texts: list[str] = []
    position = 0
    while len(image) - position >= 16:
        magic, _, header, body = struct.unpack_from("<IHHQ", image, position)
        if magic != _FATBIN:
            break
        end = position + header + body
        if header < 16 or end > len(image):
            raise PtxError("the fatbin is cut short", CUresult.INVALID_IMAGE)
        texts += _entries(image, position + header, end)
        position = end
    return texts


def _entries(image: bytes, position: int, end: int) -> list[str]:
    texts = []
    while position < end:
        if end - position < _ENTRY_HEADER_BYTES:
            raise PtxError("a fatbin entry is cut short", CUresult.INVALID_IMAGE)
        kind, _, header, size = struct.unpack_from("<HHIQ", image, position)
        compressed, = struct.unpack_from("<I", image, position + 16)
        flags, = struct.unpack_from("<Q", image, position + 40)
        raw, = struct.unpack_from("<Q", image, position + 56)
        start = position + header
        if header < _ENTRY_HEADER_BYTES or start + size > end:
            raise PtxError("a fatbin entry is cut short", CUresult.INVALID_IMAGE)
        if kind == _KIND_PTX:
            payload = image[start : start + (compressed or size)]
            texts.append(_text(_decompress(payload, flags, raw)))
        position = start + size
    return texts


def _decompress(payload: bytes, flags: int, raw: int) -> bytes:
    if not flags & (_FLAG_COMPRESSED | _FLAG_ZSTD):
        return payload
    if raw > MAX_PTX_BYTES:
        raise PtxError(f"PTX of {raw} bytes, at most {MAX_PTX_BYTES} are read",
                       CUresult.INVALID_IMAGE)
    name = "zstandard" if flags & _FLAG_ZSTD else "lz4.block"
    try:
        codec: Any = importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise PtxError(f"the fatbin's PTX is compressed and the Python package {package} is not "
                       "installed; install it where the server runs",
                       CUresult.INVALID_IMAGE) from error
    try:
        if flags & _FLAG_ZSTD:
            return bytes(codec.ZstdDecompressor().decompress(payload, max_output_size=raw))
        return bytes(codec.decompress(payload, uncompressed_size=raw))
    except Exception as error:
        raise PtxError(f"the fatbin's compressed PTX is damaged: {error}",
                       CUresult.INVALID_IMAGE) from error
