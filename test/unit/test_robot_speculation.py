"""Speculative execution: the program gets what plain execution gives, from fewer exchanges."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.speculation_loop import PTX, Loop, Machine, plain, records
from support.synthetic import Call, Program, interleave

from rrto_ros.api.results import CUresult
from rrto_ros.errors import ProtocolError
from rrto_ros.execution.executor import Executor
from rrto_ros.robot import batch, outgoing
from rrto_ros.robot.matcher import Matcher
from rrto_ros.robot.replay import open_reference, reference_writer
from rrto_ros.robot.replay.open_reference import OpenReference
from rrto_ros.robot.replay.plan_entries import PlanEntries
from rrto_ros.robot.replay.speculation import Speculation
from rrto_ros.wire.codec import OP_BY_NAME, iter_headers, pack_call
from rrto_ros.wire.format import (
    FLAG_REPLY,
    FLAG_SPECULATIVE,
    FLAG_WAITED,
    RESULT_ROLLED_BACK,
    RESULT_SPECULATIVE,
)
from rrto_ros.wire.plan import Plan, pack_define
from rrto_ros.wire.reference import mark, pack_reference
from rrto_ros.wire.result_codec import iter_results, pack_result
from rrto_ros.wire.templates import CallTemplate

HTOD = OP_BY_NAME["memcpy_htod"].code
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
SETTING = pytest.mark.parametrize("run_ahead", ["off", "reads", "auto"])


class Cascade:
    """A model that reads, goes on with kernels, and reads again.

    Args:
        program: Where its calls go.
        rng: Chooses its shape.
        module: Handle.
    """

    def __init__(self, program, rng, module=10):
        self.p, self.module = program, module
        program.load_module(module, PTX)
        self.buffers = [program.alloc(rng.choice([64, 256, 4096])) for _ in range(4)]
        self.x = program.alloc(256)
        self.count = 0
        self.shape = []
        for _ in range(rng.randint(1, 4)):
            self.shape += [("work", rng.randint(1, 4)), ("reads", rng.randint(1, 3))]
        self.shape += [("work", 2)] * rng.randint(0, 1)
        self.seed = rng.randrange(1 << 30)

    def infer(self):
        p, rng = self.p, random.Random(self.seed)
        self.count += 1
        p.upload(self.x, bytes([self.count & 255]) * 256)
        for kind, count in self.shape:
            for _ in range(count):
                if kind == "reads":
                    self.read(rng)
                else:
                    self.work(rng)

    def work(self, rng):
        p, (a, b) = self.p, rng.sample(self.buffers, 2)
        kind = rng.random()
        if kind < 0.7:
            p.launch(self.module, rng.randrange(16), rng.choice([a, self.x]), b, self.x)
        elif kind < 0.8:
            p.fill(b, 64, rng.randrange(256))
        elif kind < 0.9:
            p.call("memcpy_dtod", dst=b, src=a, size=64, stream=0)
        else:
            p.call("event_record", event=1, stream=0)

    def read(self, rng):
        p, kind = self.p, rng.random()
        if kind < 0.7:
            p.download(rng.choice(self.buffers), rng.choice([8, 64]))
        elif kind < 0.9:
            p.call("stream_synchronize", stream=0)
        else:
            p.call("event_query", event=1)


def wandering(rng, rounds=20, part=0):
    """A program of such models that leaves its path in every way there is.

    Args:
        rng: Chooses what it does.
        rounds: Inferences.
        part: Programs of other parts share no memory and no module with it.
    """
    p = Program()
    p._heap += part << 24
    models = [Cascade(p, rng, 10 + 10 * part + i) for i in range(rng.randint(1, 2))]
    faulty = rng.choice([0.0, 0.1, 0.4])
    for _ in range(rounds):
        m = rng.choice(models) if rng.random() < 0.2 else models[0]
        before = len(p.calls)
        m.infer()
        if rng.random() >= faulty:
            continue
        calls = p.calls[before:]
        del p.calls[before:]
        at = rng.randrange(len(calls))
        kind = rng.choice(
            ["changed", "missing", "stop", "alloc", "free", "twice", "upload", "read", "write"]
        )
        extra = None
        if kind == "changed":
            c = calls[at]
            fields = dict(c.fields)
            if "params" in fields:
                a, b, rest = fields["params"][:8], fields["params"][8:16], fields["params"][16:]
                fields["params"] = b + a + rest
            elif c.name == "memcpy_dtoh":
                fields["size"] //= 2
            elif "value" in fields:
                fields["value"] ^= 1
            calls[at] = Call(c.name, fields, c.payload, c.thread)
        elif kind == "missing":
            del calls[at]
        elif kind == "stop":
            del calls[at:]
        elif kind == "twice":
            calls.insert(at, calls[at])
        elif kind == "alloc":
            address = 1 << 33 | rng.randrange(1 << 20) << 9
            extra = Call("mem_alloc", {"address": address, "size": 64, "stream": 0})
        elif kind == "free":
            # Rarely, for the session is in error if it is used again.
            if rng.random() < 0.2:
                extra = Call("mem_free", {"address": m.buffers[3], "stream": 0})
        elif kind == "upload":
            extra = Call("memcpy_htod", {"dst": rng.choice(m.buffers), "stream": 0}, b"\7" * 64)
        elif kind == "read":
            extra = Call("memcpy_dtoh", {"src": m.buffers[0], "size": 8, "stream": 0})
        else:
            # Of another thread, between two calls of this one.
            extra = Call("memcpy_htod", {"dst": m.buffers[1], "stream": 0}, b"\1" * 8, 2)
        if extra is not None:
            calls.insert(at, extra)
        p.calls += calls
    return p


@SETTING
@SETTINGS
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_program_does_it_gets_the_results_of_plain_execution(run_ahead, seed):
    rng = random.Random(seed)
    calls = records(wandering(rng))
    loop = Loop(rng, run_ahead, busy=rng.choice([0.0, 0.3]), drop_after=rng.choice([1, 16]))
    modes = ("replay",) if rng.random() < 0.7 else ("replay", "batched", "rpc")
    assert loop.run(calls, rng.choice([1, 20]), modes) == plain(calls)


@SETTINGS
@given(st.integers(0, 2**32 - 1))
def test_results_do_not_depend_on_which_uploads_stay_where_they_came_out_of_the_ring(seed):
    rng = random.Random(seed)
    calls = records(interleave([wandering(rng, 8, k) for k in range(rng.randint(1, 2))], rng))
    large, room = rng.choice([8, 64, 256]), bytes(rng.choice([0, 64, 4096]))
    with pytest.MonkeyPatch.context() as patch:
        for module in (batch, open_reference, outgoing, reference_writer):
            patch.setattr(module, "LARGE_BYTES", large)
        patch.setattr(outgoing, "ROOM", room)
        loop = Loop(rng, rng.choice(["off", "reads", "auto"]))
        assert loop.run(calls, rng.choice([1, 20]), ("replay", "batched")) == plain(calls)


@SETTING
@SETTINGS
@given(st.integers(0, 2**32 - 1))
def test_threads_in_any_order_get_the_results_of_plain_execution(run_ahead, seed):
    rng = random.Random(seed)
    calls = records(interleave([wandering(rng, 8, k) for k in range(2)], rng))
    assert Loop(rng, run_ahead).run(calls) == plain(calls)


def cascade(rounds, groups=3, reads=1, kernels=3):
    """Inferences of some kernels and then some reads, again and again."""
    p = Program()
    p.load_module(10, PTX)
    a, b, x = (p.alloc(4096) for _ in range(3))
    for number in range(rounds):
        p.upload(x, bytes([number & 255]) * 64)
        for group in range(groups):
            for k in range(kernels):
                p.launch(10, group + k, x if not k else a, b, 7)
                p.launch(10, group + k, b, a, 7)
            p.call("stream_synchronize", stream=0)
            for k in range(reads):
                p.download((a, b)[k % 2], 64)
    return records(p)


def steady_exchanges(loop, calls, waits):
    """Batches that left while the program waited, per inference of the last five."""
    loop.run(calls)
    last = loop.sent_waiting[-5 * waits :]
    return [sum(last[k : k + waits]) for k in range(0, len(last), waits)]


@pytest.mark.parametrize("reads", [1, 2, 5])
def test_an_inference_with_several_reads_costs_one_exchange(reads):
    calls = cascade(12, groups=1, reads=reads)
    for run_ahead, exchanges in (("off", reads + 1), ("reads", 1), ("auto", 1)):
        loop = Loop(random.Random(1), run_ahead)
        assert steady_exchanges(loop, calls, reads + 1) == [exchanges] * 5, run_ahead
        counts = loop.out.statistics()
        assert (counts.get("speculation_exchanges_saved", 0) > 6 * reads) == (run_ahead != "off")
        assert loop.machine.launches == 12 * 6


@pytest.mark.parametrize("groups", [2, 4])
def test_an_inference_that_goes_on_after_it_has_read_costs_one_exchange_in_auto(groups):
    calls = cascade(12, groups=groups, reads=2)
    for run_ahead, exchanges in (("off", 3 * groups), ("reads", groups), ("auto", 1)):
        loop = Loop(random.Random(1), run_ahead)
        assert steady_exchanges(loop, calls, 3 * groups) == [exchanges] * 5, run_ahead
        assert loop.machine.launches == 12 * 6 * groups, "nothing was executed twice"
        assert loop.executor.statistics()["speculation_rollbacks"] == 0


def test_a_longer_variant_that_was_matched_last_is_gone_on_with():
    p = Program()
    p.load_module(10, PTX)
    a, b, x = (p.alloc(4096) for _ in range(3))
    for number in range(40):
        p.upload(x, bytes([number]) * 64)
        for k in range(3):
            p.launch(10, k, x, a, 7)
        p.download(a, 64)
        if 8 <= number < 22:
            continue  # for a while it finds nothing
        for k in range(3):
            p.launch(10, 3 + k, a, b, 7)
        p.download(b, 64)
    calls = records(p)
    for run_ahead, exchanges in (("reads", 2), ("auto", 1)):
        loop = Loop(random.Random(1), run_ahead)
        assert steady_exchanges(loop, calls, 2) == [exchanges] * 5, run_ahead
        assert loop.out.statistics()["plans"] >= 2
        assert loop.given == plain(calls)[0]


def test_calls_that_write_are_left_where_an_exchange_costs_less_than_copies():
    loop = Loop(random.Random(1), "auto", round_trip_s=20e-6)
    assert steady_exchanges(loop, cascade(12, groups=3), 6) == [3] * 5
    counts = loop.executor.statistics()
    assert counts["speculation_refused"] > 5
    assert counts["speculation_checkpoint_bytes"] == 0


def test_a_program_that_often_does_something_else_is_no_longer_guessed():
    p = Program()
    p.load_module(10, PTX)
    a, b = p.alloc(1 << 20), p.alloc(1 << 20)
    for number in range(80):
        p.upload(a, bytes([number]) * 64)
        p.launch(10, 1, a, b, 7)
        p.download(b, 64)
        # From the tenth on it goes its own way.
        p.launch(10, 2 if number < 10 else 1000 + number, b, a, 7)
        p.download(a, 64)
    calls = records(p)
    loop = Loop(random.Random(1), "auto", round_trip_s=0.02)
    assert loop.run(calls) == plain(calls)
    counts = loop.executor.statistics()
    assert 1 <= counts["speculation_rollbacks"] <= 20
    assert counts["speculation_restored_bytes"] == 64 * counts["speculation_rollbacks"], (
        "what it writes"
    )
    told = loop.out.statistics()
    assert told["speculation_rollbacks"] == counts["speculation_rollbacks"], "the robot knows"
    assert told["speculation_lost_s"] > 0


def test_a_kernel_that_may_write_anywhere_is_not_executed_speculatively():
    wild = PTX.replace(b"ld.global.u32 %r1, [%d1];", b"ld.global.u64 %d2, [%d1];")
    calls = [
        call.replace(PTX, wild.ljust(len(PTX)), 1) if PTX in call else call
        for call in cascade(12, groups=3)
    ]
    assert calls[0] != cascade(12, groups=3)[0]
    loop = Loop(random.Random(1), "auto")
    assert steady_exchanges(loop, calls, 6) == [3] * 5
    assert loop.executor.statistics()["speculation_unknown"] > 5


def test_a_kernel_that_fails_speculatively_is_rolled_back_and_fails_when_it_is_called():
    calls = cascade(12, groups=3)
    seen = []
    for failing in range(40, 12 * 18, 7):
        loop = Loop(random.Random(failing), "auto")

        def fails(machine=loop.machine, failing=failing):
            return machine.launches == failing

        loop.machine.fails = fails
        result = loop.run(calls)
        if loop.executor.statistics()["sticky"]:
            continue  # it was no guess
        seen.append(failing)
        assert result == plain(calls), "a guess that failed once has no effect"
    assert len(seen) > 10


def taught(busy=False):
    """An executor that has a plan of a cascade and has executed up to its first wait.

    Returns:
        Executor, its machine, plan, number of the next call, the plan's next call.
    """
    calls = cascade(2, groups=2, reads=1, kernels=1)
    first = next(k for k, call in enumerate(calls) if next(iter_headers(call)).op == HTOD)
    period = (len(calls) - first - 1) // 2
    templates = []
    for call in calls[first : first + period]:
        header = next(iter_headers(call))
        end = header.size - (header.payload_bytes + 7 & ~7)
        templates.append(CallTemplate(header.op, header.payload_bytes, call[24:end]))
    plan = Plan(tuple(templates))
    machine = Machine()
    executor = Executor(machine, interrupted=lambda: busy)
    executor.execute(b"".join(calls[:first]) + pack_define(1, plan))
    executor.batch = lambda *parts: list(iter_results(executor.execute(b"".join(parts))))
    return executor, machine, plan, first + 1


def until_wait(plan, index, speculative, worth_us=10_000):
    """A reference to the first calls of the plan of `taught`, the last is waited for."""
    return pack_reference(
        1, 0, 4, index, 1, [mark(3, 3)], [], bytes(64), speculative=speculative, worth_us=worth_us
    )


def matched(executor, machine, plan, index):
    """The program makes all calls of the plan of `taught`; gives the number of the next call."""
    marks = [mark(k, 3) for k in (3, 4, 7, 8)]
    executor.batch(pack_reference(1, 0, len(plan), index, 1, marks, [], bytes(64)))
    assert not executor.sticky
    machine.launches = 0
    return index + len(plan)


def guessed(executor, machine, plan, index):
    """How many launches are executed speculatively when the program waits for the first time."""
    before = machine.launches
    executor.batch(until_wait(plan, index, plan.speculative(4, writes=True)))
    return machine.launches - before - 2


def test_only_what_the_program_did_itself_is_executed_speculatively():
    """A plan that another program left says nothing of this one's memory."""
    executor, machine, plan, index = taught()
    assert guessed(executor, machine, plan, index) == 0
    executor, machine, plan, index = taught()
    index = matched(executor, machine, plan, index)
    assert guessed(executor, machine, plan, index) == 2


@pytest.mark.parametrize("change", ["alloc", "free", "module"])
def test_what_the_program_did_in_another_layout_of_memory_is_not_executed_speculatively(change):
    executor, machine, plan, index = taught()
    spare = 1 << 50
    executor.execute(pack_call("mem_alloc", index, address=spare, size=64, stream=0))
    index = matched(executor, machine, plan, index + 1)
    if change == "alloc":
        other = pack_call("mem_alloc", index, address=spare + 64, size=64, stream=0)
        back = pack_call("mem_free", index + 11, address=spare + 64, stream=0)
    elif change == "free":
        other = pack_call("mem_free", index, address=spare, stream=0)
        back = pack_call("mem_alloc", index + 11, address=spare, size=64, stream=0)
    else:
        other = pack_call("module_load", index, module=99, payload=PTX)
        back = None
    executor.execute(other)
    assert guessed(executor, machine, plan, index + 1) == 0
    if back is not None:
        # What was made in this layout since is of the old one no longer: only that is guessed.
        executor.execute(back)
        assert guessed(executor, machine, plan, index + 12) == 2
    assert not executor.sticky


def test_a_result_that_is_wanted_again_is_that_of_its_place_in_the_order():
    """As after a switch of the mode: the robot no longer knows what was pushed."""
    executor, machine, plan, index = taught()
    index = matched(executor, machine, plan, index)
    count = plan.speculative(4, writes=True)
    assert count == len(plan) - 4
    pushed = executor.batch(until_wait(plan, index, count))
    before = {r.index: bytes(r.payload) for r in pushed if r.flags == RESULT_SPECULATIVE}
    assert set(before) == {index + 4, index + 7, index + 8}
    assert machine.launches == 4
    again, told = executor.batch(pack_reference(1, 4, 1, index + 4, 1, [mark(0, 3)], [], b""))
    assert told.flags == RESULT_ROLLED_BACK
    assert (again.index, again.flags, bytes(again.payload)) == (index + 4, 0, before[index + 4])
    assert executor.statistics()["speculation_rollbacks"] == 1
    rest = executor.batch(pack_reference(1, 5, 4, index + 5, 1, [mark(2, 3), mark(3, 3)], [], b""))
    assert {r.index: bytes(r.payload) for r in rest} == {
        index + 7: before[index + 7], index + 8: before[index + 8]
    }  # fmt: skip
    assert machine.launches == 6


def test_a_batch_that_is_there_stops_the_guessing_and_the_robot_is_told():
    executor, machine, plan, index = taught(busy=True)
    results = executor.batch(until_wait(plan, index, len(plan) - 4))
    assert [(r.index, r.status, r.flags) for r in results] == [
        (index + 3, 0, 0),
        (index + 4, 0, RESULT_SPECULATIVE),
        (index + 5, int(CUresult.NOT_READY), RESULT_SPECULATIVE),
    ]
    assert machine.launches == 2


@pytest.mark.parametrize(
    ("speculative", "worth_us", "fits"),
    [(1, 0, True), (2, 0, False), (5, 0, False), (5, 10, True), (6, 10, False), (65535, 9, False)],
)
def test_more_speculation_than_the_plan_allows_is_refused_whole(speculative, worth_us, fits):
    executor, machine, plan, index = taught()
    executor.batch(until_wait(plan, index, speculative, worth_us))
    assert (executor.sticky == 0) == fits
    assert (machine.launches > 0) == fits
    if not fits:
        assert "executed speculatively" in executor.malformed


def test_a_mark_says_of_calls_that_read_alone_that_they_may_have_been_answered():
    executor, machine, _, index = taught()
    executor.batch(
        pack_reference(1, 0, 4, index, 1, [mark(1, 2 | FLAG_SPECULATIVE)], [], bytes(64))
    )
    assert "but it writes" in executor.malformed
    assert machine.launches == 0


@pytest.mark.parametrize(
    ("flags", "status", "payload"),
    [(RESULT_SPECULATIVE, 1, b""), (RESULT_SPECULATIVE | 1, 0, b""),
     (RESULT_ROLLED_BACK, 0, b"1234567"),
     (RESULT_SPECULATIVE, int(CUresult.NOT_READY), b"12345678")],
)  # fmt: skip
def test_pushed_results_that_no_server_sends_are_refused(flags, status, payload):
    loop = Loop(random.Random(1), "reads")
    loop.down.append(pack_result(5, status, payload, flags))
    with pytest.raises(ProtocolError):
        loop.deliver()


def test_a_server_that_pushes_unasked_is_refused():
    loop = Loop(random.Random(1), "off")
    loop.down.append(pack_result(5, 0, b"", RESULT_SPECULATIVE))
    with pytest.raises(ProtocolError, match="without run_ahead"):
        loop.deliver()


def test_a_result_that_nobody_expects_any_more_is_dropped():
    speculation = Speculation("reads")
    plans = PlanEntries(Matcher(), speculation.leave, 16)
    read = pack_call("memcpy_dtoh", 0, src=4096, stream=0, size=8)
    entry = plans.add(Plan((CallTemplate(next(iter_headers(read)).op, 0, read[24:]),) * 9))

    def announced(position, index):
        open_ = OpenReference(entry, position - 1, index - 1, 1, count=1)
        speculation.announce(open_, plans)
        return open_.speculative

    assert announced(6, 10) == 3
    assert speculation.expected(entry, 6, 1, 10) is entry
    assert speculation.answer(10, FLAG_WAITED | FLAG_REPLY)[1] is False
    speculation.drop()
    late, early = (pack_result(i, 0, b"x" * 8, RESULT_SPECULATIVE) for i in (10, 11))
    record = speculation.arrived(next(iter_results(late)), late)
    assert next(iter_results(record)).flags == 0, "it was called before the program turned away"
    assert speculation.arrived(next(iter_results(early)), early) is None
    assert not announced(5, 12), "no number is announced twice"
    assert announced(5, 13) == 4
