"""Plans and references: what goes through cursor and expansion is what the program called."""

from __future__ import annotations

import random
import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrto_ros.api.codec import (
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    iter_calls,
    iter_headers,
    iter_results,
    pack_call,
)
from rrto_ros.evaluation.synthetic import Call, Model, Program, interleave
from rrto_ros.replay.executor import Executor
from rrto_ros.replay.plan import (
    decode_plan,
    literal,
    read_reference,
)
from rrto_ros.replay.replayer import Replayer, ReplayOptions

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
        self.replayer = Replayer(ReplayOptions(**options))
        self.batches = []
        self.on = True

    def switch(self):
        self.on = not self.on
        if not self.on:
            self.send(self.replayer.pause())

    def drain(self, records):
        data = b"".join(records)
        if not self.on:
            self.send(data)
            return
        fed = self.replayer.feed(data)
        parts = [bytes(p) for p in fed.parts]
        if fed.waited or self.rng.random() < 0.5:
            parts.append(bytes(self.replayer.close()))
        self.send(*parts)
        self.send(*(bytes(p) for p in self.replayer.think()))

    def send(self, *parts):
        batch = b"".join(bytes(p) for p in parts)
        if batch:
            self.batches.append(batch)

    def finish(self):
        self.send(self.replayer.close())

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
    plans, out = {}, []
    for batch in batches:
        view = memoryview(batch)
        for h in iter_headers(view):
            if h.op == PLAN_DEFINE_OP:
                record = next(iter_calls(view[h.offset : h.offset + h.size]))
                plans[record["plan"]] = decode_plan(record.payload, bytes(record["digest"]))
            elif h.op == PLAN_REF_OP:
                ref = read_reference(view, h)
                out += literal(plans[ref.plan], ref)
            else:
                out.append(bytes(view[h.offset : h.offset + h.size]))
    return out


class Log:
    """A device that writes down what it is told."""

    info = type("Info", (), {"arena_bytes": 1 << 40})

    def __init__(self):
        self.lines = []

    def __getattr__(self, name):
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
