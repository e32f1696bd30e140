"""Plans how several threads of a block run in one vector instruction.

Registers that differ between the lanes are "varying". At a branch whose condition varies, lanes
that agree go on together; lanes that do not are finished one by one up to the next barrier.
After that barrier they go on together, so a register that a lane may have set on the way alone
counts as varying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rrto_ros.devices.cpu.passes.affine import Affine, AffineFinder
from rrto_ros.devices.cpu.passes.cfg import Block, destinations, live_in, sources
from rrto_ros.devices.cpu.passes.columns import ColumnFinder, Columns, strided_type
from rrto_ros.devices.cpu.passes.regions import Regions
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES

# A gather costs about as much as this many vector instructions; below, scalar code wins.
_INSTRUCTIONS_PER_GATHER = 40
_INSTRUCTIONS_PER_GROUP = 2
_LEAST_LANES = 4
_NO_VECTOR = frozenset(
    {
        "shfl",
        "vote",
        "match",
        "activemask",
        "redux",
        "mma",
        "vprintf",
        "assertfail",
        "ldmatrix",
        "stmatrix",
        "wmma",
        "bar",
        "barrier",
        "addc",
        "subc",
        "madc",
    }
)
_LANE_SPECIALS = frozenset(f"lanemask_{m}" for m in ("eq", "lt", "le", "ge", "gt"))


@dataclass(frozen=True)
class VectorPlan:
    """How to run a kernel with several lanes.

    Attributes:
        lanes: Threads per vector.
        varying: Registers that hold one value per lane.
        affine: Those of them that one value stands for.
        diverging: Blocks that end in a branch on a varying condition.
        columns: Block -> loads in it that are done together.
    """

    lanes: int
    varying: frozenset[str]
    affine: dict[str, Affine]
    diverging: frozenset[int]
    columns: dict[int, tuple[Columns, ...]]


def plan_vectors(
    regions: Regions,
    function: ast.Function,
    types: Mapping[str, str],
    block: tuple[int, int, int],
    max_lanes: int,
) -> VectorPlan | None:
    """A plan for this block size, or None if the kernel is better run thread by thread."""
    threads = block[0] * block[1] * block[2]
    instrs = [i for b in regions.blocks for i in b.instrs]
    if any(i.op in _NO_VECTOR or "cc" in i.mods for i in instrs):
        return None
    lanes = max_lanes
    while lanes >= _LEAST_LANES:
        # Rows of threads that vectors do not divide make addresses irregular.
        plan = _plan(regions, function, types, block, lanes) if lanes <= threads else None
        if plan is not None:
            return plan
        lanes //= 2
    return None


def _plan(
    regions: Regions,
    function: ast.Function,
    types: Mapping[str, str],
    block: tuple[int, int, int],
    lanes: int,
) -> VectorPlan | None:
    """A plan with so many lanes, or None if it is not worth it."""
    instrs = [i for b in regions.blocks for i in b.instrs]
    private = frozenset(v.name for v in function.variables if v.space in ("local", "param"))
    specials = _varying_specials(block, lanes)
    varying, diverging = _varying_and_diverging(regions, instrs, specials, private)
    if any(b.selector is not None and b.selector.name in varying for b in regions.blocks):
        return None
    row = block[0] % lanes == 0 or block[1] * block[2] == 1
    steps = {"laneid": 1, **({"tid.x": 1} if row and block[0] > 1 else {})}
    finder = AffineFinder(instrs, types, varying, steps, specials, private)
    affine = finder.run()
    together = ColumnFinder(finder, affine)
    columns = {b.index: found for b in regions.blocks if (found := together.run(b))}
    grouped = {(k, p) for k, found in columns.items() for g in found for p in g.positions}
    groups, scattered = sum(map(len, columns.values())), 0
    for b in regions.blocks:
        for position, instr in enumerate(b.instrs):
            if (b.index, position) in grouped or not _is_scattered(instr, varying, affine):
                continue
            if "v4" in instr.mods and strided_type(instr, affine) is not None:
                groups += 1
            else:
                scattered += 1
    if scattered * _INSTRUCTIONS_PER_GATHER + groups * _INSTRUCTIONS_PER_GROUP > len(instrs):
        return None
    return VectorPlan(lanes, varying, affine, diverging, columns)


def _is_scattered(instr: ast.Instr, varying: frozenset[str], affine: Mapping[str, Affine]) -> bool:
    """Whether lanes access memory in places that are not neighbours."""
    if instr.op not in ("ld", "st"):
        return False
    address = instr.args[1 if instr.op == "ld" else 0]
    base = address.base if isinstance(address, ast.Addr) else None
    if not isinstance(base, ast.Reg) or base.name not in varying:
        return False
    count = next((int(m[1:]) for m in instr.mods if m in ("v2", "v4", "v8")), 1)
    known = affine.get(base.name)
    size = TYPES[instr.mods[-1]].bytes * count
    return known is None or known.stride not in (0, size)


def _varying_specials(block: tuple[int, int, int], lanes: int) -> frozenset[str]:
    nx, ny, nz = block
    names = {"laneid", *_LANE_SPECIALS}
    if nx > 1:
        names.add("tid.x")
    if ny > 1 and nx % lanes:
        names.add("tid.y")
    if nz > 1 and (nx * ny) % lanes:
        names.add("tid.z")
    # Whole warps hold whole vectors, so the warp number is shared by the lanes; it is computed
    # from the per-lane thread number all the same.
    return frozenset(names | {"warpid"})


def _varying_and_diverging(
    regions: Regions,
    instrs: list[ast.Instr],
    specials: frozenset[str],
    private: frozenset[str],
) -> tuple[frozenset[str], frozenset[int]]:
    """Varying registers and branches, to the fixed point where neither makes more of the other."""
    kept: set[str] = set()
    if len(regions.regions) > 1:
        live = live_in(list(regions.blocks))
        kept = {n for r in regions.regions if r.entry for n in live[r.entry]}
    forced: frozenset[str] = frozenset()
    while True:
        varying = _varying(instrs, specials, private, forced)
        diverging = frozenset(
            b.index for b in regions.blocks if b.guard is not None and b.guard.name in varying
        )
        again = frozenset(n for n in _set_alone(regions.blocks, diverging) if n in kept)
        if again <= varying:
            return varying, diverging
        forced |= again


def _set_alone(blocks: tuple[Block, ...], diverging: frozenset[int]) -> set[str]:
    """Registers that a lane may set while others of its vector do not."""
    names: set[str] = set()
    for start in diverging:
        seen = _reach(blocks, start, through=False)
        if sum(blocks[i].barrier is not None for i in seen) > 1:
            # Lanes may wait at different barriers and meet again with different pasts.
            seen = _reach(blocks, start, through=True)
        names.update(n for i in seen for instr in blocks[i].instrs for n in destinations(instr))
    return names


def _reach(blocks: tuple[Block, ...], start: int, *, through: bool) -> set[int]:
    """Blocks behind a branch, up to the next barriers or through them."""
    seen: set[int] = set()
    stack = list(blocks[start].targets)
    while stack:
        index = stack.pop()
        if index not in seen:
            seen.add(index)
            if through or blocks[index].barrier is None:
                stack += blocks[index].targets
    return seen


def _special_names(instr: ast.Instr) -> set[str]:
    return {a.name for a in instr.args if isinstance(a, ast.Special)}


def _varying(
    instrs: list[ast.Instr],
    specials: frozenset[str],
    private: frozenset[str],
    forced: frozenset[str],
) -> frozenset[str]:
    varying: set[str] = set(forced)
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
                or instr.op == "atom"
            ):
                varying.update(dests)
                changed = True
    return frozenset(varying)


def _names_private(instr: ast.Instr, private: frozenset[str]) -> bool:
    """Whether the value comes from, or is the address of, memory of the thread."""
    if instr.op == "ld" and instr.mods and instr.mods[0] == "local":
        return True
    items = [i for a in instr.args for i in (a.items if isinstance(a, ast.Vec) else (a,))]
    bases = [a.base if isinstance(a, ast.Addr) else a for a in items]
    return any(isinstance(base, ast.Sym) and base.name in private for base in bases)
