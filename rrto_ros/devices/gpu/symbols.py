"""Names in a module image: kernels in the order of their text, and device variables.

The driver lists a module's functions, in an order of its own, and no variables. So that a kernel
has the same number on every device and at every start, and that the robot learns where variables
lie, the image is read here. The driver stays the judge: a name that it does not know is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rrto_ros.devices.cubins import Cubin
from rrto_ros.devices.images import contents
from rrto_ros.devices.linked import link_inputs
from rrto_ros.errors import PtxError

_ELF = b"\x7fELF"
_MOST_NAMES = 1 << 16
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ENTRY = re.compile(r"\.entry\s+([A-Za-z_$%][\w$]*)")
_NAME = re.compile(r"([A-Za-z_$%][\w$]*)\s*(?:\[[^\]]*\]\s*)*$")


def kernel_order(image: bytes) -> list[str]:
    """Kernels in the order of the image's PTX: of its first text, or of all texts of a link."""
    names: dict[str, None] = {}
    linked = link_inputs(image)
    for part in (image,) if linked is None else (one.data for one in linked):
        for text in _texts(part):
            names.update(dict.fromkeys(_ENTRY.findall(_COMMENT.sub(" ", text))))
            break
    return list(names)


def variable_names(image: bytes) -> list[str]:
    """Names that may be variables of the module: of its PTX texts and its ELF symbol tables."""
    names: dict[str, None] = {}
    for part in _parts(image):
        found = _elf_objects(part) if part[:4] == _ELF else _ptx_variables(_decode(part))
        for name in found:
            names[name] = None
            if len(names) >= _MOST_NAMES:
                return list(names)
    return list(names)


def _parts(image: bytes) -> list[bytes]:
    try:
        linked = link_inputs(image)
        if linked is not None:
            return [part for one in linked for part in contents(one.data)]
        return contents(image)
    except PtxError:
        return []  # the driver says what is wrong with it


def _texts(image: bytes) -> Iterator[str]:
    return (_decode(part) for part in _parts(image) if part[:4] != _ELF)


def _decode(part: bytes) -> str:
    return part.split(b"\0", 1)[0].decode("utf-8", "replace")


def _ptx_variables(text: str) -> Iterator[str]:
    """Declarations of .global and .const variables outside functions."""
    for statement in _without_bodies(_COMMENT.sub(" ", text)).split(";"):
        head = statement.split("=", 1)[0]
        words = head.split()
        if ".extern" in words or not {".global", ".const"} & set(words):
            continue
        for declared in head.split(","):
            found = _NAME.search(declared.strip())
            if found:
                yield found[1]


def _without_bodies(text: str) -> str:
    """The text with everything in braces replaced by the end of a statement."""
    out: list[str] = []
    depth = start = 0
    for found in re.finditer(r"[{}]", text):
        if found[0] == "{":
            if depth == 0:
                out.append(text[start : found.start()])
            depth += 1
        elif depth:
            depth -= 1
            start = found.end()
            if depth == 0:
                out.append(";")
    if depth == 0:
        out.append(text[start:])
    return "".join(out)


def _elf_objects(image: bytes) -> tuple[str, ...]:
    """Data symbols of machine code; nothing of what is damaged."""
    try:
        return tuple(variable.name for variable in Cubin(image).variables())
    except PtxError:
        return ()
