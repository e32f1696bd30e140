"""Finds loads of neighbouring places by lanes that lie apart.

Lane i reads a[i * 1152], a[i * 1152 + 1], ... in as many instructions: each is a gather, but
together they are a few neighbouring elements per lane, which are loaded at once and dealt out. The
addresses of such loads differ by a constant in a register of 32 bits before it is widened, or in
64 bits. That the former does not wrap in any lane must be looked at when the code runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rrto_ros.devices.cpu.passes.affine import Affine, AffineFinder
from rrto_ros.devices.cpu.passes.cfg import Block, destinations, sources
from rrto_ros.devices.cpu.passes.reorder import is_plain_load
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

WIDTH = 4
_SPACES = frozenset({"global", "const"})
_WIDENING = (("s64", "s32"), ("u64", "u32"), ("s64", "u32"), ("u64", "s32"))
_FAR = 1 << 24
"""Where lanes, or what they add, lie too far apart to be looked at together."""


@dataclass(frozen=True)
class Columns:
    """WIDTH loads of neighbouring elements; a load may be in two of these.

    Attributes:
        positions: Of the loads in their block, by rising address.
        first, last: How far the 32-bit value behind the others' addresses lies from that of the
            lowest address: the least and the most.
    """

    positions: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True)
class _Place:
    """scale * (what is widened + inner) + outer; `key` says what is widened and all the rest."""

    key: tuple[object, ...]
    scale: int = 1
    inner: int = 0
    outer: int = 0

    @property
    def offset(self) -> int:
        return self.scale * self.inner + self.outer

    def times(self, factor: int) -> _Place:
        return _Place(self.key, self.scale * factor, self.inner, self.outer * factor)

    def moved(self, by: int) -> _Place:
        return _Place(self.key, self.scale, self.inner, self.outer + by)

    def plus(self, other: _Place) -> _Place:
        """Another value added, which is not looked into."""
        return _Place((*self.key, self.scale, "+", other), self.scale, self.inner, self.outer)


_Narrow = tuple[tuple[str, int], int]
"""A 32-bit value: another one (its register and where that was set), and a constant more."""


class ColumnFinder:
    """Finds the loads of a kernel that go together.

    Args:
        finder: Knows which registers are constants.
        affine: Registers whose value moves by a constant step from lane to lane.
    """

    def __init__(self, finder: AffineFinder, affine: Mapping[str, Affine]) -> None:
        self._constant = finder.constant
        self._affine = affine
        self._narrow: dict[str, _Narrow] = {}
        self._wide: dict[str, _Place] = {}

    def run(self, block: Block) -> tuple[Columns, ...]:
        """Those of a block, which must hold its loads one behind the other."""
        self._narrow, self._wide = {}, {}
        found: list[Columns] = []
        stretch: dict[int, _Place] = {}
        written: set[str] = set()
        read: set[str] = set()
        for position, instr in enumerate(block.instrs):
            inputs, outputs = sources(instr), destinations(instr)
            plain = is_plain_load(instr)
            if (
                not plain
                or any(n in written for n in inputs)
                or any(n in written or n in read for n in outputs)
            ):
                found += _grouped(block, stretch, self._affine)
                stretch, written, read = {}, set(), set()
            if plain:
                place = self._address(instr)
                if place is not None:
                    stretch[position] = place
                written.update(outputs)
                read.update(inputs)
            self._set(position, instr, outputs)
        return (*found, *_grouped(block, stretch, self._affine))

    def _address(self, instr: ast.Instr) -> _Place | None:
        if strided_type(instr, self._affine) is None or {"v2", "v4", "v8"} & set(instr.mods):
            return None
        address = instr.args[1]
        if (
            not isinstance(address, ast.Addr)
            or not isinstance(address.base, ast.Reg)
            or (not isinstance(instr.args[0], ast.Reg))
        ):
            return None
        return self._value(address.base).moved(address.offset)

    # values of registers at this point of the block
    def _value(self, reg: ast.Reg) -> _Place:
        return self._wide.get(reg.name, _Place(((reg.name, -1),)))

    def _value32(self, reg: ast.Reg) -> _Narrow:
        return self._narrow.get(reg.name, ((reg.name, -1), 0))

    def _set(self, position: int, instr: ast.Instr, outputs: list[str]) -> None:
        for name in outputs:
            wide = narrow = None
            if instr.guard is None and len(outputs) == 1:
                wide, narrow = self._wide_result(instr), self._narrow_result(instr)
            self._wide[name] = wide or _Place(((name, position),))
            self._narrow[name] = narrow or ((name, position), 0)

    def _narrow_result(self, instr: ast.Instr) -> _Narrow | None:
        args = instr.args
        if instr.op == "mov" and isinstance(args[1], ast.Reg):
            return self._value32(args[1])
        if instr.op == "add" and instr.mods in (("s32",), ("u32",)):
            for one, other in ((args[1], args[2]), (args[2], args[1])):
                value = self._constant(other)
                if isinstance(one, ast.Reg) and value is not None and abs(value) < _FAR:
                    base, more = self._value32(one)
                    return base, more + value
        return None

    def _wide_result(self, instr: ast.Instr) -> _Place | None:
        args = instr.args
        first = args[1] if len(args) > 1 else None
        match instr.op:
            case "mov" | "cvta" if isinstance(first, ast.Reg):
                return self._value(first)
            case "add" if instr.mods in (("s64",), ("u64",)):
                return self._sum(args[1], args[2])
            case "cvt" if isinstance(first, ast.Reg) and instr.mods in _WIDENING:
                return self._widened(first, instr.mods[1])
            case "shl" if isinstance(first, ast.Reg):
                amount = self._constant(args[2])
                if amount is not None and 0 <= amount < 16:
                    return self._value(first).times(1 << amount)
            case "mul" | "mad":
                factor = self._constant(args[2])
                if not isinstance(first, ast.Reg) or factor is None or factor <= 0:
                    return None
                if "wide" in instr.mods and instr.mods[-1] in ("s32", "u32"):
                    place = self._widened(first, instr.mods[-1]).times(factor)
                elif instr.mods in (("lo", "s64"), ("lo", "u64")):
                    place = self._value(first).times(factor)
                else:
                    return None
                if instr.op == "mul":
                    return place
                last = args[3]
                if isinstance(last, ast.Reg) and last.name not in self._affine:
                    return place.plus(self._value(last))
        return None

    def _widened(self, reg: ast.Reg, kind: str) -> _Place:
        base, more = self._value32(reg)
        return _Place((base, kind), 1, more)

    def _sum(self, x: ast.Operand, y: ast.Operand) -> _Place | None:
        for one, other in ((x, y), (y, x)):
            if not isinstance(one, ast.Reg):
                continue
            value = self._constant(other)
            if value is not None:
                return self._value(one).moved(value)
            if isinstance(other, ast.Reg) and other.name not in self._affine:
                return self._value(one).plus(self._value(other))
        return None


def _grouped(
    block: Block, stretch: Mapping[int, _Place], affine: Mapping[str, Affine]
) -> list[Columns]:
    groups: dict[tuple[object, ...], list[tuple[_Place, int]]] = {}
    for position, place in stretch.items():
        kind = (block.instrs[position].mods, place.key, place.scale)
        groups.setdefault(kind, []).append((place, position))
    found = []
    for group in groups.values():
        group.sort(key=lambda item: item[0].offset)
        first = block.instrs[group[0][1]]
        size = TYPES[first.mods[-1]].bytes
        for chunk in _chunks(group, size):
            names = {n for p in chunk.positions for n in sources(block.instrs[p])}
            exact = [affine[n].exact for n in names]
            if len({affine[n].stride for n in names}) == 1 and (
                not any(exact) or (all(exact) and chunk.first == chunk.last == 0)
            ):
                found.append(chunk)
    return found


def strided_type(instr: ast.Instr, affine: Mapping[str, Affine]) -> PtxType | None:
    """The type of an unguarded load by lanes that lie a constant apart, but not side by side."""
    if not is_plain_load(instr) or instr.guard is not None or not _SPACES & set(instr.mods):
        return None
    address = instr.args[1]
    base = address.base if isinstance(address, ast.Addr) else None
    known = affine.get(base.name) if isinstance(base, ast.Reg) else None
    kind = TYPES.get(instr.mods[-1])
    if (
        known is None
        or kind is None
        or known.stride in (0, kind.bytes)
        or abs(known.stride) > _FAR
        or kind.bits < 16
        or (kind.bits > 64 or (not known.exact and known.factor <= 0))
    ):
        return None
    return kind


def _chunks(group: list[tuple[_Place, int]], size: int) -> list[Columns]:
    """WIDTH neighbours at a time; the last ones of a row may overlap."""
    rows: list[list[tuple[_Place, int]]] = []
    for place, position in group:
        if rows and place.offset == rows[-1][-1][0].offset + size:
            rows[-1].append((place, position))
        else:
            rows.append([(place, position)])
    found = []
    for row in rows:
        for start in range(0, len(row), WIDTH):
            part = row[min(start, max(0, len(row) - WIDTH)) :][:WIDTH]
            if len(part) == WIDTH:
                moves = [place.inner - part[0][0].inner for place, _ in part]
                found.append(Columns(tuple(p for _, p in part), min(moves), max(moves)))
    return found
