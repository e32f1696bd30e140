"""Calls at two places: a session has the results, memory and errors of plain execution."""

import os
import random
import struct
import threading

import pytest

from rrto_ros.api.ops import Work
from rrto_ros.api.results import CUresult
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.worker_process import WorkerProcess
from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.execution.messages import Open
from rrto_ros.robot.partition.known_calls import KnownCalls
from rrto_ros.robot.partition.placed import Placed
from rrto_ros.robot.partition.session import PartitionedSession
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.wire.codec import iter_calls, pack_call
from rrto_ros.wire.format import FLAG_REPLY, RESULT_STATE, RESULT_STICKY
from rrto_ros.wire.plan import Plan, Varying, pack_define
from rrto_ros.wire.reference import mark, pack_reference
from rrto_ros.wire.result_codec import iter_results
from rrto_ros.wire.templates import CallTemplate

SEEDS = min(400, int(os.environ.get("RRTO_PARTITIONS", "5")))
BASE = 0x2000_0000_0000
N = 64
BYTES = 4 * N
BUFFERS = 8
NEAR, FAR = 0, 1
IMAGE = b"""
.version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{ .reg .pred %p<9>; .reg .b32 %r<30>; .reg .b64 %d<20>; .reg .f32 %f<20>;
  ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u64 %d3, [c]; ld.param.u32 %r9, [n];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.s32 %r3, %r2, 32, %r1;
  setp.ge.u32 %p1, %r3, %r9; @%p1 bra DONE; mul.wide.u32 %d4, %r3, 4;
  add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4; add.s64 %d7, %d3, %d4;
  ld.global.f32 %f1, [%d6]; ld.global.f32 %f2, [%d7]; add.f32 %f3, %f1, %f2;
  mul.f32 %f3, %f3, 0f3F000000; st.global.f32 [%d5], %f3;
DONE: ret; }
.visible .entry gather(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{ .reg .pred %p<9>; .reg .b32 %r<30>; .reg .b64 %d<20>; .reg .f32 %f<20>;
  ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u64 %d3, [c]; ld.param.u32 %r9, [n];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.s32 %r3, %r2, 32, %r1;
  setp.ge.u32 %p1, %r3, %r9; @%p1 bra DONE; mul.wide.u32 %d4, %r3, 4;
  add.s64 %d5, %d1, %d4; add.s64 %d7, %d3, %d4;
  ld.global.u32 %r4, [%d7]; and.b32 %r4, %r4, 63; mul.wide.u32 %d8, %r4, 4;
  add.s64 %d9, %d2, %d8; ld.global.f32 %f1, [%d9]; st.global.f32 [%d5], %f1;
DONE: ret; }
.visible .entry stops() { trap; ret; }
.visible .entry wild() { .reg .b64 %d<4>; .reg .b32 %r<2>; mov.u64 %d1, 16; mov.u32 %r1, 1;
  st.global.u32 [%d1], %r1; ret; }
"""
KERNELS = ("add", "gather", "stops", "wild")


def at(buffer, offset=0):
    return BASE + buffer * BYTES + 4 * offset


def launch(kernel, a=0, b=0, c=0, n=N):
    sizes = {f"{of}_{axis}": 1 for of in ("grid", "block") for axis in "xyz"}
    sizes |= {"grid_x": N // 32, "block_x": 32}
    params = struct.pack("<QQQI4x", at(a), at(b), at(c), n) if kernel in KERNELS[:2] else b""
    return "launch", {"module": 1, "kernel": KERNELS.index(kernel), "flags": 0, **sizes,
                      "shared_bytes": 0, "stream": 0, "params": params}  # fmt: skip


def floats(rnd, count=N):
    return struct.pack(f"<{count}f", *(rnd.uniform(-9, 9) for _ in range(count)))


class Plain:
    """A session in a worker, as an edge has it."""

    def __init__(self, directory):
        self.worker = WorkerProcess(preload="cpu")
        self.records = []
        self.came = threading.Condition()
        settings = DeviceSettings(
            limit_bytes=1 << 24, arena_base=BASE, threads=1, cache_directory=directory
        )
        self.take = self._take
        self.died = lambda death: None
        self.worker.watch(lambda death: self.died(death))
        self.info = self.worker.open(
            Open("cpu", settings), lambda r: self.take(bytes(r.records)), lambda _: None
        )

    def execute(self, batch):
        self.worker.send(batch)

    def _take(self, records):
        with self.came:
            self.records += ((r.index, r.status, bytes(r.payload), r.flags)
                             for r in iter_results(records))  # fmt: skip
            self.came.notify_all()

    def answer(self, index):
        with self.came:
            assert self.came.wait_for(lambda: any(r[0] == index for r in self.records), 60)
            return next(r for r in self.records if r[0] == index)

    def close(self):
        self.worker.close(0.0)


class Parted(Plain):
    """The same at two places."""

    def __init__(self, ends):
        self.ends = ends
        self.records = []
        self.came = threading.Condition()
        knows = KnownCalls(ends[0].info.compute_capability, beside=False)
        self.session = PartitionedSession(ends, knows, self._take, patience_s=60)
        self.knows = knows
        for place, end in enumerate(ends):
            end.take = lambda records, place=place: self.session.results(place, records)
            end.died = lambda death, place=place: self.session.died(
                place, death.executing.index, death.status, death.text
            )

    def execute(self, batch):
        self.session.execute(batch)

    def close(self):
        self.session.end("the test is over")
        for end in self.ends:
            end.close()


class Program:
    """Makes the same calls in a plain session and in a parted one, and compares the answers."""

    def __init__(self, *sessions):
        self.sessions = sessions
        self.index = 0
        self.call("module_load", module=1, payload=IMAGE)
        # Beside each other, so that what a call touches may lie in several.
        for first, count in ((0, 3), (3, 1), (4, 4)):
            self.call("mem_alloc", address=at(first), size=count * BYTES, stream=0)
        for buffer in range(BUFFERS):
            content = floats(random.Random(buffer))
            self.call("memcpy_htod", dst=at(buffer), stream=0, payload=content)

    def send(self, record):
        for one in self.sessions:
            one.execute(record)

    def call(self, name, payload=b"", **fields):
        self.index += 1
        record = pack_call(name, self.index, payload=payload, **fields)
        self.send(record)
        (header,) = (c for c in iter_calls(record))
        return self.same(self.index) if header.flags & FLAG_REPLY else None

    def same(self, index):
        answers = [one.answer(index) for one in self.sessions]
        assert all(a == answers[0] for a in answers), index
        return answers[0]

    def memory(self):
        return [
            self.call("memcpy_dtoh", src=at(buffer), size=BYTES, stream=0)[2]
            for buffer in range(BUFFERS)
        ]


@pytest.fixture
def program(tmp_path):
    ends = [Plain(tmp_path) for _ in range(3)]
    parted = Parted(ends[1:])
    yield Program(ends[0], parted)
    ends[0].close()
    parted.close()


def template(name, fields, payload_bytes=0):
    """A call of a plan."""
    record = pack_call(name, 1, payload=bytes(payload_bytes), **fields)
    (call,) = iter_calls(record)
    return CallTemplate(call.op.code, payload_bytes, record[24 : len(record) - payload_bytes])


class Inference:
    """A random plan: an upload, work, a copy to the program; some launches vary in `n`."""

    def __init__(self, rnd):
        self.calls = [("memcpy_htod", {"dst": at(rnd.randrange(2)), "stream": 0})]
        self.varies = []
        for _ in range(rnd.randint(2, 8)):
            kind = rnd.random()
            if kind < 0.15:
                copy = {"dst": at(rnd.randrange(4), 8), "src": at(4 + rnd.randrange(4))}
                self.calls.append(("memcpy_dtod", {**copy, "size": 64, "stream": 0}))
                continue
            if kind < 0.3:
                rows = {"pitch": 64, "width": 4, "height": rnd.randint(1, 3), "element_bytes": 4}
                self.calls.append(("memset", {"dst": at(rnd.randrange(8)), **rows, "stream": 0,
                                              "value": rnd.randrange(256)}))  # fmt: skip
                continue
            buffers = [rnd.randrange(BUFFERS) for _ in range(3)]
            if rnd.random() < 0.2:
                self.varies.append(len(self.calls))
            kernel = "gather" if rnd.random() < 0.15 else "add"
            self.calls.append(launch(kernel, *buffers, n=N))
        self.calls.append(
            ("memcpy_dtoh", {"src": at(rnd.randrange(8)), "size": BYTES, "stream": 0})
        )
        templates = [template(*call, payload_bytes=BYTES * (k == 0))
                     for k, call in enumerate(self.calls)]  # fmt: skip
        varying = []
        for k in self.varies:
            body = templates[k].body
            templates[k] = CallTemplate(templates[k].code, 0, body[:-8] + bytes(8))
            varying.append(Varying(k, 24 + len(body) - 8, 8))
        self.plan = Plan(tuple(templates), tuple(varying))
        self.work = tuple(call.op.work is not Work.NONE for call in templates)

    def __len__(self):
        return len(self.calls)

    def placed(self, knows, rnd):
        """Random places, with what each call touches."""
        touched = []
        for k, (name, fields) in enumerate(self.calls):
            payload = bytes(BYTES) if k == 0 else b""
            (record,) = iter_calls(pack_call(name, 1, payload=payload, **fields))
            found = knows.touched(record)
            if name == "launch" and found.reads is not None:
                found = Touched(found.reads, found.writes, found.writes)
            touched.append(found)
        places = tuple(rnd.randrange(2) for _ in self.calls)
        return Placed(knows.code, places, tuple(touched), self.work)

    def reference(self, number, index, rnd, first=0, count=None):
        count = len(self) - first if count is None else count
        words = [rnd.choice((N, N, 40)) for k in self.varies if first <= k < first + count]
        reads = first + count == len(self)
        marks = [mark(count - 1, 3)] if reads else []
        payload = floats(rnd) if first == 0 else b""
        return pack_reference(number, first, count, index, 1, marks, words, payload)


def run(program, rnd, rounds=5):
    """Inferences at random places, left now and then; results and memory are those of `plain`."""
    parted = program.sessions[1]
    inferences = [Inference(rnd) for _ in range(2)]
    for number, one in enumerate(inferences, 1):
        program.send(pack_define(number, one.plan))
    for _ in range(rounds):
        for number, one in enumerate(inferences, 1):
            if rnd.random() < 0.5:
                parted.session.place(number, one.placed(parted.knows, rnd))
            elif rnd.random() < 0.2:
                parted.session.place(number, None)
            left = rnd.random() < 0.3
            count = rnd.randint(1, len(one) - 1) if left else len(one)
            program.send(one.reference(number, program.index + 1, rnd, 0, count))
            program.index += count
            if not left:
                program.same(program.index)
                continue
            # The program leaves the plan: other calls, or the rest of it one by one.
            if rnd.random() < 0.5:
                program.send(one.reference(number, program.index + 1, rnd, count))
                program.index += len(one) - count
                program.same(program.index)
            else:
                name, fields = launch("add", *(rnd.randrange(BUFFERS) for _ in range(3)))
                program.call(name, **fields)
        if rnd.random() < 0.3:
            program.memory()
        if rnd.random() < 0.2:
            program.call("memcpy_htod", dst=at(rnd.randrange(8)), stream=0, payload=floats(rnd))
        if rnd.random() < 0.3:
            program.call("ctx_synchronize", context=0)
    return program.memory()


def test_random_placements_give_the_bits_of_plain_execution(program):
    for seed in range(SEEDS):
        run(program, random.Random(seed))
    done = program.sessions[1].session.statistics()
    assert done["work_robot"] > 0
    assert done["work_edge"] > 0
    assert done["brought_bytes"] > 0
    assert done["awaited"] == 0


def test_what_is_not_brought_is_seen_by_this_test(program):
    coherence = program.sessions[1].session._coherence
    rnd, before = random.Random(1), coherence.before
    coherence.before = lambda *a: [t for t in before(*a) if rnd.random() < 0.7]

    def runs():
        for seed in range(20):
            run(program, random.Random(seed))

    with pytest.raises(AssertionError):
        runs()


def test_a_plan_of_another_module_is_not_placed_any_more(program):
    """The same handle and arguments, and another kernel: what is known of the plan is not so."""
    one = Inference(random.Random(3))
    parted = program.sessions[1]
    program.send(pack_define(1, one.plan))
    placed = one.placed(parted.knows, random.Random(3))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), placed.touched, one.work))
    program.call("module_unload", module=1)
    program.call("module_load", module=1, payload=IMAGE.replace(b"add.f32", b"sub.f32"))
    work = parted.session.statistics()["work_robot"]
    program.send(one.reference(1, program.index + 1, random.Random(4)))
    program.index += len(one)
    program.same(program.index)
    assert parted.session.statistics()["work_robot"] == work
    program.memory()


def test_a_kernel_that_stops_at_one_place_breaks_the_session(program):
    program.call("stream_create", stream=3, flags=0, priority=0)
    name, fields = launch("stops")
    program.call(name, **fields)
    synced = program.call("ctx_synchronize", context=0)
    assert synced[1] != 0
    assert program.call("stream_query", stream=3)[1] == synced[1]
    stickies = [[r for r in one.records if r[3] & RESULT_STICKY] for one in program.sessions]
    assert [(r[0], r[1]) for r in stickies[0]] == [(r[0], r[1]) for r in stickies[1]]
    assert [r[0] for r in stickies[1]] == [program.index - 2]


@pytest.mark.parametrize("place", [NEAR, FAR])
def test_a_place_that_dies_ends_what_waits_with_its_error(program, place):
    parted = program.sessions[1]
    one = Inference(random.Random(8))
    parted.execute(pack_define(1, one.plan))
    if place == NEAR:
        parted.session.place(1, one.placed(parted.knows, random.Random(8)))
    name, fields = launch("wild")
    record = pack_call(name, program.index + 1, **fields)
    if place == NEAR:
        parted.ends[NEAR].execute(record.replace(record[8:16], (1000).to_bytes(8, "little")))
    else:
        parted.execute(record)
    parted.execute(pack_call("ctx_synchronize", program.index + 2, context=0))
    _, status, text, _ = parted.answer(program.index + 2)
    assert status == CUresult.ILLEGAL_ADDRESS
    assert b"SIGSEGV" in text
    (sticky,) = [r for r in parted.records if r[3] & RESULT_STICKY]
    assert sticky[1] == status
    if place == FAR:
        assert sticky[0] == program.index + 1, "the call that did it"


def test_own_errors_of_calls_are_answered_and_the_session_goes_on(program):
    got = program.call("memcpy_dtoh", src=BASE - 4096, size=16, stream=0)
    assert got[1] == CUresult.INVALID_VALUE
    assert program.call("event_query", event=99)[1] == CUresult.INVALID_HANDLE
    program.memory()


def watched(end, place, name, went):
    """Note where calls of a name go."""

    def execute(batch):
        went.extend(place for c in iter_calls(batch) if c.op.name == name)
        Plain.execute(end, batch)

    return execute


def asked(program, name, **fields):
    """The places that a call goes to."""
    parted, went = program.sessions[1], []
    for place, end in enumerate(parted.ends):
        end.execute = watched(end, place, name, went)
    program.call(name, **fields)
    for end in parted.ends:
        del end.execute
    return went


def test_who_waits_waits_for_the_places_that_have_work(program):
    one = Inference(random.Random(3))
    parted = program.sessions[1]
    program.send(pack_define(1, one.plan))
    program.call("stream_create", stream=3, flags=0, priority=0)
    assert asked(program, "ctx_synchronize", context=0) == [NEAR], "nobody has any"
    name, fields = launch("add", 1, 2, 3)
    program.call(name, **fields)
    assert asked(program, "stream_synchronize", stream=3) == [NEAR]
    assert asked(program, "ctx_synchronize", context=0) == [FAR]
    placed = one.placed(parted.knows, random.Random(3))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), placed.touched, one.work))
    program.send(one.reference(1, program.index + 1, random.Random(4), 0, len(one) - 1))
    program.index += len(one) - 1
    assert NEAR in asked(program, "stream_query", stream=3)
    asked(program, "ctx_synchronize", context=0)
    assert asked(program, "ctx_synchronize", context=0) == [NEAR]


def test_what_data_decides_is_not_executed_a_second_time(program):
    """A gather on bytes that were not brought would read anywhere."""
    plain, parted = program.sessions

    class Chooses:
        told = ()

        def __getattr__(self, name):
            return lambda *_: None

        def begins(self, number, code):
            return True

        def profile_of(self, number):
            return 7

        def timed(self, number):
            return True

    parted.session._chooses = Chooses()
    calls = [launch("gather", 1, 2, 3), launch("add", 4, 2, 3)]
    plan = Plan(tuple(template(*call) for call in calls))
    parted.execute(pack_define(1, plan))
    went = []
    near = parted.ends[NEAR]
    near.execute = lambda batch: (
        went.extend(iter_calls(bytes(batch))),
        Plain.execute(near, batch),
    )
    for name, fields in calls:
        plain.execute(pack_call(name, program.index + 1, **fields))
        program.index += 1
    parted.execute(pack_reference(1, 0, 2, program.index - 1, 1, [], [], b""))
    del near.execute
    names = [c.op.name for c in went]
    assert names == ["profile", "ctx_synchronize", "launch", "profile"]
    assert [c["kernel"] for c in went if c.op.name == "launch"] == [KERNELS.index("add")]
    program.memory()


def test_a_place_that_does_not_answer_is_told(program):
    parted = program.sessions[1]
    parted.session._out.patience_s = 0.2
    name, fields = launch("add", 1, 2, 3)
    record = pack_call(name, program.index + 1, **fields)
    parted.execute(record)
    parted.ends[FAR].take = lambda _: None
    one = Inference(random.Random(5))
    parted.execute(pack_define(1, one.plan))
    placed = one.placed(parted.knows, random.Random(5))
    reads = Touched(((at(1), at(2)),), ((at(4), at(5)),), ((at(4), at(5)),))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), (reads,) * len(one), one.work))
    with pytest.raises(UnavailableError, match=r"place 1 has not answered for 0\.2 s"):
        parted.execute(one.reference(1, program.index + 2, random.Random(5)))


def test_a_place_that_answers_what_nobody_asked_is_refused(program):
    from rrto_ros.wire.result_codec import pack_result

    with pytest.raises(ProtocolError, match="place 0 answers call 12345, which is none"):
        program.sessions[1].session.results(0, pack_result(12345, 0))


def test_a_checkpoint_is_told_by_the_edge_which_gets_all_of_memory(program):
    one = Inference(random.Random(9))
    parted = program.sessions[1]
    program.send(pack_define(1, one.plan))
    placed = one.placed(parted.knows, random.Random(9))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), placed.touched, one.work))
    program.send(one.reference(1, program.index + 1, random.Random(9)))
    program.index += len(one)
    program.same(program.index)
    assert not parted.session._coherence.current(FAR)
    parted.execute(pack_call("checkpoint", 0, number=7))
    with parted.came:
        assert parted.came.wait_for(lambda: (7, 0, b"", RESULT_STATE) in parted.records, 60)
    assert any(r[3] == RESULT_STATE and r[2] for r in parted.records)
    assert parted.session._coherence.current(FAR)
    brought = parted.session.statistics()["brought_bytes"]
    program.memory()
    assert parted.session.statistics()["brought_bytes"] == brought, "it was read at the edge"


def test_a_session_that_maps_memory_itself_stays_at_home(program):
    one = Inference(random.Random(6))
    parted = program.sessions[1]
    program.send(pack_define(1, one.plan))
    program.call("mem_create", handle=5, size=1 << 21)
    placed = one.placed(parted.knows, random.Random(6))
    parted.session.place(1, Placed(placed.code, (NEAR,) * len(one), placed.touched, one.work))
    program.send(one.reference(1, program.index + 1, random.Random(6)))
    program.index += len(one)
    program.same(program.index)
    assert parted.session.statistics()["work_robot"] == 0
