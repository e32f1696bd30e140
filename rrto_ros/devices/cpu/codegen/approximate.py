"""ex2, lg2, sin, cos and tanh as branch-free polynomials, good in scalar and vector code.

Errors stay within what PTX documents for the .approx forms: ex2 2 ulp, lg2 2^-22 absolute near
one, sin and cos 2^-20.9 absolute in [-pi, pi], tanh 2^-11 relative.
"""

from __future__ import annotations

import struct

from rrto_ros.devices.cpu.codegen import rounding as rnd
from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter, unsupported, widen_bits
from rrto_ros.devices.cpu.codegen.floating import apply
from rrto_ros.devices.cpu.codegen.integer import type_of
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import PtxType

_EXP2 = (1.5353362e-4, 1.3398874e-3, 9.6184370e-3, 5.5503324e-2, 2.4022648e-1, 6.9314720e-1, 1.0)
_SIN = (
    2.7183114939898219064e-6,
    -1.9839334836096632e-4,
    8.3333293858894632e-3,
    -1.6666666641626524e-1,
)
_COS = (2.44331571e-5, -1.38873162e-3, 4.16666456e-2, -0.5, 1.0)
_LOG = (
    -0.11020159,
    0.186312094,
    -0.191024974,
    0.204575285,
    -0.239619046,
    0.288568884,
    -0.360696644,
    0.480898201,
    -0.721347332,
    1.44269504,
)
_INF, _NAN = "0x7FF0000000000000", "0x7FFFFFFFE0000000"


def number(value: float) -> Val:
    """A float literal, rounded to binary32."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return Val(f"0x{widen_bits(bits):016X}", "float")


def polynomial(e: Emitter, x: Val, coefficients: tuple[float, ...]) -> Val:
    """Horner's rule, highest power first."""
    value = number(coefficients[0])
    for coefficient in coefficients[1:]:
        value = e.b.intrinsic("llvm.fma", x, value, number(coefficient))
    return value


def exp2(e: Emitter, x: Val) -> Val:
    """Two to the power of x."""
    b = e.b
    clamped = b.select(b.compare("fcmp olt", x, number(-151.0)), number(-151.0), x)
    clamped = b.select(b.compare("fcmp ogt", clamped, number(129.0)), number(129.0), clamped)
    nan = b.compare("fcmp uno", x, x)
    clamped = b.select(nan, number(0.0), clamped)
    whole = b.intrinsic("llvm.rint", clamped)
    part = b.binary("fsub", clamped, whole)
    mantissa = polynomial(e, part, _EXP2)
    exponent = b.cast("fptosi", whole, "i32")
    half = b.binary("ashr", exponent, const(1, "i32"))
    rest = b.binary("sub", exponent, half)
    result = b.binary("fmul", b.binary("fmul", mantissa, _power(e, half)), _power(e, rest))
    return b.select(nan, Val(_NAN, "float"), result)


def _power(e: Emitter, exponent: Val) -> Val:
    b = e.b
    biased = b.binary("add", exponent, const(127, "i32"))
    return b.bitcast(b.binary("shl", biased, const(23, "i32")), "float")


def log2(e: Emitter, x: Val) -> Val:
    """The binary logarithm, from the mantissa in [sqrt(1/2), sqrt(2)) and the exponent."""
    b = e.b
    small = b.compare("fcmp olt", x, number(1.1754944e-38))
    scaled = b.select(small, b.binary("fmul", x, number(8388608.0)), x)
    bits = b.as_int(scaled)
    shifted = b.binary("sub", bits, const(0x3F3504F3, "i32"))
    exponent = b.binary("ashr", shifted, const(23, "i32"))
    mantissa = b.binary("sub", bits, b.binary("shl", exponent, const(23, "i32")))
    part = b.binary("fsub", b.bitcast(mantissa, "float"), number(1.0))
    whole = b.cast("sitofp", exponent, "float")
    whole = b.binary("fadd", whole, b.select(small, number(-23.0), number(0.0)))
    value = b.intrinsic("llvm.fma", part, polynomial(e, part, _LOG), whole)
    infinite = b.compare("fcmp oeq", x, Val(_INF, "float"))
    value = b.select(infinite, Val(_INF, "float"), value)
    is_zero = b.compare("fcmp oeq", x, number(0.0))
    value = b.select(is_zero, Val("0xFFF0000000000000", "float"), value)
    bad = b.compare("fcmp ult", x, number(0.0))
    return b.select(bad, Val(_NAN, "float"), value)


def sine(e: Emitter, x: Val, quarter: int) -> Val:
    """The sine of x + quarter * pi / 2, reduced in double precision."""
    b = e.b
    wide = b.cast("fpext", x, "double")
    turns = b.intrinsic("llvm.rint", b.binary("fmul", wide, Val("0x3FE45F306DC9C883", "double")))
    part = b.intrinsic("llvm.fma", turns, Val("0xBFF921FB54442D18", "double"), wide)
    r = b.cast("fptrunc", part, "float")
    limit = Val("0x41D0000000000000", "double")
    large = b.compare("fcmp ogt", b.intrinsic("llvm.fabs", turns), limit)
    finite = b.compare("fcmp ord", b.binary("fsub", x, x), number(0.0))
    unsafe = b.binary("or", large, b.binary("xor", finite, const(1, "i1")))
    k = b.cast("fptosi", b.select(unsafe, rnd.zero("double"), turns), "i32")
    k = b.binary("add", k, const(quarter, "i32"))
    square = b.binary("fmul", r, r)
    sin_r = b.intrinsic("llvm.fma", b.binary("fmul", square, polynomial(e, square, _SIN)), r, r)
    cos_r = polynomial(e, square, _COS)
    odd = b.compare("icmp ne", b.binary("and", k, const(1, "i32")), const(0, "i32"))
    value = b.select(odd, cos_r, sin_r)
    flip = b.binary("shl", b.binary("and", k, const(2, "i32")), const(30, "i32"))
    value = b.bitcast(b.binary("xor", b.as_int(value), flip), "float")
    # A GPU counts in turns with 24 bits and sees whole ones there; PTX documents no accuracy.
    value = b.select(large, number(float(quarter)), value)
    return b.select(finite, value, Val(_NAN, "float"))


def tanh(e: Emitter, x: Val) -> Val:
    """The hyperbolic tangent: a series near zero, else 1 - 2 / (e^2x + 1)."""
    b = e.b
    square = b.binary("fmul", x, x)
    near = b.binary("fmul", x, polynomial(e, square, (-17 / 315, 2 / 15, -1 / 3, 1.0)))
    grown = exp2(e, b.binary("fmul", x, number(2.8853900817779268)))
    quotient = b.binary("fdiv", number(2.0), b.binary("fadd", grown, number(1.0)))
    far = b.binary("fsub", number(1.0), quotient)
    close = b.compare("fcmp olt", square, number(0.09))
    return b.select(close, near, far)


@emits(
    "ex2", "lg2", "sin", "cos", "tanh", forms=".approx f32; ex2 and tanh also f16, bf16 and pairs"
)
def approximate(e: Emitter, instr: ast.Instr) -> None:
    """Emits ex2, lg2, sin, cos and tanh."""
    kind = type_of(instr)
    if kind.bits == 64 or (kind.name != "f32" and instr.op not in ("ex2", "tanh")):
        raise unsupported(instr)

    def operation(em: Emitter, v: list[Val], k: PtxType) -> Val:
        x = rnd.widen(em, v[0], k)
        match instr.op:
            case "ex2":
                value = exp2(em, x)
            case "lg2":
                value = log2(em, x)
            case "tanh":
                value = tanh(em, x)
            case _:
                value = sine(em, x, 0 if instr.op == "sin" else 1)
        return rnd.narrow(em, value, k) if k.bits == 16 else value

    apply(e, instr, kind, operation)
