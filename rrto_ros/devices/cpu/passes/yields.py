"""Places where a thread that waits for another block lets the others go on.

In a cooperative launch all blocks are there at once, and code may wait in a loop for what another
block writes: that is how a barrier of the whole grid is made. Each such loop gets a wait at its
start, after which the thread goes on when every other thread of its block and every other block
have had their turn.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from rrto_ros.devices.cpu.passes.cfg import YIELD
from rrto_ros.devices.cpu.ptx import ast

_ORDERED = frozenset(("volatile", "relaxed", "acquire", "mmio"))
_OF_THE_BLOCK = frozenset(("shared", "local", "param", "const"))


def loops_that_wait(function: ast.Function) -> frozenset[str]:
    """Labels of loops in which memory is read that another block may write meanwhile.

    Every cycle of the code takes jumps back to or before where it is, and what such jumps span is
    all that the cycle can run through: a cycle with such a read has one that spans it.
    """
    body = function.body or ()
    labels = {item.name: at for at, item in enumerate(body) if isinstance(item, ast.Label)}
    reads = [at for at, item in enumerate(body) if isinstance(item, ast.Instr) and _polls(item)]
    found = set()
    for at, item in enumerate(body):
        if not isinstance(item, ast.Instr) or item.op not in ("bra", "brx"):
            continue
        for name in _targets(item, function):
            start = labels.get(name, at + 1)
            nearest = bisect_left(reads, start)
            if start <= at and nearest < len(reads) and reads[nearest] <= at:
                found.add(name)
    return frozenset(found)


def with_yields(function: ast.Function) -> ast.Function:
    """The function with a wait at the start of each loop that may wait for another block."""
    loops = loops_that_wait(function)
    body: list[ast.Instr | ast.Label] = []
    for item in function.body or ():
        body.append(item)
        if isinstance(item, ast.Label) and item.name in loops:
            body.append(ast.Instr(YIELD, (), ()))
    return replace(function, body=tuple(body))


def _polls(instr: ast.Instr) -> bool:
    spaces = {m.split("::")[0] for m in instr.mods}
    if spaces & _OF_THE_BLOCK:
        return False
    return instr.op == "atom" or (instr.op == "ld" and bool(spaces & _ORDERED))


def _targets(branch: ast.Instr, function: ast.Function) -> tuple[str, ...]:
    operand = branch.args[-1] if branch.args else None
    if not isinstance(operand, ast.Sym):
        return ()
    return function.tables.get(operand.name, ()) if branch.op == "brx" else (operand.name,)
