"""Finds what all lanes of a vector share, and how addresses move from lane to lane.

A kernel whose branches depend only on shared values can run several threads in one vector
instruction. Registers that differ between lanes are "varying"; for those that differ by a
constant step from lane to lane, the step is known (up to wrap-around).
"""

from __future__ import annotations

from dataclasses import dataclass

from rrto_ros.devices.cpu.passes.cfg import destinations, sources
from rrto_ros.devices.cpu.passes.regions import Regions
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES

# A gather costs about as much as this many vector instructions; below, scalar code wins.
_INSTRUCTIONS_PER_GATHER = 40
_NO_VECTOR = frozenset({"atom", "red", "shfl", "vote", "match", "activemask", "redux", "mma",
                        "ldmatrix", "wmma", "bar", "barrier", "addc", "subc", "madc"})


@dataclass(frozen=True)
class VectorPlan:
    """How to run a kernel with several lanes.

    Attributes:
        lanes: Threads per vector.
        varying: Registers that hold one value per lane.
        strides: Step from lane to lane of varying registers, where it is constant.
    """

    lanes: int
    varying: frozenset[str]
    strides: dict[str, int]


def plan_vectors(
    regions: Regions, function: ast.Function, block: tuple[int, int, int], max_lanes: int
) -> VectorPlan | None:
    """A plan for this block size, or None if the kernel is better run thread by thread."""
    threads = block[0] * block[1] * block[2]
    lanes = max_lanes
    while lanes > 1 and lanes > threads:
        lanes //= 2
    if lanes < 4:
        return None
    instrs = [i for b in regions.blocks for i in b.instrs]
    if any(i.op in _NO_VECTOR or "cc" in i.mods for i in instrs):
        return None
    private = frozenset(v.name for v in function.variables if v.space in ("local", "param"))
    varying = _varying(instrs, _varying_specials(block, lanes), private)
    for b in regions.blocks:
        for reg in (b.guard, b.selector):
            if reg is not None and reg.name in varying:
                return None
    strides = _strides(instrs, varying, block, lanes)
    scattered = sum(_is_scattered(i, varying, strides) for i in instrs)
    if scattered * _INSTRUCTIONS_PER_GATHER > len(instrs):
        return None
    return VectorPlan(lanes, varying, strides)


def _is_scattered(
    instr: ast.Instr, varying: frozenset[str], strides: dict[str, int]
) -> bool:
    """Whether lanes access memory in places that are not neighbours."""
    if instr.op not in ("ld", "st"):
        return False
    address = instr.args[1 if instr.op == "ld" else 0]
    base = address.base if isinstance(address, ast.Addr) else None
    if not isinstance(base, ast.Reg) or base.name not in varying:
        return False
    count = next((int(m[1:]) for m in instr.mods if m in ("v2", "v4", "v8")), 1)
    return strides.get(base.name) != TYPES[instr.mods[-1]].bytes * count


def _varying_specials(block: tuple[int, int, int], lanes: int) -> frozenset[str]:
    nx, ny, nz = block
    names = {"laneid"} | {f"lanemask_{m}" for m in ("eq", "lt", "le", "ge", "gt")}
    if nx > 1:
        names.add("tid.x")
    if ny > 1 and nx % lanes:
        names.add("tid.y")
    if nz > 1 and (nx * ny) % lanes:
        names.add("tid.z")
    # Whole warps hold whole vectors, so the warp number is shared by the lanes; it is computed
    # from the per-lane thread number all the same.
    return frozenset(names | {"warpid"})


def _special_names(instr: ast.Instr) -> set[str]:
    return {a.name for a in instr.args if isinstance(a, ast.Special)}


def _varying(
    instrs: list[ast.Instr], specials: frozenset[str], private: frozenset[str]
) -> frozenset[str]:
    varying: set[str] = set()
    changed = True
    while changed:
        changed = False
        for instr in instrs:
            dests = destinations(instr)
            if not dests or all(d in varying for d in dests):
                continue
            if (
                any(n in varying for n in sources(instr))
                or _special_names(instr) & specials
                or _names_private(instr, private)
            ):
                varying.update(dests)
                changed = True
    return frozenset(varying)


def _names_private(instr: ast.Instr, private: frozenset[str]) -> bool:
    """Whether the value comes from, or is the address of, memory of the thread."""
    if instr.op == "ld" and instr.mods and instr.mods[0] == "local":
        return True
    bases = [a.base if isinstance(a, ast.Addr) else a for a in instr.args]
    return any(isinstance(base, ast.Sym) and base.name in private for base in bases)


def _strides(
    instrs: list[ast.Instr], varying: frozenset[str], block: tuple[int, int, int], lanes: int
) -> dict[str, int]:
    """Constant steps, found by propagation through single definitions."""
    definitions: dict[str, list[ast.Instr]] = {}
    for instr in instrs:
        for name in destinations(instr):
            definitions.setdefault(name, []).append(instr)
    step_x = 1 if block[0] % lanes == 0 or block[1] * block[2] == 1 else None
    finder = _StrideFinder(definitions, varying, step_x)
    return {n: s for n in varying if (s := finder.stride(n)) is not None}


class _StrideFinder:
    def __init__(
        self, definitions: dict[str, list[ast.Instr]], varying: frozenset[str],
        step_x: int | None,
    ) -> None:
        self.definitions = definitions
        self.varying = varying
        self.step_x = step_x
        self.memo: dict[str, int | None] = {}

    def constant(self, operand: ast.Operand, depth: int = 0) -> int | None:
        """The value of an operand that is a constant."""
        if isinstance(operand, ast.Imm):
            return operand.value
        if isinstance(operand, ast.Reg) and depth < 8:
            found = self.definitions.get(operand.name, [])
            if len(found) == 1 and found[0].op == "mov" and found[0].guard is None:
                return self.constant(found[0].args[1], depth + 1)
        return None

    def of(self, operand: ast.Operand, depth: int) -> int | None:
        if isinstance(operand, ast.Reg):
            return self.stride(operand.name, depth)
        if isinstance(operand, ast.Special):
            if operand.name == "tid.x":
                return self.step_x
            return None if operand.name in ("tid.y", "tid.z", "laneid") else 0
        return 0

    def stride(self, name: str, depth: int = 0) -> int | None:
        if name not in self.varying:
            return 0
        if name in self.memo:
            return self.memo[name]
        self.memo[name] = None
        found = self.definitions.get(name, [])
        steps = {self._step(i, depth) for i in found} if depth < 200 else {None}
        # tinygrad computes "x = cvt i; x = x * 4 + base" in one register.
        result = steps.pop() if len(steps) == 1 else self._last(found, depth)
        self.memo[name] = result
        return result

    def _last(self, found: list[ast.Instr], depth: int) -> int | None:
        """Two definitions, the second built on the first: the step of the second."""
        if len(found) != 2 or any(i.guard is not None for i in found):
            return None
        first, second = found
        name = destinations(first)[0]
        if second.op not in ("mad", "add") or first.line + 1 != second.line:
            return None
        self.memo[name] = self._step(first, depth + 1)
        result = self._step(second, depth + 1)
        self.memo[name] = None
        return result

    def _step(self, instr: ast.Instr, depth: int) -> int | None:
        if instr.guard is not None:
            return None
        args, deeper = instr.args, depth + 1
        match instr.op:
            case "mov" | "cvta":
                return None if isinstance(args[1], ast.Vec) else self.of(args[1], deeper)
            case "cvt":
                ints = all(m[0] in "us" for m in instr.mods[-2:])
                return self.of(args[1], deeper) if ints and len(instr.mods) == 2 else None
            case "add" | "sub":
                if instr.mods[-1][0] not in "us":
                    return None
                x, y = self.of(args[1], deeper), self.of(args[2], deeper)
                if x is None or y is None:
                    return None
                return x + y if instr.op == "add" else x - y
            case "mul" | "mad":
                return self._product(instr, deeper)
            case "shl":
                x, amount = self.of(args[1], deeper), self.constant(args[2])
                return None if x is None or amount is None or amount > 31 else x << amount
        return None

    def _product(self, instr: ast.Instr, depth: int) -> int | None:
        if instr.mods[-1][0] not in "us" or "hi" in instr.mods:
            return None
        args = instr.args
        x, y = self.of(args[1], depth), self.of(args[2], depth)
        if x == 0 and y == 0:
            step: int | None = 0
        else:
            factor = self.constant(args[2])
            base = x
            if factor is None:
                factor, base = self.constant(args[1]), y
            step = None if factor is None or base is None else factor * base
        if instr.op == "mul" or step is None:
            return step
        addend = self.of(args[3], depth)
        return None if addend is None else step + addend
