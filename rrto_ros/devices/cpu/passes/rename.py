"""Gives values that live inside one block a register of their own.

Compilers reuse registers ("x = index; x = x * 4 + base"). What a register holds is analysed for
the whole kernel, so each value that no other block reads gets a fresh name first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from rrto_ros.devices.cpu.passes.cfg import Block, destinations, live_in, operand_registers
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.renaming import renamed
from rrto_ros.devices.cpu.ptx.types import PtxType


def rename_local(blocks: list[Block], registers: dict[str, PtxType]) -> dict[str, PtxType]:
    """Renames in place; returns the registers with the new ones."""
    live = live_in(blocks)
    result = dict(registers)
    for block in blocks:
        kept = {n for t in block.targets for n in live[t]}
        kept.update(reg.name for reg in (block.guard, block.selector) if reg is not None)
        if block.barrier is not None:
            kept.update(n for a in block.barrier.args for n in operand_registers(a))
        _rename_block(block, kept, result)
    return result


def _rename_block(block: Block, kept: set[str], registers: dict[str, PtxType]) -> None:
    left = Counter(n for i in block.instrs if i.guard is None for n in destinations(i))
    current: dict[str, str] = {}
    for position, instr in enumerate(block.instrs):
        outputs = destinations(instr)
        sources = _sources(instr, bool(outputs), lambda n: current.get(n, n))
        if instr.guard is None:
            for name in outputs:
                left[name] -= 1
                if (left[name] or name not in kept) and name in registers:
                    fresh = f"{name}$b{block.index}.{position}"
                    registers[fresh] = registers[name]
                    current[name] = fresh
                else:
                    current.pop(name, None)
        if outputs and current:
            first = _substitute(sources.args[0], lambda n: current.get(n, n))
            sources = replace(sources, args=(first, *sources.args[1:]))
        block.instrs[position] = sources


def _sources(instr: ast.Instr, writes: bool, name: Callable[[str], str]) -> ast.Instr:
    skip = 1 if writes else 0
    args = (*instr.args[:skip], *(_substitute(a, name) for a in instr.args[skip:]))
    guard = ast.Reg(name(instr.guard.name)) if instr.guard is not None else None
    if args == instr.args and guard == instr.guard:
        return instr
    return replace(instr, args=args, guard=guard)


def _substitute(operand: ast.Operand, name: Callable[[str], str]) -> ast.Operand:
    return renamed(operand, reg=lambda reg: ast.Reg(name(reg.name)))
