"""Finds addresses that are another address moved by a little: those need no look of their own.

A kernel's pointers are parameters; what it accesses lies at a pointer plus an index of 32 bits
times the size of an element. The code keeps beside each register that addresses memory a pointer
that is safe (codegen/containment.py). Where a register is set to another one moved by no more than
`FAR`, its safe pointer is that of the other moved as far; elsewhere it is made by comparing.
Nothing follows from where in the kernel a register is read: each safe pointer is made where its
register is set, from values at that place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rrto_ros.devices.cpu.passes.cfg import destinations
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

FAR = 1 << 35
"""How far a safe pointer may be from the address that was compared: 32 bits times eight bytes."""
_WIDTHS = {"i8": 8, "i16": 16, "i32": 32}
_ROUNDS, _LAST_ROUND = 8, 40
_DEPTH = 100


@dataclass(frozen=True)
class Addresses:
    """What the code needs to know.

    Attributes:
        registers: Those with a safe pointer beside them.
        moved: Instruction -> the register that it moves by a little to set its own.
    """

    registers: frozenset[str]
    moved: Mapping[ast.Instr, str]


def find_addresses(instrs: Sequence[ast.Instr], types: Mapping[str, str]) -> Addresses:
    """The addresses of a kernel.

    Args:
        instrs: All its instructions.
        types: Register -> LLVM type.
    """
    definitions: dict[str, list[ast.Instr]] = {}
    wanted: list[str] = []
    for instr in instrs:
        for name in destinations(instr):
            definitions.setdefault(name, []).append(instr)
        bases = [arg.base for arg in instr.args if isinstance(arg, ast.Addr)]
        wanted += [base.name for base in bases if isinstance(base, ast.Reg)]
    finder = _Finder(definitions, types)
    registers: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in registers or types.get(name) != "i64":
            continue
        registers.add(name)
        finder.reach(name, ())
        wanted += [
            finder.moved[instr] for instr in definitions.get(name, ()) if instr in finder.moved
        ]
    moved = {
        instr: base
        for instr, base in finder.moved.items()
        if base in registers and all(name in registers for name in destinations(instr))
    }
    return Addresses(frozenset(registers), moved)


class _Finder:
    """How large values are, and how far addresses are from those that they are made of."""

    def __init__(
        self, definitions: Mapping[str, list[ast.Instr]], types: Mapping[str, str]
    ) -> None:
        self._definitions = definitions
        self._types = types
        self._large = self._sizes()
        self._reach: dict[str, int] = {}
        self.moved: dict[ast.Instr, str] = {}

    # how large a value is, as a signed number: None is not known
    def _sizes(self) -> dict[str, int | None]:
        """The fixed point of what the instructions say; what grows for ever is not known."""
        large: dict[str, int | None] = {
            name: 0
            for name in self._definitions
            if self._types.get(name) == "i64" or self._types.get(name) in _WIDTHS
        }
        self._large = large
        turn, changed = 0, True
        while changed:
            changed = False
            turn += 1
            if turn > _LAST_ROUND:
                return dict.fromkeys(large)
            for name in large:
                before = large[name]
                if before is None:
                    continue
                most = self._most(name, before)
                if most != before:
                    changed = True
                    large[name] = most if turn <= _ROUNDS else None
        return large

    def _most(self, name: str, most: int) -> int | None:
        """The largest of what sets a register."""
        width = _WIDTHS.get(self._types[name])
        for instr in self._definitions[name]:
            found = self._result(instr, name)
            if width is not None:
                # A value that is read as unsigned may be any of its width.
                found = found if found is not None and found < 1 << width - 1 else 1 << width
            if found is None or found > FAR:
                return None
            most = max(most, found)
        return most

    def _size(self, operand: ast.Operand, kind: PtxType = TYPES["s64"]) -> int | None:
        """How large an operand is that is read as an integer of some type."""
        if kind.bits < 64:
            known = None
            if isinstance(operand, ast.Imm):
                known = operand.value
            elif isinstance(operand, ast.Reg) and self._types.get(operand.name) == "i32":
                known = self._large.get(operand.name)
            if known is not None and 0 <= known < 1 << min(kind.bits, 32) - 1:
                return known
            return 1 << kind.bits - kind.signed
        if isinstance(operand, ast.Imm):
            value = operand.value & (1 << 64) - 1
            return min(value, (1 << 64) - value)
        if isinstance(operand, ast.Reg):
            width = _WIDTHS.get(self._types.get(operand.name, ""))
            return self._large.get(operand.name) if width is None else 1 << width
        return None

    def _result(self, instr: ast.Instr, name: str) -> int | None:
        """How large a result is."""
        args, kinds = instr.args, [TYPES[m] for m in instr.mods if m in TYPES]
        if (
            not kinds
            or not isinstance(args[0], ast.Reg)
            or any(k.kind not in "usb" for k in kinds)
            or {"sat", "cc"} & set(instr.mods)
        ):
            return None
        bits = kinds[-1].bits
        if instr.op in ("ld", "ldu"):
            return 1 << bits if bits < 64 and args[0].name == name else None
        if instr.op == "cvt" and len(kinds) == len(instr.mods) == 2:
            return self._size(args[1], kinds[1])
        if bits == 32 and self._types[name] == "i32":
            immediate = instr.op == "mov" and isinstance(args[1], ast.Imm)
            return self._size(args[1], TYPES["u32"]) if immediate else None
        if instr.op in ("mul", "mad") and ("wide" in instr.mods or bits == 64):
            product = self._product(instr)
            more = self._size(args[3]) if instr.op == "mad" else 0
            return None if product is None or more is None else product + more
        if bits != 64:
            return None
        match instr.op:
            case "mov" | "neg":
                return self._size(args[1])
            case "add" | "sub" | "min" | "max" | "selp":
                first, second = self._size(args[1]), self._size(args[2])
                return None if first is None or second is None else first + second
            case "shl" if isinstance(args[2], ast.Imm) and 0 <= args[2].value < 32:
                value = self._size(args[1])
                return None if value is None else value << args[2].value
            case "and":
                masks = [a.value for a in args[1:3] if isinstance(a, ast.Imm)]
                return next((m for m in masks if 0 <= m < 1 << 63), None)
        return None

    def _product(self, instr: ast.Instr) -> int | None:
        """How large the product of a mul or mad is that is not cut off."""
        if "hi" in instr.mods:
            return None
        kind = next(TYPES[m] for m in instr.mods if m in TYPES)
        first, second = self._size(instr.args[1], kind), self._size(instr.args[2], kind)
        return None if first is None or second is None else first * second

    # how far an address is from one that was compared
    def reach(self, name: str, above: tuple[str, ...]) -> int:
        """The largest distance; what a register is moved from is noted where that is little.

        Args:
            name: A register of 64 bits.
            above: Registers that are made of it, which it must not be made of.
        """
        known = self._reach.get(name)
        if known is not None:
            return known
        most, above = 0, (*above, name)
        for instr in self._definitions.get(name, ()):
            base, distance = self._moves(instr)
            if base is None or base in above or len(above) > _DEPTH:
                continue
            distance += self.reach(base, above)
            if distance <= FAR:
                self.moved[instr] = base
                most = max(most, distance)
        self._reach[name] = most
        return most

    def _moves(self, instr: ast.Instr) -> tuple[str | None, int]:
        """What register an instruction moves, and how far at most."""
        args, kinds = instr.args, [TYPES[m] for m in instr.mods if m in TYPES]
        if (
            not kinds
            or any(k.kind not in "usb" for k in kinds)
            or {"sat", "cc", "hi", "shared"} & {m.split("::")[0] for m in instr.mods}
            or not isinstance(args[0], ast.Reg)
        ):
            return None, 0
        wide = instr.op == "mad" and "wide" in instr.mods
        if not wide and kinds[-1].bits != 64:
            return None, 0
        pairs: list[tuple[ast.Operand, int | None]] = []
        match instr.op:
            case "mov" | "cvta":
                pairs = [(args[1], 0)]
            case "add":
                pairs = [(args[1], self._size(args[2])), (args[2], self._size(args[1]))]
            case "sub":
                pairs = [(args[1], self._size(args[2]))]
            case "mad":
                pairs = [(args[3], self._product(instr))]
        for operand, distance in pairs:
            if (
                isinstance(operand, ast.Reg)
                and self._types.get(operand.name) == "i64"
                and distance is not None
                and distance <= FAR
            ):
                return operand.name, distance
        return None, 0
