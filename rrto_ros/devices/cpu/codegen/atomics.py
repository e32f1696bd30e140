"""atom and red: real atomic operations, lane by lane in thread order."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen import rounding as rnd
from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.checks import checked
from rrto_ros.devices.cpu.codegen.emitter import Emitter, unsupported
from rrto_ros.devices.cpu.codegen.integer import type_of
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_INTEGER = {
    "add": "add",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "exch": "xchg",
    "inc": "uinc_wrap",
    "dec": "udec_wrap",
}
_HALVES = {"f16x2": "f16", "bf16x2": "bf16"}


def _operation(instr: ast.Instr, kind: PtxType) -> str:
    for mod in instr.mods:
        if mod == "cas":
            return "cas"
        if mod in ("min", "max") and not kind.is_float:
            return mod if kind.signed else "u" + mod
        if mod == "add" and kind.is_float:
            return "bfadd" if kind.kind == "bf" else "fadd"
        if mod in _INTEGER and not (kind.is_float and mod != "exch"):
            return _INTEGER[mod]
    raise unsupported(instr)


@emits(
    "atom",
    "red",
    forms="add (integers, f16, bf16, pairs, f32, f64; .v2 .v4 .v8 of these), "
    "min, max, and, or, xor, exch, cas, inc, dec; global, shared, generic; 32 and 64 bits",
)
def atomic(e: Emitter, instr: ast.Instr) -> None:
    """Emits atom and red. Elements of vectors and halves of pairs are atomic one by one."""
    kind = type_of(instr)
    count = next((int(m[1:]) for m in instr.mods if m in ("v2", "v4", "v8")), 1)
    part = TYPES[_HALVES.get(kind.name, kind.name)]
    operation = _operation(instr, part)
    if kind.bits > 64 or ((count > 1 or kind.kind == "x2") and operation not in ("fadd", "bfadd")):
        raise unsupported(instr)
    space = next(
        (m.split("::")[0] for m in instr.mods if m.split("::")[0] in ("global", "shared")), ""
    )
    has_result = instr.op == "atom"
    address, *operands = instr.args[1 if has_result else 0 :]
    pointer = checked(e, e.pointer(address, space), kind.bytes * count, writes=True)
    if not e.memcheck and kind.bytes * count > 1:
        # LLVM takes the address of an atomic for a multiple of its size.
        place = e.b.cast("ptrtoint", pointer, "i64")
        good = e.note_alignment(place, kind.bytes * count)
        pointer = e.b.select(good, pointer, Val("%scratch", "ptr"))
    elements = [_items(instr, a, count) for a in operands]
    wanted: tuple[ast.Operand, ...] = (ast.Sink(),) * count
    if has_result and not isinstance(instr.args[0], ast.Sink):
        wanted = _items(instr, instr.args[0], count)
    results = []
    for index in range(count):
        values = [e.read(a[index], kind) for a in elements]
        where = e.offset(pointer, const(index * kind.bytes, "i64")) if index else pointer
        if kind.kind == "x2":
            results.append(_pair(e, where, values, operation, part))
        else:
            results.append(_run(e, where, values, operation, part))
    for dest, result in zip(wanted, results, strict=True):
        e.write(dest, result, kind)


def _items(instr: ast.Instr, operand: ast.Operand, count: int) -> tuple[ast.Operand, ...]:
    items = operand.items if isinstance(operand, ast.Vec) else (operand,)
    if len(items) != count:
        raise unsupported(instr, "an operand does not fit")
    return items


def _pair(e: Emitter, pointer: Val, values: list[Val], operation: str, half: PtxType) -> Val:
    """Two halves in 32 bits."""
    b = e.b
    result = const(0, "i32")
    for shift in (0, 16):
        parts = [
            b.bitcast(b.resize(b.binary("lshr", v, const(shift, "i32")), "i16", False), half.llvm)
            for v in values
        ]
        where = e.offset(pointer, const(2, "i64")) if shift else pointer
        old = b.resize(b.as_int(_run(e, where, parts, operation, half)), "i32", False)
        result = b.binary("or", result, b.binary("shl", old, const(shift, "i32")))
    return result


def _run(e: Emitter, pointer: Val, values: list[Val], operation: str, kind: PtxType) -> Val:
    b = e.b
    if b.lanes == 1:
        return _one(e, pointer, values, operation, kind, e.mask)
    results = []
    for lane in range(b.lanes):
        mask = b.lane(e.mask, lane) if e.mask is not None else None
        results.append(
            _one(
                e, b.lane(pointer, lane), [b.lane(v, lane) for v in values], operation, kind, mask
            )
        )
    return b.from_lanes(results)


def _bf16_add(e: Emitter, pointer: Val, value: Val) -> Val:
    """Adds until no other thread came between; the old bits."""
    b = e.b
    before, again, done = b.new_label("bf"), b.new_label("bf"), b.new_label("bf")
    first, seen, pair, old, good = (b.name("bf") for _ in range(5))
    b.line(f"br label %{before}")
    b.label(before)
    b.line(f"{first} = load atomic i16, ptr {pointer.text} seq_cst, align 2")
    b.line(f"br label %{again}")
    b.label(again)
    b.line(f"{seen} = phi i16 [ {first}, %{before} ], [ {old}, %{again} ]")
    total = b.binary("fadd", rnd.bf16_to_float(e, Val(seen, "i16")), rnd.bf16_to_float(e, value))
    new = rnd.float_to_bf16(e, total)
    b.line(f"{pair} = cmpxchg ptr {pointer.text}, i16 {seen}, {b.arg(new)} seq_cst seq_cst")
    b.line(f"{old} = extractvalue {{ i16, i1 }} {pair}, 0")
    b.line(f"{good} = extractvalue {{ i16, i1 }} {pair}, 1")
    b.line(f"br i1 {good}, label %{done}, label %{again}")
    b.label(done)
    return Val(seen, "i16")


def _one(
    e: Emitter,
    pointer: Val,
    values: list[Val],
    operation: str,
    kind: PtxType,
    mask: Val | None,
) -> Val:
    b = e.b
    slot = b.alloca(kind.llvm)

    def action() -> None:
        if operation == "cas":
            pair, old = b.name(), b.name()
            compare, new = (b.as_int(v) for v in values)
            b.line(
                f"{pair} = cmpxchg ptr {pointer.text}, {b.arg(compare)}, {b.arg(new)} "
                "seq_cst seq_cst"
            )
            integer = f"i{kind.bits}"
            b.line(f"{old} = extractvalue {{ {integer}, i1 }} {pair}, 0")
            result = b.bitcast(Val(old, integer), kind.llvm)
        elif operation == "bfadd":
            result = _bf16_add(e, pointer, values[0])
        else:
            old = b.name()
            b.line(f"{old} = atomicrmw {operation} ptr {pointer.text}, {b.arg(values[0])} seq_cst")
            result = Val(old, kind.llvm)
        b.line(f"store {b.arg(result)}, ptr {slot}")

    if mask is not None:
        zero = const(0, kind.llvm_int)
        b.line(f"store {zero.type} {zero.text}, ptr {slot}")
    e.when(mask, action)
    out = b.name()
    b.line(f"{out} = load {kind.llvm}, ptr {slot}")
    return Val(out, kind.llvm)
