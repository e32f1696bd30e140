"""Helpers for floating point: flushing, saturation, bf16, and directed rounding."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter, unsupported
from rrto_ros.devices.cpu.ptx.types import PtxType

ZERO = {"half": "0xH0000", "float": "0.0", "double": "0.0"}
ONE = {"half": "0xH3C00", "float": "1.0", "double": "1.0"}
# Mode of PTX -> number for llvm.set.rounding, and its name there.
DIRECTED = {"rz": (0, "towardzero"), "rp": (2, "upward"), "rm": (3, "downward")}
_NEAREST = 1


def zero(type_: str) -> Val:
    """The literal 0."""
    return Val(ZERO[type_], type_)


def one(type_: str) -> Val:
    """The literal 1."""
    return Val(ONE[type_], type_)


def flush(e: Emitter, value: Val) -> Val:
    """Subnormal binary32 values become zeros of the same sign (.ftz)."""
    if value.type != "float":
        return value
    b = e.b
    bits = b.as_int(value)
    exponent = b.binary("and", bits, const(0x7F800000, "i32"))
    sign = b.binary("and", bits, const(0x80000000, "i32"))
    tiny = b.compare("icmp eq", exponent, const(0, "i32"))
    return b.bitcast(b.select(tiny, sign, bits), "float")


def saturate(e: Emitter, value: Val) -> Val:
    """Clamps to [0, 1]; NaN becomes +0 (.sat)."""
    b = e.b
    low, high = zero(value.type), one(value.type)
    value = b.select(b.compare("fcmp ogt", value, low), value, low)
    return b.select(b.compare("fcmp ogt", value, high), high, value)


def bf16_to_float(e: Emitter, bits: Val) -> Val:
    """The binary32 value of bfloat16 bits."""
    b = e.b
    return b.bitcast(b.binary("shl", b.resize(bits, "i32", False), const(16, "i32")), "float")


def float_to_bf16(e: Emitter, value: Val) -> Val:
    """The bits of the nearest-even bfloat16; NaN becomes 0x7FFF."""
    b = e.b
    bits = b.as_int(value)
    odd = b.binary("and", b.binary("lshr", bits, const(16, "i32")), const(1, "i32"))
    bias = b.binary("add", odd, const(0x7FFF, "i32"))
    kept = b.binary("lshr", b.binary("add", bits, bias), const(16, "i32"))
    kept = b.select(b.compare("fcmp uno", value, value), const(0x7FFF, "i32"), kept)
    return b.resize(kept, "i16", False)


def widen(e: Emitter, value: Val, kind: PtxType) -> Val:
    """A half or bf16 value as float; others as they are."""
    if kind.kind == "bf":
        return bf16_to_float(e, value)
    return e.b.cast("fpext", value, "float") if value.type == "half" else value


def narrow(e: Emitter, value: Val, kind: PtxType) -> Val:
    """A float rounded back to half or bf16."""
    if kind.kind == "bf":
        return float_to_bf16(e, value)
    return e.b.cast("fptrunc", value, kind.llvm)


def next_toward(e: Emitter, value: Val, up: bool) -> Val:
    """The neighbour above (or below) a finite half, binary32 or bfloat16 (as its bits)."""
    b = e.b
    bits = b.as_int(value)
    negative = b.compare("icmp slt", bits, const(0, bits.type))
    away, toward = const(1, bits.type), const(-1, bits.type)
    step = b.select(negative, toward if up else away, away if up else toward)
    moved = b.binary("add", bits, step)
    tiny = const(1 if up else 1 << bits.bits - 1 | 1, bits.type)
    is_zero = b.compare("icmp eq", b.binary("shl", bits, const(1, bits.type)), const(0, bits.type))
    return b.bitcast(b.select(is_zero, tiny, moved), value.type)


def neighbour(e: Emitter, nearest: Val, above: Val, below: Val, mode: str) -> Val:
    """The nearest value, or the one beside it that rz, rm or rp asks for.

    Args:
        e: Writes the code.
        nearest: The exact value rounded to the nearest.
        above: Whether the exact value lies above that.
        below: Whether it lies below that.
        mode: The rounding.
    """
    b = e.b
    if mode not in DIRECTED:
        raise unsupported(e.instr)
    up, down = next_toward(e, nearest, True), next_toward(e, nearest, False)
    if mode == "rp":
        return b.select(above, up, nearest)
    if mode == "rm":
        return b.select(below, down, nearest)
    bits = b.as_int(nearest)
    positive = b.compare("icmp sgt", bits, const(0, bits.type))
    toward_zero = b.select(b.binary("and", below, positive), down, nearest)
    negative = b.compare("icmp slt", bits, const(0, bits.type))
    return b.select(b.binary("and", above, negative), up, toward_zero)


def narrow_by(e: Emitter, value: Val, kind: PtxType, mode: str) -> Val:
    """A float or double rounded to half or bf16 by any of rn, rz, rm, rp."""
    b = e.b
    if value.type == "double":
        value = round_to_odd(e, value, zero("double"))
    nearest = narrow(e, value, kind)
    if mode == "rn":
        return nearest
    back = widen(e, nearest, kind)
    above, below = b.compare("fcmp ogt", value, back), b.compare("fcmp olt", value, back)
    return neighbour(e, nearest, above, below, mode)


def round_to_odd(e: Emitter, head: Val, error: Val) -> Val:
    """Head + error (doubles) as a float that rounds to 16 bits without double rounding."""
    b = e.b
    nearest = b.cast("fptrunc", head, "float")
    rest = b.binary("fadd", b.binary("fsub", head, b.cast("fpext", nearest, "double")), error)
    inexact = b.compare("fcmp one", rest, zero("double"))
    even = b.compare(
        "icmp eq", b.binary("and", b.as_int(nearest), const(1, "i32")), const(0, "i32")
    )
    up = b.compare("fcmp ogt", rest, zero("double"))
    odd = b.select(up, next_toward(e, nearest, True), next_toward(e, nearest, False))
    return b.select(b.binary("and", inexact, even), odd, nearest)


def directed(e: Emitter, operation: str, mode: str, *values: Val) -> Val:
    """fadd, fsub, fmul, fdiv, fma or sqrt of floats or doubles, rounded by rz, rm or rp.

    The processor's own rounding mode is set around it, in a function that is not inlined: nothing
    else may be computed under that mode.
    """
    b = e.b
    kind = values[0].type
    helper = _directed_function(e, operation, mode, kind, len(values))
    lanes = range(b.lanes) if any(v.vec for v in values) else range(1)
    results = []
    for lane in lanes:
        out = b.name("d")
        arguments = ", ".join(b.arg(b.lane(v, lane)) for v in values)
        b.line(f"{out} = call {kind} @{helper}({arguments})")
        results.append(Val(out, kind))
    return b.from_lanes(results) if len(results) > 1 else results[0]


def _directed_function(e: Emitter, operation: str, mode: str, kind: str, count: int) -> str:
    declared = e.b.declared
    number, name = DIRECTED[mode]
    suffix = {"float": "f32", "double": "f64"}[kind]
    intrinsic = f"llvm.experimental.constrained.{operation}.{suffix}"
    helper = f"rrto_{operation}_{mode}_{suffix}"
    declared["llvm.set.rounding"] = "declare void @llvm.set.rounding(i32)"
    declared[intrinsic] = (
        f"declare {kind} @{intrinsic}({', '.join([kind] * count)}, metadata, metadata)"
    )
    parameters = ", ".join(f"{kind} %x{i}" for i in range(count))
    declared[helper] = f"""define internal {kind} @{helper}({parameters}) noinline strictfp {{
  call void @llvm.set.rounding(i32 {number}) strictfp
  %result = call {kind} @{intrinsic}({parameters}, metadata !"round.{name}",
    metadata !"fpexcept.ignore") strictfp
  call void @llvm.set.rounding(i32 {_NEAREST}) strictfp
  ret {kind} %result
}}"""
    return helper


def round_directed(e: Emitter, high: Val, error: Val, mode: str) -> Val:
    """High + error (an exact pair of doubles) as binary32, rounded by rz, rm or rp."""
    b = e.b
    nearest = b.cast("fptrunc", high, "float")
    back = b.cast("fpext", nearest, "double")
    # The sign of (exact - nearest): the difference of the heads decides, then the error.
    head = b.binary("fsub", high, back)
    same = b.compare("fcmp oeq", head, zero("double"))
    rest = b.select(same, error, head)
    above = b.compare("fcmp ogt", rest, zero("double"))
    below = b.compare("fcmp olt", rest, zero("double"))
    return neighbour(e, nearest, above, below, mode)


def two_sum(e: Emitter, x: Val, y: Val) -> tuple[Val, Val]:
    """X + y as head and exact error (doubles)."""
    b = e.b
    total = b.binary("fadd", x, y)
    part = b.binary("fsub", total, x)
    error = b.binary(
        "fadd", b.binary("fsub", x, b.binary("fsub", total, part)), b.binary("fsub", y, part)
    )
    finite = b.compare("fcmp ord", error, error)
    return total, b.select(finite, error, zero("double"))
