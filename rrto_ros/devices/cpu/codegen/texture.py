"""Texture reads: from a description in memory, element by element, filtered as CUDA says.

The functions below become part of a kernel that reads textures; each lane calls them by itself.
A description is memory that kernels may write, and its address a number that they may make up: it
and what it says are kept inside of the session's memory (containment.py).
Filtering follows the CUDA programming guide: the fraction of a coordinate has 8 bits. Elements are
weighed in double precision and rounded once.
"""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Builder, Val, const
from rrto_ros.devices.cpu.codegen.containment import LOW, SPAN, declare_helper
from rrto_ros.devices.cpu.codegen.emitter import S32, U64, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES

DESCRIPTION = "<QQ11i4x4f"
"""Address, pitch; width, height, depth, format, channels, flags, modes of x, y, z, bytes of a row,
nothing; border."""
DESCRIPTION_BYTES = 128
_ADDRESS, _PITCH, _WIDTH, _HEIGHT, _DEPTH, _FORMAT, _CHANNELS = 0, 8, 16, 20, 24, 28, 32
_FLAGS, _MODE_X, _MODE_Y, _MODE_Z, _ROW, _BORDER = 36, 40, 44, 48, 52, 64
_RAW, _NORMALISED, _LINEAR = 1, 2, 4
ADDRESS, PITCH, HEIGHT, DEPTH, ROW = _ADDRESS, _PITCH, _HEIGHT, _DEPTH, _ROW
DIMENSIONS = {"1d": 1, "2d": 2, "3d": 3}
_RESULTS = ("f32", "s32", "u32")
_F32 = TYPES["f32"]
_INTRINSICS = {
    "floor.f32": "float (float)",
    "fptosi.sat.i32.f32": "i32 (float)",
    "smax.i32": "i32 (i32, i32)",
    "smin.i32": "i32 (i32, i32)",
}


@emits(
    "tex",
    forms="tex{.level}.{1d,2d,3d}.v4.{f32,s32,u32}.{f32,s32} by the number of cuTexObjectCreate; "
    "without mipmaps a level changes nothing",
)
def tex(e: Emitter, instr: ast.Instr) -> None:
    """Emits a read of a texture object."""
    mods = [m for m in instr.mods if m != "level"]
    shape, vector, result, coordinate = mods
    dests, handle, place = instr.args[:3]
    leveled = "level" in instr.mods
    if (
        shape not in DIMENSIONS
        or vector != "v4"
        or result not in _RESULTS
        or coordinate not in ("f32", "s32")
        or len(instr.args) != 3 + leveled
        or not isinstance(dests, ast.Vec)
    ):
        raise unsupported(instr)
    if not isinstance(handle, ast.Reg):
        raise unsupported(instr, "a texture reference; cuTexObjectCreate makes textures")
    kind = _F32 if coordinate == "f32" else S32
    parts = place.items if isinstance(place, ast.Vec) else (place,)
    wanted = DIMENSIONS[shape]
    if len(parts) < wanted:
        raise unsupported(instr, f"{len(parts)} coordinates")
    values = [e.read(p, kind) for p in parts[:wanted]]
    nothing = Val("0.0", "float") if coordinate == "f32" else const(0, "i32")
    values += [nothing] * (3 - wanted)
    texture = e.read(handle, U64)
    if e.mask is not None:
        # A lane that does not read gets no description, and zeros.
        texture = e.b.select(e.mask, texture, const(0, "i64"))
    read = _read(e, coordinate, texture, values, wanted)
    for dest, value in zip(dests.items, read, strict=True):
        e.write(dest, e.b.bitcast(value, TYPES[result].llvm), TYPES[result])


def _read(
    e: Emitter, coordinate: str, texture: Val, values: list[Val], dimensions: int
) -> list[Val]:
    b = e.b
    _declare(b)
    lanes = range(b.lanes) if any(v.vec for v in (texture, *values)) else range(1)
    found: list[list[Val]] = [[] for _ in range(4)]
    for lane in lanes:
        place = ", ".join(b.arg(b.lane(v, lane)) for v in values)
        out = b.name("texel")
        b.line(
            f"{out} = call <4 x i32> @rrto_tex_{coordinate}({b.arg(b.lane(texture, lane))}, "
            f"{place}, i32 {dimensions}, ptr {LOW}, i64 {SPAN})"
        )
        for k in range(4):
            part = b.name("texel")
            b.line(f"{part} = extractelement <4 x i32> {out}, i32 {k}")
            found[k].append(Val(part, "i32"))
    return [b.from_lanes(part) if len(part) > 1 else part[0] for part in found]


def _declare(b: Builder) -> None:
    declare_helper(b)
    declared = b.declared
    for name, kind in _INTRINSICS.items():
        result, arguments = kind.split(" ", 1)
        declared[f"llvm.{name}"] = f"declare {result} @llvm.{name}{arguments}"
    for name, text in (("channel", _CHANNEL), ("texel", _TEXEL), ("index", _INDEX),
                       ("coordinate", _COORDINATE), ("weight", _WEIGHT), ("f32", _READ_F32),
                       ("s32", _READ_S32)):  # fmt: skip
        declared[f"rrto_tex_{name}"] = text


def field(name: str, offset: int, kind: str = "i32") -> str:
    """Loads a field of the description at %d."""
    return (
        f"  %{name}.at = getelementptr i8, ptr %d, i64 {offset}\n"
        f"  %{name} = load {kind}, ptr %{name}.at, align 4\n"
    )


def _integers() -> str:
    """Elements of 8 and 16 bits: as they are, or as numbers from 0 (or -1) to 1."""
    text = ""
    for name, bits, extend, convert, most in (
        ("u8", 8, "zext", "uitofp", "255.0"), ("u16", 16, "zext", "uitofp", "65535.0"),
        ("s8", 8, "sext", "sitofp", "127.0"), ("s16", 16, "sext", "sitofp", "32767.0"),
    ):  # fmt: skip
        text += f"""{name}:
  %{name}.v = load i{bits}, ptr %at, align 1
  %{name}.w = {extend} i{bits} %{name}.v to i32
  %{name}.f = {convert} i32 %{name}.w to float
  %{name}.n = fdiv float %{name}.f, {most}
  %{name}.low = fcmp olt float %{name}.n, -1.0
  %{name}.c = select i1 %{name}.low, float -1.0, float %{name}.n
  %{name}.b = bitcast float %{name}.c to i32
  %{name}.r = select i1 %raw, i32 %{name}.w, i32 %{name}.b
  ret i32 %{name}.r
"""
    return text


_CHANNEL = f"""define internal i32 @rrto_tex_channel(ptr %at, i32 %format, i1 %raw) {{
  switch i32 %format, label %whole [ i32 1, label %u8 i32 2, label %u16 i32 8, label %s8
    i32 9, label %s16 i32 16, label %f16 ]
{_integers()}f16:
  %f16.v = load half, ptr %at, align 1
  %f16.w = fpext half %f16.v to float
  %f16.b = bitcast float %f16.w to i32
  ret i32 %f16.b
whole:
  %whole.v = load i32, ptr %at, align 1
  ret i32 %whole.v
}}"""
"""The bits of one channel."""


def _channels() -> str:
    """The channels of an element that there are; the others are zero."""
    text = ""
    for k in range(4):
        text += f"""  %has{k} = icmp sgt i32 %channels, {k}
  br i1 %has{k}, label %read{k}, label %next{k}
read{k}:
  %far{k} = mul i64 %bytes, {k}
  %at{k} = getelementptr i8, ptr %element.p, i64 %far{k}
  %value{k} = call i32 @rrto_tex_channel(ptr %at{k}, i32 %format, i1 %raw)
  br label %next{k}
next{k}:
  %got{k} = phi i32 [ 0, %{f"next{k - 1}" if k else "inside"} ], [ %value{k}, %read{k} ]
"""
    vector = "zeroinitializer"
    for k in range(4):
        text += f"  %v{k} = insertelement <4 x i32> {vector}, i32 %got{k}, i32 {k}\n"
        vector = f"%v{k}"
    return text


_TEXEL = f"""define internal <4 x i32> @rrto_tex_texel(ptr %d, i32 %x, i32 %y, i32 %z,
  ptr {LOW}, i64 {SPAN}) {{
  %both = or i32 %x, %y
  %either = or i32 %both, %z
  %out = icmp slt i32 %either, 0
  br i1 %out, label %outside, label %inside
outside:
{field("border", _BORDER, "<4 x i32>")}  ret <4 x i32> %border
inside:
{field("address", _ADDRESS, "i64")}{field("pitch", _PITCH, "i64")}{field("format", _FORMAT)}\
{field("channels", _CHANNELS)}{field("flags", _FLAGS)}{field("rows", _HEIGHT)}\
  %raw.bit = and i32 %flags, {_RAW}
  %raw = icmp ne i32 %raw.bit, 0
  %low = and i32 %format, 7
  %narrow = icmp eq i32 %low, 1
  %half = icmp eq i32 %format, 16
  %two = icmp eq i32 %low, 2
  %ten = icmp eq i32 %format, 10
  %eight = icmp eq i32 %format, 8
  %nine = icmp eq i32 %format, 9
  %is16.a = or i1 %two, %half
  %is16.b = xor i1 %ten, true
  %is16.c = and i1 %is16.a, %is16.b
  %is16 = or i1 %is16.c, %nine
  %one = icmp eq i32 %format, 1
  %is8 = or i1 %one, %eight
  %bytes.a = select i1 %is16, i64 2, i64 4
  %bytes = select i1 %is8, i64 1, i64 %bytes.a
  %x64 = zext i32 %x to i64
  %y64 = zext i32 %y to i64
  %channels64 = zext i32 %channels to i64
  %element = mul i64 %bytes, %channels64
  %z64 = zext i32 %z to i64
  %rows64 = zext i32 %rows to i64
  %plane = mul i64 %z64, %rows64
  %row.n = add i64 %plane, %y64
  %row = mul i64 %row.n, %pitch
  %column = mul i64 %x64, %element
  %far = add i64 %row, %column
  %place = add i64 %address, %far
  %element.p = call ptr @rrto_contained(i64 %place, ptr {LOW}, i64 {SPAN})
{_channels()}  ret <4 x i32> %v3
}}"""
"""One element; a negative place is outside."""
_INDEX = """define internal i32 @rrto_tex_index(i32 %i, i32 %n, i32 %mode) {
  %some = icmp sgt i32 %n, 0
  br i1 %some, label %look, label %none
none:
  ret i32 -1
look:
  switch i32 %mode, label %border [ i32 0, label %wrap i32 1, label %clamp i32 2, label %mirror ]
wrap:
  %rest = srem i32 %i, %n
  %below = icmp slt i32 %rest, 0
  %up = add i32 %rest, %n
  %wrapped = select i1 %below, i32 %up, i32 %rest
  ret i32 %wrapped
clamp:
  %last = sub i32 %n, 1
  %least = call i32 @llvm.smax.i32(i32 %i, i32 0)
  %clamped = call i32 @llvm.smin.i32(i32 %least, i32 %last)
  ret i32 %clamped
mirror:
  %n64 = zext i32 %n to i64
  %i64 = sext i32 %i to i64
  %both = shl i64 %n64, 1
  %m = srem i64 %i64, %both
  %m.below = icmp slt i64 %m, 0
  %m.up = add i64 %m, %both
  %at = select i1 %m.below, i64 %m.up, i64 %m
  %back.a = sub i64 %both, %at
  %back = sub i64 %back.a, 1
  %forth = icmp slt i64 %at, %n64
  %mirrored = select i1 %forth, i64 %at, i64 %back
  %mirrored32 = trunc i64 %mirrored to i32
  ret i32 %mirrored32
border:
  %inside = icmp ult i32 %i, %n
  %found = select i1 %inside, i32 %i, i32 -1
  ret i32 %found
}"""
"""Which element is meant, -1: the border."""
_COORDINATE = """define internal float @rrto_tex_coordinate(float %x, i32 %n, i32 %mode,
  i32 %flags) {
  %bit = and i32 %flags, 2
  %plain = icmp eq i32 %bit, 0
  br i1 %plain, label %as_is, label %scale
as_is:
  ret float %x
scale:
  %whole = call float @llvm.floor.f32(float %x)
  %part = fsub float %x, %whole
  %half = fmul float %x, 0.5
  %pairs = call float @llvm.floor.f32(float %half)
  %twice = fmul float %pairs, 2.0
  %pair = fsub float %x, %twice
  %wraps = icmp eq i32 %mode, 0
  %mirrors = icmp eq i32 %mode, 2
  %a = select i1 %wraps, float %part, float %x
  %b = select i1 %mirrors, float %pair, float %a
  %size = uitofp i32 %n to float
  %out = fmul float %b, %size
  ret float %out
}"""
"""A coordinate in elements; one that repeats is near 0 before it is scaled."""
_WEIGHT = """define internal double @rrto_tex_weight(float %x, float %whole) {
  %part = fsub float %x, %whole
  %scaled = fmul float %part, 256.0
  %moved = fadd float %scaled, 0.5
  %bits = call float @llvm.floor.f32(float %moved)
  %wide = fpext float %bits to double
  %out = fdiv double %wide, 256.0
  ret double %out
}"""
"""The weight of the second of two neighbours: 8 bits behind the point, 1 is one of its values."""


_CORNERS = tuple((x, y, z) for z in "01" for y in "01" for x in "01")


def _mixed() -> str:
    """Neighbours weighed, channel by channel; those that have no weight do not count."""
    text, vector = "", "zeroinitializer"
    for k in range(4):
        total = ""
        for corner in map("".join, _CORNERS):
            name = f"c{corner}.{k}"
            text += f"""  %{name}.i = extractelement <4 x i32> %t{corner}, i32 {k}
  %{name}.f = bitcast i32 %{name}.i to float
  %{name}.d = fpext float %{name}.f to double
  %{name}.w = fmul double %{name}.d, %w{corner}
  %{name}.none = fcmp oeq double %w{corner}, 0.0
  %{name}.o = select i1 %{name}.none, double 0.0, double %{name}.w
"""
            if total:
                text += f"  %{name}.s = fadd double {total}, %{name}.o\n"
            total = f"%{name}.s" if total else f"%{name}.o"
        text += f"""  %s{k}.f = fptrunc double {total} to float
  %s{k}.i = bitcast float %s{k}.f to i32
  %mix{k} = insertelement <4 x i32> {vector}, i32 %s{k}.i, i32 {k}
"""
        vector = f"%mix{k}"
    return text


def _texels() -> str:
    """The neighbours and their weights."""
    text = ""
    for x, y, z in _CORNERS:
        corner = x + y + z
        text += f"""  %t{corner} = call <4 x i32> @rrto_tex_texel(ptr %d, i32 %ix{x}, i32 %iy{y}, \
i32 %iz{z}, ptr {LOW}, i64 {SPAN})
  %wxy{corner} = fmul double %wx{x}, %wy{y}
  %w{corner} = fmul double %wxy{corner}, %wz{z}
"""
    return text


_AXES = (("x", "n", "mx"), ("y", "m", "my"), ("z", "p", "mz"))
"""Coordinate, size and mode."""


def _axes(code: str) -> str:
    return "".join(
        code.replace("AXIS", axis).replace("SIZE", size).replace("MODE", mode)
        for axis, size, mode in _AXES
    )


_OPEN = f"""  %d = call ptr @rrto_contained(i64 %texture, ptr {LOW}, i64 {SPAN})
  %none = icmp eq i64 %texture, 0
  br i1 %none, label %nothing, label %look
look:
{field("n", _WIDTH)}{field("m", _HEIGHT)}{field("p", _DEPTH)}{field("flags", _FLAGS)}\
{field("mx", _MODE_X)}{field("my", _MODE_Y)}{field("mz", _MODE_Z)}  %gone = icmp eq i32 %n, 0
  br i1 %gone, label %nothing, label %found
nothing:
  ret <4 x i32> zeroinitializer
found:
  %has.x = icmp sge i32 %dimensions, 1
  %has.y = icmp sge i32 %dimensions, 2
  %has.z = icmp sge i32 %dimensions, 3
"""
_SCALE = """  %cAXIS = call float @rrto_tex_coordinate(float %AXIS, i32 %SIZE, i32 %MODE,
    i32 %flags)
"""
_NEAREST = """  %pAXIS.f = call float @llvm.floor.f32(float %cAXIS)
  %pAXIS.i = call i32 @llvm.fptosi.sat.i32.f32(float %pAXIS.f)
  %pAXIS.m = call i32 @rrto_tex_index(i32 %pAXIS.i, i32 %SIZE, i32 %MODE)
  %pAXIS = select i1 %has.AXIS, i32 %pAXIS.m, i32 0
"""
_NEIGHBOURS = """  %bAXIS = fsub float %cAXIS, 0.5
  %fAXIS = call float @llvm.floor.f32(float %bAXIS)
  %aAXIS = call double @rrto_tex_weight(float %bAXIS, float %fAXIS)
  %wAXIS1 = select i1 %has.AXIS, double %aAXIS, double 0.0
  %wAXIS0 = fsub double 1.0, %wAXIS1
  %jAXIS = call i32 @llvm.fptosi.sat.i32.f32(float %fAXIS)
  %jAXIS1 = add i32 %jAXIS, 1
  %iAXIS0.m = call i32 @rrto_tex_index(i32 %jAXIS, i32 %SIZE, i32 %MODE)
  %iAXIS1.m = call i32 @rrto_tex_index(i32 %jAXIS1, i32 %SIZE, i32 %MODE)
  %iAXIS0 = select i1 %has.AXIS, i32 %iAXIS0.m, i32 0
  %iAXIS1 = select i1 %has.AXIS, i32 %iAXIS1.m, i32 0
"""
_WHOLE = """  %pAXIS.m = call i32 @rrto_tex_index(i32 %AXIS, i32 %SIZE, i32 %MODE)
  %pAXIS = select i1 %has.AXIS, i32 %pAXIS.m, i32 0
"""
_FETCH = f"""  %nearest = call <4 x i32> @rrto_tex_texel(ptr %d, i32 %px, i32 %py, i32 %pz,
    ptr {LOW}, i64 {SPAN})
  ret <4 x i32> %nearest
"""
_READ_F32 = f"""define internal <4 x i32> @rrto_tex_f32(i64 %texture, float %x, float %y,
  float %z, i32 %dimensions, ptr {LOW}, i64 {SPAN}) {{
{_OPEN}{_axes(_SCALE)}  %linear.bit = and i32 %flags, {_LINEAR}
  %linear = icmp ne i32 %linear.bit, 0
  br i1 %linear, label %filter, label %point
point:
{_axes(_NEAREST)}{_FETCH}filter:
{_axes(_NEIGHBOURS)}{_texels()}{_mixed()}  ret <4 x i32> %mix3
}}"""
_READ_S32 = f"""define internal <4 x i32> @rrto_tex_s32(i64 %texture, i32 %x, i32 %y, i32 %z,
  i32 %dimensions, ptr {LOW}, i64 {SPAN}) {{
{_OPEN}{_axes(_WHOLE)}{_FETCH}}}"""
