"""Conversions to and from fewer than 16 bits: fp8 pairs, and integers packed in a word."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import B16, B32, Emitter, unsupported
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES

_NAN8, _NAN16 = 0x7F, 0x7FFF


@dataclass(frozen=True)
class _Fp8:
    """An 8-bit float.

    Attributes:
        fraction: Bits of its fraction.
        bias: Of its exponent.
        largest: Its largest finite value.
        first_nan: The least magnitude that is a NaN.
    """

    fraction: int
    bias: int
    largest: float
    first_nan: int


FP8 = {"e4m3x2": _Fp8(3, 7, 448.0, 0x7F), "e5m2x2": _Fp8(2, 15, 57344.0, 0x7D)}
_FROM = {"rn", "satfinite", "relu", "f32", "f16x2"}
_TO = {"rn", "relu", "f16x2"}


def _float(value: float) -> Val:
    return Val(f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}", "float")


def convert_fp8(e: Emitter, instr: ast.Instr) -> None:
    """Emits cvt to and from e4m3x2 and e5m2x2."""
    b = e.b
    kinds = [m for m in instr.mods if m in TYPES or m in FP8]
    known = _TO if kinds[-1] in FP8 else _FROM
    if len(kinds) != 2 or "rn" not in instr.mods or not set(instr.mods) <= known | set(FP8):
        raise unsupported(instr)
    to, source = kinds
    if source in FP8:
        if to != "f16x2":
            raise unsupported(instr)
        pair = e.read(instr.args[1], B16)
        halves = [
            _decoded(
                e, b.resize(b.binary("lshr", pair, const(s, "i16")), "i8", False), FP8[source]
            )
            for s in (0, 8)
        ]
        low, high = (b.resize(h, "i32", False) for h in halves)
        e.write(instr.args[0], b.binary("or", low, b.binary("shl", high, const(16, "i32"))), B32)
        return
    if "satfinite" not in instr.mods or to not in FP8:
        raise unsupported(instr, ".satfinite is needed")
    if source == "f32":
        values = [e.read(instr.args[i], TYPES["f32"]) for i in (2, 1)]
    elif source == "f16x2":
        pair = e.read(instr.args[1], B32)
        parts = [b.resize(b.binary("lshr", pair, const(s, "i32")), "i16", False) for s in (0, 16)]
        values = [b.cast("fpext", b.bitcast(p, "half"), "float") for p in parts]
    else:
        raise unsupported(instr)
    low, high = (_encoded(e, v, FP8[to]) for v in values)
    e.write(instr.args[0], b.binary("or", low, b.binary("shl", high, const(8, "i16"))), B16)


def _encoded(e: Emitter, value: Val, form: _Fp8) -> Val:
    """A float as 8 bits in 16: to nearest even; what is too large becomes the largest."""
    b = e.b
    if "relu" in e.instr.mods:
        value = b.select(b.compare("fcmp olt", value, _float(0.0)), _float(0.0), value)
    nan = b.compare("fcmp uno", value, value)
    sign = b.binary("and", b.binary("lshr", b.as_int(value), const(24, "i32")), const(0x80, "i32"))
    size = b.intrinsic("llvm.fabs", value)
    size = b.select(b.compare("fcmp ogt", size, _float(form.largest)), _float(form.largest), size)
    size = b.select(nan, _float(0.0), size)
    # Normal: the fraction is rounded in place, and a carry goes into the exponent.
    drop = 23 - form.fraction
    bits = b.as_int(size)
    odd = b.binary("and", b.binary("lshr", bits, const(drop, "i32")), const(1, "i32"))
    up = b.binary("add", odd, const((1 << drop - 1) - 1, "i32"))
    normal = b.binary("lshr", b.binary("add", bits, up), const(drop, "i32"))
    normal = b.binary("sub", normal, const((127 - form.bias) << form.fraction, "i32"))
    # Below: a multiple of the smallest value.
    least = 2.0 ** (1 - form.bias)
    small = b.compare("fcmp olt", size, _float(least))
    unit = least / (1 << form.fraction)
    steps = b.binary("fmul", b.select(small, size, _float(0.0)), _float(1 / unit))
    below = b.cast("fptoui", b.intrinsic("llvm.rint", steps), "i32")
    out = b.binary("or", b.select(small, below, normal), sign)
    return b.resize(b.select(nan, const(_NAN8, "i32"), out), "i16", False)


def _decoded(e: Emitter, byte: Val, form: _Fp8) -> Val:
    """8 bits as the bits of the equal f16."""
    b = e.b
    wide = b.resize(byte, "i16", False)
    size = b.binary("and", wide, const(0x7F, "i16"))
    sign = b.binary("shl", b.binary("and", wide, const(0x80, "i16")), const(8, "i16"))
    # In place the exponent has another bias, which a multiplication mends, exactly.
    moved = b.bitcast(b.binary("shl", size, const(10 - form.fraction, "i16")), "half")
    scale = 2.0 ** (15 - form.bias)
    value = b.binary("fmul", b.cast("fpext", moved, "float"), _float(scale))
    bits = b.as_int(b.cast("fptrunc", value, "half"))
    bits = b.binary("or", bits, sign)
    if "relu" in e.instr.mods:
        negative = b.compare("icmp slt", bits, const(0, "i16"))
        bits = b.select(negative, const(0, "i16"), bits)
    nan = b.compare("icmp uge", size, const(form.first_nan, "i16"))
    return b.select(nan, const(_NAN16, "i16"), bits)


def pack(e: Emitter, instr: ast.Instr) -> None:
    """Emits cvt.pack: two integers saturated to fewer bits, and more bits above them."""
    b = e.b
    form = instr.mods[2] if len(instr.mods) > 2 else ""
    more = instr.mods[3:] == ("s32", "b32")
    if (
        instr.mods[:2] != ("pack", "sat")
        or not re.fullmatch("[us](2|4|8)" if more else "[us]16", form)
        or (not more and instr.mods[3:] != ("s32",))
    ):
        raise unsupported(instr)
    width, signed = int(form[1:]), form[0] == "s"
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    mask = const((1 << width) - 1, "i32")
    parts = []
    for operand in (instr.args[2], instr.args[1]):
        value = b.intrinsic("llvm.smax", e.read(operand, TYPES["s32"]), const(low, "i32"))
        value = b.intrinsic("llvm.smin", value, const(high, "i32"))
        parts.append(b.binary("and", value, mask))
    total = b.binary("or", parts[0], b.binary("shl", parts[1], const(width, "i32")))
    if more:
        above = b.binary("shl", e.read(instr.args[3], B32), const(2 * width, "i32"))
        total = b.binary("or", total, above)
    e.write(instr.args[0], total, B32)
