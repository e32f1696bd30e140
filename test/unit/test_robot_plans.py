"""Plans and references: what goes through references and expansion is what the program called."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.segment_row import Row
from support.synthetic import Call, Model, Program, interleave

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.execution.executor import Executor
from rrto_ros.robot.replay.open_reference import OpenReference
from rrto_ros.robot.replay.plan_entries import PlanEntry
from rrto_ros.robot.replay.reference_writer import ReferenceWriter
from rrto_ros.robot.replay.replayer import Replayer, ReplayOptions
from rrto_ros.wire.codec import iter_calls, iter_headers, pack_call
from rrto_ros.wire.format import PLAN_REF_OP
from rrto_ros.wire.literal import LiteralReader
from rrto_ros.wire.plan import MAX_PLANS, Plan, Varying, decode_plan, pack_define
from rrto_ros.wire.reference import mark, pack_reference, read_reference
from rrto_ros.wire.result_codec import iter_results
from rrto_ros.wire.templates import CallTemplate

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def flagged(program, rng):
    """The records of a program; copies to the host and synchronisations wait."""
    out = []
    index = 0
    for c in program.calls:
        index += 1 if rng.random() > 0.01 else rng.randint(2, 5)
        flags = 3 if c.name == "memcpy_dtoh" or "synchronize" in c.name else 0
        out.append(
            pack_call(
                c.name, index, thread=c.thread, payload=c.payload, record_flags=flags, **c.fields
            )
        )
    return out


def meaning(records):
    """Calls as comparable values."""
    out = []
    for c in iter_calls(b"".join(records)):
        fields = {n: bytes(v) if isinstance(v, memoryview) else v for n, v in c.fields().items()}
        payload = bytes(c.payload) if c.payload is not None else b""
        out.append((c.op.name, c.index, c.thread, c.flags, fields, payload))
    return out


class Replayed:
    """Sends records through a replayer, cut into batches at random places."""

    def __init__(self, rng, **options):
        self.rng = rng
        # What is executed is compared here; test_robot_speculation.py has the server's guesses.
        self.replayer = Replayer(ReplayOptions(run_ahead="off", **options))
        self.batches = []
        self.on = True

    def switch(self):
        self.on = not self.on
        if not self.on:
            self.send(*self.replayer.pause())

    def drain(self, records):
        data = b"".join(records)
        if not self.on:
            self.send(data)
            return
        fed = self.replayer.feed(memoryview(bytearray(data)))
        parts = [bytes(p) for p in fed.parts]
        if fed.waited or self.rng.random() < 0.5:
            parts += self.replayer.close()
        self.send(*parts)
        self.send(*(bytes(p) for p in self.replayer.think()))

    def send(self, *parts):
        batch = b"".join(bytes(p) for p in parts)
        if batch:
            self.batches.append(batch)

    def finish(self):
        self.send(*self.replayer.close())

    def run(self, records, longest=40, at_waits=False, switching=False):
        at = 0
        while at < len(records):
            step = self.rng.randint(1, longest)
            if at_waits:
                flags = [next(iter_headers(r)).flags for r in records[at : at + 4000]]
                step = next((i + 1 for i, f in enumerate(flags) if f), len(flags))
            self.drain(records[at : at + step])
            at += step
            if switching and self.rng.random() < 0.05:
                self.switch()
        self.finish()
        return self.batches


def expanded(batches):
    """The literal records of batches, as another reader than the executor sees them."""
    reader = LiteralReader()
    return [bytes(record) for batch in batches for record in reader.read(batch)]


class Log:
    """A device that writes down what it is told."""

    info = type("Info", (), {"kind": "cpu", "arena_bytes": 1 << 40, "compute_capability": (8, 0)})

    def __init__(self):
        self.lines = []

    def prepare_segment(self, calls):
        return Row(self, calls)

    def __getattr__(self, name):
        if name in ("take_output", "checkpoint", "call_comes"):
            raise AttributeError(name)  # it offers none of that

        def method(*arguments):
            plain = [bytes(a) if isinstance(a, memoryview) else a for a in arguments]
            self.lines.append((name, *plain))
            if name == "memcpy_dtoh":
                return struct.pack("<Q", len(self.lines))
            if name == "event_elapsed_ms":
                return 1.5
            if name == "module_load":
                return Info()
            return None

        return method


class Info:
    kernels = ()
    globals = ()


def executed(batches):
    device = Log()
    executor = Executor(device)
    results = b"".join(executor.execute(b) for b in batches)
    assert not executor.sticky, executor.statistics()["sticky_text"]
    answers = [(r.index, r.status, bytes(r.payload)) for r in iter_results(results)]
    return device.lines, answers, executor.executed_call


def program_with_deviations(rng, rounds=25):
    """One or several models, and everything that may go wrong between and in inferences."""
    p = Program()
    models = [
        Model(p, f"m{i}", 10 + i, rng.randint(1, 12), rng.randint(1, 3), rng.choice([0, 3]),
              rng.choice([8, 100, 4096]), rng.random() < 0.5)
        for i in range(rng.randint(1, 3))
    ]  # fmt: skip
    faulty = rng.choice([0.0, 0.1, 0.4, 0.8])
    for _ in range(rounds):
        m = rng.choice(models) if rng.random() < 0.3 else models[0]
        before = len(p.calls)
        m.infer(*([rng.randrange(1 << 32)] if rng.random() < 0.3 else []))
        if rng.random() >= faulty:
            continue
        calls = p.calls[before:]
        del p.calls[before:]
        at = rng.randrange(len(calls))
        kind = rng.choice(["changed", "extra", "missing", "stop", "alloc", "free", "twice", "op"])
        if kind == "changed":
            c = calls[at]
            fields = dict(c.fields)
            if "params" in fields:
                fields["params"] = bytes([fields["params"][0] ^ 1]) + fields["params"][1:]
            elif "stream" in fields:
                fields["stream"] ^= 1
            calls[at] = Call(c.name, fields, c.payload, c.thread)
        elif kind == "extra":
            calls.insert(at, Call("event_record", {"event": rng.randint(1, 3), "stream": 0}))
        elif kind == "missing":
            del calls[at]
        elif kind == "stop":
            del calls[at:]
        elif kind == "alloc":
            address = 1 << 33 | rng.randrange(1 << 20) << 9
            calls.insert(at, Call("mem_alloc", {"address": address, "size": 64, "stream": 0}))
        elif kind == "free":
            calls.insert(at, Call("mem_free", {"address": m.buffer(0), "stream": 0}))
        elif kind == "twice":
            calls.insert(at, calls[at])
        else:
            c = calls[at]
            if c.name == "memcpy_htod":
                payload = c.payload + b"x" * rng.randint(1, 9)
                calls[at] = Call(c.name, c.fields, payload, c.thread)
        p.calls += calls
    # Where the inferences are is no longer true, and not needed here.
    p.truth.clear()
    return p


@SETTINGS
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_program_does_its_calls_arrive_unchanged(seed):
    rng = random.Random(seed)
    records = flagged(program_with_deviations(rng), rng)
    sent = Replayed(rng, drop_after=rng.choice([1, 3, 16]))
    batches = sent.run(
        records, rng.choice([1, 7, 60]), at_waits=rng.random() < 0.5, switching=rng.random() < 0.3
    )
    assert meaning(expanded(batches)) == meaning(records)
    assert executed(batches) == executed([b"".join(records)])


@SETTINGS
@given(st.integers(0, 2**32 - 1))
def test_threads_in_any_order_arrive_unchanged(seed):
    rng = random.Random(seed)
    programs = [program_with_deviations(rng, rng.randint(3, 15)) for _ in range(rng.randint(2, 3))]
    records = flagged(interleave(programs, rng), rng)
    batches = Replayed(rng).run(records, rng.choice([3, 60]), at_waits=rng.random() < 0.5)
    assert meaning(expanded(batches)) == meaning(records)
    assert executed(batches) == executed([b"".join(records)])


def steady(rounds, *, models=1, kernels=6, allocates=False):
    """Models that infer in turn, without a fault."""
    p = Program()
    made = [Model(p, f"m{i}", 10 + i, kernels) for i in range(models)]
    for number in range(rounds):
        m = made[number % models]
        if allocates:
            address = p.alloc()
            p._heap = address  # an allocator that gives the same address again
        m.infer()
        if allocates:
            p.call("mem_free", address=address, stream=0)
    return p


def references(batches):
    """(plan, first call, calls) of all references."""
    out = []
    for batch in batches:
        view = memoryview(batch)
        for h in iter_headers(view):
            if h.op == PLAN_REF_OP:
                ref = read_reference(view, h)
                out.append((ref.plan, ref.first, ref.count))
    return out


@pytest.mark.parametrize(("models", "allocates"), [(1, False), (3, False), (1, True)])
def test_a_steady_program_is_one_reference_an_inference_from_the_fourth_on(models, allocates):
    rounds = 20 * models
    sent = Replayed(random.Random(1))
    records = flagged_steady(steady(rounds, models=models, allocates=allocates))
    batches = sent.run(records, at_waits=True)
    counts = sent.replayer.statistics()
    assert counts["plans_followed"] >= rounds - 3 * models
    assert counts["divergences"] == 0
    last = references(batches)[-models * 10 :]
    assert len({plan for plan, _, _ in last}) == models
    if not allocates:  # there the frees of the inference before travel with the next
        assert {(first, count) for _, first, count in last} == {(0, 8)}
    assert sum(map(len, batches)) < 0.7 * sum(map(len, records))
    state = sent.replayer.state()
    assert (state.phase, state.plans) == ("replaying", models)
    assert state.inferences == counts["plans_followed"]


def flagged_steady(program):
    """Records without gaps in their numbers; copies to the host wait."""
    return [
        pack_call(
            c.name, i, thread=c.thread, payload=c.payload,
            record_flags=3 if c.name == "memcpy_dtoh" else 0, **c.fields,
        )
        for i, c in enumerate(program.calls, 1)
    ]  # fmt: skip


def test_what_is_replayed_from_end_to_end_is_not_searched():
    sent = Replayed(random.Random(1))
    sent.run(flagged_steady(steady(40)), at_waits=True)
    counts = sent.replayer.statistics()
    assert counts["search_calls"] < 100
    assert counts["unseen_bytes"] > 30 * 500


def test_a_plan_that_keeps_failing_rests_and_comes_back():
    p = Program()
    m = Model(p, "m", 10, 12)
    for number in range(80):
        m.upload()
        # For a while only the first calls of an inference are the same.
        m.launches(0, 12 if number < 6 or number >= 60 else 1)
        if 6 <= number < 60:
            p.launch(10, 50 + number, number)
        m.read()
    sent = Replayed(random.Random(1), drop_after=4)
    records = flagged_steady(p)
    batches = sent.run(records, at_waits=True)
    counts = sent.replayer.statistics()
    assert counts["plans_dropped"] >= 1
    assert counts["plans_followed"] > 15
    assert meaning(expanded(batches)) == meaning(records)


def test_a_variant_is_learnt_and_followed_without_a_deviation():
    p = Program()
    m = Model(p, "m", 10, 12)
    for number in range(60):
        m.upload()
        m.launches(0, 6)
        if number % 2:
            m.launches(6, 12)
        else:
            p.launch(10, 40, m.buffer(5), m.buffer(6))
        m.read()
    sent = Replayed(random.Random(1))
    batches = sent.run(flagged_steady(p), at_waits=True)
    before = sent.replayer.statistics()
    assert before["plans"] == 2
    assert before["plans_followed"] >= 60 - 6
    assert before["divergences"] <= 2
    # Each inference is one reference to the plan that it turned out to be.
    last = references(batches)[-20:]
    assert {(plan, first) for plan, first, _ in last} == {(1, 0), (2, 0)}
    assert {count for _, _, count in last[::2]} | {count for _, _, count in last[1::2]} == {9, 14}


def test_more_plans_than_numbers_take_the_numbers_of_idle_ones():
    plans = [plan_of_words(i) for i in range(MAX_PLANS + 8)]
    writer = ReferenceWriter()
    batches, records, index = [], [], 0
    for i, plan in enumerate(plans[:MAX_PLANS]):
        batches.append(b"".join(writer.add(plan)))
        assert batches[-1]
        assert not writer.add(plan), "the server has it"
        assert writer.plans.statistics()["plans"] == i + 1
    assert not writer.add(plans[MAX_PLANS]), "all are in use"
    order = [0] * 300 + list(range(MAX_PLANS, MAX_PLANS + 8)) * 3 + [0, 5, 9]
    for which in order:
        batches.append(b"".join(bytes(p) for p in writer.add(plans[which])))
        for call in plans[which].calls:
            index += 1
            records.append(call.record(index, 1, 0, None))
        fed = writer.feed(memoryview(bytearray(b"".join(records[-len(plans[which]) :]))))
        batches += [bytes(p) for p in fed.parts]
    batches += [bytes(p) for p in writer.close()]
    assert meaning(expanded(batches)) == meaning(records)
    counts = writer.statistics()
    assert counts["plans_defined"] == MAX_PLANS
    assert counts["plans_followed"] == len(order)


def plan_of_words(i, steps=(1, 2, 3), *, varies=False):
    """Launches, of which the last word varies, if it is to."""
    p = Program()
    for step in steps:
        p.launch(7, i, step, i)
    view = b"".join(p.records())
    calls, varying = [], []
    for k, h in enumerate(iter_headers(view)):
        body = view[h.offset + 24 : h.offset + h.size]
        if varies:
            varying.append(Varying(k, h.size - 8, 8))
            body = body[:-8] + bytes(8)
        calls.append(CallTemplate(h.op, 0, body))
    return Plan(tuple(calls), tuple(varying))


def test_a_new_plan_that_fits_worse_is_tried_once():
    """It begins alike, and so much of it is of use that it would never rest."""
    writer = ReferenceWriter()
    steps = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    good = plan_of_words(0, steps, varies=True)
    worse = plan_of_words(0, [1, 2, 3, 1, 2, *steps[3:]])
    writer.add(good)
    calls = plan_of_words(0, steps).calls
    for number in range(40):
        if number == 10:
            writer.add(worse)
        for k, call in enumerate(calls, number * len(calls) + 1):
            writer.feed(memoryview(bytearray(call.record(k, 1, 0, None))))
    counts = writer.statistics()
    assert counts["divergences"] <= 2
    assert counts["plans_followed"] == 39


def test_a_failing_search_is_switched_off_and_the_replay_goes_on(monkeypatch):
    sent = Replayed(random.Random(1))
    records = flagged_steady(steady(30))
    half = len(records) // 2
    sent.run(records[:half], at_waits=True)
    before = sent.replayer.statistics()["plans_followed"]

    def broken(*_):
        raise RuntimeError("no luck")

    monkeypatch.setattr("rrto_ros.robot.record.log.CallLog.extend", broken)
    # Something unknown, which the search would look at.
    strange = pack_call("event_record", 1 << 40, event=9, stream=0)
    sent.run([strange], at_waits=True)
    sent.run(records[half:], at_waits=True)
    counts = sent.replayer.statistics()
    assert "no luck" in counts["search_failure"]
    assert counts["plans_followed"] > before + 10
    assert sent.replayer.backlog == 0


REFUSED = {
    "plan unknown": lambda p: pack_reference(2, 0, 1, 9, 1, [], [], b""),
    "beyond its end": lambda p: pack_reference(1, 2, 2, 9, 1, [], [], b""),
    "nothing": lambda p: pack_reference(1, 0, 0, 9, 1, [], [], b""),
    "words missing": lambda p: pack_reference(1, 0, 3, 9, 1, [], [], b""),
    "words too many": lambda p: pack_reference(1, 0, 3, 9, 1, [], [1, 2], b""),
    "payload too long": lambda p: pack_reference(1, 0, 3, 9, 1, [], [1], b"12345678"),
    "mark beyond": lambda p: pack_reference(1, 0, 3, 9, 1, [mark(3, 1)], [1], b""),
    "marks fall": lambda p: pack_reference(1, 0, 3, 9, 1, [mark(2, 1), mark(1, 1)], [1], b""),
    "unknown flag": lambda p: pack_reference(1, 0, 3, 9, 1, [mark(1, 64)], [1], b""),
    "keeps nothing": lambda p: pack_reference(1, 0, 3, 9, 1, [mark(1, 8)], [1], b""),
    "blob of nothing": lambda p: pack_reference(1, 0, 3, 9, 1, [mark(1, 4)], [1], b""),
    "old index": lambda p: pack_reference(1, 0, 3, 1, 1, [], [1], b""),
    "number 0": lambda p: pack_define(0, p),
    "number too high": lambda p: pack_define(MAX_PLANS + 1, p),
    "another digest": lambda p: pack_call(
        "plan_define", 0, plan=1, digest=bytes(32), payload=p.encoded
    ),
    "cut": lambda p: pack_call(
        "plan_define", 0, plan=1, digest=hashlib.sha256(p.encoded[:-8]).digest(),
        payload=p.encoded[:-8],
    ),
}  # fmt: skip


@pytest.mark.parametrize("joins", ["alone", "with the next", "in a variant"])
@pytest.mark.parametrize(("speculative", "worth_us"), [(0, 0), (3, 0), (2, 250)])
def test_a_reference_that_is_passed_on_is_what_would_be_written(joins, speculative, worth_us):
    plan = Plan(tuple(CallTemplate(1, 0, bytes(8)) for _ in range(6)))
    numbered, variant = PlanEntry(7, plan), PlanEntry(8, plan)
    records = [
        pack_reference(7, 1, 2, 41, 3, [mark(1, 3)], [5, 6], b"payload." * 3),
        pack_reference(7, 3, 1, 43, 3, [], [9], b""),
    ]
    made = []
    for passed in (True, False):
        open_ = OpenReference(numbered, 1, 41, 3)
        for record in records[: 2 if joins == "with the next" else 1]:
            record = memoryview(bytearray(record))
            ref = read_reference(record, next(iter_headers(record)))
            pieces = [ref.payload] if ref.payload else []
            open_.join(ref, pieces, ref.flags, 100, record if passed else None)
        if joins == "in a variant":
            open_.entry = variant
        open_.speculative, open_.worth_us = speculative, worth_us
        made.append(b"".join(open_.record()))
    assert made[0] == made[1]
    read = read_reference(memoryview(made[0]), next(iter_headers(made[0])))
    assert (read.speculative, read.worth_us) == (speculative, worth_us)
    assert read.plan == (8 if joins == "in a variant" else 7)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_reference_ends_the_session_before_anything_of_it_is_executed(name):
    base = plan_of_words(1)
    body = bytearray(base.calls[1].body)
    at = len(body) - 8
    body[at:] = bytes(8)
    middle = CallTemplate(base.calls[1].code, 0, bytes(body))
    plan = Plan((base.calls[0], middle, base.calls[2]), (Varying(1, 24 + at, 8),))
    assert decode_plan(plan.encoded, plan.digest) == plan
    device = Log()
    executor = Executor(device)
    first = pack_call("event_record", 1, event=1, stream=0)
    assert not executor.execute(pack_define(1, plan) + first)
    good = pack_reference(1, 0, 3, 2, 1, [], [77], b"")
    assert not executor.execute(good)
    assert len(device.lines) == 4
    executor.execute(REFUSED[name](plan))
    assert executor.sticky == 999
    assert executor.malformed
    assert len(device.lines) == 4, "nothing of it was executed"


@SETTINGS
@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_damaged_plans_are_refused_with_the_reason(noise, at, value):
    raw = bytearray(plan_of_words(1).encoded)
    raw[at % len(raw)] = value
    for data in (noise, bytes(raw), bytes(raw) + noise):
        digest = hashlib.sha256(data).digest()
        try:
            plan = decode_plan(data, digest)
        except ProtocolError:
            continue
        assert plan.encoded == data


def test_a_search_with_little_memory_still_finds_what_repeats_now():
    """What does not repeat fills its log, and goes; nothing else does."""
    program = Program()
    rng = random.Random(3)
    for _ in range(15_000):
        program.launch(1, rng.randrange(9), *(rng.getrandbits(60) for _ in range(24)))
    model = Model(program, "net", 1, 20)
    for _ in range(8):
        model.infer()
    kept = {}
    for size in (4 << 20, 256 << 20):
        sent = Replayed(random.Random(1), search_memory_bytes=size)
        sent.run(flagged_steady(program), at_waits=True)
        counts = sent.replayer.statistics()
        assert counts["plans_followed"] >= 5
        kept[size] = counts["log_memory_bytes"]
    assert kept[4 << 20] < 3 << 20 < kept[256 << 20]


def test_a_search_cannot_do_with_less_memory():
    with pytest.raises(ConfigError, match=r"search_memory_bytes 1048576: at least 4194304"):
        Replayer(ReplayOptions(search_memory_bytes=1 << 20))
