"""Exchanges between the threads of a warp or block: shfl, vote, match, redux, bar.red.

Each is a place where threads wait: before it a thread offers its value in a buffer, and when all
have come it reads what the others offered. The buffer has two sides that swap at every step; what
the block combines has a buffer of its own, whose sides swap when the block goes on.

Who takes part is read from the threads' states: those that wait at the same place. A thread that
has exited does not (sm_70 and later: PTX manual, "Independent Thread Scheduling"), nor one that is
elsewhere. A thread that names members waits until all of them that live have come (`gate`).

Over 400 lines: all exchanges share the buffers and the rule of who takes part.
"""

from __future__ import annotations

from collections.abc import Callable

from rrto_ros.devices.cpu.codegen.builder import Builder, Val, const
from rrto_ros.devices.cpu.codegen.checks import checked
from rrto_ros.devices.cpu.codegen.emitter import B32, PRED, U32, Emitter, unsupported
from rrto_ros.devices.cpu.codegen.integer import type_of
from rrto_ros.devices.cpu.codegen.table import emits
from rrto_ros.devices.cpu.passes.cfg import BARRIER_OPS, YIELD, gives_result, is_warp_wide
from rrto_ros.devices.cpu.passes.layout import align_up
from rrto_ros.devices.cpu.ptx import ast
from rrto_ros.devices.cpu.ptx.types import TYPES, PtxType

_WARP = 32
DONE = 0x7FFFFFFF
"""The state of a thread that has ended."""

# Of each warp: which lanes wait at a region, and which live but are elsewhere.
HELPERS = f"""
define internal void @rrto_lanes(ptr %states, i32 %threads, i32 %region,
                                 ptr %here, ptr %away) #0 {{
entry:
  %one = insertelement <{_WARP} x i32> poison, i32 %region, i32 0
  %all = shufflevector <{_WARP} x i32> %one, <{_WARP} x i32> poison,
                       <{_WARP} x i32> zeroinitializer
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %next, %loop ]
  %at = getelementptr i32, ptr %states, i32 %i
  %state = load <{_WARP} x i32>, ptr %at, align 4
  %left = sub i32 %threads, %i
  %short = icmp ult i32 %left, {_WARP}
  %beyond = shl i32 -1, %left
  %room = xor i32 %beyond, -1
  %exist = select i1 %short, i32 %room, i32 -1
  %same = icmp eq <{_WARP} x i32> %state, %all
  %there = bitcast <{_WARP} x i1> %same to i32
  %live = icmp ne <{_WARP} x i32> %state, splat (i32 {DONE})
  %lives = bitcast <{_WARP} x i1> %live to i32
  %waits = and i32 %there, %exist
  %elsewhere = xor i32 %there, -1
  %apart = and i32 %lives, %elsewhere
  %missing = and i32 %apart, %exist
  %warp = lshr i32 %i, 5
  %here_at = getelementptr i32, ptr %here, i32 %warp
  store i32 %waits, ptr %here_at
  %away_at = getelementptr i32, ptr %away, i32 %warp
  store i32 %missing, ptr %away_at
  %next = add i32 %i, {_WARP}
  %more = icmp ult i32 %next, %threads
  br i1 %more, label %loop, label %end
end:
  ret void
}}
define internal i32 @rrto_combine(ptr %states, ptr %offered, i32 %threads) #0 {{
entry:
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %next, %loop ]
  %sum = phi i32 [ 0, %entry ], [ %more, %loop ]
  %state_at = getelementptr i32, ptr %states, i32 %i
  %state = load i32, ptr %state_at
  %live = icmp ne i32 %state, {DONE}
  %word_at = getelementptr i64, ptr %offered, i32 %i
  %word = load i64, ptr %word_at
  %bit = trunc i64 %word to i32
  %value = or i32 %bit, 65536
  %part = select i1 %live, i32 %value, i32 0
  %more = add i32 %sum, %part
  %next = add i32 %i, 1
  %again = icmp ult i32 %next, %threads
  br i1 %again, label %loop, label %end
end:
  ret i32 %more
}}
"""


def _offered_type(instr: ast.Instr) -> PtxType:
    if instr.op in ("mma", "stmatrix"):
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
    if instr.op == "stmatrix":
        return instr.args[1].items if isinstance(instr.args[1], ast.Vec) else (instr.args[1],)
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
    if instr.op == "ldmatrix":
        for word, part in enumerate(row_of_matrix(e, instr)):
            where = _slot(e, "exchange_out", e.special["linear"], word)
            b.line(f"store i64 {part.text}, ptr {where}")
        return
    kind = _offered_type(instr)
    for word, operand in enumerate(_offered(instr)):
        if kind is PRED and isinstance(operand, ast.Imm):
            value = const(operand.value, "i1")
        else:
            value = e.read(operand, kind)
        wide = b.resize(value, "i64", False)
        side = "exchange_out" if is_warp_wide(instr) else "combine_out"
        b.line(f"store i64 {wide.text}, ptr {_slot(e, side, e.special['linear'], word)}")


def _arrival(e: Emitter, phase: Val, target: int) -> Val:
    """A word that says which wait a thread came to, and when."""
    return e.b.binary("add", e.b.binary("shl", phase, const(32, "i64")), const(target + 1, "i64"))


def words_offered(instr: ast.Instr) -> int:
    """Words of the exchange buffer that an instruction needs for each thread."""
    if instr.op == "activemask":
        return 1
    if instr.op == "ldmatrix":
        return 2
    return len(_offered(instr))


def matrices(instr: ast.Instr) -> int:
    """How many matrices of 8 x 8 an ldmatrix loads, or an stmatrix stores."""
    known = {"sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "b16"}
    mods = [m for m in instr.mods if m.split("::")[0] != "shared"]
    count = next((int(m[1:]) for m in mods if m in ("x1", "x2", "x4")), 0)
    if not count or not set(mods) <= known or "m8n8" not in mods:
        raise unsupported(instr)
    return count


def row_of_matrix(e: Emitter, instr: ast.Instr) -> tuple[Val, Val]:
    """The 16 bytes that this lane's address names, if it is the address of a row.

    They are read before anyone goes on: behind ldmatrix the memory may be written again.
    """
    b = e.b
    space = "shared" if any(m.split("::")[0] == "shared" for m in instr.mods) else ""
    e.mask = b.compare("icmp ult", e.special_value("laneid"), const(8 * matrices(instr), "i32"))
    pointer = e.pointer(instr.args[1], space)
    e.look_at_alignment(instr.args[1], space, 16)
    pointer = checked(e, b.select(e.mask, pointer, Val("%scratch", "ptr")), 16, writes=False)
    e.mask = None
    words = []
    for offset in (0, 8):
        out = b.name("row")
        where = e.offset(pointer, const(offset, "i64"))
        b.line(f"{out} = load i64, ptr {where.text}, align 1")
        words.append(Val(out, "i64"))
    return words[0], words[1]


def _slot(e: Emitter, side: str, thread: Val, word: int) -> str:
    padded = align_up(e.threads, _WARP)
    base, where = e.b.name("x"), e.b.name("x")
    e.b.line(f"{base} = getelementptr i64, ptr %{side}, i32 {word * padded}")
    e.b.line(f"{where} = getelementptr i64, ptr {base}, i32 {thread.text}")
    return where


def take(e: Emitter, thread: Val, word: int = 0, side: str = "exchange_in") -> Val:
    """What another thread of the block offered."""
    out = e.b.name("x")
    e.b.line(f"{out} = load i64, ptr {_slot(e, side, thread, word)}")
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
    # From a lane that is not there the manual promises nothing: a thread gets its own value.
    there = b.binary("lshr", active_lanes(e), b.binary("and", source, const(31, "i32")))
    source = b.select(b.binary("and", good, b.resize(there, "i1", False)), source, lane)
    value = take(e, b.binary("add", warp_start(e), source))
    e.write(dest, b.resize(value, "i32", False), B32)
    e.write(in_range, good, PRED)


def member_mask(instr: ast.Instr) -> ast.Operand | None:
    """The lanes that a warp's wait is for; None if it waits for nobody in particular."""
    if instr.op in ("mma", "ldmatrix", "stmatrix"):
        return ast.Imm(-1)
    if instr.op in BARRIER_OPS:
        return instr.args[0] if "warp" in instr.mods and instr.args else None
    position = {"shfl": 4, "vote": 2, "match": 2, "redux": 2}.get(instr.op, len(instr.args))
    return instr.args[position] if "sync" in instr.mods and position < len(instr.args) else None


def keep_mask(e: Emitter, instr: ast.Instr, where: Callable[[], str]) -> None:
    """Stores whom a thread waits for, where only it knows, at the address of `where`."""
    mask = member_mask(instr)
    if mask is not None and not isinstance(mask, ast.Imm):
        e.instr = instr
        lanes = e.b.widen(e.read(mask, U32))
        e.b.line(f"store {e.b.arg(lanes)}, ptr {where()}, align 4")


def survey(b: Builder, instr: ast.Instr, region: int, threads: int) -> None:
    """Before a region's threads go on: who of each warp came, or what the block combines."""
    if instr.op == YIELD:
        return
    if is_warp_wide(instr):
        warps = -(-threads // _WARP)
        for name in ("here", "away"):
            b.allocas.append(f"  %{name}{region} = alloca [{warps} x i32]")
        b.line(
            f"call void @rrto_lanes(ptr %frames, i32 {threads}, i32 {region}, "
            f"ptr %here{region}, ptr %away{region})"
        )
    elif gives_result(instr):
        b.line(
            f"%combined{region} = call i32 @rrto_combine(ptr %frames, ptr %combine_in, "
            f"i32 {threads})"
        )


def absent_lanes(b: Builder, region: int, thread: Val) -> Val:
    """The lanes of a thread's warp that live and do not wait at this region."""
    return _of_warp(b, "away", region, thread)


def gate(e: Emitter, instr: ast.Instr, mask: Val, closed: str) -> None:
    """To `closed` unless all lanes of `mask` that live wait at this place.

    What the thread offered is offered again to those that come later. Where nobody can go on,
    which CUDA leaves undefined, all do (`%forced`).
    """
    b = e.b
    missing = b.binary("and", mask, absent_lanes(b, e.region, e.special["linear"]))
    came = b.compare("icmp eq", missing, const(0, "i32"))
    ready = b.binary("or", came, Val("%forced", "i1"))
    go, stay = b.new_label("go"), b.new_label("stay")
    b.line(f"br i1 {ready.text}, label %{go}, label %{stay}")
    b.label(stay)
    for word in range(words_offered(instr) if gives_result(instr) else 0):
        offered = take(e, e.special["linear"], word)
        b.line(
            f"store i64 {offered.text}, ptr {_slot(e, 'exchange_out', e.special['linear'], word)}"
        )
    b.line(f"br label %{closed}")
    b.label(go)


def _members(e: Emitter, instr: ast.Instr, position: int) -> Val:
    """The member mask, limited to threads that take part."""
    mask = const(-1, "i32")
    if "sync" in instr.mods:
        mask = e.read(instr.args[position], U32)
    return e.b.binary("and", mask, active_lanes(e))


def active_lanes(e: Emitter) -> Val:
    """One bit for each thread of this warp that came to this region with this thread."""
    return _of_warp(e.b, "here", e.region, e.special["linear"])


def _of_warp(b: Builder, what: str, region: int, thread: Val) -> Val:
    """What `survey` found about the warp of a thread."""
    where, lanes = b.name("of"), b.name("of")
    number = b.binary("lshr", thread, const(5, "i32"))
    b.line(f"{where} = getelementptr i32, ptr %{what}{region}, i32 {number.text}")
    b.line(f"{lanes} = load i32, ptr {where}")
    return Val(lanes, "i32")


def _warp_words(e: Emitter) -> str:
    """<32 x i64>: what each lane offered last, be it there or not (rows are padded)."""
    words = e.b.name("words")
    e.b.line(
        f"{words} = load <{_WARP} x i64>, ptr {_slot(e, 'exchange_in', warp_start(e), 0)}, align 8"
    )
    return words


def _lanes_that_offer(e: Emitter, value: Val) -> Val:
    """The lanes of the warp that offered this value, a bit for each."""
    b = e.b
    one, splat, same, bits = (b.name("same") for _ in range(4))
    vector = f"<{_WARP} x i64>"
    words = _warp_words(e)
    b.line(f"{one} = insertelement {vector} poison, i64 {value.text}, i32 0")
    b.line(
        f"{splat} = shufflevector {vector} {one}, {vector} poison, <{_WARP} x i32> zeroinitializer"
    )
    b.line(f"{same} = icmp eq {vector} {words}, {splat}")
    b.line(f"{bits} = bitcast <{_WARP} x i1> {same} to i32")
    return Val(bits, "i32")


def _ballot(e: Emitter) -> Val:
    """One bit for each thread of the warp: the predicate that it offered."""
    b = e.b
    low, bits = b.name("ballot"), b.name("ballot")
    # What an absent lane offered earlier may be any word: only its own bit is touched.
    b.line(f"{low} = trunc <{_WARP} x i64> {_warp_words(e)} to <{_WARP} x i1>")
    b.line(f"{bits} = bitcast <{_WARP} x i1> {low} to i32")
    return Val(bits, "i32")


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
    neutral = {
        "min": 0x7FFFFFFF if kind.signed else -1,
        "and": -1,
        "max": -0x80000000 if kind.signed else 0,
    }.get(operation, 0)
    vector = f"<{_WARP} x i32>"
    words, bits, counted, total = (b.name("redux") for _ in range(4))
    b.line(f"{words} = trunc <{_WARP} x i64> {_warp_words(e)} to {vector}")
    b.line(f"{bits} = bitcast i32 {members.text} to <{_WARP} x i1>")
    b.line(
        f"{counted} = select <{_WARP} x i1> {bits}, {vector} {words}, "
        f"{vector} splat (i32 {neutral})"
    )
    order = sign if operation in ("min", "max") else ""
    name = f"llvm.vector.reduce.{order}{operation}.v{_WARP}i32"
    b.declared[name] = f"declare i32 @{name}({vector})"
    b.line(f"{total} = call i32 @{name}({vector} {counted})")
    e.write(instr.args[0], Val(total, "i32"), kind)


@emits(
    "bar",
    "barrier",
    forms=".sync .red.popc .red.and .red.or .arrive .warp.sync .cta; every "
    "thread of the block takes part, or as many as an operand says; .red only of the whole "
    "block, in kernels without barriers of a part of it",
)
def block_barrier(e: Emitter, instr: ast.Instr) -> None:
    """bar.arrive is counted; bar.red combines the predicates of the block."""
    if "arrive" in instr.mods:
        _arrive(e, instr)
    if "red" not in instr.mods:
        return
    if e.arrivals or e.arrived or len(instr.args) > 3:
        raise unsupported(instr, "with barriers of a part of the block")
    b = e.b
    # Those that take part are in the upper half, those that offered a 1 in the lower.
    count = Val(f"%combined{e.region}", "i32")
    took_part = b.binary("lshr", count, const(16, "i32"))
    total = b.binary("and", count, const(0xFFFF, "i32"))
    if "popc" in instr.mods:
        e.write(instr.args[0], total, U32)
    elif "and" in instr.mods:
        result = b.compare("icmp eq", total, took_part)
        e.write(instr.args[0], result, PRED)
    else:
        e.write(instr.args[0], b.compare("icmp ne", total, const(0, "i32")), PRED)


def _operands(instr: ast.Instr) -> tuple[ast.Operand, ...]:
    """Which barrier, and for how many threads if that is said; none for .red of the block."""
    if instr.op == "barrier" and "cluster" in instr.mods:
        raise unsupported(instr)
    for operand, low, high in zip(instr.args, (0, 1), (15, 1024), strict=False):
        if (
            "red" not in instr.mods
            and isinstance(operand, ast.Imm)
            and not (low <= operand.value <= high)
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
    number, count = (
        *(e.read(a, U32) for a in _operands(instr)),
        const(0, "i32"),
        const(0, "i32"),
    )[:2]
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
