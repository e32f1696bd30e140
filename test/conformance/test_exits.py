"""Exchanges of warps and blocks, and barriers, where some threads have left by every way there is.

Threads that have exited take no part, whatever the member mask says (sm_70 and later). Each kernel
leaves, exchanges in every form, leaves again and exchanges again; a model in Python says what each
thread must have got.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

UNTOUCHED = 0xEEEEEEEE
HEAD = ".version 7.8\n.target sm_80\n.address_size 64\n"

# name -> (PTX that leaves its result in %r10; %r1 = tid, %r2 = the value, %p1 = its lowest bit),
# model(values of those there, their lanes, lane) of the warp, or of the block where "bar" is in it
EXCHANGES = {
    "all": (
        "vote.sync.all.pred %p2, %p1, -1; selp.u32 %r10, 1, 0, %p2;",
        lambda v, w, i: all(x & 1 for x in v),
    ),
    "any": (
        "vote.sync.any.pred %p2, %p1, -1; selp.u32 %r10, 1, 0, %p2;",
        lambda v, w, i: any(x & 1 for x in v),
    ),
    "uni": (
        "vote.sync.uni.pred %p2, %p1, -1; selp.u32 %r10, 1, 0, %p2;",
        lambda v, w, i: len({x & 1 for x in v}) == 1,
    ),
    "ballot": (
        "vote.sync.ballot.b32 %r10, %p1, -1;",
        lambda v, w, i: sum((x & 1) << lane for x, lane in zip(v, w, strict=True)),
    ),
    "old ballot": (
        "vote.ballot.b32 %r10, %p1;",
        lambda v, w, i: sum((x & 1) << lane for x, lane in zip(v, w, strict=True)),
    ),
    "old all": (
        "vote.all.pred %p2, %p1; selp.u32 %r10, 1, 0, %p2;",
        lambda v, w, i: all(x & 1 for x in v),
    ),
    "activemask": ("activemask.b32 %r10;", lambda v, w, i: sum(1 << lane for lane in w)),
    "match any": (
        "match.any.sync.b32 %r10, %r2, -1;",
        lambda v, w, i: sum(1 << lane for x, lane in zip(v, w, strict=True) if x == v[w.index(i)]),
    ),
    "match any wide": (
        "cvt.u64.u32 %rd9, %r2; match.any.sync.b64 %r10, %rd9, -1;",
        lambda v, w, i: sum(1 << lane for x, lane in zip(v, w, strict=True) if x == v[w.index(i)]),
    ),
    "match all": (
        (
            "match.all.sync.b32 %r10|%p2, %r2, -1; selp.u32 %r11, 0, 7, %p2; "
            "add.u32 %r10, %r10, %r11;"
        ),
        lambda v, w, i: sum(1 << lane for lane in w) if len(set(v)) == 1 else 7,
    ),
    "match all same": (
        "mov.u32 %r12, 5; match.all.sync.b32 %r10, %r12, -1;",
        lambda v, w, i: sum(1 << lane for lane in w),
    ),
    "add": ("redux.sync.add.u32 %r10, %r2, -1;", lambda v, w, i: sum(v)),
    "add s32": ("redux.sync.add.s32 %r10, %r2, -1;", lambda v, w, i: sum(v)),
    "min": ("redux.sync.min.u32 %r10, %r2, -1;", lambda v, w, i: min(v)),
    "min s32": ("redux.sync.min.s32 %r10, %r2, -1;", lambda v, w, i: min(v)),
    "max": ("redux.sync.max.u32 %r10, %r2, -1;", lambda v, w, i: max(v)),
    "max s32": ("neg.s32 %r11, %r2; redux.sync.max.s32 %r10, %r11, -1;", lambda v, w, i: -min(v)),
    "and": ("redux.sync.and.b32 %r10, %r2, -1;", lambda v, w, i: np.bitwise_and.reduce(v)),
    "or": ("redux.sync.or.b32 %r10, %r2, -1;", lambda v, w, i: np.bitwise_or.reduce(v)),
    "xor": ("redux.sync.xor.b32 %r10, %r2, -1;", lambda v, w, i: np.bitwise_xor.reduce(v)),
    # A lane that is not there gives nothing that the manual promises: only lanes that are count.
    "shfl idx": (
        "shfl.sync.idx.b32 %r10, %r2, 3, 31, -1;",
        lambda v, w, i: v[w.index(3)] if 3 in w else None,
    ),
    "shfl bfly": (
        "shfl.sync.bfly.b32 %r10|%p2, %r2, 1, 31, -1;",
        lambda v, w, i: v[w.index(i ^ 1)] if i ^ 1 in w else None,
    ),
    "shfl up": (
        "shfl.sync.up.b32 %r10, %r2, 2, 0, -1;",
        lambda v, w, i: (
            v[w.index(max(i - 2, i if i < 2 else 0))] if (i - 2 if i >= 2 else i) in w else None
        ),
    ),
    "shfl down": (
        "shfl.sync.down.b32 %r10, %r2, 4, 31, -1;",
        lambda v, w, i: (
            v[w.index(i + 4 if i + 4 < 32 else i)] if (i + 4 if i + 4 < 32 else i) in w else None
        ),
    ),
    "warp barrier": (
        (
            "st.shared.u32 [%r20], %r2; bar.warp.sync -1; xor.b32 %r11, %r20, 4; "
            "ld.shared.u32 %r10, [%r11]; bar.warp.sync -1;"
        ),
        lambda v, w, i: v[w.index(i ^ 1)] if i ^ 1 in w else None,
    ),
    "bar popc": ("barrier.cta.red.popc.u32 %r10, 0, %p1;", lambda v, w, i: sum(x & 1 for x in v)),
    "bar and": (
        "bar.red.and.pred %p2, 0, %p1; selp.u32 %r10, 1, 0, %p2;",
        lambda v, w, i: all(x & 1 for x in v),
    ),
    "bar or": (
        "bar.red.or.pred %p2, 0, %p1; selp.u32 %r10, 1, 0, %p2;",
        lambda v, w, i: any(x & 1 for x in v),
    ),
    "bar and same": (
        ("setp.eq.u32 %p3, %r1, %r1; bar.red.and.pred %p2, 0, %p3; selp.u32 %r10, 1, 0, %p2;"),
        lambda v, w, i: 1,
    ),
    "bar sync": (
        (
            "st.shared.u32 [%r20], %r2; bar.sync 0; xor.b32 %r11, %r20, 4; "
            "ld.shared.u32 %r10, [%r11]; barrier.sync 0;"
        ),
        lambda v, w, i: v[w.index(i ^ 1)] if i ^ 1 in w else None,
    ),
}

# name -> PTX that ends the thread if %p7, with the number of its place as {n}
WAYS = {
    "guarded ret": "@%p7 ret;",
    "guarded exit": "@%p7 exit;",
    "branch to the end": "@%p7 bra END;",
    "branch around": "@!%p7 bra STAY{n}; ret; STAY{n}:",
    "exit in a function": "selp.u32 %r15, 1, 0, %p7; {{ .param .b32 a; st.param.b32 [a], %r15; "
    "call leave, (a); }}",
    "in a loop": "mov.u32 %r16, 0; LOOP{n}: setp.eq.u32 %p8, %r16, 2; and.pred %p9, %p7, %p8; "
    "@%p9 exit; add.u32 %r16, %r16, 1; setp.lt.u32 %p8, %r16, 4; @%p8 bra LOOP{n};",
}
LEAVE_FUNCTION = """
.func leave(.param .b32 a) { .reg .b32 %r<2>; .reg .pred %p1; ld.param.b32 %r1, [a];
  setp.ne.u32 %p1, %r1, 0; @%p1 exit; ret; }
"""
ROUNDS = 2


def kernel(way: str) -> str:
    """Leaves, exchanges in every form, and that twice."""
    body = []
    for turn in range(ROUNDS):
        body.append(f"ld.global.u32 %r14, [%rd4+{4 * turn}]; setp.ne.u32 %p7, %r14, 0;")
        body.append(WAYS[way].format(n=turn))
        for text, _ in EXCHANGES.values():
            body.append(
                f"mov.u32 %r10, 0; {text} st.global.u32 [%rd6], %r10; add.s64 %rd6, %rd6, %rd7;"
            )
    return (
        HEAD
        + LEAVE_FUNCTION
        + """
.visible .entry k(.param .u64 values, .param .u64 leaving, .param .u64 out)
{
  .reg .pred %p<10>; .reg .b32 %r<24>; .reg .b64 %rd<10>; .shared .align 8 .b8 mem[4096];
  ld.param.u64 %rd1, [values]; ld.param.u64 %rd2, [leaving]; ld.param.u64 %rd3, [out];
  mov.u32 %r1, %tid.x; mov.u32 %r3, %ntid.x;
  mul.wide.u32 %rd5, %r1, 4; add.s64 %rd1, %rd1, %rd5; ld.global.u32 %r2, [%rd1];
  mul.wide.u32 %rd4, %r1, 8; add.s64 %rd4, %rd2, %rd4;
  add.s64 %rd6, %rd3, %rd5; mul.wide.u32 %rd7, %r3, 4;
  and.b32 %r4, %r2, 1; setp.ne.u32 %p1, %r4, 0;
  mov.u32 %r20, mem; shl.b32 %r21, %r1, 2; add.u32 %r20, %r20, %r21;
"""
        + "\n".join(body)
        + "\nEND: ret;\n}\n"
    )


def whole_warp(lanes, n):
    return (lanes >= 32) & (lanes < 64)


LEAVERS = {
    "nobody": (lambda t, n: t < 0, lambda t, n: t < 0),
    "the last ones": (lambda t, n: t >= n - 14, lambda t, n: t >= n - 20),
    "a whole warp": (whole_warp, lambda t, n: t == 0),
    "all but one": (lambda t, n: (t < 32) & (t != 5), lambda t, n: t % 32 == 31),
    "every other one": (lambda t, n: t % 2 == 1, lambda t, n: t % 4 == 2),
    "in the middle only": (lambda t, n: t < 0, lambda t, n: (t % 3 == 0) | (t > 40)),
    "everybody in the middle": (lambda t, n: t % 5 == 0, lambda t, n: t >= 0),
}
VALUES = {
    "odd": lambda t: np.full_like(t, 7),
    "mixed": lambda t: (t * 2654435761 >> 7) % 6 + 1,
    "even where they leave": lambda t: np.where(t % 2 == 0, 3, 2),
}


@functools.cache
def case(who, kind, threads):
    """(values, who leaves when, results by exchange and thread, which of these are undefined)."""
    tids = np.arange(threads, dtype=np.int64)
    values = np.ascontiguousarray(VALUES[kind](tids)).astype(np.uint32)
    leaving = np.stack([when(tids, threads) for when in LEAVERS[who]], 1).astype(np.uint32)
    out = np.full((ROUNDS * len(EXCHANGES), threads), UNTOUCHED, np.uint32)
    free = np.zeros(out.shape, bool)
    alive = np.ones(threads, bool)
    for turn in range(ROUNDS):
        alive &= leaving[:, turn] == 0
        for slot, (name, (_, model)) in enumerate(EXCHANGES.items(), turn * len(EXCHANGES)):
            wide = name.startswith("bar")
            for tid in np.flatnonzero(alive).tolist():
                first, last = (0, threads) if wide else (tid // 32 * 32, tid // 32 * 32 + 32)
                there = [t for t in np.flatnonzero(alive).tolist() if first <= t < last]
                got = model(
                    [int(values[t]) for t in there], [t - first for t in there], tid - first
                )
                if got is None:
                    free[slot, tid] = True
                else:
                    out[slot, tid] = int(got) & 0xFFFFFFFF
    return values, leaving, out, free


@pytest.fixture(scope="module")
def loaded(harness):
    return {}


@pytest.mark.parametrize(
    ("way", "threads"),
    [(way, threads) for way in WAYS for threads in (50, 96)]
    + [("guarded ret", 32), ("in a loop", 64)],
)
def test_threads_that_have_exited_take_no_part(harness, loaded, way, threads):
    if way not in loaded:
        loaded[way] = harness.load(kernel(way))
    for who in LEAVERS:
        for kind in VALUES:
            values, leaving, want, free = case(who, kind, threads)
            out = np.full(want.shape, UNTOUCHED, np.uint32)
            _, _, got = harness.launch(
                loaded[way], "k", (1, 1, 1), (threads, 1, 1), (values, leaving, out)
            )
            wrong = np.argwhere((got != want) & ~free)
            names = [list(EXCHANGES)[slot % len(EXCHANGES)] for slot, _ in wrong]
            assert not names, (who, kind, sorted(set(names)), wrong[:4].tolist())


SHRINKING = (
    HEAD
    + """
// Lanes leave the loop (not the kernel) at different turns; at each those left exchange.
.visible .entry k(.param .u64 turns, .param .u64 sums, .param .u64 votes)
{
  .reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %rd<8>; .shared .align 4 .b8 mem[4096];
  ld.param.u64 %rd1, [turns]; ld.param.u64 %rd2, [sums]; ld.param.u64 %rd3, [votes];
  mov.u32 %r1, %tid.x; mul.wide.u32 %rd4, %r1, 4; add.s64 %rd1, %rd1, %rd4;
  add.s64 %rd2, %rd2, %rd4; add.s64 %rd3, %rd3, %rd4; ld.global.u32 %r2, [%rd1];
  mov.u32 %r3, 0; mov.u32 %r4, -1; mov.u32 %r5, 0;
L: setp.lt.u32 %p1, %r3, %r2;
  vote.sync.ballot.b32 %r6, %p1, %r4;
  @!%p1 bra OUT;
  mov.u32 %r4, %r6;
  redux.sync.add.u32 %r7, %r1, %r4;
  add.u32 %r5, %r5, %r7; add.u32 %r3, %r3, 1; bra L;
OUT:
  mov.u32 %r8, mem; shl.b32 %r9, %r1, 2; add.u32 %r8, %r8, %r9; st.shared.u32 [%r8], %r5;
  bar.warp.sync -1;
  xor.b32 %r9, %r8, 124; ld.shared.u32 %r10, [%r9];
  setp.ne.u32 %p2, %r5, 0;
  vote.sync.ballot.b32 %r11, %p2, -1;
  st.global.u32 [%rd2], %r10; st.global.u32 [%rd3], %r11; ret;
}
"""
)


def test_those_who_come_early_wait_for_the_members_they_name(harness):
    loaded = harness.load(SHRINKING)
    rng = np.random.default_rng(4)
    for _ in range(6):
        turns = rng.integers(0, 9, 64).astype(np.uint32)
        tids = np.arange(64)
        sums = np.zeros(64, np.int64)
        for turn in range(9):
            for warp in (slice(0, 32), slice(32, 64)):
                left = turns[warp] > turn
                sums[warp][left] += tids[warp][left].sum()
        votes = np.repeat(
            [
                sum(int(s != 0) << i for i, s in enumerate(sums[w]))
                for w in (slice(0, 32), slice(32, 64))
            ],
            32,
        )
        zeros = np.zeros(64, np.uint32)
        _, got_sums, got_votes = harness.launch(
            loaded, "k", (1, 1, 1), (64, 1, 1), (turns, zeros, zeros)
        )
        assert got_sums.tolist() == sums[tids ^ 31].tolist()
        assert got_votes.tolist() == votes.tolist()


def test_what_a_warp_exchanges_meanwhile_does_not_disturb_the_blocks_reduction(harness):
    loaded = harness.load(
        HEAD
        + """
.visible .entry k(.param .u64 turns, .param .u64 out)
{ .reg .pred %p<3>; .reg .b32 %r<8>; .reg .b64 %rd<5>;
  ld.param.u64 %rd1, [turns]; ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd3, %r1, 4; add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3;
  ld.global.u32 %r2, [%rd1]; mov.u32 %r3, 0;
L: setp.ge.u32 %p1, %r3, %r2; @%p1 bra OUT;
  shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1; add.u32 %r3, %r3, 1; bra L;
OUT: and.b32 %r5, %r1, 1; setp.ne.u32 %p2, %r5, 0;
  barrier.cta.red.popc.u32 %r6, 0, %p2; st.global.u32 [%rd2], %r6; ret; }
"""
    )
    for first in range(6):
        turns = np.repeat([first, 3, 0], 32).astype(np.uint32)
        zeros = np.zeros(96, np.uint32)
        _, got = harness.launch(loaded, "k", (1, 1, 1), (96, 1, 1), (turns, zeros))
        assert got.tolist() == [48] * 96


@pytest.mark.parametrize("mask", ["-1", "%r7"], ids=["constant", "register"])
@pytest.mark.parametrize("threads", [64, 80])
def test_a_warps_barrier_waits_for_lanes_that_wait_elsewhere_first(harness, mask, threads):
    """Odd lanes come through a barrier of their own; no exchange keeps this from vector code."""
    loaded = harness.load(
        HEAD
        + """
.visible .entry k(.param .u64 masks, .param .u64 out)
{ .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<6>; .shared .align 4 .b8 mem[4096];
  ld.param.u64 %rd1, [masks]; ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd3, %r1, 4; add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3;
  ld.global.u32 %r7, [%rd1];
  mov.u32 %r2, mem; shl.b32 %r3, %r1, 2; add.u32 %r2, %r2, %r3;
  and.b32 %r4, %r1, 1; setp.eq.u32 %p1, %r4, 0; setp.gt.u32 %p2, %r1, 70; @%p2 exit;
  @%p1 bra MEET;
  bar.warp.sync 0xAAAAAAAA;
MEET:
  st.shared.u32 [%r2], %r1; bar.warp.sync MASK;
  xor.b32 %r5, %r2, 4; ld.shared.u32 %r6, [%r5]; st.global.u32 [%rd2], %r6; ret; }
""".replace("MASK", mask)
    )
    masks = np.full(threads, 0xFFFFFFFF, np.uint32)
    _, got = harness.launch(
        loaded, "k", (1, 1, 1), (threads, 1, 1), (masks, np.zeros(threads, np.uint32))
    )
    tids = np.arange(threads)
    alive = tids[tids < 70]
    assert got[: len(alive)].tolist() == (alive ^ 1).tolist()
