"""References by the shim: what they mean is what the program called, whatever the program does."""

import json
import struct
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.compiling import compile_c
from support.shim_peer import BATCHED, CASES, REPLAY, RPC, Peer, refuse
from support.shim_under_test import python

from rrto_ros.robot.replay.plan_entries import PlanEntry
from rrto_ros.wire.codec import iter_headers
from rrto_ros.wire.control import pack_control, pack_install, pack_settings
from rrto_ros.wire.format import HEADER_BYTES, RESULT_STICKY, pad8
from rrto_ros.wire.plan import Plan, Varying
from rrto_ros.wire.templates import CallTemplate

STEPS = CASES.parent / "steps.py"
INSTALLED, REMOVED, REFUSED = 1, 2, 3

INFERENCE = [
    ["upload", 0, 64, 1.5],
    ["launch", 0, 2.0],
    ["fill", 1, 7],
    ["launch", 0, 3.0, 1],
    ["copy", 1, 0],
    ["read", 1, 64],
]
SET_UP = 6
"""Calls before the first step."""


def played(steps, during=None, leaves=False, **settings):
    """Run steps against a peer; gives the peer and what the program printed last."""
    with Peer(**settings) as peer:
        program = peer.start([*python(), str(STEPS), "-"])
        try:
            program.stdin.write(json.dumps(steps) + "\n")
            program.stdin.flush()
            if during is not None:
                assert program.stdout.readline() == "ready\n"
                during(peer)
            out, said = program.communicate("go\n", timeout=60)
        finally:
            program.kill()
        assert program.returncode == 0, said
        assert peer.closed_sessions.acquire(timeout=10)
    if leaves:
        return peer, None
    return peer, json.loads(out.splitlines()[-1])


def template(record):
    """The call of a record."""
    header = next(iter_headers(record))
    end = header.size - pad8(header.payload_bytes)
    return CallTemplate(header.op, header.payload_bytes, record[HEADER_BYTES:end])


def plan_of(*rounds):
    """The plan of rounds of records that differ only in words; those words vary."""
    first, *others = [[template(r) for r in records] for records in rounds]
    calls, varying = [], []
    for k, call in enumerate(first):
        body = bytearray(call.body)
        for at in range(0, len(body), 8):
            if any(other[k].body[at : at + 8] != call.body[at : at + 8] for other in others):
                body[at : at + 8] = bytes(8)
                varying.append(Varying(k, HEADER_BYTES + at, 8))
        calls.append(CallTemplate(call.code, call.payload_bytes, bytes(body)))
    return Plan(tuple(calls), tuple(varying))


def recorded(steps):
    """The records of steps, as a run without plans makes them; the set-up's are left out."""
    return recorded_whole(steps)[SET_UP:]


def recorded_whole(steps):
    """All records of steps, as a run without plans makes them."""
    return played(steps)[0].calls


def cut(steps, *lengths):
    """Records of steps that were recorded in one run, by rounds of so many calls."""
    records = recorded(steps)
    out, at = [], 0
    for length in lengths:
        out.append(records[at : at + length])
        at += length
    return out


@pytest.fixture(scope="module")
def plan():
    """The plan of INFERENCE."""
    return plan_of(recorded(INFERENCE))


def compared(steps, plans, **settings):
    """Run steps with and without plans; insist that both mean the same; give the one with."""
    plain, wanted = played(steps)
    peer, got = played(steps, mode=REPLAY, plans=plans, **settings)
    assert got == wanted
    assert peer.calls == plain.calls
    return peer


def spans(peer):
    """(plan, first, count) of the references."""
    return [(r.plan, r.first, r.count) for r in peer.references]


def test_a_round_that_equals_the_plan_is_one_reference(plan):
    peer = compared(INFERENCE * 5, {1: plan})
    assert peer.taken == [(1, INSTALLED)]
    assert spans(peer) == [(1, 0, len(INFERENCE))] * 5
    assert all(r.flags == {5: 3} and not r.words for r in peer.references)


def test_words_that_vary_travel_and_everything_else_is_compared():
    def inference(value, factor, rest=3.0):
        return [["upload", 0, 64, value], ["launch", 0, factor], ["fill", 1, int(value)],
                ["launch", 0, rest], ["read", 0, 64]]  # fmt: skip

    values = [(1.0, 2.0), (3.0, 5.0), (1.0, 4.0)]
    plan = plan_of(*cut([s for v in values for s in inference(*v)], 5, 5, 5))
    assert plan.varying
    steps = [s for v in [(9.0, 1.5), (8.0, 2.5), (7.0, 0.5)] for s in inference(*v)]
    peer = compared([*steps, *inference(1.0, 1.0, rest=4.0)], {3: plan})
    assert spans(peer) == [(3, 0, 5)] * 3 + [(3, 0, 3), (3, 4, 1)]
    assert len({r.words for r in peer.references[:3]}) == 3


@pytest.mark.parametrize("place", range(len(INFERENCE)))
@pytest.mark.parametrize(
    "other", [["launch", 0, 9.0], ["fill", 2, 1], ["allocate", 100], ["read", 0, 60], None]
)
def test_a_deviation_ends_the_reference_before_it(plan, place, other):
    changed = [*INFERENCE[:place], *([other] if other else []), *INFERENCE[place + 1 :]]
    peer = compared([*INFERENCE, *changed, *INFERENCE], {1: plan})
    assert spans(peer)[0] == spans(peer)[-1] == (1, 0, 6)


def test_a_variant_takes_over_where_it_parts_from_the_plan():
    tail = [["launch", 2, 5.0], ["read", 2, 64]]
    other = [*INFERENCE[:3], *tail]
    first, second = cut(INFERENCE + other, len(INFERENCE), len(other))
    plans = {1: plan_of(first), 2: plan_of(second)}
    peer = compared([*INFERENCE, *other, *other, *INFERENCE, *other], plans)
    covered = sum(r.count for r in peer.references)
    assert covered == len(peer.calls) - SET_UP
    ends = [r for r in peer.references if r.first + r.count == len(other)]
    assert len(ends) == 3
    assert {(r.plan, r.first) for r in ends} <= {(2, 0), (2, 3)}


def test_a_plan_that_begins_alike_and_then_does_not_fit_is_tried_once():
    def inference(value, factor=3.0):
        return [["fill", 1, value], ["launch", 0, 2.0], ["launch", 0, factor], ["read", 0, 64]]

    first, second, third = cut([*inference(7), *inference(8), *inference(7, 9.0)], 4, 4, 4)
    plans = {1: plan_of(first, second), 2: plan_of(third)}
    peer = compared(inference(7) * 6, plans)
    assert spans(peer) == [(2, 0, 2), (1, 2, 2)] + [(1, 0, 4)] * 5


def test_a_large_upload_leaves_at_once_and_a_small_one_waits():
    size = 600_000
    steps = [["launch", 0, 2.0], ["upload", 0, 64, 4.0], ["upload", 1, size, 3.0],
             ["launch", 1, 2.0], ["wait"], ["read", 1, size]]  # fmt: skip
    once = [s for s in steps if s[0] != "wait"]
    plan = plan_of(*cut(once, 5))
    seen = []
    came = threading.Event()

    def on_call(call):
        if call.payload is not None and len(call.payload) == size:
            came.set()

    def during(peer):
        assert came.wait(10)
        seen.extend(spans(peer))

    plain, wanted = played(once)
    peer, got = played(steps, during, mode=REPLAY, plans={1: plan}, on_call=on_call)
    assert peer.calls == plain.calls
    assert got == wanted
    assert seen == [(1, 0, 3)]
    assert spans(peer) == [(1, 0, 3), (1, 3, 2)]


def test_an_upload_larger_than_a_piece_of_the_ring_is_referred_to_in_pieces():
    steps = [["upload", 0, 900_000, 2.0], ["launch", 0, 2.0], ["read", 0, 900_000]]
    rings = {"call_bytes": 1 << 18, "reply_bytes": 1 << 18}
    plain, wanted = played(steps * 3, **rings)
    each = (len(plain.calls) - SET_UP) // 3
    plan = plan_of(plain.calls[SET_UP : SET_UP + each])
    peer, got = played(steps * 3, mode=REPLAY, plans={1: plan}, **rings)
    assert got == wanted
    assert peer.calls == plain.calls
    assert sum(r.count for r in peer.references) == 3 * each


def test_a_copy_to_pinned_memory_runs_on_and_the_memory_waits_for_it():
    steps = [["upload", 0, 64, 3.0], ["launch", 0, 2.0, 1], ["read_later", 0, 64],
             ["free_pinned"], ["read_later", 0, 64], ["sync"], ["mark"]]  # fmt: skip
    plan = plan_of(*cut(steps, 7))
    peer = compared(steps * 3, {1: plan})
    assert sum(r.count for r in peer.references) == 21
    assert (1, 0, 3) in spans(peer)  # to free the memory, its copy had to be waited for


def test_a_plan_that_ends_with_work_leaves_without_another_call():
    steps = [["launch", 0, 2.0], ["launch", 0, 3.0]]
    plan = plan_of(*cut(steps, 2))
    came = threading.Event()
    seen = []

    def on_call(call):
        if call.op.name == "launch" and len(peer_calls) < 2:
            peer_calls.append(call.index)
            if len(peer_calls) == 2:
                came.set()

    peer_calls = []
    peer, _ = played(
        [*steps, ["wait"]],
        during=lambda p: seen.append(came.wait(10)),
        mode=REPLAY,
        plans={1: plan},
        on_call=on_call,
    )
    assert seen == [True]
    assert spans(peer) == [(1, 0, 2)]


def test_a_slow_walk_leaves_in_parts(plan):
    # Longer than the time after which a reference leaves, and enough calls to look at the clock.
    steps = [["launch", 0, 2.0]] * 200 + [["read", 0, 64]]
    plan = plan_of(*cut(steps, 201))
    wanted, _ = played(steps)

    def parts(flush_us):
        def during(peer):
            peer.writers[0].write([pack_settings(apart=False, flush_us=flush_us)])

        peer, _ = played([["wait"], *steps], during, mode=REPLAY, plans={1: plan})
        assert peer.calls == wanted.calls
        return len(peer.references)

    assert parts(1) > 5
    assert parts(60_000_000) == 1


def test_what_the_program_called_before_it_ended_is_sent():
    steps = [["launch", 0, 2.0], ["launch", 0, 3.0], ["read", 0, 64]]
    plan = plan_of(*cut(steps, 3))
    peer = compared([*steps, *steps[:2]], {1: plan})
    assert spans(peer) == [(1, 0, 3), (1, 0, 2)]


def test_a_program_that_is_killed_keeps_what_it_had_waited_for():
    steps = [["launch", 0, 2.0], ["launch", 0, 3.0], ["read", 0, 64]]
    plan = plan_of(*cut(steps, 3))
    peer, _ = played([*steps, *steps[:2], ["leave"]], leaves=True, mode=REPLAY, plans={1: plan})
    assert spans(peer) == [(1, 0, 3)]
    assert len(peer.calls) == SET_UP + 3


def test_a_forked_child_sends_nothing_of_its_parents_reference(plan):
    steps = [*INFERENCE, *INFERENCE[:3], ["fork"], *INFERENCE[3:]]
    peer, _ = played(steps, mode=REPLAY, plans={1: plan})
    assert spans(peer) == [(1, 0, 6)] * 2
    assert peer.calls == recorded_whole([s for s in steps if s != ["fork"]])


# ---- threads


def test_a_call_of_another_thread_ends_the_reference(plan):
    steps = [*INFERENCE, *INFERENCE[:3], ["elsewhere", ["fill", 2, 3]], *INFERENCE[3:]]
    peer = compared(steps * 2, {1: plan})
    assert spans(peer) == [(1, 0, 6), (1, 0, 3), (1, 3, 3)] * 2


def test_a_plan_may_go_from_thread_to_thread():
    steps = [*INFERENCE[:3], ["elsewhere", *INFERENCE[3:]]]
    plan = plan_of(*cut(steps, 6))
    peer = compared(steps * 2, {1: plan})
    assert [(r.first, r.count) for r in peer.references] == [(0, 3), (3, 3)] * 2
    assert [r.thread for r in peer.references] == [1, 2, 1, 3]


def test_threads_with_places_of_their_own_do_not_disturb_each_other():
    one = [["upload", 0, 64, 1.0], ["launch", 0, 2.0], ["launch", 0, 2.5], ["read", 0, 64]]
    two = [["upload", 1, 64, 2.0], ["fill", 2, 5], ["launch", 1, 3.0], ["read", 1, 64]]
    first, second = cut(one + two, 4, 4)
    plans = {1: plan_of(first), 2: plan_of(second)}
    rounds = 40
    steps = [["beside", one * rounds, two * rounds]]
    peer, _ = played(steps, mode=REPLAY, plans=plans, apart=True)
    assert [next(iter_headers(c)).index for c in peer.calls] == list(
        range(1, SET_UP + 8 * rounds + 1)
    )
    by_thread = {}
    for record in peer.calls[SET_UP:]:
        by_thread.setdefault(next(iter_headers(record)).thread, []).append(template(record))
    wanted = [[template(r) for r in first] * rounds, [template(r) for r in second] * rounds]
    assert sorted(by_thread.values(), key=str) == sorted(wanted, key=str)
    assert sum(r.count for r in peer.references) == 8 * rounds
    for ref in peer.references:
        assert ref.first + ref.count <= 4


# ---- plans come and go


def test_a_plan_that_is_removed_in_the_middle_of_it_is_not_referred_to_again(plan):
    index = SET_UP + 2 * 7 + 4  # in the third round

    def on_call(call):
        # The read in the middle: its answer comes after the removal.
        if call.index == index:
            peers[0].tell({})

    peers = []
    round_ = [*INFERENCE[:3], ["read", 0, 64], *INFERENCE[3:]]
    plain = plan_of(*cut(round_, 7))
    with Peer(mode=REPLAY, plans={5: plain}, on_call=on_call) as peer:
        peers.append(peer)
        program = peer.start([*python(), str(STEPS), "-"])
        _, said = program.communicate(json.dumps(round_ * 5) + "\n", timeout=60)
        assert program.returncode == 0, said
        assert peer.closed_sessions.acquire(timeout=10)
        assert not peer.shim_plans.holds(5)
    assert peer.taken == [(5, INSTALLED), (5, REMOVED)]
    assert max(r.index + r.count - 1 for r in peer.references) == index
    assert peer.calls == played(round_ * 5)[0].calls


def test_a_number_may_mean_another_plan_once_it_was_given_back(plan):
    other = [["launch", 2, 5.0], ["launch", 2, 6.0], ["read", 2, 64]]
    first, second = cut(INFERENCE + other, 6, 3)
    steps = [*(INFERENCE * 2), ["wait"], *INFERENCE, *other, *other, ["allocate", 64], *other]
    given_back = threading.Event()

    def on_call(call):
        if peers and not given_back.is_set() and not peers[0].shim_plans.holds(1):
            given_back.set()
            peers[0].tell({1: plan_of(second)})

    peers = []

    def during(peer):
        peers.append(peer)
        peer.tell({})

    peer, _ = played(steps, during, mode=REPLAY, plans={1: plan_of(first)}, on_call=on_call)
    assert peer.taken == [(1, INSTALLED), (1, REMOVED), (1, INSTALLED)]
    assert peer.calls == played([s for s in steps if s != ["wait"]])[0].calls
    assert spans(peer)[-1] == (1, 0, 3)
    assert spans(peer)[:2] == [(1, 0, 6)] * 2


@pytest.mark.parametrize("mode", [RPC, BATCHED])
def test_another_mode_ends_the_walk_at_the_next_call(plan, mode):
    def switched(peer):
        peer.rings[0].set_mode(mode)

    steps = [*INFERENCE, *INFERENCE[:3], ["wait"], *INFERENCE[3:], *INFERENCE]
    peer, _ = played(steps, switched, mode=REPLAY, plans={1: plan})
    assert spans(peer) == [(1, 0, 6), (1, 0, 3)]
    plain = recorded([s for s in steps if s != ["wait"]])
    assert [template(c) for c in peer.calls[SET_UP:]] == [template(c) for c in plain]
    later = [next(iter_headers(c)).flags for c in peer.calls[SET_UP + 9 :]]
    assert all(flags == 3 for flags in later) == (mode == RPC)


def test_without_replay_mode_plans_are_taken_and_rest(plan):
    peer, _ = played(INFERENCE * 3, mode=BATCHED, plans={1: plan})
    assert peer.taken == [(1, INSTALLED)]
    assert not peer.references


def broken_plans(good):
    """Bytes that are nearly a plan."""
    count, varying = struct.unpack_from("<II", good, 40)
    tail = len(good) - 12 * varying
    yield b""
    yield good[:47]
    yield good[:-1]
    yield good + bytes(8)
    yield b"x" + good[1:]
    yield good[:4] + b"\2" + good[5:]
    yield good[:9] + bytes([good[9] ^ 1]) + good[10:]
    for calls in (0, count + 1, 32769, 1 << 31):
        yield good[:40] + struct.pack("<I", calls) + good[44:]
    for ranges in (varying + 1, 4097, (1 << 32) - 1):
        yield good[:44] + struct.pack("<I", ranges) + good[48:]
    for size in (7, 1 << 20, (1 << 32) - 8):
        yield good[:56] + struct.pack("<I", size) + good[60:]
    for bad in ((count, 24, 8), (0, 16, 8), (0, 24, 4), (0, 28, 8), (0, 24, 0), (1, 24, 1 << 20),
                (1, 1 << 20, 8), (1, (1 << 32) - 8, 16), (1, 24, 8)):  # fmt: skip
        yield good[:tail] + struct.pack("<III", *bad) + good[tail + 12 :]
    yield good[:tail] + good[tail + 12 :] + good[tail : tail + 12]


def test_bytes_that_are_no_plan_are_refused_and_the_program_goes_on():
    def inference(a, b):
        return [["launch", 0, a], ["fill", 1, 5], ["launch", 0, b], ["read", 0, 64]]

    steps = inference(1.0, 2.0) + inference(3.0, 4.0)
    plan = plan_of(*cut(steps, 4, 4))
    assert len(plan.varying) == 2
    bad = [b for b in broken_plans(plan.encoded) if b]
    said = []

    def during(peer):
        out = [pack_control(7, 1), pack_control(1), pack_control(2, 99), pack_control(2, 1 << 31)]
        for number, data in enumerate(bad, 1):
            out += pack_install(number, data, 80)
        out += pack_install(0, plan.encoded) + pack_install(65, plan.encoded)
        out.append(pack_control(1, 50, 1 << 30, 0, content=bytes(64)))  # too large
        out.append(pack_control(1, 51, 128, 64, content=bytes(64)))  # begins in the middle
        out.append(pack_control(1, 52, 64, 0, content=bytes(128)))  # more than it said
        out += pack_install(60, plan.encoded, 40)
        out += pack_install(60, plan.encoded)  # a number that is taken
        peer.shim_plans.taken = lambda view, header: said.append(peer.taken[-1])
        peer.shim_plans.tell(
            {60: PlanEntry(60, plan)}, apart=False
        )  # said once more below, in small pieces
        peer.define(60, plan)
        peer.writers[0].write(out)

    peer, got = played([["wait"], *steps], during, mode=REPLAY)
    assert got == played(steps)[1]
    refused = [number for number, state in said if state == REFUSED]
    assert refused == [0, *range(1, len(bad) + 1), 0, 65, 50, 51, 52, 60]
    assert [s for s in said if s[1] == INSTALLED] == [(60, INSTALLED)]
    assert spans(peer) == [(60, 0, 4)] * 2


# ---- limits


def test_references_that_outgrow_the_rings_and_buffers_are_cut():
    steps = [["launch", 0, 1.0 + k % 7] for k in range(300)]
    steps += [["upload", 1, 1000, float(k)] for k in range(100)] + [["read", 0, 64]]
    other = [["launch", 0, 9.0 - k % 5] for k in range(300)] + steps[300:]
    plan = plan_of(*cut(steps + other, 401, 401))
    assert len(plan.varying) > 250
    for call_bytes in (1 << 14, 1 << 22):
        rings = {"call_bytes": call_bytes, "reply_bytes": 1 << 18}
        plain, wanted = played(steps + other, **rings)
        peer, got = played(steps + other, mode=REPLAY, plans={1: plan}, **rings)
        assert got == wanted
        assert peer.calls == plain.calls
        assert sum(r.count for r in peer.references) == 802
        assert len(peer.references) < 60


def test_a_session_that_ends_while_a_reference_is_answered_ends_the_program_with_its_error(plan):
    def on_call(call):
        if call.index <= SET_UP:
            return None
        if call.op.name == "memcpy_dtoh":
            peer.rings[0].set_state(999)
        return b""

    with Peer(mode=REPLAY, plans={1: plan}, on_call=on_call) as peer:
        program = peer.start([*python(), str(STEPS), json.dumps(INFERENCE)])
        _, said = program.communicate(timeout=60)
    assert program.returncode != 0
    assert "cuMemcpyDtoH_v2 returned 999" in said


def test_a_failure_in_a_reference_is_sticky_and_names_the_call(plan):
    def on_call(call):
        if call.index <= SET_UP:
            return None
        if call.op.name == "launch":
            return refuse(call, 700, b"launch of scale: address 0", RESULT_STICKY)
        return refuse(call, 700) if call.reply else b""

    with Peer(mode=REPLAY, plans={1: plan}, on_call=on_call) as peer:
        program = peer.start([*python(), str(STEPS), json.dumps(INFERENCE)])
        _, said = program.communicate(timeout=60)
        assert spans(peer) == [(1, 0, 6)]
    assert "cuMemcpyDtoH_v2 returned 700" in said
    assert f"call #{SET_UP + 2} failed: launch of scale: address 0" in said


# ---- anything

SMALL = st.sampled_from(
    [
        ["upload", 0, 64, 1.0], ["upload", 0, 64, 2.0], ["upload", 1, 5000, 3.0],
        ["launch", 0, 2.0], ["launch", 0, 3.0], ["launch", 1, 2.0, 1], ["fill", 1, 7],
        ["copy", 1, 0], ["read", 0, 64], ["read", 1, 64], ["read_later", 0, 64], ["sync"],
        ["mark"], ["allocate", 64], ["free"], ["elsewhere", ["fill", 2, 1], ["read", 2, 64]],
    ]
)  # fmt: skip


@settings(max_examples=25, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(
    st.lists(st.lists(SMALL, min_size=3, max_size=12), min_size=1, max_size=3),
    st.data(),
)
def test_any_program_means_the_same_with_any_plans(sequences, data):
    steps = []
    for _ in range(data.draw(st.integers(2, 8))):
        chosen = data.draw(st.sampled_from(sequences))
        change = data.draw(st.sampled_from(["none", "none", "insert", "cut", "swap"]))
        at = data.draw(st.integers(0, len(chosen) - 1))
        if change == "insert":
            chosen = [*chosen[:at], data.draw(SMALL), *chosen[at:]]
        elif change == "cut":
            chosen = chosen[:at]
        elif change == "swap":
            chosen = [*chosen[:at], data.draw(SMALL), *chosen[at + 1 :]]
        steps += chosen
    plain, wanted = played(steps)
    records = plain.calls[SET_UP:]
    plans = {}
    for number in range(1, data.draw(st.integers(1, 4)) + 1):
        if len(records) > 2:
            first = data.draw(st.integers(0, len(records) - 2))
            last = data.draw(st.integers(first + 1, min(len(records), first + 30)))
            plan = plan_of(records[first:last])
            if plan.digest not in {p.digest for p in plans.values()}:
                plans[number] = plan
    peer, got = played(steps, mode=REPLAY, plans=plans)
    assert got == wanted
    assert peer.calls == plain.calls
    if records and plans:
        assert peer.references


# ---- what it costs


def test_a_replayed_call_allocates_nothing(tmp_path):
    program = compile_c(CASES.parent / "allocations.c", tmp_path / "allocations")
    rounds = 4

    def run(**settings):
        with Peer(**settings) as peer:
            process = peer.start([str(program), str(rounds)])
            out, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
            assert peer.closed_sessions.acquire(timeout=10)
        each, total = out.splitlines()
        assert int(total) > 0, "the counting does not work"
        return peer, [int(count) for count in each.split()]

    plain, _ = run()
    set_up = len(plain.calls) - 202 * rounds
    plan = plan_of(plain.calls[set_up : set_up + 202])
    peer, allocated = run(mode=REPLAY, plans={1: plan})
    assert peer.calls == plain.calls
    assert sum(r.count for r in peer.references) == 202 * rounds
    assert allocated == [0] * rounds
