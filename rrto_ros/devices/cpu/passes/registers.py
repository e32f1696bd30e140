"""Chooses the LLVM type of every register from how it is used."""

from __future__ import annotations

from collections import Counter

from rrto_ros.devices.cpu.passes.cfg import Block
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType


def register_types(
    registers: dict[str, PtxType], blocks: tuple[Block, ...] | list[Block]
) -> dict[str, str]:
    """Register -> LLVM type. Untyped (.b32, .b64) registers that hold floats become floats."""
    votes: Counter[str] = Counter()
    for block in blocks:
        for instr in block.instrs:
            types = [TYPES[m] for m in instr.mods if m in TYPES]
            if instr.op == "mov" or not types:
                continue
            for position, operand in enumerate(instr.args):
                kind = types[-1] if position else types[0]
                items = operand.items if isinstance(operand, ast.Vec) else (operand,)
                for item in items:
                    if isinstance(item, ast.Reg):
                        votes[item.name] += 1 if kind.kind == "f" else -1
    result = {}
    for name, kind in registers.items():
        llvm = kind.llvm
        if kind.kind == "b" and kind.bits in (32, 64) and votes[name] > 0:
            llvm = "float" if kind.bits == 32 else "double"
        result[name] = llvm
    return result
