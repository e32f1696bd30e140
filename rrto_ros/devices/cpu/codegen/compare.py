"""setp, set, selp and slct."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen import rounding as rnd
from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import PRED, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.integer import type_of
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_UNSIGNED = {"lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge"}
_FLOAT = {
    "eq": "oeq",
    "ne": "one",
    "lt": "olt",
    "le": "ole",
    "gt": "ogt",
    "ge": "oge",
    "equ": "ueq",
    "neu": "une",
    "ltu": "ult",
    "leu": "ule",
    "gtu": "ugt",
    "geu": "uge",
    "num": "ord",
    "nan": "uno",
}


def _compare(e: Emitter, instr: ast.Instr, x: Val, y: Val, kind: PtxType) -> Val:
    operator = instr.mods[0]
    if kind.is_float:
        x, y = rnd.widen(e, x, kind), rnd.widen(e, y, kind)
        if "ftz" in instr.mods:
            x, y = rnd.flush(e, x), rnd.flush(e, y)
        return e.b.compare(f"fcmp {_FLOAT[operator]}", x, y)
    if operator in ("eq", "ne"):
        return e.b.compare(f"icmp {operator}", x, y)
    if operator in _UNSIGNED:
        return e.b.compare(f"icmp {_UNSIGNED[operator]}", x, y)
    if operator not in ("lt", "le", "gt", "ge"):
        raise unsupported(instr)
    return e.b.compare(f"icmp {'s' if kind.signed else 'u'}{operator}", x, y)


def _combined(e: Emitter, instr: ast.Instr, value: Val) -> Val:
    """Applies the .and/.or/.xor with the predicate operand."""
    combine = next((m for m in instr.mods[1:] if m in ("and", "or", "xor")), None)
    if combine is None:
        return value
    return e.b.binary(combine, value, e.read(instr.args[3], PRED))


@emits("setp", forms="integers, f16, bf16, f32, f64; .and .or .xor; p|q; pairs of f16 and bf16")
def setp(e: Emitter, instr: ast.Instr) -> None:
    """Emits setp."""
    kind = type_of(instr)
    dest = instr.args[0]
    if kind.kind == "x2":
        _setp_pair(e, instr, kind)
        return
    value = _compare(e, instr, e.read(instr.args[1], kind), e.read(instr.args[2], kind), kind)
    if isinstance(dest, ast.Pair):
        inverse = e.b.binary("xor", value, const(1, "i1"))
        e.write(dest.first, _combined(e, instr, value), PRED)
        e.write(dest.second, _combined(e, instr, inverse), PRED)
        return
    e.write(dest, _combined(e, instr, value), PRED)


def _halves(e: Emitter, operand: ast.Operand, kind: PtxType) -> list[Val]:
    half = TYPES["f16" if kind.name == "f16x2" else "bf16"]
    pair = e.read(operand, kind)
    return [
        e.b.bitcast(e.b.resize(e.b.binary("lshr", pair, const(s, "i32")), "i16", False), half.llvm)
        for s in (0, 16)
    ]


def _setp_pair(e: Emitter, instr: ast.Instr, kind: PtxType) -> None:
    half = TYPES["f16" if kind.name == "f16x2" else "bf16"]
    left, right = _halves(e, instr.args[1], kind), _halves(e, instr.args[2], kind)
    dests = instr.args[0]
    if not isinstance(dests, ast.Pair):
        raise unsupported(instr)
    for dest, x, y in zip((dests.first, dests.second), left, right, strict=True):
        e.write(dest, _combined(e, instr, _compare(e, instr, x, y, half)), PRED)


@emits(
    "set",
    forms="results u32, s32, f32, f16, bf16; operands as setp; pairs give a pair, or "
    "u32 or s32 with 16 bits for each",
)
def set_(e: Emitter, instr: ast.Instr) -> None:
    """Emits set."""
    result, kind = (TYPES[m] for m in instr.mods if m in TYPES)
    if kind.kind == "x2":
        _set_pair(e, instr, result, kind)
        return
    value = _compare(e, instr, e.read(instr.args[1], kind), e.read(instr.args[2], kind), kind)
    e.write(instr.args[0], _truth(e, _combined(e, instr, value), result), result)


def _truth(e: Emitter, value: Val, result: PtxType) -> Val:
    """1.0 or all bits where a comparison holds, else 0."""
    if result.kind == "bf":
        return e.b.select(value, const(0x3F80, "i16"), const(0, "i16"))
    if result.is_float:
        return e.b.select(value, rnd.one(result.llvm), rnd.zero(result.llvm))
    if result.kind not in "us":
        raise unsupported(e.instr)
    return e.b.resize(value, result.llvm, True)


def _set_pair(e: Emitter, instr: ast.Instr, result: PtxType, kind: PtxType) -> None:
    b = e.b
    half = TYPES["f16" if kind.name == "f16x2" else "bf16"]
    if result is not kind and result.name not in ("u32", "s32"):
        raise unsupported(instr)
    left, right = _halves(e, instr.args[1], kind), _halves(e, instr.args[2], kind)
    total = const(0, "i32")
    for shift, x, y in zip((0, 16), left, right, strict=True):
        value = _combined(e, instr, _compare(e, instr, x, y, half))
        part = b.as_int(_truth(e, value, half if result is kind else TYPES["u16"]))
        total = b.binary(
            "or", total, b.binary("shl", b.resize(part, "i32", False), const(shift, "i32"))
        )
    e.write(instr.args[0], total, TYPES["b32"])


@emits("selp", forms="16 to 64 bits, any type")
def selp(e: Emitter, instr: ast.Instr) -> None:
    """Emits selp."""
    kind = type_of(instr)
    value = e.b.select(
        e.read(instr.args[3], PRED), e.read(instr.args[1], kind), e.read(instr.args[2], kind)
    )
    e.write(instr.args[0], value, kind)


@emits("slct", forms="selected by s32 or f32")
def slct(e: Emitter, instr: ast.Instr) -> None:
    """Emits slct."""
    types = [TYPES[m] for m in instr.mods if m in TYPES]
    kind, control = types
    c = e.read(instr.args[3], control)
    if control.is_float:
        c = rnd.flush(e, c) if "ftz" in instr.mods else c
        chosen = e.b.compare("fcmp oge", c, rnd.zero(c.type))
    else:
        chosen = e.b.compare("icmp sge", c, const(0, c.type))
    value = e.b.select(chosen, e.read(instr.args[1], kind), e.read(instr.args[2], kind))
    e.write(instr.args[0], value, kind)
