"""What an ld or st accesses, as its modifiers say: passes and emitters must agree on it."""

from __future__ import annotations

from typing import NamedTuple

from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_STRONG = frozenset({"volatile", "mmio", "relaxed", "acquire", "release"})
_SPACES = frozenset({"global", "shared", "local", "const", "param"})
_VECTORS = {"v2": 2, "v4": 4, "v8": 8}


class Access(NamedTuple):
    """An access of neighbouring elements.

    Attributes:
        space: State space; "" is generic.
        kind: Type of an element, None where none is named.
        number: Elements.
        volatile: Whether others may look at the memory meanwhile.
    """

    space: str
    kind: PtxType | None
    number: int
    volatile: bool

    @property
    def bytes(self) -> int:
        """Of all elements; those of the largest where no type is named."""
        return (self.kind or TYPES["b128"]).bytes * self.number


def access_of(instr: ast.Instr) -> Access:
    """What an ld or st accesses."""
    space, kind, number, volatile = "", None, 1, False
    for mod in instr.mods:
        head = mod.split("::")[0]
        if head in _SPACES:
            space = head
        elif mod in TYPES:
            kind = TYPES[mod]
        elif mod in _VECTORS:
            number = _VECTORS[mod]
        elif mod in _STRONG:
            volatile = True
    return Access(space, kind, number, volatile)
