"""Splits a kernel at its barriers.

A region is what a thread does from one barrier (or the start) to the next barrier (or the end).
Every thread of a block finishes its region before any thread begins the next, which is what a
barrier means.
"""

from __future__ import annotations

from dataclasses import dataclass

from rrto_ros.devices.cpu.passes.cfg import (
    Block,
    destinations,
    is_arithmetic,
    is_warp_wide,
    live_in,
    sources,
)
from rrto_ros.devices.cpu.ptx import ast


@dataclass(frozen=True)
class Region:
    """One region.

    Attributes:
        entry: Its first block.
        blocks: Blocks that a thread may visit in it, in program order.
        live: Registers that it needs from earlier regions, sorted.
        again: Instructions whose results are computed again instead of being kept, in order.
    """

    entry: int
    blocks: tuple[int, ...]
    live: tuple[str, ...]
    again: tuple[ast.Instr, ...]


@dataclass(frozen=True)
class Regions:
    """All regions of a kernel; regions[0] is the start.

    Attributes:
        of_entry: First block -> index of the region.
        warp_wide: Regions 1 to this one follow a warp exchange, later ones a barrier. Threads in
            the former always go on first, so that no barrier opens before every thread is there.
    """

    blocks: tuple[Block, ...]
    regions: tuple[Region, ...]
    of_entry: dict[int, int]
    warp_wide: int


def split(blocks: list[Block], kernel_params: frozenset[str]) -> Regions:
    """The regions of a kernel's blocks."""
    waits = [b for b in blocks if b.barrier is not None]
    warp = [b.targets[0] for b in waits if b.barrier and is_warp_wide(b.barrier)]
    whole = [b.targets[0] for b in waits if b.barrier and not is_warp_wide(b.barrier)]
    # Block 0 is never a target here: what follows a wait is always a fresh block.
    entries = [0, *warp, *whole]
    live = live_in(blocks)
    repeatable = _repeatable(blocks, kernel_params)
    regions = []
    for entry in entries:
        reached = _reach(blocks, entry)
        needed = live[entry]
        again: list[ast.Instr] = []
        if entry != 0:
            wanted = {n for n in needed if n in repeatable}
            chosen: set[str] = set()
            stack = list(wanted)
            while stack:
                name = stack.pop()
                if name not in chosen:
                    chosen.add(name)
                    stack += sources(repeatable[name])
            again = [instr for name, instr in repeatable.items() if name in chosen]
            needed = needed - wanted
        regions.append(Region(entry, reached, tuple(sorted(needed)), tuple(again)))
    return Regions(tuple(blocks), tuple(regions), {e: i for i, e in enumerate(entries)}, len(warp))


def _reach(blocks: list[Block], entry: int) -> tuple[int, ...]:
    seen: set[int] = set()
    stack = [entry]
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        if blocks[index].barrier is None:
            stack += blocks[index].targets
    return tuple(sorted(seen))


def _repeatable(blocks: list[Block], kernel_params: frozenset[str]) -> dict[str, ast.Instr]:
    """Registers with one definition that depends on nothing that changes, in definition order."""
    counts: dict[str, int] = {}
    for block in blocks:
        for instr in block.instrs:
            for name in destinations(instr):
                counts[name] = counts.get(name, 0) + 1
    result: dict[str, ast.Instr] = {}
    # A definition is found after those it needs, whatever the order of the blocks.
    pending = [i for block in blocks for i in block.instrs if _is_pure(i, kernel_params)]
    progress = True
    while progress:
        progress = False
        rest = []
        for instr in pending:
            dest = destinations(instr)
            if len(dest) != 1 or counts[dest[0]] != 1:
                continue
            if all(n in result for n in sources(instr)):
                result[dest[0]] = instr
                progress = True
            else:
                rest.append(instr)
        pending = rest
    return result


def _is_pure(instr: ast.Instr, kernel_params: frozenset[str]) -> bool:
    if instr.guard is not None:
        return False
    if instr.op == "ld" and instr.mods[0] == "param" and isinstance(instr.args[1], ast.Addr):
        base = instr.args[1].base
        return (
            isinstance(base, ast.Sym)
            and base.name in kernel_params
            and (isinstance(instr.args[0], ast.Reg))
        )
    return is_arithmetic(instr)
