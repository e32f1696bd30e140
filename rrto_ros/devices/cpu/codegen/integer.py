"""Integer arithmetic, logic and bit manipulation. All of it wraps; none of it traps.

Over 400 lines: one short function for each family of instructions.
"""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import B32, U32, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType


def type_of(instr: ast.Instr) -> PtxType:
    """The last type in the opcode."""
    for mod in reversed(instr.mods):
        if mod in TYPES:
            return TYPES[mod]
    raise unsupported(instr, "no type")


def clamp_to_range(e: Emitter, wide: Val, kind: PtxType) -> Val:
    """Saturates a wider signed integer to the range of `kind`."""
    bits = kind.bits
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.signed else (0, (1 << bits) - 1)
    value = e.b.intrinsic("llvm.smax", wide, const(low, wide.type))
    value = e.b.intrinsic("llvm.smin", value, const(high, wide.type))
    return e.b.resize(value, kind.llvm_int, kind.signed)


def add_sub(e: Emitter, instr: ast.Instr, kind: PtxType) -> None:
    """Integer add and sub, with .sat for s32 and the carry forms."""
    b = e.b
    x, y = e.read(instr.args[1], kind), e.read(instr.args[2], kind)
    if "sat" in instr.mods:
        if kind.name != "s32":
            raise unsupported(instr)
        wide = b.binary(instr.op, b.resize(x, "i64", True), b.resize(y, "i64", True))
        e.write(instr.args[0], clamp_to_range(e, wide, kind), kind)
        return
    if "cc" in instr.mods:
        carry = _with_carry(e, instr.op, x, y, const(int(instr.op == "sub"), "i1"))
        e.write(instr.args[0], carry, kind)
        return
    e.write(instr.args[0], b.binary(instr.op, x, y), kind)


def _carry_slot(e: Emitter) -> None:
    if "%carry" not in e.slots:
        raise unsupported(e.instr, "no carry flag")


def _with_carry(e: Emitter, op: str, x: Val, y: Val, carry: Val) -> Val:
    """X + y + carry, or x + ~y + carry, in a wider type; leaves the carry out in the flag.

    Subtraction is done as the hardware does it: the flag says that there was no borrow. PTX's
    manual calls it the borrow, which is the same for sub.cc and subc; only programs that mix
    them with addc can tell, and they get what GPUs give.
    """
    _carry_slot(e)
    b = e.b
    if op == "sub":
        y = b.binary("xor", y, const(-1, y.type))
    bits = x.bits
    wide = f"i{bits * 2}"
    total = b.binary("add", b.resize(x, wide, False), b.resize(y, wide, False))
    total = b.binary("add", total, b.resize(carry, wide, False))
    out = b.resize(b.binary("lshr", total, const(bits, wide)), "i1", False)
    e.put("%carry", out)
    return b.resize(total, x.type, False)


@emits("addc", "subc", forms="u32, s32, u64, s64, .cc")
def add_carry(e: Emitter, instr: ast.Instr) -> None:
    """Emits addc and subc."""
    kind = type_of(instr)
    _carry_slot(e)
    carry = e.get("%carry")
    value = _with_carry(
        e, instr.op[:3], e.read(instr.args[1], kind), e.read(instr.args[2], kind), carry
    )
    if "cc" not in instr.mods:
        e.put("%carry", carry)
    e.write(instr.args[0], value, kind)


def multiply(e: Emitter, instr: ast.Instr, kind: PtxType) -> None:
    """Integer mul and mad, .lo .hi .wide, .sat for mad.hi.s32."""
    b = e.b
    x, y = e.read(instr.args[1], kind), e.read(instr.args[2], kind)
    bits = kind.bits
    result = kind
    if "wide" in instr.mods:
        result = TYPES[f"{kind.kind}{bits * 2}"]
        product = b.binary(
            "mul", b.resize(x, result.llvm, kind.signed), b.resize(y, result.llvm, kind.signed)
        )
    elif "hi" in instr.mods:
        wide = f"i{bits * 2}"
        product = b.binary("mul", b.resize(x, wide, kind.signed), b.resize(y, wide, kind.signed))
        product = b.resize(b.binary("lshr", product, const(bits, wide)), kind.llvm, False)
    elif "lo" in instr.mods:
        product = b.binary("mul", x, y)
    else:
        raise unsupported(instr)
    if instr.op == "mad":
        addend = e.read(instr.args[3], result)
        if "sat" in instr.mods:
            total = b.binary("add", b.resize(product, "i64", True), b.resize(addend, "i64", True))
            product = clamp_to_range(e, total, kind)
        elif "cc" in instr.mods:
            product = _with_carry(e, "add", product, addend, const(0, "i1"))
        else:
            product = b.binary("add", product, addend)
    e.write(instr.args[0], product, result)


@emits("madc", forms=".lo .hi; u32, s32, u64, s64; .cc")
def mad_carry(e: Emitter, instr: ast.Instr) -> None:
    """Emits madc."""
    kind = type_of(instr)
    b = e.b
    wide = f"i{kind.bits * 2}"
    product = b.binary(
        "mul",
        b.resize(e.read(instr.args[1], kind), wide, kind.signed),
        b.resize(e.read(instr.args[2], kind), wide, kind.signed),
    )
    if "hi" in instr.mods:
        product = b.binary("lshr", product, const(kind.bits, wide))
    _carry_slot(e)
    carry = e.get("%carry")
    value = _with_carry(
        e, "add", b.resize(product, kind.llvm, False), e.read(instr.args[3], kind), carry
    )
    if "cc" not in instr.mods:
        e.put("%carry", carry)
    e.write(instr.args[0], value, kind)


@emits("mul24", "mad24", forms=".lo .hi; u32, s32")
def mul24(e: Emitter, instr: ast.Instr) -> None:
    """Emits mul24 and mad24."""
    kind = type_of(instr)
    b = e.b

    def low24(operand: ast.Operand) -> Val:
        up = b.binary("shl", e.read(operand, kind), const(8, "i32"))
        down = b.binary("ashr" if kind.signed else "lshr", up, const(8, "i32"))
        return b.resize(down, "i64", kind.signed)

    product = b.binary("mul", low24(instr.args[1]), low24(instr.args[2]))
    if "hi" in instr.mods:
        product = b.binary("lshr", product, const(16, "i64"))
    value = b.resize(product, "i32", False)
    if instr.op == "mad24":
        value = b.binary("add", value, e.read(instr.args[3], kind))
    e.write(instr.args[0], value, kind)


def divide(e: Emitter, instr: ast.Instr, kind: PtxType) -> None:
    """Integer div and rem. By zero: all ones, and the dividend. MIN / -1 wraps."""
    b = e.b
    x, y = e.read(instr.args[1], kind), e.read(instr.args[2], kind)
    zero = b.compare("icmp eq", y, const(0, y.type))
    bad = zero
    if kind.signed:
        minimum = b.compare("icmp eq", x, const(1 << kind.bits - 1, x.type))
        minus = b.compare("icmp eq", y, const(-1, y.type))
        bad = b.binary("or", zero, b.binary("and", minimum, minus))
    safe = b.select(bad, const(1, y.type), y)
    op = ("s" if kind.signed else "u") + ("div" if instr.op == "div" else "rem")
    value = b.binary(op, x, safe)
    # MIN / 1 is MIN and MIN % 1 is 0, which are also the wrapped results for -1.
    value = b.select(zero, const(-1, x.type) if instr.op == "div" else x, value)
    e.write(instr.args[0], value, kind)


@emits("rem", forms="16, 32, 64 bits")
def rem(e: Emitter, instr: ast.Instr) -> None:
    """Emits rem."""
    divide(e, instr, type_of(instr))


@emits("sad", forms="16, 32, 64 bits")
def sad(e: Emitter, instr: ast.Instr) -> None:
    """Emits sad."""
    kind = type_of(instr)
    b = e.b
    x, y = e.read(instr.args[1], kind), e.read(instr.args[2], kind)
    less = b.compare("icmp slt" if kind.signed else "icmp ult", x, y)
    distance = b.select(less, b.binary("sub", y, x), b.binary("sub", x, y))
    e.write(instr.args[0], b.binary("add", distance, e.read(instr.args[3], kind)), kind)


@emits("and", "or", "xor", forms="pred, b16, b32, b64")
def logic(e: Emitter, instr: ast.Instr) -> None:
    """Emits and, or and xor."""
    kind = type_of(instr)
    value = e.b.binary(instr.op, e.read(instr.args[1], kind), e.read(instr.args[2], kind))
    e.write(instr.args[0], value, kind)


@emits("not", "cnot", forms="pred, b16, b32, b64")
def invert(e: Emitter, instr: ast.Instr) -> None:
    """Emits not and cnot."""
    kind = type_of(instr)
    value = e.read(instr.args[1], kind)
    if instr.op == "cnot":
        value = e.b.resize(e.b.compare("icmp eq", value, const(0, value.type)), value.type, False)
    else:
        value = e.b.binary("xor", value, const(-1, value.type))
    e.write(instr.args[0], value, kind)


@emits("shl", "shr", forms="16, 32, 64 bits; amounts beyond the width clamp")
def shift(e: Emitter, instr: ast.Instr) -> None:
    """Emits shl and shr."""
    kind = type_of(instr)
    b = e.b
    value = e.read(instr.args[1], kind)
    amount = e.read(instr.args[2], U32)
    arithmetic = instr.op == "shr" and kind.signed
    op = "shl" if instr.op == "shl" else "ashr" if arithmetic else "lshr"
    limit = kind.bits - 1
    if amount.is_constant and not amount.vec and int(amount.text) <= limit:
        e.write(instr.args[0], b.binary(op, value, const(int(amount.text), value.type)), kind)
        return
    small = b.intrinsic("llvm.umin", amount, const(limit, "i32"))
    shifted = b.binary(op, value, b.resize(small, value.type, False))
    if not arithmetic:
        over = b.compare("icmp ugt", amount, const(limit, "i32"))
        shifted = b.select(over, const(0, value.type), shifted)
    e.write(instr.args[0], shifted, kind)


@emits("shf", forms=".l .r; .wrap .clamp; b32")
def funnel(e: Emitter, instr: ast.Instr) -> None:
    """Emits shf."""
    b = e.b
    low, high = e.read(instr.args[1], B32), e.read(instr.args[2], B32)
    amount = e.read(instr.args[3], U32)
    if "wrap" in instr.mods:
        amount = b.binary("and", amount, const(31, "i32"))
    else:
        amount = b.intrinsic("llvm.umin", amount, const(32, "i32"))
    both = b.binary(
        "or",
        b.resize(low, "i64", False),
        b.binary("shl", b.resize(high, "i64", False), const(32, "i64")),
    )
    amount = b.resize(amount, "i64", False)
    if "l" in instr.mods:
        out = b.binary("lshr", b.binary("shl", both, amount), const(32, "i64"))
    else:
        out = b.binary("lshr", both, amount)
    e.write(instr.args[0], b.resize(out, "i32", False), B32)


@emits("popc", "clz", "brev", forms="b32, b64")
def count_bits(e: Emitter, instr: ast.Instr) -> None:
    """Emits popc, clz and brev."""
    kind = type_of(instr)
    b = e.b
    value = e.read(instr.args[1], kind)
    if instr.op == "brev":
        e.write(instr.args[0], b.intrinsic("llvm.bitreverse", value), kind)
        return
    if instr.op == "popc":
        out = b.intrinsic("llvm.ctpop", value)
    else:
        out = b.intrinsic("llvm.ctlz", value, tail="i1 false")
    e.write(instr.args[0], b.resize(out, "i32", False), U32)


@emits("bfind", forms="u32, s32, u64, s64; .shiftamt")
def bfind(e: Emitter, instr: ast.Instr) -> None:
    """Emits bfind."""
    kind = type_of(instr)
    b = e.b
    value = e.read(instr.args[1], kind)
    if kind.signed:
        negative = b.compare("icmp slt", value, const(0, value.type))
        value = b.select(negative, b.binary("xor", value, const(-1, value.type)), value)
    zeros = b.intrinsic("llvm.ctlz", value, tail="i1 false")
    found = zeros
    if "shiftamt" not in instr.mods:
        found = b.binary("sub", const(kind.bits - 1, value.type), zeros)
    none = b.compare("icmp eq", value, const(0, value.type))
    out = b.select(none, const(-1, value.type), found)
    e.write(instr.args[0], b.resize(out, "i32", False), U32)


@emits("bfe", forms="u32, s32, u64, s64")
def bit_extract(e: Emitter, instr: ast.Instr) -> None:
    """Emits bfe."""
    kind = type_of(instr)
    b = e.b
    wide = "i128" if kind.bits == 64 else "i64"
    bits = int(wide[1:])
    value = b.resize(e.read(instr.args[1], kind), wide, kind.signed)
    start = b.binary("and", e.read(instr.args[2], U32), const(255, "i32"))
    length = b.binary("and", e.read(instr.args[3], U32), const(255, "i32"))
    # Beyond the top bit lies the sign (or zeros), so both can be clamped to the width.
    start = b.intrinsic("llvm.umin", start, const(kind.bits, "i32"))
    length = b.intrinsic("llvm.umin", length, const(kind.bits, "i32"))
    none = b.compare("icmp eq", length, const(0, "i32"))
    value = b.binary("ashr" if kind.signed else "lshr", value, b.resize(start, wide, False))
    unused = b.binary("sub", const(bits, "i32"), b.select(none, const(1, "i32"), length))
    amount = b.resize(unused, wide, False)
    value = b.binary("shl", value, amount)
    value = b.binary("ashr" if kind.signed else "lshr", value, amount)
    out = b.select(none, const(0, wide), value)
    e.write(instr.args[0], b.resize(out, kind.llvm, False), kind)


@emits("bfi", forms="b32, b64")
def bit_insert(e: Emitter, instr: ast.Instr) -> None:
    """Emits bfi."""
    kind = type_of(instr)
    b = e.b
    wide = f"i{kind.bits * 2}"
    field = b.resize(e.read(instr.args[1], kind), wide, False)
    base = b.resize(e.read(instr.args[2], kind), wide, False)
    start = b.binary("and", e.read(instr.args[3], U32), const(255, "i32"))
    length = b.binary("and", e.read(instr.args[4], U32), const(255, "i32"))
    start = b.resize(b.intrinsic("llvm.umin", start, const(kind.bits, "i32")), wide, False)
    length = b.resize(b.intrinsic("llvm.umin", length, const(kind.bits, "i32")), wide, False)
    mask = b.binary("sub", b.binary("shl", const(1, wide), length), const(1, wide))
    placed = b.binary("shl", b.binary("and", field, mask), start)
    mask = b.binary("shl", mask, start)
    kept = b.binary("and", base, b.binary("xor", mask, const(-1, wide)))
    e.write(instr.args[0], b.resize(b.binary("or", kept, placed), kind.llvm, False), kind)


@emits("bmsk", forms=".clamp .wrap; b32")
def bit_mask(e: Emitter, instr: ast.Instr) -> None:
    """Emits bmsk."""
    b = e.b
    start, length = e.read(instr.args[1], U32), e.read(instr.args[2], U32)
    if "wrap" in instr.mods:
        start = b.binary("and", start, const(31, "i32"))
        length = b.binary("and", length, const(31, "i32"))
    start = b.resize(b.intrinsic("llvm.umin", start, const(32, "i32")), "i64", False)
    length = b.resize(b.intrinsic("llvm.umin", length, const(32, "i32")), "i64", False)
    ones = b.binary("sub", b.binary("shl", const(1, "i64"), length), const(1, "i64"))
    e.write(instr.args[0], b.resize(b.binary("shl", ones, start), "i32", False), B32)


@emits("prmt", forms="b32, with and without a mode")
def permute(e: Emitter, instr: ast.Instr) -> None:
    """Emits prmt."""
    b = e.b
    low, high = e.read(instr.args[1], B32), e.read(instr.args[2], B32)
    control = e.read(instr.args[3], U32)
    both = b.binary(
        "or",
        b.resize(low, "i64", False),
        b.binary("shl", b.resize(high, "i64", False), const(32, "i64")),
    )
    mode = instr.mods[-1] if instr.mods[-1] != "b32" else ""
    result = const(0, "i32")
    for byte in range(4):
        pick = _permute_pick(e, control, byte, mode)
        shift_by = b.binary("shl", b.binary("and", pick, const(7, "i32")), const(3, "i32"))
        chosen = b.binary("lshr", both, b.resize(shift_by, "i64", False))
        value = b.binary("and", b.resize(chosen, "i32", False), const(255, "i32"))
        if not mode:
            up = b.binary("shl", value, const(24, "i32"))
            sign = b.binary("lshr", b.binary("ashr", up, const(31, "i32")), const(24, "i32"))
            replicate = b.compare(
                "icmp ne", b.binary("and", pick, const(8, "i32")), const(0, "i32")
            )
            value = b.select(replicate, sign, value)
        result = b.binary("or", result, b.binary("shl", value, const(8 * byte, "i32")))
    e.write(instr.args[0], result, B32)


def _permute_pick(e: Emitter, control: Val, byte: int, mode: str) -> Val:
    b = e.b
    two = b.binary("and", control, const(3, "i32"))
    match mode:
        case "":
            nibble = b.binary("lshr", control, const(4 * byte, "i32"))
            return b.binary("and", nibble, const(15, "i32"))
        case "f4e":
            return b.binary("add", two, const(byte, "i32"))
        case "b4e":
            return b.binary("and", b.binary("sub", two, const(byte, "i32")), const(7, "i32"))
        case "rc8":
            return two
        case "ecl":
            return b.intrinsic("llvm.umax", two, const(byte, "i32"))
        case "ecr":
            return b.intrinsic("llvm.umin", two, const(byte, "i32"))
        case "rc16":
            half = b.binary("shl", b.binary("and", control, const(1, "i32")), const(1, "i32"))
            return b.binary("add", half, const(byte & 1, "i32"))
    raise unsupported(e.instr)


@emits("lop3", forms="b32")
def lop3(e: Emitter, instr: ast.Instr) -> None:
    """Emits lop3."""
    b = e.b
    table = instr.args[4]
    if not isinstance(table, ast.Imm) or "BoolOp" in instr.mods:
        raise unsupported(instr)
    x, y, z = (e.read(a, B32) for a in instr.args[1:4])
    ones = const(-1, "i32")
    result = const(0, "i32")
    for row in range(8):
        if table.value >> row & 1:
            terms = [
                v if row >> bit & 1 else b.binary("xor", v, ones)
                for v, bit in ((x, 2), (y, 1), (z, 0))
            ]
            term = b.binary("and", b.binary("and", terms[0], terms[1]), terms[2])
            result = b.binary("or", result, term)
    e.write(instr.args[0], result, B32)


@emits("dp4a", "dp2a", forms="u32 and s32 in both operands")
def dot(e: Emitter, instr: ast.Instr) -> None:
    """Emits dp4a and dp2a."""
    b = e.b
    types = [TYPES[m] for m in instr.mods if m in TYPES]
    x, y = e.read(instr.args[1], types[0]), e.read(instr.args[2], types[1])
    total = e.read(instr.args[3], B32)
    width = 8 if instr.op == "dp4a" else 16
    for index in range(32 // width):
        start = 0 if instr.op == "dp4a" or "lo" in instr.mods else 16
        left = _field(e, x, width * index, width, types[0].signed)
        right = _field(e, y, start + 8 * index, 8, types[1].signed)
        total = b.binary("add", total, b.binary("mul", left, right))
    e.write(instr.args[0], total, B32)


def _field(e: Emitter, value: Val, start: int, width: int, signed: bool) -> Val:
    up = e.b.binary("shl", value, const(32 - start - width, "i32"))
    return e.b.binary("ashr" if signed else "lshr", up, const(32 - width, "i32"))
