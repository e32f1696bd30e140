"""Finds registers whose value moves by a constant step from lane to lane.

Arithmetic that wraps keeps such a step exactly, modulo the register's width, so one number, that
of the first lane, stands for all lanes. Widening a 32-bit value may break the step where the
32-bit value wraps; such a register also remembers the first lane's value before it was widened,
from which the other lanes follow exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rrto_ros.devices.cpu.passes.cfg import destinations
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES

_LIMIT = 1 << 31
_BITS = {"i32": 32, "i64": 64}


@dataclass(frozen=True)
class Affine:
    """A register's value in lane i, given that in lane 0.

    Attributes:
        stride: Step from lane to lane, while nothing wraps.
        root: Step of the 32-bit value that was widened; 0 means that nothing was, and the step
            is exact modulo the width.
        signed: How it was widened.
        factor: What it was multiplied with since: stride is root * factor.
    """

    stride: int
    root: int = 0
    signed: bool = False
    factor: int = 0

    @property
    def exact(self) -> bool:
        return self.root == 0

    def times(self, factor: int) -> Affine:
        """The same value multiplied by a constant."""
        if self.root == 0 or factor == 0:
            return Affine(self.stride * factor)
        return Affine(self.stride * factor, self.root, self.signed, self.factor * factor)


Known = Affine | None
"""None: not of this form."""
_SAME = Affine(0)


class _UnknownError(Exception):
    """An operand that is not analysed yet."""


class AffineFinder:
    """One analysis.

    Args:
        instrs: All instructions of the kernel.
        types: Register -> LLVM type.
        varying: Registers that differ between lanes.
        specials: Special register -> its step; those of `unknown` have none.
        unknown: Special registers that differ in other ways.
        private: Variables of which every thread has its own.
    """

    def __init__(
        self,
        instrs: list[ast.Instr],
        types: Mapping[str, str],
        varying: frozenset[str],
        specials: Mapping[str, int],
        unknown: frozenset[str],
        private: frozenset[str],
    ) -> None:
        self._types = types
        self._varying = varying
        self._specials = specials
        self._unknown = unknown
        self._private = private
        self._definitions: dict[str, list[ast.Instr]] = {}
        for instr in instrs:
            for name in destinations(instr):
                self._definitions.setdefault(name, []).append(instr)
        self._state: dict[str, Known] = {}

    def run(self) -> dict[str, Affine]:
        """Varying registers of the form, by name."""
        todo = [
            (n, i) for n, found in self._definitions.items() if n in self._varying for i in found
        ]
        while self._propagate(todo):
            pass  # registers were given up: what was built on them is looked at again
        return {n: a for n, a in self._state.items() if a is not None}

    def _propagate(self, todo: list[tuple[str, ast.Instr]]) -> bool:
        """To a fixed point; says whether registers nobody initialises must be given up."""
        changed = True
        while changed:
            changed = False
            stuck = []
            for name, instr in todo:
                known = self._state.get(name, _SAME)
                if known is None:
                    continue
                try:
                    new = self._result(name, instr)
                except _UnknownError:
                    stuck.append(name)
                    continue
                if name not in self._state:
                    self._state[name] = new
                    changed = True
                elif self._state[name] != new:
                    self._state[name] = None
                    changed = True
        self._state.update(dict.fromkeys(stuck))
        return bool(stuck)

    # operands
    def _of(self, operand: ast.Operand, bits: int) -> Known:
        match operand:
            case ast.Imm():
                return _SAME
            case ast.Reg(name):
                if name not in self._varying:
                    return _SAME
                if _BITS.get(self._types.get(name, "")) != bits:
                    return None
                if name not in self._state:
                    raise _UnknownError
                return self._state[name]
            case ast.Special(name):
                if name in self._specials and bits == 32:
                    return Affine(self._specials[name])
                return None if name in self._unknown or name in self._specials else _SAME
            case ast.Sym(name):
                return None if name in self._private else _SAME
        return None

    def constant(self, operand: ast.Operand, depth: int = 0) -> int | None:
        """The value of an operand that is a constant."""
        if isinstance(operand, ast.Imm):
            return operand.value
        if isinstance(operand, ast.Reg) and depth < 8:
            found = self._definitions.get(operand.name, [])
            if len(found) == 1 and found[0].op == "mov" and found[0].guard is None:
                return self.constant(found[0].args[1], depth + 1)
        return None

    def _zeros(self, operand: ast.Operand, depth: int = 0) -> int:
        """Low bits of an operand that are surely zero."""
        if isinstance(operand, ast.Imm):
            return (operand.value & -operand.value).bit_length() - 1 if operand.value else 64
        if not isinstance(operand, ast.Reg) or depth > 8:
            return 0
        found = self._definitions.get(operand.name, [])
        if len(found) != 1 or found[0].guard is not None:
            return 0
        instr = found[0]
        match instr.op:
            case "mov":
                return self._zeros(instr.args[1], depth + 1)
            case "shl":
                amount = self.constant(instr.args[2])
                return 0 if amount is None else amount + self._zeros(instr.args[1], depth + 1)
            case "add" | "and" | "or" if len(instr.args) == 3:
                both = [self._zeros(a, depth + 1) for a in instr.args[1:]]
                return max(both) if instr.op == "and" else min(both)
        return 0

    # instructions
    def _result(self, name: str, instr: ast.Instr) -> Known:
        bits = _BITS.get(self._types.get(name, ""))
        if (
            bits is None
            or not isinstance(instr.args[0], ast.Reg)
            or (instr.guard is not None and instr.guard.name in self._varying)
        ):
            return None
        found = self._combine(instr, bits)
        if found is None or abs(found.stride) >= _LIMIT or abs(found.root) >= _LIMIT // 64:
            return None
        return found

    def _combine(self, instr: ast.Instr, bits: int) -> Known:
        args = instr.args
        kinds = [TYPES[m] for m in instr.mods if m in TYPES]
        if (
            not kinds
            or any(k.kind not in "usb" for k in kinds)
            or ("sat" in instr.mods or "cc" in instr.mods)
        ):
            return None
        if instr.op == "cvt":
            return self._convert(instr, bits)
        if "wide" in instr.mods:
            product = self._wide(instr, bits)
            if instr.op == "mad" and product is not None:
                return _sum(product, self._of(args[3], bits))
            return product if instr.op == "mul" else None
        if kinds[-1].bits != bits:
            return None
        match instr.op:
            case "mov" | "cvta":
                return self._of(args[1], bits)
            case "add":
                return _sum(self._of(args[1], bits), self._of(args[2], bits))
            case "sub":
                other = self._of(args[2], bits)
                return _sum(self._of(args[1], bits), other and other.times(-1))
            case "mul" | "mad" if "lo" in instr.mods:
                product = self._product(args[1], args[2], bits)
                return product if instr.op == "mul" else _sum(product, self._of(args[3], bits))
            case "shl":
                amount = self.constant(args[2])
                value = self._of(args[1], bits)
                if amount is None or value is None or not 0 <= amount <= 31:
                    return None
                return value.times(1 << amount)
            case "or":
                mask = self.constant(args[2])
                if mask is None or not 0 <= mask < 1 << self._zeros(args[1]):
                    return None
                return self._of(args[1], bits)
        return None

    def _product(self, x: ast.Operand, y: ast.Operand, bits: int) -> Known:
        for value, other in ((x, y), (y, x)):
            factor = self.constant(other)
            if factor is not None:
                found = self._of(value, bits)
                return found and found.times(factor)
        first, second = self._of(x, bits), self._of(y, bits)
        return _SAME if first == _SAME and second == _SAME else None

    def _wide(self, instr: ast.Instr, bits: int) -> Known:
        kind = next(TYPES[m] for m in instr.mods if m in TYPES)
        if kind.bits != 32 or bits != 64:
            return None
        for value, other in ((instr.args[1], instr.args[2]), (instr.args[2], instr.args[1])):
            factor = self.constant(other)
            if factor is not None and (kind.signed or factor >= 0) and abs(factor) < _LIMIT:
                widened = _widened(self._of(value, 32), kind.signed)
                return widened and widened.times(factor)
        first, second = self._of(instr.args[1], 32), self._of(instr.args[2], 32)
        return _SAME if first == _SAME and second == _SAME else None

    def _convert(self, instr: ast.Instr, bits: int) -> Known:
        types = [TYPES[m] for m in instr.mods if m in TYPES]
        if len(types) != 2 or len(instr.mods) != 2 or types[0].bits != bits:
            return None
        source = types[1]
        if source.bits not in (32, 64):
            return None
        found = self._of(instr.args[1], source.bits)
        if found is None or source.bits == bits:
            return found
        if bits == 64:
            return _widened(found, source.signed)
        return Affine(found.stride)  # modulo 2^32 the step is exact again


def _widened(value: Known, signed: bool) -> Known:
    if value is None or value == _SAME:
        return value
    return Affine(value.stride, value.stride, signed, 1) if value.exact else None


def _sum(x: Known, y: Known) -> Known:
    if x is None or y is None:
        return None
    if x.exact and y.exact:
        return Affine(x.stride + y.stride)
    if y == _SAME:
        return x
    return y if x == _SAME else None
