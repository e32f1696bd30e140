"""Video instructions: parts of registers as integers, one at a time, two halves or four bytes.

Everything is computed in 64 bits, in which neither the sums of 33-bit parts nor the products of
32-bit ones overflow.
"""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import B32, U32, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast

_WIDE = "i64"
_COMPARE = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_SECONDARY = ("add", "min", "max")


def _selector(instr: ast.Instr, operand: int) -> str:
    return next((m.split(":")[1] for m in instr.mods if m.startswith(f"{operand}:")), "")


def _plain(instr: ast.Instr) -> list[str]:
    return [m for m in instr.mods if ":" not in m]


def _types(instr: ast.Instr, count: int) -> list[bool]:
    """Whether each type of the opcode, all of 32 bits, is signed."""
    names = [m for m in instr.mods if m in ("u32", "s32")]
    if len(names) != count:
        raise unsupported(instr, f"{count} types .u32 or .s32 are needed")
    return [name == "s32" for name in names]


def _part(e: Emitter, word: Val, start: int, width: int, signed: bool) -> Val:
    """Some bits of a value of 32 bits or more, extended to 64."""
    b = e.b
    if start:
        word = b.binary("lshr", word, const(start, word.type))
    return b.resize(b.resize(word, f"i{width}", False), _WIDE, signed)


def _selected(e: Emitter, operand: ast.Operand, selector: str, signed: bool) -> Val:
    word = e.read(operand, B32)
    if not selector:
        return _part(e, word, 0, 32, signed)
    if len(selector) != 2 or int(selector[1]) >= (4 if selector[0] == "b" else 2):
        raise unsupported(e.instr, f".{selector} is no part of one register")
    width = 8 if selector[0] == "b" else 16
    return _part(e, word, width * int(selector[1]), width, signed)


def _saturated(e: Emitter, value: Val, width: int, signed: bool) -> Val:
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    value = e.b.intrinsic("llvm.smax", value, const(low, _WIDE))
    return e.b.intrinsic("llvm.smin", value, const(high, _WIDE))


def _computed(e: Emitter, op: str, x: Val, y: Val) -> Val:
    b = e.b
    match op:
        case "vadd" | "vsub":
            return b.binary(op[1:], x, y)
        case "vmin" | "vmax":
            return b.intrinsic(f"llvm.s{op[1:]}", x, y)
        case "vabsdiff":
            high, low = b.intrinsic("llvm.smax", x, y), b.intrinsic("llvm.smin", x, y)
            return b.binary("sub", high, low)
        case "vavrg":
            total = b.binary("add", x, y)
            up = b.compare("icmp sge", total, const(0, _WIDE))
            return b.binary(
                "ashr", b.binary("add", total, b.resize(up, _WIDE, False)), const(1, _WIDE)
            )
        case "vset":
            name = next((m for m in e.instr.mods if m in _COMPARE), "")
            if not name:
                raise unsupported(e.instr, "a comparison is needed")
            return b.resize(b.compare(f"icmp {_COMPARE[name]}", x, y), _WIDE, False)
        case _:
            amount = (
                b.binary("and", y, const(31, _WIDE))
                if "wrap" in e.instr.mods
                else b.intrinsic("llvm.umin", y, const(32, _WIDE))
            )
            # A part is at most 33 bits with its sign, so its own sign is that of the 64.
            return b.binary("shl" if op == "vshl" else "ashr", x, amount)


@emits(
    "vadd",
    "vsub",
    "vabsdiff",
    "vmin",
    "vmax",
    "vset",
    "vshl",
    "vshr",
    forms=".u32 and .s32, parts of registers (.b0 to .b3, .h0, .h1), .sat, .clamp .wrap, "
    "a second operation .add .min .max, or a part of the destination",
)
def video(e: Emitter, instr: ast.Instr) -> None:
    """Emits the video instructions of one value."""
    b = e.b
    known = {"u32", "s32", "sat", *_SECONDARY}
    known |= {"clamp", "wrap"} if instr.op in ("vshl", "vshr") else set()
    known |= set(_COMPARE) if instr.op == "vset" else set()
    if not set(_plain(instr)) <= known:
        raise unsupported(instr)
    signs = _types(instr, 2 if instr.op == "vset" else 3)
    signed = False if instr.op == "vset" else signs[0]
    x = _selected(e, instr.args[1], _selector(instr, 1), signs[-2])
    y = _selected(e, instr.args[2], _selector(instr, 2), signs[-1])
    value = _computed(e, instr.op, x, y)
    target = _selector(instr, 0)
    width = {"": 32, "b": 8, "h": 16}[target[:1]]
    if "sat" in instr.mods:
        value = _saturated(e, value, width, signed)
    value = b.resize(value, "i32", False)
    second = next((m for m in _plain(instr) if m in _SECONDARY), "")
    if target and not second:
        value = _merged(e, value, e.read(instr.args[3], B32), width * int(target[1]), width)
    elif second and not target:
        other = e.read(instr.args[3], B32)
        value = (
            b.binary("add", value, other)
            if second == "add"
            else b.intrinsic(f"llvm.{'s' if signed else 'u'}{second}", value, other)
        )
    elif len(instr.args) != 3:
        raise unsupported(instr)
    e.write(instr.args[0], value, U32)


def _merged(e: Emitter, value: Val, into: Val, start: int, width: int) -> Val:
    b = e.b
    mask = ((1 << width) - 1) << start
    placed = b.binary("and", b.binary("shl", value, const(start, "i32")), const(mask, "i32"))
    return b.binary("or", placed, b.binary("and", into, const(~mask, "i32")))


@emits("vmad", forms=".u32 and .s32, parts of registers, .po, .sat, .shr7 .shr15")
def multiply_add(e: Emitter, instr: ast.Instr) -> None:
    """Emits vmad without negated operands."""
    b = e.b
    if not set(_plain(instr)) <= {"u32", "s32", "sat", "po", "shr7", "shr15"}:
        raise unsupported(instr)
    result, first, second = _types(instr, 3)
    x = _selected(e, instr.args[1], _selector(instr, 1), first)
    y = _selected(e, instr.args[2], _selector(instr, 2), second)
    signed = result or first or second
    total = b.binary(
        "add", b.binary("mul", x, y), _part(e, e.read(instr.args[3], B32), 0, 32, signed)
    )
    if "po" in instr.mods:
        total = b.binary("add", total, const(1, _WIDE))
    for amount in (7, 15):
        if f"shr{amount}" in instr.mods:
            total = b.binary("ashr" if signed else "lshr", total, const(amount, _WIDE))
    if "sat" in instr.mods:
        if signed:
            total = _saturated(e, total, 32, True)
        else:
            total = b.intrinsic("llvm.umin", total, const(0xFFFFFFFF, _WIDE))
    e.write(instr.args[0], b.resize(total, "i32", False), U32)


@emits(
    *(
        f"{op}{n}"
        for op in ("vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax", "vset")
        for n in (2, 4)
    ),
    forms=".u32 and .s32, choices of parts of both sources, masks of the destination, .sat, .add",
)
def several(e: Emitter, instr: ast.Instr) -> None:
    """Emits the video instructions of two halves or four bytes."""
    b = e.b
    op, count = instr.op[:-1], int(instr.op[-1])
    width = 32 // count
    known = {"u32", "s32", "sat", "add"} | (set(_COMPARE) if op == "vset" else set())
    if not set(_plain(instr)) <= known:
        raise unsupported(instr)
    signs = _types(instr, 2 if op == "vset" else 3)
    signed = False if op == "vset" else signs[0]
    both = b.binary(
        "or",
        b.resize(e.read(instr.args[1], B32), _WIDE, False),
        b.binary("shl", b.resize(e.read(instr.args[2], B32), _WIDE, False), const(32, _WIDE)),
    )
    digits = "76543210"[8 - 2 * count :]
    picks = [_digits(instr, 1, count, digits[count:]), _digits(instr, 2, count, digits[:count])]
    mask = _selector(instr, 0)
    written = range(count) if not mask else sorted(int(d) for d in mask[1:])
    other = e.read(instr.args[3], B32) if len(instr.args) > 3 else const(0, "i32")
    total = other
    for lane in written:
        if lane >= count:
            raise unsupported(instr, f".{mask} is no mask of its destination")
        x, y = (
            _part(e, both, width * pick[lane], width, sign)
            for pick, sign in zip(picks, signs[-2:], strict=True)
        )
        value = _computed(e, op, x, y)
        if "sat" in instr.mods:
            value = _saturated(e, value, width, signed)
        if "add" in instr.mods:
            part = _part(e, value, 0, width, signed)
            total = b.binary("add", total, b.resize(part, "i32", False))
        else:
            total = _merged(e, b.resize(value, "i32", False), total, width * lane, width)
    e.write(instr.args[0], total, U32)


def _digits(instr: ast.Instr, operand: int, count: int, default: str) -> list[int]:
    """Which parts of the two sources an operand's selector names, the lowest lane's first."""
    selector = _selector(instr, operand)
    if selector and (selector[0] != ("h" if count == 2 else "b") or len(selector) != count + 1):
        raise unsupported(instr, f".{selector} is no choice of {count} parts")
    return [int(d) for d in reversed(selector[1:] or default)]
