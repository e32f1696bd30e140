"""Puts constants that a compiler left in registers where code generation needs to know them.

What a barrier waits for (its number and its count of threads) decides how the kernel runs: where
it is known, a region opens as a whole; where it is not, thread by thread.
"""

from __future__ import annotations

from dataclasses import replace

from rrto_ros.devices.cpu.passes.cfg import BARRIER_OPS, Block, destinations
from rrto_ros.devices.cpu.ptx import ast


def constant_barriers(blocks: list[Block]) -> None:
    """Replaces registers that only ever hold one number, in the operands of barriers."""
    definitions: dict[str, list[ast.Instr]] = {}
    for block in blocks:
        for instr in block.instrs:
            for name in destinations(instr):
                definitions.setdefault(name, []).append(instr)

    def known(operand: ast.Operand, depth: int = 0) -> ast.Operand:
        if not isinstance(operand, ast.Reg) or depth > 8:
            return operand
        found = definitions.get(operand.name, [])
        if len(found) != 1 or found[0].op != "mov" or found[0].guard is not None:
            return operand
        value = known(found[0].args[1], depth + 1)
        return value if isinstance(value, ast.Imm) else operand

    def resolved(instr: ast.Instr) -> ast.Instr:
        skip = 1 if destinations(instr) else 0
        args = (*instr.args[:skip], *map(known, instr.args[skip:]))
        return instr if args == instr.args else replace(instr, args=args)

    for block in blocks:
        if block.barrier is not None and block.barrier.op in BARRIER_OPS:
            block.barrier = resolved(block.barrier)
        block.instrs = [resolved(i) if i.op in BARRIER_OPS else i for i in block.instrs]
