"""Sessions at two places, each in a worker of its own, and programs with random inferences."""

import random
import struct
import threading

from rrto_ros.api.ops import Work
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.worker_process import WorkerProcess
from rrto_ros.execution.messages import Open
from rrto_ros.robot.partition.known_calls import KnownCalls
from rrto_ros.robot.partition.placed import Placed
from rrto_ros.robot.partition.session import PartitionedSession
from rrto_ros.schedule.coarse import Step, coarse_plan
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.wire.codec import iter_calls, pack_call
from rrto_ros.wire.format import FLAG_REPLY
from rrto_ros.wire.plan import Plan, Varying
from rrto_ros.wire.reference import mark, pack_reference
from rrto_ros.wire.result_codec import iter_results
from rrto_ros.wire.templates import CallTemplate

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

    def __init__(self, ends, adaptive=None):
        self.ends = ends
        self.records = []
        self.came = threading.Condition()
        knows = KnownCalls(ends[0].info.compute_capability, beside=False)
        self.session = PartitionedSession(
            ends, knows, self._take, patience_s=60, adaptive=adaptive
        )
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


def template(name, fields, payload_bytes=0):
    """A call of a plan."""
    record = pack_call(name, 1, payload=bytes(payload_bytes), **fields)
    (call,) = iter_calls(record)
    return CallTemplate(call.op.code, payload_bytes, record[24 : len(record) - payload_bytes])


class Inference:
    """A random plan: an upload, work, a copy to the program; some launches vary in `n`."""

    def __init__(self, rnd):
        self.uploaded = BYTES
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
        return Placed(knows.code, places, tuple(touched), self.work, self.coarse(knows, touched))

    def coarse(self, knows, touched):
        """What may come coarsely to its calls; nothing where one varies."""
        if self.varies:
            return None
        steps = []
        for k, (name, fields) in enumerate(self.calls):
            payload = bytes(self.uploaded) if k == 0 else b""
            (record,) = iter_calls(pack_call(name, 1, payload=payload, **fields))
            typed = knows.typed(record) if self.work[k] else None
            covers = touched[k].covers if self.work[k] else ()
            brings = record.op.brings_memory
            steps.append(Step(touched[k], covers, typed, brings, self.work[k]))
        return coarse_plan(steps)

    def reference(self, number, index, rnd, first=0, count=None):
        count = len(self) - first if count is None else count
        words = [rnd.choice((N, N, 40)) for k in self.varies if first <= k < first + count]
        reads = first + count == len(self)
        marks = [mark(count - 1, 3)] if reads else []
        payload = floats(rnd) if first == 0 else b""
        return pack_reference(number, first, count, index, 1, marks, words, payload)
