"""Of which type the elements are that a kernel loads and stores: from its PTX alone.

A load's suffix says its width and often no more: half floats are loaded as `.b16`, and compilers
move floats as `.b32`. So registers that hold the same bits (by moves, selections, exchanges) are
taken together, and what calculates with one of them says what all of them are. Where two
instructions disagree, where bits are looked at as integers, or where nothing calculates with what
is moved, the type is not known.

This says how a kernel uses what it reads, not that nothing else depends on it: that no address and
no loop does is what `writes.py` finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rrto_ros.devices.cpu.passes.cfg import Block, operand_registers
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES

UNKNOWN = ""
"""Instead of a type."""
_FLOATS = {"f32": "f32", "f16": "f16", "f16x2": "f16"}
_BITS = {"f32": 32, "f16": 16}
_OTHER = "other"
_UNTYPED = frozenset(("b16", "b32", "b64", "b128", "u16", "u32"))
"""Suffixes of loads and stores that floats have, too."""
_NAMES = "add sub mul fma mad div min max neg abs sqrt rsqrt rcp ex2 lg2 sin cos tanh copysign"
_CALCULATE = frozenset(_NAMES.split())


def element_types(blocks: Iterable[Block], predicates: Iterable[str]) -> Mapping[int, str]:
    """The type of each load and store: `f32`, `f16`, or `UNKNOWN`.

    Args:
        blocks: Of the kernel.
        predicates: Names of its predicate registers.

    Returns:
        Place among the instructions of all blocks (barriers are none) -> type.
    """
    found = _Registers(frozenset(predicates))
    places: dict[int, ast.Instr] = {}
    number = 0
    for block in blocks:
        for instr in block.instrs:
            found.used(instr)
            if instr.op in ("ld", "ldu", "st"):
                places[number] = instr
            number += 1
        if block.barrier is not None:
            found.used(block.barrier)
    return {number: found.type_of(instr) for number, instr in places.items()}


class _Registers:
    """Registers that hold the same bits, and what they are used as."""

    def __init__(self, predicates: frozenset[str]) -> None:
        self._predicates = predicates
        self._like: dict[str, str] = {}
        self._uses: dict[str, set[str]] = {}

    def used(self, instr: ast.Instr) -> None:
        """Note what an instruction says of its operands."""
        op, mods, args = instr.op, instr.mods, instr.args
        kinds = [mod for mod in mods if mod in TYPES]
        kind = kinds[-1] if kinds else ""
        if op in ("ld", "ldu", "st"):
            value = _value(instr)
            self._same([value])
            if kind not in _UNTYPED:
                self._use([value], kind)
        elif op in ("mov", "selp"):
            values = args[:3] if op == "selp" else args
            self._same(values)
            if kind in _FLOATS:
                self._use(values, kind)
            if any(isinstance(arg, ast.Special | ast.Sym) for arg in values):
                self._use(values, _OTHER)
        elif op == "shfl":
            self._same(args[:2])
            self._use(args[2:], _OTHER)
        elif op in ("cvt", "set") and len(kinds) > 1:
            self._use(args[:1], kinds[-2])
            self._use(args[1:], kinds[-1])
        elif op in ("setp", "testp"):
            self._use(args[1:], kind)
        elif op in _CALCULATE:
            self._use(args, kind)
        else:
            self._use(args, _OTHER)

    def type_of(self, instr: ast.Instr) -> str:
        """Of what a load or store moves."""
        names = self._names([_value(instr)])
        uses: set[str] = set()
        for name in names:
            uses |= self._uses.get(self._root(name), set())
        if len(uses) != 1:
            return UNKNOWN
        (kind,) = uses
        moved = TYPES.get(instr.mods[-1])
        if kind not in _BITS or moved is None or moved.bits % _BITS[kind]:
            return UNKNOWN
        return kind

    def _names(self, args: Sequence[ast.Operand]) -> list[str]:
        return [n for arg in args for n in operand_registers(arg) if n not in self._predicates]

    def _root(self, name: str) -> str:
        while (other := self._like.get(name, name)) != name:
            self._like[name] = self._like.get(other, other)
            name = other
        return name

    def _same(self, args: Sequence[ast.Operand]) -> None:
        first, *others = self._names(args) or [""]
        for other in others:
            one, joined = self._root(first), self._root(other)
            if one != joined:
                self._like[joined] = one
                self._uses.setdefault(one, set()).update(self._uses.pop(joined, ()))

    def _use(self, args: Sequence[ast.Operand], kind: str) -> None:
        for name in self._names(args):
            self._uses.setdefault(self._root(name), set()).add(_FLOATS.get(kind, _OTHER))


def _value(instr: ast.Instr) -> ast.Operand:
    return instr.args[-1] if instr.op == "st" else instr.args[0]
