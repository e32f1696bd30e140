"""Two 16-bit integers packed in a register."""

from __future__ import annotations

from collections.abc import Callable

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import B32, Emitter, unsupported
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import PtxType


def _by_parts(
    e: Emitter, instr: ast.Instr, bits: int, operation: Callable[[Val, Val], Val]
) -> list[Val]:
    """The results of an operation on each part of the first two sources, as they come."""
    b = e.b
    x, y = e.read(instr.args[1], B32), e.read(instr.args[2], B32)
    results = []
    for shift in range(0, 32, bits):
        parts = [
            b.resize(b.binary("lshr", v, const(shift, "i32")), f"i{bits}", False) for v in (x, y)
        ]
        results.append(operation(*parts))
    return results


def _packed(e: Emitter, parts: list[Val]) -> Val:
    b = e.b
    total = const(0, "i32")
    for index, part in enumerate(parts):
        wide = b.resize(part, "i32", False)
        total = b.binary("or", total, b.binary("shl", wide, const(index * part.bits, "i32")))
    return total


def pair_arithmetic(e: Emitter, instr: ast.Instr, kind: PtxType) -> None:
    """Add, min and max of .u16x2 and .s16x2; the last two also with .relu."""
    b = e.b
    signed = kind.name == "s16x2"
    known = {"add": (), "min": ("relu",) if signed else (), "max": ("relu",) if signed else ()}
    if instr.op not in known or not set(instr.mods) <= {kind.name, *known[instr.op]}:
        raise unsupported(instr)

    def operation(x: Val, y: Val) -> Val:
        if instr.op == "add":
            return b.binary("add", x, y)
        value = b.intrinsic(f"llvm.{'s' if signed else 'u'}{instr.op}", x, y)
        if "relu" in instr.mods:
            value = b.intrinsic("llvm.smax", value, const(0, "i16"))
        return value

    e.write(instr.args[0], _packed(e, _by_parts(e, instr, 16, operation)), B32)
