"""mov and cvt."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen import narrow
from rrto_ros.devices.cpu.codegen import rounding as rnd
from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter, unsupported
from rrto_ros.devices.cpu.codegen.integer import type_of
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_MODIFIERS = frozenset(
    {"rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi", "sat", "ftz", "relu"}
)
_TO_INTEGRAL = {"rni": "llvm.rint", "rzi": "llvm.trunc", "rmi": "llvm.floor", "rpi": "llvm.ceil"}


@emits("mov", forms="any type, .v2 .v4 .v8; packing and unpacking of {a, b, ...}; addresses")
def mov(e: Emitter, instr: ast.Instr) -> None:
    """Emits mov."""
    kind = type_of(instr)
    dest, source = instr.args[0], instr.args[1]
    b = e.b
    if isinstance(source, ast.Vec) and isinstance(dest, ast.Vec):
        if len(source.items) != len(dest.items):
            raise unsupported(instr, f"{len(source.items)} values for {len(dest.items)} registers")
        count = next((int(m[1:]) for m in instr.mods if m in ("v2", "v4", "v8")), 0)
        if not count and kind.bits % len(dest.items):
            raise unsupported(instr, "the parts do not fit")
        part = kind if count else TYPES[f"b{kind.bits // len(dest.items)}"]
        values = [e.read(item, part) for item in source.items]
        for item, value in zip(dest.items, values, strict=True):
            e.write(item, value, part)
        return
    if isinstance(source, ast.Vec):
        part = TYPES[f"b{kind.bits // len(source.items)}"]
        total = const(0, kind.llvm_int)
        for index, item in enumerate(source.items):
            value = b.resize(b.as_int(e.read(item, part)), kind.llvm_int, False)
            if index:
                value = b.binary("shl", value, const(index * part.bits, kind.llvm_int))
            total = b.binary("or", total, value)
        e.write(dest, total, TYPES[f"b{kind.bits}"])
        return
    if isinstance(dest, ast.Vec):
        part = TYPES[f"b{kind.bits // len(dest.items)}"]
        whole = b.as_int(e.read(source, kind))
        for index, item in enumerate(dest.items):
            shifted = b.binary("lshr", whole, const(index * part.bits, whole.type))
            e.write(item, b.resize(shifted, part.llvm, False), part)
        return
    e.write(dest, e.read(source, kind), kind)


@emits(
    "cvt",
    forms="between all integers, f16, bf16, f32, f64; .rn .rz .rm .rp, .rni .rzi .rmi "
    ".rpi, .sat, .ftz, .relu; f32 pairs to f16x2 and bf16x2; f32 to tf32 (.rna .rn .rz); "
    "f32 and f16x2 to e4m3x2 and e5m2x2 (.rn.satfinite, .relu), these to f16x2; .pack.sat",
)
def cvt(e: Emitter, instr: ast.Instr) -> None:
    """Emits cvt."""
    if "pack" in instr.mods:
        narrow.pack(e, instr)
        return
    if any(m in narrow.FP8 for m in instr.mods):
        narrow.convert_fp8(e, instr)
        return
    types = [TYPES[m] for m in instr.mods if m in TYPES]
    if len(types) != 2 or not all(m in TYPES or m in _MODIFIERS for m in instr.mods):
        raise unsupported(instr)
    to, source = types
    b = e.b
    if to.kind == "x2" and source.name == "f32":
        half = TYPES["f16" if to.name == "f16x2" else "bf16"]
        high, low = (
            b.as_int(_to_float(e, instr, e.read(a, source), source, half)) for a in instr.args[1:3]
        )
        low, high = b.resize(low, "i32", False), b.resize(high, "i32", False)
        packed = b.binary("or", low, b.binary("shl", high, const(16, "i32")))
        e.write(instr.args[0], packed, to)
        return
    value = e.read(instr.args[1], source)
    if to.name == "tf32":
        e.write(instr.args[0], _to_tf32(e, value, _mode(instr)), TYPES["b32"])
    elif source.is_float and to.is_float:
        e.write(instr.args[0], _to_float(e, instr, value, source, to), to)
    elif source.is_float:
        e.write(instr.args[0], _float_to_int(e, instr, value, source, to), to)
    elif to.is_float:
        e.write(instr.args[0], _int_to_float(e, instr, value, source, to), to)
    else:
        e.write(instr.args[0], _int_to_int(e, instr, value, source, to), to)


def _mode(instr: ast.Instr) -> str:
    """The rounding, as it is written; "" if none is."""
    return next(
        (m for m in instr.mods if m in rnd.DIRECTED or m in _TO_INTEGRAL or m in ("rn", "rna")), ""
    )


def _to_tf32(e: Emitter, value: Val, mode: str) -> Val:
    """10 fraction bits: ties away from zero (.rna), to even (.rn), or cut off (.rz)."""
    b = e.b
    if mode not in ("rna", "rn", "rz"):
        raise unsupported(e.instr)
    if "relu" in e.instr.mods:
        value = _relu(e, value)
    bits = b.as_int(value)
    bias = const(0x1000 if mode == "rna" else 0, "i32")
    if mode == "rn":
        odd = b.binary("and", b.binary("lshr", bits, const(13, "i32")), const(1, "i32"))
        bias = b.binary("add", odd, const(0xFFF, "i32"))
    rounded = b.binary("and", b.binary("add", bits, bias), const(0xFFFFE000, "i32"))
    special = b.compare(
        "icmp eq", b.binary("and", bits, const(0x7F800000, "i32")), const(0x7F800000, "i32")
    )
    return b.select(special, bits, rounded)


def _relu(e: Emitter, value: Val) -> Val:
    zero = rnd.zero(value.type)
    return e.b.select(e.b.compare("fcmp olt", value, zero), zero, value)


def _to_float(e: Emitter, instr: ast.Instr, value: Val, source: PtxType, to: PtxType) -> Val:
    b = e.b
    mode = _mode(instr) or "rn"
    wide = rnd.widen(e, value, source)
    if "ftz" in instr.mods:
        wide = rnd.flush(e, wide)
    if mode in _TO_INTEGRAL:
        wide = b.intrinsic(_TO_INTEGRAL[mode], wide)
        mode = "rn"
    if to.bits == 16:
        # No rounding moves a value out of [0, 1] or over 0.
        if "sat" in instr.mods:
            wide = rnd.saturate(e, wide)
        if "relu" in instr.mods:
            wide = _relu(e, wide)
        return rnd.narrow_by(e, wide, to, mode)
    if to.bits == 64:
        wide = b.cast("fpext", wide, "double")
    elif wide.type == "double":
        wide = (
            b.cast("fptrunc", wide, "float")
            if mode == "rn"
            else rnd.round_directed(e, wide, rnd.zero("double"), mode)
        )
    if "ftz" in instr.mods:
        wide = rnd.flush(e, wide)
    if "sat" in instr.mods:
        wide = rnd.saturate(e, wide)
    return wide


def _float_to_int(e: Emitter, instr: ast.Instr, value: Val, source: PtxType, to: PtxType) -> Val:
    """Rounds, saturates to the range of the target; NaN gives 0, or the top bit in 64 bits."""
    b = e.b
    wide = rnd.widen(e, value, source)
    if "ftz" in instr.mods:
        wide = rnd.flush(e, wide)
    mode = _mode(instr)
    if mode not in _TO_INTEGRAL:
        raise unsupported(instr, "an integral rounding mode is needed")
    wide = b.intrinsic(_TO_INTEGRAL[mode], wide)
    stem = "llvm.fptosi.sat" if to.signed else "llvm.fptoui.sat"
    kind = b.ty(to.llvm, wide.vec)
    name = f"{stem}.{b.suffix(to.llvm, wide.vec)}.{b.suffix(wide.type, wide.vec)}"
    b.declared[name] = f"declare {kind} @{name}({b.of(wide)})"
    out = b.name()
    b.line(f"{out} = call {kind} @{name}({b.arg(wide)})")
    result = Val(out, to.llvm, wide.vec)
    if 64 not in (source.bits, to.bits):
        return result
    nan = b.compare("fcmp uno", wide, wide)
    return b.select(nan, const(1 << to.bits - 1, to.llvm), result)


def _int_to_float(e: Emitter, instr: ast.Instr, value: Val, source: PtxType, to: PtxType) -> Val:
    b = e.b
    op = "sitofp" if source.signed else "uitofp"
    mode = _mode(instr) or "rn"
    if to.bits > 16 and mode == "rn":
        result = b.cast(op, value, to.llvm)
    elif to.bits == 64:
        result = (
            b.cast(op, value, "double")
            if source.bits < 64
            else rnd.directed(e, "fadd", mode, *_halves(e, value, op))
        )
    else:
        head, error = b.cast(op, value, "double"), rnd.zero("double")
        if source.bits == 64:
            head, error = rnd.two_sum(e, *_halves(e, value, op))
        if to.bits == 32:
            result = rnd.round_directed(e, head, error, mode)
        else:
            odd = rnd.round_to_odd(e, head, error)
            if "sat" in instr.mods:
                odd = rnd.saturate(e, odd)
            return rnd.narrow_by(e, odd, to, mode)
    return rnd.saturate(e, result) if "sat" in instr.mods else result


def _halves(e: Emitter, value: Val, op: str) -> tuple[Val, Val]:
    """Two doubles that make up a 64-bit integer exactly: its upper half, and its lower."""
    b = e.b
    shift = "ashr" if op == "sitofp" else "lshr"
    high = b.cast(op, b.binary(shift, value, const(32, "i64")), "double")
    low = b.cast("uitofp", b.binary("and", value, const(0xFFFFFFFF, "i64")), "double")
    return b.binary("fmul", high, Val("4294967296.0", "double")), low


def _int_to_int(e: Emitter, instr: ast.Instr, value: Val, source: PtxType, to: PtxType) -> Val:
    b = e.b
    if "sat" not in instr.mods:
        return b.resize(value, to.llvm, source.signed)
    wide = b.resize(value, "i128" if source.bits == 64 else "i64", source.signed)
    bits = to.bits
    low = -(1 << bits - 1) if to.signed else 0
    high = (1 << bits - 1) - 1 if to.signed else (1 << bits) - 1
    wide = b.intrinsic("llvm.smax", wide, const(low, wide.type))
    wide = b.intrinsic("llvm.smin", wide, const(high, wide.type))
    return b.resize(wide, to.llvm, False)
