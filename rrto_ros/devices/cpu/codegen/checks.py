"""The code of `memcheck`: every access is looked up before it happens.

An access outside of what the thread may touch is reported (the first one is kept), goes to a
scratch line instead, and raises the stop flag, so that the launch ends.
"""

from __future__ import annotations

from rrto_ros.devices.cpu.codegen.builder import Val, const
from rrto_ros.devices.cpu.codegen.emitter import Emitter

REPORT_WORDS = 5
"""Words of a report: whether there is one, address (or offset in shared memory),
bytes | writes << 16 | shared << 17 | misaligned << 18 | line << 32, block, thread."""

TRAPPED = 2
"""First word of the report when a thread executed trap."""

MISALIGNED = 3
"""First word of the report when an access was not at a multiple of its size (no memcheck)."""

ASSERTED = 4
"""First word of the report when an assertion did not hold."""

BROKEN = 5
"""First word of the report when a thread came to a breakpoint."""

NO_ROOM = 6
"""First word of the report when a thread's stack had no room for an activation."""

NO_FUNCTION = 7
"""First word of the report when a thread called what is no function."""

TELL_MISALIGNED = f"""
  %odd_seen = load i64, ptr %odd
  %odd_none = icmp eq i64 %odd_seen, 0
  br i1 %odd_none, label %even, label %uneven, !prof !0
uneven:
  %odd_pair = cmpxchg ptr %report, i64 0, i64 {MISALIGNED} seq_cst seq_cst
  store volatile i8 1, ptr %stop
  br label %even
even:"""
"""At the end of the function: `%odd` collects what `Emitter.note_alignment` noted."""

HELPERS = """
define internal i1 @rrto_inside(ptr %table, i64 %count, i64 %address, i64 %size) {
entry:
  br label %loop
loop:
  %low = phi i64 [ 0, %entry ], [ %low2, %step ]
  %high = phi i64 [ %count, %entry ], [ %high2, %step ]
  %open = icmp ult i64 %low, %high
  br i1 %open, label %step, label %end
step:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
  %word = shl i64 %middle, 1
  %where = getelementptr i64, ptr %table, i64 %word
  %start = load i64, ptr %where
  %above = icmp ule i64 %start, %address
  %next = add i64 %middle, 1
  %low2 = select i1 %above, i64 %next, i64 %low
  %high2 = select i1 %above, i64 %high, i64 %middle
  br label %loop
end:
  %none = icmp eq i64 %low, 0
  br i1 %none, label %no, label %found
found:
  %index = sub i64 %low, 1
  %first = shl i64 %index, 1
  %second = or i64 %first, 1
  %at0 = getelementptr i64, ptr %table, i64 %first
  %at1 = getelementptr i64, ptr %table, i64 %second
  %begin = load i64, ptr %at0
  %stop = load i64, ptr %at1
  %length = sub i64 %stop, %begin
  %offset = sub i64 %address, %begin
  %fits = icmp ule i64 %size, %length
  %room = sub i64 %length, %size
  %good = icmp ule i64 %offset, %room
  %both = and i1 %fits, %good
  ret i1 %both
no:
  ret i1 false
}
define internal void @rrto_report(ptr %report, ptr %stop, i64 %address, i64 %what, i64 %block,
                                  i32 %thread) noinline {
entry:
  %pair = cmpxchg ptr %report, i64 0, i64 1 seq_cst seq_cst
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %write, label %end
write:
  %at1 = getelementptr i64, ptr %report, i64 1
  %at2 = getelementptr i64, ptr %report, i64 2
  %at3 = getelementptr i64, ptr %report, i64 3
  %at4 = getelementptr i64, ptr %report, i64 4
  %number = zext i32 %thread to i64
  store i64 %address, ptr %at1
  store i64 %what, ptr %at2
  store i64 %block, ptr %at3
  store i64 %number, ptr %at4
  br label %end
end:
  store volatile i8 1, ptr %stop
  ret void
}
"""


def checked(e: Emitter, pointer: Val, size: int, *, writes: bool) -> Val:
    """The pointer, or the scratch line if the thread may not access `size` bytes there."""
    if not e.memcheck:
        return pointer
    b = e.b
    address = b.cast("ptrtoint", pointer, "i64")
    good = _within(e, address, size, Val("%shared", "ptr"), Val("%f10", "i64"))
    out = b.name("in")
    b.line(f"{out} = call i1 @rrto_inside(ptr %ranges, i64 %f13, i64 {address.text}, i64 {size})")
    good = b.binary("or", good, Val(out, "i1"))
    if e.layout.local_bytes:
        good = b.binary(
            "or", good, _within(e, address, size, e.local, const(e.layout.local_bytes, "i64"))
        )
    if e.param_bytes:
        good = b.binary(
            "or",
            good,
            _within(e, address, size, Val("%params", "ptr"), const(e.param_bytes, "i64")),
        )
    if e.mask is not None:
        good = b.binary("or", good, b.binary("xor", e.mask, const(1, "i1")))
    shared = any(m.split("::")[0] == "shared" for m in e.instr.mods)
    what = const(size | int(writes) << 16 | int(shared) << 17 | e.instr.line << 32, "i64")
    if size > 1:
        low = b.binary("and", address, const(size - 1, "i64"))
        # An access outside of everything is named as that first.
        odd = b.binary("and", good, b.compare("icmp ne", low, const(0, "i64")))
        if e.mask is not None:
            odd = b.binary("and", odd, e.mask)
        good = b.binary("and", good, b.binary("xor", odd, const(1, "i1")))
        flag = b.binary("shl", b.resize(odd, "i64", False), const(18, "i64"))
        what = b.binary("or", what, flag)
    if shared:
        address = b.binary("sub", address, b.cast("ptrtoint", Val("%shared", "ptr"), "i64"))
    wrong, after = b.new_label("wrong"), b.new_label("right")
    b.line(f"br i1 {good.text}, label %{after}, label %{wrong}, !prof !0")
    b.label(wrong)
    b.line(
        f"call void @rrto_report(ptr %report, ptr %stop, i64 {address.text}, i64 {what.text}, "
        f"i64 %blk, i32 {e.special['linear'].text})"
    )
    b.line(f"br label %{after}")
    b.label(after)
    return b.select(good, pointer, Val("%scratch", "ptr"))


def _within(e: Emitter, address: Val, size: int, base: Val, length: Val) -> Val:
    """Whether [address, address + size) lies in [base, base + length)."""
    b = e.b
    offset = b.binary("sub", address, b.cast("ptrtoint", base, "i64"))
    fits = b.compare("icmp ule", const(size, "i64"), length)
    room = b.binary("sub", length, const(size, "i64"))
    return b.binary("and", fits, b.compare("icmp ule", offset, room))
