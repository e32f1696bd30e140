"""Profiles that are asked for by records: which calls are looked at, and how they then run.

Over 400 lines: every way in which calls come to an executor is here once.
"""

import random
import struct
import time
from hashlib import sha256

import pytest
from support.profiled_session import (
    BYTES,
    N,
    Session,
    announce,
    floats,
    profiled,
    told,
)

from rrto_ros.api.results import CUresult
from rrto_ros.execution import profile
from rrto_ros.wire.codec import OP_BY_NAME, iter_headers, pack_blob_ref, pack_call
from rrto_ros.wire.format import (
    FLAG_BLOB_REF,
    FLAG_REPLY,
    FLAG_WAITED,
    HEADER_BYTES,
    RESULT_BLOB_WANTED,
    RESULT_PROFILE,
    RESULT_SPECULATIVE,
    RESULT_STICKY,
)
from rrto_ros.wire.plan import Plan, Varying, pack_define
from rrto_ros.wire.profiles import MAX_CALLS
from rrto_ros.wire.reference import mark, pack_reference
from rrto_ros.wire.result_codec import iter_results
from rrto_ros.wire.templates import CallTemplate

ANSWERED = FLAG_REPLY | FLAG_WAITED


@pytest.fixture
def make(tmp_path):
    made = []

    def one(**options):
        made.append(Session(tmp_path, **options))
        return made[-1]

    yield one
    for session in made:
        session.close()


def results(data):
    return [(r.index, r.status, r.flags, bytes(r.payload)) for r in iter_results(data)]


def inference(s, data):
    """An upload, a row of launches and a fill, another call, one more row, an output."""
    return [
        ("memcpy_htod", {"dst": s.at(0), "stream": 0, "payload": data}),
        s.launch("add", 1, 0, 7),
        s.launch("scale", 1, 0, 0),
        ("memset", {"dst": s.at(5), "pitch": BYTES, "width": 9, "height": 1, "value": 7,
                    "element_bytes": 4, "stream": 0}),
        ("ctx_synchronize", {"context": 0}),
        s.launch("left", 2, 1, 0),
        s.launch("add", 7, 2, 5),
        ("memcpy_dtoh", {"src": s.at(7), "size": BYTES, "stream": 0}),
    ]  # fmt: skip


ROW_AT, SYNC_AT, OUT_AT, CALLS = 1, 4, 7, 8


def plan_of(calls):
    """The calls as a plan; the upload's content is a reference's payload."""
    out = []
    for name, fields in calls:
        record = pack_call(name, 1, **fields)
        size = next(iter_headers(record)).payload_bytes
        body = record[HEADER_BYTES : len(record) - (size + 7 & ~7)]
        out.append(CallTemplate(OP_BY_NAME[name].code, size, body))
    return Plan(tuple(out))


def refer(s, data, first=0, count=CALLS, **options):
    """A reference to calls of plan 1."""
    answered = {SYNC_AT: FLAG_REPLY, OUT_AT: ANSWERED}
    marks = [mark(k - first, flags) for k, flags in answered.items() if 0 <= k - first < count]
    index, s.index = s.index + 1, s.index + count
    return pack_reference(1, first, count, index, 1, marks, [], data if not first else b"",
                          **options)  # fmt: skip


def run_literally(s, calls):
    return b"".join(
        s.call(name, record_flags=ANSWERED if name == "memcpy_dtoh" else 0, **fields)
        for name, fields in calls
    )


def without_seconds(s, calls):
    """What is told of calls, with ranges counted from the session's memory on."""

    def own(spans):
        return tuple((start - s.base, end - s.base) for start, end in spans)

    return [(c.call, c.kind, c.name, own(c.reads), own(c.writes), own(c.covers), c.uploaded,
             c.constant, c.times) for c in calls]  # fmt: skip


def test_calls_of_references_are_looked_at_like_literal_ones_and_give_the_same(make):
    rnd = random.Random(1)
    rounds = [floats(rnd) for _ in range(3)]
    plain, literal, by_plan = make(), make(), make()
    by_plan.executor.execute(pack_define(1, plan_of(inference(by_plan, rounds[0]))))
    outs = []
    for data in rounds:
        want = run_literally(plain, inference(plain, data))
        announce(literal, CALLS)
        announce(by_plan, CALLS)
        assert run_literally(literal, inference(literal, data)) == want
        outs.append(by_plan.executor.execute(refer(by_plan, data)))
        assert outs[-1] == want
        assert plain.memory() == literal.memory() == by_plan.memory()
    found, also = told(literal, 1), told(by_plan, 1)
    assert not found.error
    assert without_seconds(literal, found.calls) == without_seconds(by_plan, also.calls)
    assert [c.call for c in found.calls] == list(range(CALLS))
    assert [c.name for c in found.calls] == [
        "memcpy_htod", "add", "scale", "memset", "ctx_synchronize", "left", "add", "memcpy_dtoh",
    ]  # fmt: skip
    assert all(c.times == 3 for c in found.calls + also.calls)
    assert not any(c.constant for c in found.calls)
    assert len(set(outs)) == 3, "the output depends on the input"
    counts = [s.executor.statistics()["calls"] for s in (plain, literal, by_plan)]
    assert len(set(counts)) == 1


def test_after_a_profile_rows_run_as_one_again(make):
    s = make()
    data = floats(random.Random(2))
    s.executor.execute(pack_define(1, plan_of(inference(s, data))))
    ran = []
    segment = s.device.prepare_segment
    s.device.prepare_segment = lambda calls: ran.append(len(calls)) or segment(calls)
    announce(s, CALLS)
    s.executor.execute(refer(s, data))
    assert ran == []
    s.executor.execute(refer(s, data))
    assert ran == [3, 2]
    assert [c.times for c in told(s, 1).calls] == [1] * CALLS


def test_only_calls_in_the_range_are_looked_at_though_it_begins_in_a_row(make):
    plain, s = make(), make()
    data = floats(random.Random(3))
    for one in (plain, s):
        one.executor.execute(pack_define(1, plan_of(inference(one, data))))
    announce(s, 4, first=s.index + 1 + ROW_AT + 1)
    assert s.executor.execute(refer(s, data)) == plain.executor.execute(refer(plain, data))
    assert s.memory() == plain.memory()
    assert [(c.call, c.name) for c in told(s, 1).calls] == [
        (0, "scale"), (1, "memset"), (2, "ctx_synchronize"), (3, "left")]  # fmt: skip


def test_executions_of_one_number_add_up_and_another_number_begins_anew(make):
    s = make()
    data = floats(random.Random(4))
    for _ in range(2):
        announce(s, CALLS, number=5)
        run_literally(s, inference(s, data))
    both = told(s, 5).calls
    assert [c.times for c in both] == [2] * CALLS
    assert [c.constant for c in both] == [True] + [False] * (CALLS - 1)
    assert both[0].uploaded == BYTES
    assert all(c.typical > 0 for c in both)
    announce(s, CALLS, number=5)
    run_literally(s, inference(s, data))
    announce(s, CALLS, number=6)
    run_literally(s, inference(s, data))
    assert [c.times for c in told(s, 6).calls] == [1] * CALLS


def test_executions_may_be_announced_before_they_come(make):
    s = make()
    data = floats(random.Random(5))
    for k in range(3):
        announce(s, CALLS, first=s.index + 1 + k * (CALLS + 1))
    for _ in range(3):
        run_literally(s, inference(s, data))
        s.call("ctx_synchronize", context=0)
    assert [c.times for c in told(s, 1).calls] == [3] * CALLS


def test_a_profile_is_over_when_it_was_told(make):
    s = make()
    announce(s, 9)
    s.call("ctx_synchronize", context=0)
    assert len(told(s, 1).calls) == 1
    s.call("ctx_synchronize", context=0)
    assert "profile 1 was not begun here" in told(s, 1).error
    announce(s, 9)
    assert told(s, 1).calls == []


@pytest.mark.parametrize("begun", [None, 3])
def test_a_profile_of_another_number_is_none_and_the_session_goes_on(make, begun):
    s = make()
    if begun:
        announce(s, 1, number=begun)
    out = s.executor.execute(pack_call("profile", 0, number=4, first=0, calls=0))
    ((index, status, flags, text),) = results(out)
    assert (index, status, flags) == (4, CUresult.INVALID_VALUE, RESULT_PROFILE)
    assert b"profile 4 was not begun here" in text
    s.call("ctx_synchronize", context=0)
    if begun:
        assert len(told(s, begun).calls) == 1


def test_a_profile_that_is_too_large_is_none(make, monkeypatch):
    s = make()
    monkeypatch.setattr("rrto_ros.wire.profiles.MAX_PIECES", 3)
    profiled_calls = inference(s, floats(random.Random(6)))
    announce(s, CALLS)
    run_literally(s, profiled_calls)
    assert "more than 3 pieces" in told(s, 1).error
    assert not s.executor.sticky


@pytest.mark.parametrize(
    "fields",
    [
        {"calls": MAX_CALLS + 1, "first": 9},
        {"calls": 1, "first": 0},
        {"calls": 2, "first": (1 << 64) - 2},
    ],
)
def test_calls_that_cannot_come_are_no_call_log(make, fields):
    s = make()
    out = s.executor.execute(pack_call("profile", 0, number=1, **fields))
    assert results(out)[0][1:3] == (CUresult.UNKNOWN, RESULT_STICKY)
    assert f"profile 1 of {fields['calls']} calls" in s.executor.malformed


def test_not_more_than_so_many_executions_are_announced(make, monkeypatch):
    monkeypatch.setattr(profile, "MOST_AHEAD", 2)
    s = make()
    for _ in range(2):
        announce(s, 1)
    s.call("ctx_synchronize", context=0)
    for k in range(2):
        announce(s, 1, first=s.index + 1 + k)
    assert not s.executor.malformed
    announce(s, 1, first=s.index + 3)
    assert "2 executions are announced" in s.executor.malformed


def test_a_session_in_error_answers_with_its_status(make):
    s = make()
    announce(s, 3)
    name, fields = s.launch("add", 1, 0, 2)
    fields["module"] = 99
    bad = pack_call(name, s.index + 1, **fields)
    ((_, status, flags, text),) = results(s.executor.execute(bad))
    assert (status, flags) == (CUresult.INVALID_HANDLE, RESULT_STICKY)
    assert announce(s, 1 << 31) == b"", "nothing is looked at any more"
    out = s.executor.execute(pack_call("profile", 0, number=1, first=0, calls=0))
    assert results(out) == [(1, status, RESULT_PROFILE, text)]


@pytest.mark.parametrize("looks", [False, True])
def test_a_launch_that_fails_in_a_row_fails_in_the_same_way(make, looks):
    outcomes = []
    for look in (False, looks):
        s = make()
        calls = inference(s, floats(random.Random(7)))[ROW_AT : ROW_AT + 3]
        plan = plan_of(calls)
        at = HEADER_BYTES + len(plan.calls[1].body) - 32
        s.executor.execute(pack_define(1, Plan(plan.calls, (Varying(1, at, 8),))))
        if look:
            announce(s, 3)
        s.device.launch = refusing(s.device.launch, s.at(6))
        s.device.prepare_segment = lambda calls: Refusing()
        out = s.executor.execute(pack_reference(1, 0, 3, s.index + 1, 1, [], [s.at(6)], b""))
        out += s.executor.execute(pack_call("ctx_synchronize", 9, record_flags=3, context=0))
        stats = s.executor.statistics()
        outcomes.append((results(out), stats["calls"], stats["skipped_calls"], stats["errors"]))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0][0][2] == RESULT_STICKY


def refusing(launch, address):
    """A device's launch that fails where its first argument is an address."""

    def fails(launched, stream):
        if struct.unpack_from("<Q", launched.params)[0] == address:
            raise profile.CudaError(CUresult.LAUNCH_FAILED, "refused")
        launch(launched, stream)

    return fails


class Refusing:
    """A row whose second call fails."""

    position = 1

    def run(self, *_):
        raise profile.CudaError(CUresult.LAUNCH_FAILED, "refused")


@pytest.mark.parametrize("looks", [False, True])
def test_nothing_is_guessed_while_calls_are_ahead(make, looks):
    s = make()
    data = floats(random.Random(8))
    s.executor.execute(pack_define(1, plan_of(inference(s, data))))
    s.executor.execute(refer(s, data))
    before = s.executor.statistics()["speculation_calls"]
    if looks:
        announce(s, CALLS)
    out = s.executor.execute(refer(s, data, 0, 4, speculative=4, worth_us=10_000))
    out += s.executor.execute(refer(s, data, 4, 4, speculative=0))
    pushed = [(r[0], r[1]) for r in results(out) if r[2] & RESULT_SPECULATIVE]
    answer = [r[3] for r in results(out) if r[0] == s.index and not r[1]]
    assert answer[-1] == bytes(s.device.memcpy_dtoh(s.at(7), BYTES, 0))
    guessed = s.executor.statistics()["speculation_calls"] - before
    if looks:
        assert (guessed, pushed) == (0, [(s.index - 3, CUresult.NOT_READY)])
        assert [c.times for c in told(s, 1).calls] == [1] * CALLS
    else:
        assert guessed > 0


def test_what_was_guessed_before_is_rolled_back_and_looked_at(make):
    plain, s = make(), make()
    data = floats(random.Random(9))
    for one in (plain, s):
        one.executor.execute(pack_define(1, plan_of(inference(one, data))))
        one.executor.execute(refer(one, data))
    plain.executor.execute(refer(plain, data))
    s.executor.execute(refer(s, data, 0, 4, speculative=4, worth_us=10_000))
    assert s.executor.statistics()["speculation_calls"] > 0
    announce(s, 4)
    s.executor.execute(refer(s, data, 4, 4))
    assert s.executor.statistics()["speculation_used"] == 0
    assert s.memory() == plain.memory()
    assert [(c.name, c.times) for c in told(s, 1).calls] == [
        ("ctx_synchronize", 1), ("left", 1), ("add", 1), ("memcpy_dtoh", 1)]  # fmt: skip


def test_an_upload_that_is_awaited_is_looked_at_once(make):
    s = make()
    data = floats(random.Random(10))
    announce(s, 1)
    ref = pack_blob_ref(sha256(data).digest(), len(data))
    s.index += 1
    record = pack_call("memcpy_htod", s.index, record_flags=FLAG_BLOB_REF, payload=ref,
                       dst=s.at(0), stream=0)  # fmt: skip
    assert results(s.executor.execute(record))[0][2] == RESULT_BLOB_WANTED
    s.executor.execute(pack_call("blob_data", s.index, payload=data))
    assert s.memory()[:BYTES] == data
    (call,) = told(s, 1).calls
    assert (call.times, call.uploaded, call.covers) == (1, BYTES, ((s.at(0), s.at(1)),))


def node(s, name, *buffers):
    fields = s.launch(name, *buffers)[1]
    del fields["stream"]
    return fields


def test_a_graph_whose_nodes_change_touches_what_any_of_them_did(make):
    plain, s = make(), make()
    data = floats(random.Random(11), 8 * N)
    for one in (plain, s):
        one.call("graph_create", graph=5)
        one.call("graph_add_kernel_node", graph=5, node=1, dependencies=[],
                 **node(one, "add", 1, 0, 2))  # fmt: skip
        one.call("graph_instantiate", graph_exec=6, graph=5)
        one.call("memcpy_htod", dst=one.base, stream=0, payload=data)
    for target in (1, 3):
        announce(s, 2)
        for one in (plain, s):
            one.call("graph_exec_kernel_node_set", graph_exec=6, node=1,
                     **node(one, "add", target, 0, 2))  # fmt: skip
            one.call("graph_launch", graph_exec=6, stream=0)
    assert s.memory() == plain.memory()
    changed, launched = told(s, 1).calls
    assert (changed.name, changed.reads, changed.writes) == (
        "graph_exec_kernel_node_set", (), ())  # fmt: skip
    assert (launched.name, launched.times) == ("add", 2)
    assert launched.writes == ((s.at(1), s.at(2)), (s.at(3), s.at(4)))
    assert launched.covers == ()


def test_a_graph_that_is_made_in_an_inference_is_made_once(make):
    s = make()
    calls = profiled(s, [
        ("graph_create", {"graph": 5}),
        ("graph_add_kernel_node",
         {"graph": 5, "node": 1, "dependencies": [], **node(s, "add", 1, 0, 2)}),
        ("graph_instantiate", {"graph_exec": 6, "graph": 5}),
        ("graph_launch", {"graph_exec": 6, "stream": 0}),
    ])  # fmt: skip
    assert [c.name for c in calls] == [
        "graph_create", "graph_add_kernel_node", "graph_instantiate", "add"]  # fmt: skip
    assert calls[1].writes == ()
    assert calls[3].covers == ((s.at(1), s.at(2)),)


def test_another_call_at_a_place_takes_the_place_of_the_one_before(make):
    s = make()
    announce(s, 1)
    name, fields = s.launch("add", 1, 0, 2)
    s.call(name, **fields)
    announce(s, 1)
    name, fields = s.launch("left", 3, 0, 2)
    s.call(name, **fields)
    (call,) = told(s, 1).calls
    assert (call.name, call.times, call.writes) == ("left", 1, ((s.at(3), s.at(4)),))


def test_a_kernel_that_is_looked_at_beside_is_known_later(make):
    s = make(beside=True)
    until = time.monotonic() + 60
    rounds = 0
    while time.monotonic() < until:
        announce(s, 1)
        name, fields = s.launch("add", 1, 0, 2)
        s.call(name, **fields)
        rounds += 1
        if s.executor.statistics()["kernels_known"]:
            break
        time.sleep(0.05)
    (first,) = told(s, 1).calls
    assert first.times == rounds
    announce(s, 1)
    s.call(name, **fields)
    (call,) = told(s, 1).calls
    assert call.covers == call.writes == ((s.at(1), s.at(2)),)


def test_a_machine_without_room_says_less_and_goes_on(make, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(profile, "covered", full)
    s = make()
    (call,) = profiled(s, [s.launch("add", 1, 0, 2)])
    assert (call.writes, call.covers) == (((s.at(1), s.at(2)),), ())
