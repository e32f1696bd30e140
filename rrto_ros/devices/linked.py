"""What a link put together: the inputs of cuLink and of nvJitLink in one ELF file.

The shim writes it (shim/core/linked.c) in place of machine code, and gives it to the program as
the linked image; the device links when it is loaded. It is an ELF file for CUDA machines
(e_machine 190) whose sections are the inputs, in their order, named
`.rrto.<kind of input as in CUjitInputType>.<name that the program gave>`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from rrto_ros.api.results import CUresult
from rrto_ros.devices.device_runtime import DEVICE_RUNTIME, is_device_runtime
from rrto_ros.devices.images import ptx_text
from rrto_ros.errors import PtxError

PTX, FATBINARY, LIBRARY = 1, 2, 4
MAX_INPUTS = 4096
_OTHERS = {0: "machine code (cubin)", 3: "a host object", 4: "a library"}
_MACHINE = 190
_HEADER, _SECTION = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ")
_NAME = re.compile(rb"\.rrto\.(\d)\.(.*)", re.DOTALL)


@dataclass(frozen=True)
class LinkInput:
    """One input.

    Attributes:
        kind: As in CUjitInputType: 0 cubin, 1 PTX, 2 fatbin, 3 object, 4 library.
        name: That the program gave it, for messages.
    """

    kind: int
    name: str
    data: bytes


@dataclass(frozen=True)
class PtxInput:
    """One PTX text of a link and the name that the program gave it."""

    name: str
    text: str


def ptx_source(image: bytes, compute_capability: tuple[int, int]) -> str | tuple[PtxInput, ...]:
    """What there is to parse in an image: a PTX text, or the texts of a link.

    Raises:
        PtxError: As ptx_text says; NO_BINARY_FOR_GPU for an input of a link that holds no PTX.
    """
    inputs = link_inputs(image)
    if inputs is None:
        return ptx_text(image, compute_capability)
    texts = []
    for one in inputs:
        if one.kind == LIBRARY and is_device_runtime(one.data):
            texts.append(PtxInput(one.name, DEVICE_RUNTIME))
            continue
        if one.kind not in (PTX, FATBINARY):
            raise PtxError(
                f"input '{one.name}' of the link is {_OTHERS.get(one.kind, one.kind)}; "
                "only PTX, fatbins with PTX and libcudadevrt.a can be linked here",
                CUresult.NO_BINARY_FOR_GPU,
            )
        try:
            texts.append(PtxInput(one.name, ptx_text(one.data, compute_capability)))
        except PtxError as error:
            raise PtxError(
                f"input '{one.name}' of the link: {error.detail}", error.result
            ) from error
    return tuple(texts)


def link_inputs(image: bytes) -> tuple[LinkInput, ...] | None:
    """The inputs in a linked image, or None for any other image.

    Raises:
        PtxError: INVALID_IMAGE for one that is damaged.
    """
    if image[:4] != b"\x7fELF" or len(image) < _HEADER.size:
        return None
    fields = _HEADER.unpack_from(image)
    machine, at, size, count, names = fields[2], fields[6], *fields[11:14]
    if machine != _MACHINE or size != _SECTION.size or at + size * count > len(image):
        return None
    if names >= count or count > MAX_INPUTS + 2:
        return None
    sections = [_SECTION.unpack_from(image, at + size * i) for i in range(count)]
    texts = image[sections[names][4] : sections[names][4] + sections[names][5]]
    found: list[LinkInput] = []
    for section in sections:
        name = _NAME.fullmatch(texts[section[0] :].split(b"\0", 1)[0])
        if name is None:
            continue
        start, length = section[4:6]
        if start + length > len(image):
            raise PtxError(
                f"the linked image is cut short: input {len(found)} ends at "
                f"{start + length} of {len(image)} bytes",
                CUresult.INVALID_IMAGE,
            )
        found.append(
            LinkInput(
                int(name[1]), name[2].decode("utf-8", "replace"), image[start : start + length]
            )
        )
    return tuple(found) or None


def linked_image(inputs: tuple[LinkInput, ...]) -> bytes:
    """The image that the shim writes for the same inputs."""
    names, offsets = bytearray(b"\0.shstrtab\0"), []
    for one in inputs:
        offsets.append(len(names))
        names += f".rrto.{one.kind}.{one.name}".encode() + b"\0"
    body, places = bytearray(_HEADER.size), []
    for one in inputs:
        body += bytes(-len(body) % 16)
        places.append((len(body), len(one.data)))
        body += one.data + b"\0"
    strings = len(body)
    body += names
    body += bytes(-len(body) % 16)
    table = len(body)
    body += bytes(_SECTION.size)
    for offset, (start, length) in zip(offsets, places, strict=True):
        body += _SECTION.pack(offset, 1, 0, 0, start, length, 0, 0, 16, 0)
    body += _SECTION.pack(1, 3, 0, 0, strings, len(names), 0, 0, 1, 0)
    count = len(inputs) + 2
    body[: _HEADER.size] = _HEADER.pack(
        b"\x7fELF\2\1\1" + bytes(9),
        2,
        _MACHINE,
        1,
        0,
        0,
        table,
        0,
        _HEADER.size,
        0,
        0,
        _SECTION.size,
        count,
        count - 1,
    )
    return bytes(body)
