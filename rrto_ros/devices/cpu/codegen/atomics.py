"""atom and red: real atomic operations, lane by lane in thread order."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.checks import checked
from rrto_ros.devices.cpu.codegen.emitter import Emitter
from rrto_ros.devices.cpu.codegen.integer import type_of
from rrto_ros.devices.cpu.codegen.table import emits, unsupported
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import PtxType

_INTEGER = {"add": "add", "and": "and", "or": "or", "xor": "xor", "exch": "xchg",
            "inc": "uinc_wrap", "dec": "udec_wrap"}


def _operation(instr: ast.Instr, kind: PtxType) -> str:
    for mod in instr.mods:
        if mod == "cas":
            return "cas"
        if mod in ("min", "max") and not kind.is_float:
            return mod if kind.signed else "u" + mod
        if mod == "add" and kind.is_float and kind.kind != "bf":
            return "fadd"
        if mod in _INTEGER and not (kind.is_float and mod != "exch"):
            return _INTEGER[mod]
    raise unsupported(instr)


@emits("atom", "red", forms="add (integers, f16, f32, f64), min, max, and, or, xor, exch, cas, "
       "inc, dec; global, shared, generic; 32 and 64 bits")
def atomic(e: Emitter, instr: ast.Instr) -> None:
    """Emits atom and red."""
    kind = type_of(instr)
    if kind.kind == "x2" or kind.bits > 64 or "v2" in instr.mods or "v4" in instr.mods:
        raise unsupported(instr)
    operation = _operation(instr, kind)
    space = next((m.split("::")[0] for m in instr.mods
                  if m.split("::")[0] in ("global", "shared")), "")
    has_result = instr.op == "atom"
    address = instr.args[1 if has_result else 0]
    pointer = checked(e, e.pointer(address, space), kind.bytes, writes=True)
    values = [e.read(a, kind) for a in instr.args[2 if has_result else 1 :]]
    if not has_result or isinstance(instr.args[0], ast.Sink):
        _run(e, pointer, values, operation, kind)
    else:
        e.write(instr.args[0], _run(e, pointer, values, operation, kind), kind)


def _run(e: Emitter, pointer: Val, values: list[Val], operation: str, kind: PtxType) -> Val:
    b = e.b
    if b.lanes == 1:
        return _one(e, pointer, values, operation, kind, e.mask)
    results = []
    for lane in range(b.lanes):
        mask = b.lane(e.mask, lane) if e.mask is not None else None
        results.append(_one(e, b.lane(pointer, lane), [b.lane(v, lane) for v in values],
                            operation, kind, mask))
    return b.from_lanes(results)


def _one(
    e: Emitter, pointer: Val, values: list[Val], operation: str, kind: PtxType,
    mask: Val | None,
) -> Val:
    b = e.b
    slot = b.alloca(kind.llvm)

    def action() -> None:
        if operation == "cas":
            pair, old = b.name(), b.name()
            compare, new = (b.as_int(v) for v in values)
            b.line(f"{pair} = cmpxchg ptr {pointer.text}, {b.arg(compare)}, {b.arg(new)} "
                   "seq_cst seq_cst")
            integer = f"i{kind.bits}"
            b.line(f"{old} = extractvalue {{ {integer}, i1 }} {pair}, 0")
            result = b.bitcast(Val(old, integer), kind.llvm)
        else:
            old = b.name()
            b.line(f"{old} = atomicrmw {operation} ptr {pointer.text}, {b.arg(values[0])} "
                   "seq_cst")
            result = Val(old, kind.llvm)
        b.line(f"store {b.arg(result)}, ptr {slot}")

    if mask is not None:
        zero = const(0, kind.llvm_int)
        b.line(f"store {zero.type} {zero.text}, ptr {slot}")
    e.when(mask, action)
    out = b.name()
    b.line(f"{out} = load {kind.llvm}, ptr {slot}")
    return Val(out, kind.llvm)
