"""mov and cvt."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen import rounding as rnd
from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter, unsupported
from rrto_ros.devices.cpu.codegen.integer import type_of
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_TO_INTEGRAL = {"rni": "llvm.rint", "rzi": "llvm.trunc", "rmi": "llvm.floor", "rpi": "llvm.ceil"}


@emits("mov", forms="any type; packing and unpacking of {a, b, ...}; addresses")
def mov(e: Emitter, instr: ast.Instr) -> None:
    """Emits mov."""
    kind = type_of(instr)
    dest, source = instr.args[0], instr.args[1]
    b = e.b
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


@emits("cvt", forms="between all integers, f16, bf16, f32, f64; .rn .rz .rm .rp, .rni .rzi .rmi "
       ".rpi, .sat, .ftz; f32 pairs to f16x2 and bf16x2; tf32")
def cvt(e: Emitter, instr: ast.Instr) -> None:
    """Emits cvt."""
    types = [TYPES[m] for m in instr.mods if m in TYPES]
    if len(types) != 2:
        raise unsupported(instr)
    to, source = types
    b = e.b
    if to.kind == "x2" and source.name == "f32":
        half = TYPES["f16" if to.name == "f16x2" else "bf16"]
        high, low = (b.as_int(_to_float(e, instr, e.read(a, source), source, half))
                     for a in instr.args[1:3])
        low, high = b.resize(low, "i32", False), b.resize(high, "i32", False)
        packed = b.binary("or", low, b.binary("shl", high, const(16, "i32")))
        e.write(instr.args[0], packed, to)
        return
    value = e.read(instr.args[1], source)
    if to.name == "tf32":
        e.write(instr.args[0], _to_tf32(e, value), TYPES["b32"])
    elif source.is_float and to.is_float:
        e.write(instr.args[0], _to_float(e, instr, value, source, to), to)
    elif source.is_float:
        e.write(instr.args[0], _float_to_int(e, instr, value, source, to), to)
    elif to.is_float:
        e.write(instr.args[0], _int_to_float(e, instr, value, source, to), to)
    else:
        e.write(instr.args[0], _int_to_int(e, instr, value, source, to), to)


def _mode(instr: ast.Instr) -> str:
    for mod in instr.mods:
        if mod in ("rn", "rz", "rm", "rp", "rna", "rs") or mod in _TO_INTEGRAL:
            return mod
    return ""


def _to_tf32(e: Emitter, value: Val) -> Val:
    """Ties away from zero at 10 fraction bits (.rna), or to even (.rn)."""
    b = e.b
    bits = b.as_int(value)
    bias = const(0x1000, "i32")
    if "rn" in e.instr.mods:
        odd = b.binary("and", b.binary("lshr", bits, const(13, "i32")), const(1, "i32"))
        bias = b.binary("add", odd, const(0xFFF, "i32"))
    rounded = b.binary("and", b.binary("add", bits, bias), const(0xFFFFE000, "i32"))
    special = b.compare("icmp eq", b.binary("and", bits, const(0x7F800000, "i32")),
                        const(0x7F800000, "i32"))
    return b.select(special, bits, rounded)


def _to_float(e: Emitter, instr: ast.Instr, value: Val, source: PtxType, to: PtxType) -> Val:
    b = e.b
    mode = _mode(instr)
    wide = rnd.widen(e, value, source)
    if "ftz" in instr.mods:
        wide = rnd.flush(e, wide)
    if mode in _TO_INTEGRAL:
        wide = b.intrinsic(_TO_INTEGRAL[mode], wide)
        mode = ""
    if to.bits == 64:
        wide = b.cast("fpext", wide, "double")
    elif to.bits == 32 and wide.type == "double":
        wide = _narrow_double(e, wide, mode or "rn")
    elif to.bits == 16:
        if wide.type == "double":
            if mode not in ("", "rn") or to.kind == "bf":
                raise unsupported(instr)
            return b.cast("fptrunc", wide, to.llvm)
        if "sat" in instr.mods:
            wide = rnd.saturate(e, wide)
        if "relu" in instr.mods:
            negative = b.compare("fcmp olt", wide, rnd.zero("float"))
            wide = b.select(negative, rnd.zero("float"), wide)
        return _narrow_half(e, wide, to, mode or "rn")
    if "ftz" in instr.mods:
        wide = rnd.flush(e, wide)
    if "sat" in instr.mods:
        wide = rnd.saturate(e, wide)
    return wide


def _narrow_double(e: Emitter, value: Val, mode: str) -> Val:
    if mode == "rn":
        return e.b.cast("fptrunc", value, "float")
    return rnd.round_directed(e, value, rnd.zero("double"), mode)


def _narrow_half(e: Emitter, value: Val, to: PtxType, mode: str) -> Val:
    b = e.b
    if mode == "rn" or (mode == "rz" and to.kind == "bf"):
        return rnd.narrow(e, value, to, mode)
    if mode != "rz":
        raise unsupported(e.instr)
    # Clearing the lost bits first makes the rounding exact; large values then need a clamp.
    bits = b.binary("and", b.as_int(value), const(0xFFFFE000, "i32"))
    magnitude = b.binary("and", bits, const(0x7FFFFFFF, "i32"))
    small = b.compare("icmp ult", magnitude, const(0x38800000, "i32"))
    scaled = b.intrinsic("llvm.trunc", b.binary("fmul", value, Val("16777216.0", "float")))
    tiny = b.binary("fdiv", scaled, Val("16777216.0", "float"))
    exact = b.select(small, tiny, b.bitcast(bits, "float"))
    finite = b.compare("icmp ult", magnitude, const(0x7F800000, "i32"))
    big = b.compare("icmp ugt", magnitude, const(0x477FE000, "i32"))
    limit = b.intrinsic("llvm.copysign", Val("65504.0", "float"), value)
    exact = b.select(b.binary("and", finite, big), limit, exact)
    return b.cast("fptrunc", b.select(b.compare("fcmp uno", value, value), value, exact), "half")


def _float_to_int(
    e: Emitter, instr: ast.Instr, value: Val, source: PtxType, to: PtxType
) -> Val:
    """Rounds, saturates to the range of the target; NaN gives 0."""
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
    return Val(out, to.llvm, wide.vec)


def _int_to_float(
    e: Emitter, instr: ast.Instr, value: Val, source: PtxType, to: PtxType
) -> Val:
    b = e.b
    op = "sitofp" if source.signed else "uitofp"
    mode = _mode(instr) or "rn"
    if mode != "rn":
        if to.name != "f32" or source.bits > 32:
            raise unsupported(instr)
        exact = b.cast(op, value, "double")
        return rnd.round_directed(e, exact, rnd.zero("double"), mode)
    if to.kind == "bf":
        if source.bits > 16:
            raise unsupported(instr)
        return rnd.float_to_bf16(e, b.cast(op, value, "float"))
    if to.name == "f16" and source.bits == 64:
        raise unsupported(instr)
    if to.name == "f16":
        return b.cast("fptrunc", b.cast(op, value, "double"), "half")
    result = b.cast(op, value, to.llvm)
    return rnd.saturate(e, result) if "sat" in instr.mods else result


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
