"""Instructions about execution itself; branches and barriers are handled by the regions."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.emitter import Emitter
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast


@emits("trap", forms="all (the launch fails)")
def trap(e: Emitter, instr: ast.Instr) -> None:  # noqa: ARG001
    """Emits trap."""
    e.b.declared["trap"] = "declare void @llvm.trap()"
    e.when(e.mask, lambda: e.b.line("call void @llvm.trap()"))


@emits("nop", "brkpt", "nanosleep", "pmevent", "griddepcontrol", forms="all (no effect)")
def nothing(e: Emitter, instr: ast.Instr) -> None:
    """No effect on results."""
