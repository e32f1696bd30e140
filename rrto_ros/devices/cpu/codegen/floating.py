"""Floating-point arithmetic: add to fma, division, roots, min/max, sign; f16, bf16, pairs."""

from __future__ import annotations

from collections.abc import Callable

from rrto_ros.devices.cpu.codegen import rounding as rnd
from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter, unsupported
from rrto_ros.devices.cpu.codegen.integer import add_sub, divide, multiply, type_of
from rrto_ros.devices.cpu.codegen.packed import pair_arithmetic
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

Operation = Callable[[Emitter, list[Val], PtxType], Val]
_F32_PAIR = PtxType("f32x2", 64, "x2")
"""Of add, sub, mul and fma alone; so other instructions do not know this type."""
_F32_PAIR_FORMS = {"f32x2", "rn", "rz", "rm", "rp", "ftz"}


def apply(e: Emitter, instr: ast.Instr, kind: PtxType, operation: Operation) -> None:
    """Reads the operands, applies an operation (per half for pairs), modifiers, and writes."""
    values = [e.read(a, kind) for a in instr.args[1:]]
    if kind.kind != "x2":
        e.write(instr.args[0], _modified(e, instr, values, kind, operation), kind)
        return
    b = e.b
    half = TYPES[kind.name[:-2]]
    result = const(0, kind.llvm)
    for shift in (0, half.bits):
        piece = [_unpack(e, v, shift, half) for v in values]
        bits = b.as_int(_modified(e, instr, piece, half, operation))
        wide = b.resize(bits, kind.llvm, False)
        result = b.binary("or", result, b.binary("shl", wide, const(shift, kind.llvm)))
    e.write(instr.args[0], result, kind)


def _unpack(e: Emitter, pair: Val, shift: int, half: PtxType) -> Val:
    b = e.b
    part = b.resize(b.binary("lshr", pair, const(shift, pair.type)), half.llvm_int, False)
    return b.bitcast(part, half.llvm)


def _modified(
    e: Emitter, instr: ast.Instr, values: list[Val], kind: PtxType, operation: Operation
) -> Val:
    ftz = "ftz" in instr.mods
    if ftz:
        values = [rnd.flush(e, v) for v in values]
    value = operation(e, values, kind)
    if ftz:
        value = rnd.flush(e, value)
    if "sat" in instr.mods and kind.kind != "bf":
        value = rnd.saturate(e, value)
    if "relu" in instr.mods:
        value = _relu(e, value, kind)
    return value


def _relu(e: Emitter, value: Val, kind: PtxType) -> Val:
    if kind.kind == "bf":
        wide = rnd.bf16_to_float(e, value)
        negative = e.b.compare("fcmp olt", wide, rnd.zero("float"))
        return e.b.select(negative, const(0, "i16"), value)
    negative = e.b.compare("fcmp olt", value, rnd.zero(value.type))
    return e.b.select(negative, rnd.zero(value.type), value)


def _arithmetic_type(instr: ast.Instr) -> PtxType:
    """The last type in the opcode of add, sub, mul or fma."""
    if "f32x2" not in instr.mods:
        return type_of(instr)
    if not set(instr.mods) <= _F32_PAIR_FORMS:
        raise unsupported(instr)
    return _F32_PAIR


def _rounding(instr: ast.Instr) -> str:
    return next((m for m in instr.mods if m in ("rn", "rz", "rm", "rp")), "rn")


def _arith(op: str, mode: str) -> Operation:
    """fadd, fsub or fmul with a rounding mode."""

    def operation(e: Emitter, v: list[Val], kind: PtxType) -> Val:
        b = e.b
        if mode == "rn":
            if kind.kind == "bf":
                wide = b.binary(op, rnd.widen(e, v[0], kind), rnd.widen(e, v[1], kind))
                return rnd.narrow(e, wide, kind)
            return b.binary(op, v[0], v[1])
        if kind.bits == 64:
            return rnd.directed(e, op, mode, v[0], v[1])
        if kind.name != "f32":
            raise unsupported(e.instr, "directed rounding is there for f32 and f64 only")
        x, y = (b.cast("fpext", value, "double") for value in v[:2])
        if op == "fmul":
            return rnd.round_directed(e, b.binary("fmul", x, y), rnd.zero("double"), mode)
        if op == "fsub":
            y = b.unary("fneg", y)
        return rnd.round_directed(e, *rnd.two_sum(e, x, y), mode)

    return operation


def _fma(mode: str) -> Operation:
    def operation(e: Emitter, v: list[Val], kind: PtxType) -> Val:
        b = e.b
        if kind.bits == 16:
            x, y, z = (b.cast("fpext", rnd.widen(e, value, kind), "double") for value in v)
            exact = rnd.two_sum(e, b.binary("fmul", x, y), z)
            return rnd.narrow(e, rnd.round_to_odd(e, *exact), kind)
        if mode == "rn":
            x, y, z = v
            return b.intrinsic("llvm.fma", x, y, z)
        if kind.bits == 64:
            return rnd.directed(e, "fma", mode, *v)
        x, y, z = (b.cast("fpext", value, "double") for value in v)
        return rnd.round_directed(e, *rnd.two_sum(e, b.binary("fmul", x, y), z), mode)

    return operation


@emits(
    "add",
    "sub",
    forms="integers (.sat.s32, .cc, add of pairs), f16, bf16, f32, pairs of these, "
    "f64; .ftz .sat; directed rounding for f32 and f64",
)
def add(e: Emitter, instr: ast.Instr) -> None:
    """Emits add and sub."""
    kind = _arithmetic_type(instr)
    if kind.kind in "us":
        add_sub(e, instr, kind)
    elif kind.kind == "i2":
        pair_arithmetic(e, instr, kind)
    else:
        apply(e, instr, kind, _arith("f" + instr.op, _rounding(instr)))


@emits("mul", forms="integers .lo .hi .wide, floats as add")
def mul(e: Emitter, instr: ast.Instr) -> None:
    """Emits mul."""
    kind = _arithmetic_type(instr)
    if kind.kind in "us":
        multiply(e, instr, kind)
    else:
        apply(e, instr, kind, _arith("fmul", _rounding(instr)))


@emits("mad", "fma", forms="integers .lo .hi .wide .cc; floats as add: one rounding")
def mad(e: Emitter, instr: ast.Instr) -> None:
    """Emits mad and fma."""
    kind = _arithmetic_type(instr)
    if kind.kind in "us":
        multiply(e, instr, kind)
    else:
        apply(e, instr, kind, _fma(_rounding(instr)))


def _quotient(e: Emitter, x: Val, y: Val, mode: str) -> Val:
    if mode == "rn":
        return e.b.binary("fdiv", x, y)
    return rnd.directed(e, "fdiv", mode, x, y)


@emits("div", forms="integers; f32 and f64, all roundings; f32 .approx .full")
def div(e: Emitter, instr: ast.Instr) -> None:
    """Emits div."""
    kind, mode = type_of(instr), _rounding(instr)
    if kind.kind in "us":
        divide(e, instr, kind)
        return
    if kind.name not in ("f32", "f64"):
        raise unsupported(instr)
    apply(e, instr, kind, lambda em, v, _: _quotient(em, v[0], v[1], mode))


@emits("rcp", forms="f32 and f64, all roundings and .approx")
def rcp(e: Emitter, instr: ast.Instr) -> None:
    """Emits rcp."""
    mode = _rounding(instr)
    apply(e, instr, type_of(instr), lambda em, v, k: _quotient(em, rnd.one(k.llvm), v[0], mode))


@emits("sqrt", "rsqrt", forms="f32 and f64, sqrt in all roundings, and .approx")
def sqrt(e: Emitter, instr: ast.Instr) -> None:
    """Emits sqrt and rsqrt."""
    mode = _rounding(instr)
    if mode != "rn" and instr.op == "rsqrt":
        raise unsupported(instr)

    def operation(em: Emitter, v: list[Val], kind: PtxType) -> Val:
        if mode != "rn":
            return rnd.directed(em, "sqrt", mode, v[0])
        root = em.b.intrinsic("llvm.sqrt", v[0])
        return em.b.binary("fdiv", rnd.one(kind.llvm), root) if instr.op == "rsqrt" else root

    apply(e, instr, type_of(instr), operation)


@emits(
    "min",
    "max",
    forms="integers and pairs of them; f16, bf16, pairs, f32, f64; .NaN .ftz .xorsign.abs not",
)
def min_max(e: Emitter, instr: ast.Instr) -> None:
    """Emits min and max."""
    kind = type_of(instr)
    b = e.b
    if kind.kind in "us":
        stem = f"llvm.{'s' if kind.signed else 'u'}{instr.op}"
        x, y = e.read(instr.args[1], kind), e.read(instr.args[2], kind)
        value = b.intrinsic(stem, x, y)
        if "relu" in instr.mods:
            value = b.intrinsic("llvm.smax", value, const(0, value.type))
        e.write(instr.args[0], value, kind)
        return
    if kind.kind == "i2":
        pair_arithmetic(e, instr, kind)
        return
    if "xorsign" in instr.mods:
        raise unsupported(instr)
    apply(e, instr, kind, _float_min_max(instr))


def _float_min_max(instr: ast.Instr) -> Operation:
    def operation(e: Emitter, v: list[Val], kind: PtxType) -> Val:
        b = e.b
        values = [rnd.widen(e, value, kind) for value in v]
        result = values[0]
        for other in values[1:]:
            result = _pair_min_max(e, instr, result, other)
        if kind.bits == 16:
            result = rnd.narrow(e, result, kind)
            if kind.kind != "bf":
                nan = b.compare("fcmp uno", result, result)
                result = b.select(nan, Val("0xH7FFF", "half"), result)
        return result

    return operation


def _pair_min_max(e: Emitter, instr: ast.Instr, x: Val, y: Val) -> Val:
    """A number beats NaN (unless .NaN); -0 is below +0; two NaNs give the canonical one."""
    b = e.b
    less = b.compare("fcmp olt" if instr.op == "min" else "fcmp ogt", x, y)
    picked = b.select(less, x, y)
    equal = b.compare("fcmp oeq", x, y)
    both = b.binary("or" if instr.op == "min" else "and", b.as_int(x), b.as_int(y))
    picked = b.select(equal, b.bitcast(both, x.type), picked)
    x_nan, y_nan = b.compare("fcmp uno", x, x), b.compare("fcmp uno", y, y)
    canonical = Val("0x7FFFFFFFE0000000" if x.type == "float" else "0x7FFFFFFFFFFFFFFF", x.type)
    if "NaN" in instr.mods:
        return b.select(b.binary("or", x_nan, y_nan), canonical, picked)
    picked = b.select(y_nan, x, b.select(x_nan, y, picked))
    return b.select(b.binary("and", x_nan, y_nan), canonical, picked)


@emits("abs", "neg", forms="integers, f16, bf16, pairs, f32, f64")
def sign(e: Emitter, instr: ast.Instr) -> None:
    """Emits abs and neg."""
    kind = type_of(instr)
    b = e.b
    if kind.kind in "us":
        value = e.read(instr.args[1], kind)
        negated = b.binary("sub", const(0, value.type), value)
        if instr.op == "abs":
            negative = b.compare("icmp slt", value, const(0, value.type))
            negated = b.select(negative, negated, value)
        e.write(instr.args[0], negated, kind)
        return

    def operation(em: Emitter, v: list[Val], k: PtxType) -> Val:
        bits = em.b.as_int(v[0])
        top = 1 << k.bits - 1
        if instr.op == "abs":
            bits = em.b.binary("and", bits, const(top - 1, bits.type))
        else:
            bits = em.b.binary("xor", bits, const(top, bits.type))
        return em.b.bitcast(bits, k.llvm)

    apply(e, instr, kind, operation)


@emits("copysign", forms="f32, f64")
def copysign(e: Emitter, instr: ast.Instr) -> None:
    """Emits copysign."""
    kind = type_of(instr)
    sign_of, magnitude = e.read(instr.args[1], kind), e.read(instr.args[2], kind)
    e.write(instr.args[0], e.b.intrinsic("llvm.copysign", magnitude, sign_of), kind)


@emits("testp", forms="f32, f64")
def testp(e: Emitter, instr: ast.Instr) -> None:
    """Emits testp."""
    kind = type_of(instr)
    b = e.b
    classes = {
        "nan": 0x3,
        "infinite": 0x204,
        "finite": 0x1F8,
        "number": 0x3FC,
        "normal": 0x108,
        "subnormal": 0x90,
        "notanumber": 0x3,
    }
    value = e.read(instr.args[1], kind)
    name = f"llvm.is.fpclass.{b.suffix(value.type, value.vec)}"
    result = b.ty("i1", value.vec)
    b.declared[name] = f"declare {result} @{name}({b.of(value)}, i32)"
    out = b.name()
    b.line(f"{out} = call {result} @{name}({b.arg(value)}, i32 {classes[instr.mods[0]]})")
    e.write(instr.args[0], Val(out, "i1", value.vec), TYPES["pred"])
