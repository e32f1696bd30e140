"""Instructions about execution itself; branches and barriers are handled by the regions."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.checks import (
    BROKEN,
    NO_FUNCTION,
    NO_ROOM,
    TRAPPED,
)
from rrto_ros.devices.cpu.codegen.emitter import Emitter
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.passes.pointers import BAD_POINTER
from rrto_ros.devices.cpu.passes.recursion import STACK_FULL
from rrto_ros.devices.cpu.ptx import ast


@emits("trap", "brkpt", forms="all (the launch fails)")
def trap(e: Emitter, instr: ast.Instr) -> None:
    """Emits trap and brkpt: reported; the launch ends as it does at a time-out."""
    word = TRAPPED
    if instr.op == "brkpt":
        word = BROKEN
    elif instr.mods:
        word = {STACK_FULL: NO_ROOM, BAD_POINTER: NO_FUNCTION}.get(instr.mods[0], TRAPPED)

    def action() -> None:
        pair = e.b.name("trap")
        e.b.line(f"{pair} = cmpxchg ptr %report, i64 0, i64 {word} seq_cst seq_cst")
        e.b.line("store volatile i8 1, ptr %stop")

    e.when(e.mask, action)


@emits("nop", "nanosleep", "pmevent", "griddepcontrol", forms="all (no effect)")
def nothing(e: Emitter, instr: ast.Instr) -> None:
    """No effect on results."""
