"""Moves loads behind the arithmetic that does not need them.

Compilers compute an address, load, compute the next address, load. Behind this pass the loads of
a stretch without stores follow each other, so that those of neighbouring places can be done
together (see columns).
"""

from __future__ import annotations

from rrto_ros.devices.cpu.passes.cfg import Block, destinations, is_arithmetic, sources
from rrto_ros.devices.cpu.ptx import ast


def loads_last(blocks: list[Block]) -> None:
    """Reorders the instructions of each block; results stay the same."""
    for block in blocks:
        result: list[ast.Instr] = []
        stretch: list[ast.Instr] = []
        for instr in block.instrs:
            if is_plain_load(instr) or is_arithmetic(instr):
                stretch.append(instr)
            else:
                result += _reordered(stretch)
                result.append(instr)
                stretch = []
        block.instrs = result + _reordered(stretch)


def is_plain_load(instr: ast.Instr) -> bool:
    """Whether it is a load that may come a little later, as no store is between."""
    return instr.op == "ld" and not {"volatile", "mmio", "acquire", "relaxed"} & set(instr.mods)


def _reordered(stretch: list[ast.Instr]) -> list[ast.Instr]:
    early: list[ast.Instr] = []
    late: list[ast.Instr] = []
    written: set[str] = set()
    read: set[str] = set()
    for instr in stretch:
        inputs, outputs = sources(instr), destinations(instr)
        # Parameters are what addresses are made of.
        is_data = instr.op == "ld" and "param" not in instr.mods
        if (
            is_data
            or any(n in written for n in inputs)
            or any(n in written or n in read for n in outputs)
        ):
            late.append(instr)
            written.update(outputs)
            read.update(inputs)
        else:
            early.append(instr)
    return early + late
