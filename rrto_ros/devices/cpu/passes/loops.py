"""Finds loops that surely end soon, so that they need not look at the stop flag.

Blocks are numbered in program order, so every cycle takes an edge to the same or an earlier
block. Such an edge is bounded when an innermost loop counts a register up by a constant, from a
constant set before the loop, to a constant: whoever takes only bounded edges comes to an end,
because the lowest one taken for ever would have to be initialised again from below.
"""

from __future__ import annotations

from dataclasses import dataclass

from rrto_ros.devices.cpu.passes.cfg import Block, destinations
from rrto_ros.devices.cpu.ptx import ast

MAX_ROUNDS = 4096
_LIMIT = 1 << 31
Definitions = dict[str, list[tuple[int, ast.Instr]]]


@dataclass(frozen=True)
class _Edge:
    source: int
    target: int


def bounded_edges(blocks: tuple[Block, ...] | list[Block]) -> frozenset[tuple[int, int]]:
    """Backward edges (from, to) that are taken at most MAX_ROUNDS times in a row."""
    definitions: Definitions = {}
    for block in blocks:
        for instr in block.instrs:
            for name in destinations(instr):
                definitions.setdefault(name, []).append((block.index, instr))
    back = [_Edge(b.index, t) for b in blocks for t in b.targets if t <= b.index]
    result = set()
    for edge in back:
        inner = [e for e in back if edge.target <= e.source <= edge.source]
        if len(inner) == 1 and _is_counted(blocks[edge.source], edge, definitions):
            result.add((edge.source, edge.target))
    return frozenset(result)


def _constant(operand: ast.Operand, definitions: Definitions) -> int | None:
    if isinstance(operand, ast.Imm):
        return operand.value
    if isinstance(operand, ast.Reg):
        found = definitions.get(operand.name, [])
        if len(found) == 1 and found[0][1].op == "mov" and found[0][1].guard is None:
            source = found[0][1].args[1]
            return source.value if isinstance(source, ast.Imm) else None
    return None


def _is_counted(block: Block, edge: _Edge, definitions: Definitions) -> bool:
    if (
        block.guard is None
        or block.guard_negated
        or len(block.targets) != 2
        or (block.targets[0] != edge.target or block.targets[1] <= block.index)
    ):
        return False
    test = _last_definition(block, block.guard.name)
    if test is None or test[1].mods != ("lt", "s32") or not isinstance(test[1].args[1], ast.Reg):
        return False
    counter = test[1].args[1].name
    bound = _constant(test[1].args[2], definitions)
    step = _last_definition(block, counter)
    if (
        step is None
        or step[0] > test[0]
        or step[1].op != "add"
        or step[1].mods != ("s32",)
        or (step[1].args[1] != ast.Reg(counter))
    ):
        return False
    by = _constant(step[1].args[2], definitions)
    others = [(i, d) for i, d in definitions[counter] if d is not step[1]]
    if by is None or bound is None or by <= 0 or len(others) != 1 or bound + by >= _LIMIT:
        return False
    where, first = others[0]
    if first.op != "mov" or first.guard is not None or where >= edge.target:
        return False
    start = _constant(first.args[1], definitions)
    return start is not None and start >= -_LIMIT and bound - start <= MAX_ROUNDS * by


def _last_definition(block: Block, name: str) -> tuple[int, ast.Instr] | None:
    """The only unguarded definition of a register in a block, with its position."""
    found = [(p, i) for p, i in enumerate(block.instrs) if name in destinations(i)]
    if len(found) != 1 or found[0][1].guard is not None:
        return None
    return found[0]
