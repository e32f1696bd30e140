"""Surface reads and writes: bytes at a place in rows and planes, as texture.py describes them."""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.checks import TRAPPED
from rrto_ros.devices.cpu.codegen.containment import LOW, SPAN, declare_helper
from rrto_ros.devices.cpu.codegen.emitter import S32, U64, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.codegen.texture import (
    ADDRESS,
    DEPTH,
    DIMENSIONS,
    HEIGHT,
    PITCH,
    ROW,
    field,
)
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_FORMS = ".b.{1d,2d,3d}{.v2,.v4}.{b8,b16,b32,b64}.{trap,clamp,zero} by the number of "
_MODES = ("trap", "clamp", "zero")
_KINDS = ("b8", "b16", "b32", "b64")


@emits("suld", forms=f"suld{_FORMS}cuSurfObjectCreate")
def suld(e: Emitter, instr: ast.Instr) -> None:
    """Emits a read of a surface."""
    dest, handle, place = instr.args
    kind, count, places = _places(e, instr, handle, place)
    dests = dest.items if isinstance(dest, ast.Vec) else (dest,)
    b = e.b
    found: list[list[Val]] = [[] for _ in range(count)]
    for at, outside in places:
        where = b.select(outside, Val("%scratch", "ptr"), at)
        for k in range(count):
            near = e.offset(where, const(k * kind.bytes, "i64"))
            out = b.name("s")
            b.line(f"{out} = load {kind.llvm}, ptr {near.text}, align 1")
            value = b.select(outside, const(0, kind.llvm), Val(out, kind.llvm))
            found[k].append(value)
    for register, values in zip(dests, found, strict=True):
        e.write(register, b.from_lanes(values) if len(values) > 1 else values[0], kind)


@emits("sust", forms=f"sust{_FORMS}cuSurfObjectCreate")
def sust(e: Emitter, instr: ast.Instr) -> None:
    """Emits a write to a surface."""
    handle, place, content = instr.args
    kind, count, places = _places(e, instr, handle, place, content)
    items = content.items if isinstance(content, ast.Vec) else (content,)
    if len(items) != count:
        raise unsupported(instr, f"{len(items)} values")
    values = [e.read(item, kind) for item in items]
    for lane, (at, outside) in enumerate(places):
        parts = [e.b.lane(v, lane) for v in values]

        def store(at: Val = at, parts: list[Val] = parts) -> None:
            for k, part in enumerate(parts):
                near = e.offset(at, const(k * kind.bytes, "i64"))
                e.b.line(f"store {e.b.arg(part)}, ptr {near.text}, align 1")

        e.when(e.b.binary("xor", outside, const(1, "i1")), store)


def _places(
    e: Emitter, instr: ast.Instr, handle: ast.Operand, place: ast.Operand, *others: ast.Operand
) -> tuple[PtxType, int, list[tuple[Val, Val]]]:
    """Type and number of elements; of each lane the address, and whether there is none."""
    b = e.b
    form, shape, *rest = instr.mods
    count = int(rest.pop(0)[1:]) if rest[0] in ("v2", "v4") else 1
    name, mode = rest
    if form != "b" or shape not in DIMENSIONS or name not in _KINDS or mode not in _MODES:
        raise unsupported(instr)
    if not isinstance(handle, ast.Reg):
        raise unsupported(instr, "a surface reference; cuSurfObjectCreate makes surfaces")
    kind, wanted = TYPES[name], DIMENSIONS[shape]
    parts = place.items if isinstance(place, ast.Vec) else (place,)
    if len(parts) < wanted:
        raise unsupported(instr, f"{len(parts)} coordinates")
    surface = e.read(handle, U64)
    if e.mask is not None:
        surface = b.select(e.mask, surface, const(0, "i64"))
    values = [surface, *(e.read(p, S32) for p in parts[:wanted])]
    values += [const(0, "i32")] * (3 - wanted)
    beside = [i for o in others for i in (o.items if isinstance(o, ast.Vec) else (o,))]
    vec = any(v.vec for v in [*values, *(e.read(o, kind) for o in beside)])
    b.declared["llvm.smax.i32"] = "declare i32 @llvm.smax.i32(i32, i32)"
    b.declared["llvm.smin.i32"] = "declare i32 @llvm.smin.i32(i32, i32)"
    declare_helper(b)
    b.declared["rrto_surface"] = _PLACE
    places, trapped = [], const(0, "i1")
    for lane in range(b.lanes if vec else 1):
        out = b.name("place")
        where = ", ".join(b.arg(b.lane(v, lane)) for v in values)
        clamps = str(mode == "clamp").lower()
        b.line(
            f"{out} = call ptr @rrto_surface({where}, i32 {kind.bytes * count}, i1 {clamps}, "
            f"ptr {LOW}, i64 {SPAN})"
        )
        outside = b.compare("icmp eq", Val(out, "ptr"), Val("null", "ptr"))
        places.append((Val(out, "ptr"), outside))
        if mode == "trap":
            active = const(1, "i1") if e.mask is None else b.lane(e.mask, lane)
            trapped = b.binary("or", trapped, b.binary("and", outside, active))
    if mode == "trap":
        e.when(trapped, lambda: _trap(e))
    return kind, count, places


def _trap(e: Emitter) -> None:
    pair = e.b.name("trap")
    e.b.line(f"{pair} = cmpxchg ptr %report, i64 0, i64 {TRAPPED} seq_cst seq_cst")
    e.b.line("store volatile i8 1, ptr %stop")


_PLACE = f"""define internal ptr @rrto_surface(i64 %surface, i32 %x, i32 %y, i32 %z, i32 %bytes,
  i1 %clamps, ptr {LOW}, i64 {SPAN}) {{
  %d = call ptr @rrto_contained(i64 %surface, ptr {LOW}, i64 {SPAN})
  %none = icmp eq i64 %surface, 0
  br i1 %none, label %nothing, label %look
look:
{field("address", ADDRESS, "i64")}{field("pitch", PITCH, "i64")}{field("row", ROW)}\
{field("m", HEIGHT)}{field("p", DEPTH)}  %last = sub i32 %row, %bytes
  %gone = icmp slt i32 %last, 0
  br i1 %gone, label %nothing, label %found
found:
  %my = sub i32 %m, 1
  %mz = sub i32 %p, 1
  %lx = call i32 @llvm.smax.i32(i32 %x, i32 0)
  %ly = call i32 @llvm.smax.i32(i32 %y, i32 0)
  %lz = call i32 @llvm.smax.i32(i32 %z, i32 0)
  %cx = call i32 @llvm.smin.i32(i32 %lx, i32 %last)
  %cy = call i32 @llvm.smin.i32(i32 %ly, i32 %my)
  %cz = call i32 @llvm.smin.i32(i32 %lz, i32 %mz)
  %sx = icmp eq i32 %cx, %x
  %sy = icmp eq i32 %cy, %y
  %sz = icmp eq i32 %cz, %z
  %sxy = and i1 %sx, %sy
  %inside = and i1 %sxy, %sz
  %good = or i1 %inside, %clamps
  br i1 %good, label %there, label %nothing
there:
  %x64 = zext i32 %cx to i64
  %y64 = zext i32 %cy to i64
  %z64 = zext i32 %cz to i64
  %rows = zext i32 %m to i64
  %plane = mul i64 %z64, %rows
  %n = add i64 %plane, %y64
  %far = mul i64 %n, %pitch
  %near = add i64 %far, %x64
  %at = add i64 %address, %near
  %at.p = call ptr @rrto_contained(i64 %at, ptr {LOW}, i64 {SPAN})
  ret ptr %at.p
nothing:
  ret ptr null
}}"""
"""Where the bytes at a place are; null if they are outside."""
