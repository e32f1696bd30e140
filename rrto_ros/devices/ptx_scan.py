"""Kernels and their parameters out of a PTX text, without compiling it."""

from __future__ import annotations

from rrto_ros.api.info import KernelInfo
from rrto_ros.errors import PtxError

_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
MAX_THREADS = 1024


def scan_ptx(text: str) -> tuple[KernelInfo, ...]:
    """The kernels of a PTX text with their parameters' offsets and sizes in bytes.

    Raises:
        PtxError: The text declares no kernel, or a parameter list makes no sense.
    """
    kernels: list[KernelInfo] = []
    at = 0
    while (at := text.find(".entry", at)) >= 0:
        start = at + len(".entry")
        opened, body = text.find("(", start), text.find("{", start)
        end = body if opened < 0 or 0 <= body < opened else opened
        if end < 0:
            raise PtxError("a .entry without a body; is the text truncated?")
        name = text[start:end].strip()
        params: list[tuple[int, int]] = []
        if end == opened:
            closed = text.find(")", opened)
            if closed < 0 or not name:
                raise PtxError(f"the parameter list of kernel {name!r} does not end")
            params = _scan_params(name, text[opened + 1 : closed])
            end = closed
        kernels.append(KernelInfo(name, tuple(params), {0: MAX_THREADS, 1: 0, 2: 0, 3: 0, 4: 32}))
        at = end
    if not kernels:
        raise PtxError("the text declares no kernel (.entry)")
    return tuple(kernels)


def _scan_params(name: str, text: str) -> list[tuple[int, int]]:
    """(offset, size) of each ``.param [.align N] .type name[count]``."""
    out: list[tuple[int, int]] = []
    offset = 0
    for declaration in filter(None, (part.strip() for part in text.split(","))):
        words = declaration.replace("[", " [").split()
        size, align = 0, 0
        try:
            for i, word in enumerate(words):
                if word == ".align":
                    align = max(align, int(words[i + 1]))
                elif word[:1] == "." and word[2:] in _SIZES:
                    size = _SIZES[word[2:]]
                elif word[:1] == "[":
                    size *= int(word[1:].rstrip("]"))
        except (ValueError, IndexError):
            size = 0
        if not size:
            raise PtxError(f"kernel {name!r}: cannot read the parameter {declaration!r}")
        align = align or (size if size in (1, 2, 4, 8) else 8)
        offset += -offset % align
        out.append((offset, size))
        offset += size
    return out
