"""Exchanges between the threads of a warp or block: shfl, vote, match, redux, bar.red.

Each is a place where threads wait: before it a thread offers its value in a buffer, and when all
have come it reads what the others offered. The buffer has two sides that swap at every step.
"""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import B32, PRED, U32, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.integer import type_of
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.passes.layout import align_up
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_WARP = 32


def _offered_type(instr: ast.Instr) -> PtxType:
    if instr.op == "mma":
        return B32
    if instr.op in ("shfl", "match", "redux"):
        return TYPES[f"b{type_of(instr).bits}"]
    return PRED


def _offered(instr: ast.Instr) -> tuple[ast.Operand, ...]:
    """The operands that other threads see."""
    if instr.op == "mma":
        a, b = instr.args[1], instr.args[2]
        if not (isinstance(a, ast.Vec) and isinstance(b, ast.Vec)):
            raise unsupported(instr)
        return (*a.items, *b.items)
    if instr.op in ("bar", "barrier"):
        return (instr.args[-1],)
    return (instr.args[1],)


def offer(e: Emitter, instr: ast.Instr, target: int) -> None:
    """Puts this thread's value into the buffer; `target` is the region that reads it."""
    b = e.b
    e.instr = instr
    if instr.op == "activemask":
        here = _arrival(e, Val("%phase_number", "i64"), target)
        b.line(f"store i64 {here.text}, ptr {_slot(e, 'exchange_out', e.special['linear'], 0)}")
        return
    if instr.guard is not None:
        raise unsupported(instr, "with a guard")
    kind = _offered_type(instr)
    for word, operand in enumerate(_offered(instr)):
        if kind is PRED and isinstance(operand, ast.Imm):
            value = const(operand.value, "i1")
        else:
            value = e.read(operand, kind)
        wide = b.resize(value, "i64", False)
        where = _slot(e, "exchange_out", e.special["linear"], word)
        b.line(f"store i64 {wide.text}, ptr {where}")


def _arrival(e: Emitter, phase: Val, target: int) -> Val:
    """A word that says which wait a thread came to, and when."""
    return e.b.binary("add", e.b.binary("shl", phase, const(32, "i64")),
                      const(target + 1, "i64"))


def words_offered(instr: ast.Instr) -> int:
    """Words of the exchange buffer that an instruction needs for each thread."""
    if instr.op == "activemask":
        return 1
    return len(_offered(instr))


def _slot(e: Emitter, side: str, thread: Val, word: int) -> str:
    padded = align_up(e.threads, _WARP)
    base, where = e.b.name("x"), e.b.name("x")
    e.b.line(f"{base} = getelementptr i64, ptr %{side}, i32 {word * padded}")
    e.b.line(f"{where} = getelementptr i64, ptr {base}, i32 {thread.text}")
    return where


def take(e: Emitter, thread: Val, word: int = 0) -> Val:
    """What another thread of the block offered."""
    out = e.b.name("x")
    e.b.line(f"{out} = load i64, ptr {_slot(e, 'exchange_in', thread, word)}")
    return Val(out, "i64")


def warp_start(e: Emitter) -> Val:
    """The number of the first thread of this warp in the block."""
    return e.b.binary("and", e.special["linear"], const(-_WARP, "i32"))


@emits("shfl", forms=".sync and without; .up .down .bfly .idx; b32")
def shuffle(e: Emitter, instr: ast.Instr) -> None:
    """Emits shfl."""
    b = e.b
    target = instr.args[0]
    dest, in_range = (
        (target.first, target.second) if isinstance(target, ast.Pair) else (target, ast.Sink())
    )
    amount, control = e.read(instr.args[2], U32), e.read(instr.args[3], U32)
    lane = e.special_value("laneid")
    clamp = b.binary("and", control, const(31, "i32"))
    segment = b.binary("and", b.binary("lshr", control, const(8, "i32")), const(31, "i32"))
    keep = b.binary("xor", segment, const(31, "i32"))
    low = b.binary("and", lane, segment)
    high = b.binary("or", low, b.binary("and", clamp, keep))
    amount = b.binary("and", amount, const(31, "i32"))
    mode = next(m for m in instr.mods if m in ("up", "down", "bfly", "idx"))
    match mode:
        case "up":
            source = b.binary("sub", lane, amount)
            good = b.compare("icmp sge", source, high)
        case "down":
            source = b.binary("add", lane, amount)
            good = b.compare("icmp sle", source, high)
        case "bfly":
            source = b.binary("xor", lane, amount)
            good = b.compare("icmp sle", source, high)
        case _:
            source = b.binary("or", low, b.binary("and", amount, keep))
            good = b.compare("icmp sle", source, high)
    source = b.select(good, source, lane)
    value = take(e, b.binary("add", warp_start(e), source))
    e.write(dest, b.resize(value, "i32", False), B32)
    e.write(in_range, good, PRED)


def _members(e: Emitter, instr: ast.Instr, position: int) -> Val:
    """The member mask, limited to threads that exist."""
    mask = const(-1, "i32")
    if "sync" in instr.mods:
        mask = e.read(instr.args[position], U32)
    return e.b.binary("and", mask, active_lanes(e))


def active_lanes(e: Emitter) -> Val:
    """One bit for each thread of this warp (the last warp may be short)."""
    b = e.b
    left = b.binary("sub", const(e.threads, "i32"), warp_start(e))
    count = b.intrinsic("llvm.umin", left, const(_WARP, "i32"))
    ones = b.binary("sub", b.binary("shl", const(1, "i64"), b.resize(count, "i64", False)),
                    const(1, "i64"))
    return b.resize(ones, "i32", False)


def _lanes_that_offer(e: Emitter, value: Val) -> Val:
    """The lanes of the warp that offered this value, a bit for each."""
    b = e.b
    start = warp_start(e)
    total = const(0, "i32")
    for lane in range(_WARP):
        other = take(e, b.binary("add", start, const(lane, "i32")))
        same = b.resize(b.compare("icmp eq", other, value), "i32", False)
        total = b.binary("or", total, b.binary("shl", same, const(lane, "i32")))
    return total


def _ballot(e: Emitter) -> Val:
    """One bit for each thread of the warp: the predicate that it offered."""
    b = e.b
    start = warp_start(e)
    total = const(0, "i32")
    for lane in range(_WARP):
        bit = b.resize(take(e, b.binary("add", start, const(lane, "i32"))), "i32", False)
        total = b.binary("or", total, b.binary("shl", bit, const(lane, "i32")))
    return total


@emits("vote", forms=".sync and without; .all .any .uni .ballot")
def vote(e: Emitter, instr: ast.Instr) -> None:
    """Emits vote."""
    b = e.b
    members = _members(e, instr, 2)
    ballot = b.binary("and", _ballot(e), members)
    if "ballot" in instr.mods:
        e.write(instr.args[0], ballot, B32)
        return
    none = b.compare("icmp eq", ballot, const(0, "i32"))
    everyone = b.compare("icmp eq", ballot, members)
    if "all" in instr.mods:
        result = everyone
    elif "any" in instr.mods:
        result = b.binary("xor", none, const(1, "i1"))
    elif "uni" in instr.mods:
        result = b.binary("or", none, everyone)
    else:
        raise unsupported(instr)
    e.write(instr.args[0], result, PRED)


@emits("activemask", forms="b32: the threads of the warp that came to this instruction together")
def activemask(e: Emitter, instr: ast.Instr) -> None:
    """Emits activemask."""
    b = e.b
    before = b.binary("sub", Val("%phase_number", "i64"), const(1, "i64"))
    here = _arrival(e, before, e.region)
    e.write(instr.args[0], _lanes_that_offer(e, here), B32)


@emits("match", forms=".any .all; b32, b64")
def match_values(e: Emitter, instr: ast.Instr) -> None:
    """Emits match."""
    b = e.b
    members = _members(e, instr, 2)
    kind = _offered_type(instr)
    mine = b.resize(e.read(instr.args[1], kind), "i64", False)
    total = b.binary("and", _lanes_that_offer(e, mine), members)
    dest = instr.args[0]
    if "any" in instr.mods:
        e.write(dest, total, B32)
        return
    everyone = b.compare("icmp eq", total, members)
    agreed = b.select(everyone, members, const(0, "i32"))
    if isinstance(dest, ast.Pair):
        e.write(dest.first, agreed, B32)
        e.write(dest.second, everyone, PRED)
    else:
        e.write(dest, agreed, B32)


@emits("redux", forms=".add .min .max (u32, s32), .and .or .xor (b32)")
def reduce_warp(e: Emitter, instr: ast.Instr) -> None:
    """Emits redux."""
    b = e.b
    kind = type_of(instr)
    if kind.is_float:
        raise unsupported(instr)
    members = _members(e, instr, 2)
    operation = next(m for m in instr.mods if m in ("add", "min", "max", "and", "or", "xor"))
    sign = "s" if kind.signed else "u"
    neutral = {"min": 0x7FFFFFFF if kind.signed else -1, "and": -1,
               "max": 0x80000000 if kind.signed else 0}.get(operation, 0)
    start = warp_start(e)
    total = const(neutral, "i32")
    for lane in range(_WARP):
        value = b.resize(take(e, b.binary("add", start, const(lane, "i32"))), "i32", False)
        bit = b.binary("and", b.binary("lshr", members, const(lane, "i32")), const(1, "i32"))
        value = b.select(b.compare("icmp ne", bit, const(0, "i32")), value,
                         const(neutral, "i32"))
        if operation in ("min", "max"):
            total = b.intrinsic(f"llvm.{sign}{operation}", total, value)
        else:
            total = b.binary(operation, total, value)
    e.write(instr.args[0], total, kind)


@emits("bar", "barrier", forms=".sync .red.popc .red.and .red.or .arrive .warp.sync .cta; every "
       "thread of the block takes part, or as many as an operand says; .red only of the whole "
       "block, in kernels without barriers of a part of it")
def block_barrier(e: Emitter, instr: ast.Instr) -> None:
    """bar.arrive is counted; bar.red combines the predicates of the block."""
    if "arrive" in instr.mods:
        _arrive(e, instr)
    if "red" not in instr.mods:
        return
    if e.arrivals or e.arrived or len(instr.args) > 3:
        raise unsupported(instr, "with barriers of a part of the block")
    b = e.b
    slot = b.alloca("i32")
    step, head, out = b.new_label("bit"), b.new_label("all"), b.new_label("got")
    before = b.new_label("bar")
    b.line(f"store i32 0, ptr {slot}")
    b.line(f"br label %{before}")
    b.label(before)
    b.line(f"br label %{head}")
    b.label(head)
    index, following = b.name("i"), b.name("i")
    b.line(f"{index} = phi i32 [ 0, %{before} ], [ {following}, %{head} ]")
    value = b.resize(take(e, Val(index, "i32")), "i32", False)
    b.line(f"%{step} = load i32, ptr {slot}")
    b.line(f"store i32 {b.binary('add', Val('%' + step, 'i32'), value).text}, ptr {slot}")
    more = b.name("i")
    b.line(f"{following} = add i32 {index}, 1")
    b.line(f"{more} = icmp ult i32 {following}, {e.threads}")
    b.line(f"br i1 {more}, label %{head}, label %{out}")
    b.label(out)
    count = b.name("i")
    b.line(f"{count} = load i32, ptr {slot}")
    total = Val(count, "i32")
    if "popc" in instr.mods:
        e.write(instr.args[0], total, U32)
    elif "and" in instr.mods:
        result = b.compare("icmp eq", total, const(e.threads, "i32"))
        e.write(instr.args[0], result, PRED)
    else:
        e.write(instr.args[0], b.compare("icmp ne", total, const(0, "i32")), PRED)


def _operands(instr: ast.Instr) -> tuple[ast.Operand, ...]:
    """Which barrier, and for how many threads if that is said; none for .red of the block."""
    if instr.op == "barrier" and "cluster" in instr.mods:
        raise unsupported(instr)
    for operand, low, high in zip(instr.args, (0, 1), (15, 1024), strict=False):
        if "red" not in instr.mods and isinstance(operand, ast.Imm) and not (
            low <= operand.value <= high
        ):
            raise unsupported(instr, "there are barriers 0 to 15 of up to 1024 threads")
    return () if "red" in instr.mods else instr.args


def counted_in_registers(instrs: list[ast.Instr]) -> bool:
    """Whether registers say what the barriers of a kernel wait for, if that matters."""
    operands = [_operands(i) for i in instrs]
    if not any(len(o) > 1 for o in operands):
        return False  # without counts every thread comes to each of them
    return not all(isinstance(a, ast.Imm) for o in operands for a in o)


def barrier_of(instr: ast.Instr) -> tuple[int, int]:
    """(number, threads) of a barrier that constants describe; 0 threads is the whole block."""
    number, count, *_ = (*(a.value for a in _operands(instr) if isinstance(a, ast.Imm)), 0, 0)
    return number, count


def barrier_key(e: Emitter, instr: ast.Instr) -> Val:
    """What a thread waits for: the number of the barrier, and its count of threads from bit 8."""
    e.instr = instr
    number, count = (*(e.read(a, U32) for a in _operands(instr)), const(0, "i32"),
                     const(0, "i32"))[:2]
    number = e.b.binary("and", number, const(15, "i32"))
    return e.b.binary("or", number, e.b.binary("shl", count, const(8, "i32")))


def _arrive(e: Emitter, instr: ast.Instr) -> None:
    operands = _operands(instr)
    if len(operands) != 2:
        raise unsupported(instr, "no thread count")
    b = e.b
    slot = e.arrivals.get(barrier_of(instr)[0], "")
    if e.arrived:
        number = b.binary("and", e.read(operands[0], U32), const(15, "i32"))
        slot = b.name("at")
        b.line(f"{slot} = getelementptr i32, ptr {e.arrived}, i32 {number.text}")
    out = b.name("arrived")
    b.line(f"{out} = load i32, ptr {slot}")
    b.line(f"store i32 {b.binary('add', Val(out, 'i32'), const(1, 'i32')).text}, ptr {slot}")
