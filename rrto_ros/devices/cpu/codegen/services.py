"""What a driver does for kernels: vprintf and assertions.

`passes/inline` made instructions of the calls; each calls the device's function with who is
calling (devices/cpu/output.py).
"""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val
from rrto_ros.devices.cpu.codegen.checks import ASSERTED
from rrto_ros.devices.cpu.codegen.emitter import U32, Emitter
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.output import ASSERT, PRINT
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES

_U64 = TYPES["u64"]


@emits("vprintf", forms="calls of vprintf: the text goes to the program's output when it waits")
def vprintf(e: Emitter, instr: ast.Instr) -> None:
    """Emits a call of vprintf."""
    pattern, arguments = (e.read(a, _U64) for a in instr.args[1:])
    e.write(instr.args[0], _call(e, PRINT, pattern.text, arguments.text, "0", "0"), U32)


@emits("assertfail", forms="calls of __assertfail: the launch fails with CUDA_ERROR_ASSERT")
def assertfail(e: Emitter, instr: ast.Instr) -> None:
    """Emits a call of __assertfail; the thread ends behind it."""
    words = [e.read(a, _U64).text for a in instr.args]
    _call(e, ASSERT, *words)
    e.b.line(f"{e.b.name('fail')} = cmpxchg ptr %report, i64 0, i64 {ASSERTED} seq_cst seq_cst")
    e.b.line("store volatile i8 1, ptr %stop")


def _call(e: Emitter, what: int, *words: str) -> Val:
    b = e.b
    thread, context, out = b.name("who"), b.name("who"), b.name("said")
    b.line(f"{thread} = zext i32 {e.special['linear'].text} to i64")
    b.line(f"{context} = ptrtoint ptr %context to i64")
    x, y, z = (int(e.special[f"ntid.{axis}"].text) for axis in "xyz")
    arguments = ", ".join(
        f"i64 {w}" for w in (what, *words, "%blk", thread, x | y << 16 | z << 32, context)
    )
    b.line(f"{out} = call i32 %print({arguments})")
    return Val(out, "i32")
