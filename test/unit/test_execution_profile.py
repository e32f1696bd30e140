"""What launches touch, found on the device; calls at two places give plain bits."""

import os
import random
import struct

import pytest

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.execution.coverage import covered
from rrto_ros.execution.executor import Executor
from rrto_ros.schedule.coherence import Coherence
from rrto_ros.schedule.dataflow import Touched, flows
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.profiles import ProfileReader
from rrto_ros.wire.result_codec import iter_results

SEEDS = min(400, int(os.environ.get("RRTO_PARTITIONS", "8")))
N = 64
"""Floats of a buffer; that many threads."""
HEAD = """.version 8.0
.target sm_80
.address_size 64
.global .align 4 .f32 table[4] = {0f3F800000, 0f40000000, 0f40400000, 0f40800000};
"""
KERNEL = """.visible .entry NAME(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{ .reg .pred %p<9>; .reg .b32 %r<30>; .reg .b64 %d<20>; .reg .f32 %f<20>;
  ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u64 %d3, [c]; ld.param.u32 %r9, [n];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.s32 %r3, %r2, 32, %r1;
  setp.ge.u32 %p1, %r3, %r9; @%p1 bra DONE;
  mul.wide.u32 %d4, %r3, 4;
  add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4; add.s64 %d7, %d3, %d4;
BODY
DONE: ret; }
"""
BODIES = {
    "add": "ld.global.f32 %f1, [%d6]; ld.global.f32 %f2, [%d7]; add.f32 %f3, %f1, %f2;"
           "st.global.f32 [%d5], %f3;",
    "scale": "ld.global.f32 %f1, [%d5]; mul.f32 %f1, %f1, 0f3F000000; st.global.f32 [%d5], %f1;",
    # A sum over rows of 8, written by every eighth thread: gaps of 28 bytes stay as they are.
    "rows": "and.b32 %r4, %r3, 7; setp.ne.s32 %p2, %r4, 0; @%p2 bra DONE;"
            "mov.f32 %f1, 0f00000000; mov.u32 %r5, 0;"
            "LOOP: ld.global.f32 %f2, [%d6]; add.f32 %f1, %f1, %f2; add.s64 %d6, %d6, 4;"
            "add.u32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 8; @%p3 bra LOOP;"
            "st.global.f32 [%d5], %f1;",
    # The neighbour to the left, zero at the border: the address is widened before it is compared.
    "left": "add.s32 %r4, %r3, -1; mul.wide.s32 %d8, %r4, 4; add.s64 %d9, %d2, %d8;"
            "setp.ge.s32 %p2, %r4, 0; mov.f32 %f1, 0f00000000; @%p2 ld.global.f32 %f1, [%d9];"
            "st.global.f32 [%d5], %f1;",
    "table": "and.b32 %r4, %r3, 3; mul.wide.u32 %d8, %r4, 4; mov.u64 %d9, table;"
             "add.s64 %d9, %d9, %d8; ld.global.f32 %f1, [%d9]; ld.global.f32 %f2, [%d6];"
             "mul.f32 %f1, %f1, %f2; st.global.f32 [%d5], %f1;",
    "count": "ld.global.f32 %f1, [%d6]; red.global.add.f32 [%d1], %f1;",
    # What was read says where: nobody knows what it touches.
    "gather": "ld.global.u32 %r4, [%d7]; and.b32 %r4, %r4, 63; mul.wide.u32 %d8, %r4, 4;"
              "add.s64 %d9, %d2, %d8; ld.global.f32 %f1, [%d9]; st.global.f32 [%d5], %f1;",
}  # fmt: skip
NAMES = sorted(BODIES)
IMAGE = (HEAD + "".join(
    KERNEL.replace("NAME", name).replace("BODY", BODIES[name])
    .replace("LOOP", f"LOOP_{name}").replace("DONE", f"DONE_{name}") for name in NAMES
)).encode()  # fmt: skip
MODULE = 1
BUFFERS = 8
BYTES = 4 * N


class Session:
    """An executor with its device, and calls made for it."""

    def __init__(self, cache):
        self.device = CpuDevice(
            threads=1, cache_dir=cache, limit_bytes=1 << 22, arena_bytes=1 << 25
        )
        self.executor = Executor(self.device)
        self.index = 0
        self.base = self.device.info.arena_base
        self.call("module_load", module=MODULE, payload=IMAGE)
        self.call("mem_alloc", address=self.base, size=BUFFERS * BYTES, stream=0)

    def call(self, name, payload=b"", **fields):
        self.index += 1
        out = self.executor.execute(pack_call(name, self.index, payload=payload, **fields))
        assert not self.executor.sticky, self.executor.statistics()["sticky_text"]
        return bytes(out)

    def at(self, buffer, offset=0):
        return self.base + buffer * BYTES + 4 * offset

    def launch(self, name, a, b, c, n=N):
        """Name and fields of a launch on three buffers."""
        params = struct.pack("<QQQI4x", self.at(a), self.at(b), self.at(c), n)
        sizes = {f"{of}_{axis}": 1 for of in ("grid", "block") for axis in "xyz"}
        sizes |= {"grid_x": N // 32, "block_x": 32}
        kernel = {"module": MODULE, "kernel": NAMES.index(name), "flags": 0}
        return "launch", {**kernel, **sizes, "shared_bytes": 0, "stream": 0, "params": params}

    def memory(self):
        return bytes(self.device.memcpy_dtoh(self.base, BUFFERS * BYTES, 0))

    def close(self):
        self.device.close()


@pytest.fixture
def sessions(tmp_path):
    made = []

    def make(count):
        made.extend(Session(tmp_path) for _ in range(count))
        return made[-count:]

    yield make
    for one in made:
        one.close()


def floats(rnd, count=N):
    return struct.pack(f"<{count}f", *(rnd.uniform(-9, 9) for _ in range(count)))


def told(session, number):
    """The profile as its result records tell it, and what else came with them."""
    reader = ProfileReader(number)
    out = session.executor.execute(pack_call("profile", 0, number=number, first=0, calls=0))
    for result in iter_results(out):
        reader.take(result)
    assert reader.done
    return reader


def announce(session, calls, number=1, first=0):
    """Say that calls come which are to be looked at."""
    first = first or session.index + 1
    return session.executor.execute(
        pack_call("profile", 0, number=number, first=first, calls=calls)
    )


def profiled(session, calls):
    """What each of some calls touches, executed once."""
    assert announce(session, len(calls)) == b""
    for name, fields in calls:
        session.call(name, **fields)
    return told(session, 1).calls


def relative(session, ranges):
    base = session.base
    return None if ranges is None else tuple((a - base, b - base) for a, b in ranges)


WHOLE = (BYTES, 2 * BYTES)
TOUCHED = {
    "add": (((0, BYTES), (2 * BYTES, 3 * BYTES)), (WHOLE,), (WHOLE,)),
    # Half of nothing is nothing: what is written over itself is read anyway.
    "scale": ((WHOLE,), (WHOLE,), ()),
    # That every eighth thread reads is not followed.
    "rows": (((0, BYTES + 28),), (WHOLE,), tuple((k, k + 4) for k in range(BYTES, 2 * BYTES, 32))),
    "left": (((0, BYTES - 4),), (WHOLE,), (WHOLE,)),
    "gather": (None, None, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", TOUCHED)
def test_what_a_launch_touches_is_found(sessions, name):
    (s,) = sessions(1)
    before = floats(random.Random(1), 8 * N)
    s.call("memcpy_htod", dst=s.base, stream=0, payload=before)
    reads, writes, covers = TOUCHED[name]
    (piece,) = profiled(s, [s.launch(name, 1, 0, 2)])
    assert piece.name == name
    assert relative(s, piece.reads) == reads
    assert relative(s, piece.writes) == writes
    assert relative(s, piece.covers) == covers
    after = s.memory()
    low, high = WHOLE
    assert after[:low] + after[high:] == before[:low] + before[high:]
    s.call("memcpy_htod", dst=s.base, stream=0, payload=before)
    operation, fields = s.launch(name, 1, 0, 2)
    s.call(operation, **fields)
    assert after == s.memory(), "to look at it changed what it does"


def test_a_variable_of_the_module_is_read(sessions):
    (s,) = sessions(1)
    (piece,) = profiled(s, [s.launch("table", 1, 0, 0)])
    own = relative(s, piece.reads)
    assert own[0] == (0, BYTES)
    ((start, end),) = own[1:]
    assert end - start == 16
    assert s.executor.memory.find(start + s.base) == (start + s.base, 16)


def test_less_threads_touch_less(sessions):
    (s,) = sessions(1)
    (piece,) = profiled(s, [s.launch("add", 1, 0, 2, n=40)])
    assert relative(s, piece.covers) == ((BYTES, BYTES + 160),)
    assert relative(s, piece.reads) == ((0, 160), (2 * BYTES, 2 * BYTES + 160))


def test_a_byte_that_keeps_what_was_put_there_is_not_certain(sessions):
    (s,) = sessions(1)
    bounds = [(s.at(1), s.at(2))]
    assert covered(s.device, lambda: None, bounds) == ()
    assert covered(s.device, lambda: s.device.memcpy_htod(s.at(1), b"\x00" * 9, 0), bounds) == (
        (s.at(1), s.at(1) + 9),)  # fmt: skip
    assert covered(s.device, lambda: None, [(0, 1 << 40)]) == (), "not looked at"


def test_the_nodes_of_a_graph_are_looked_at_one_by_one(sessions):
    (s,) = sessions(1)
    s.call("graph_create", graph=5)
    for node, name in enumerate(("add", "rows")):
        fields = s.launch(name, 1 + node, node, 3)[1]
        del fields["stream"]
        s.call("graph_add_kernel_node", graph=5, node=node + 1,
               dependencies=[node] if node else [], **fields)  # fmt: skip
    s.call("graph_add_memcpy_node", graph=5, node=3, dependencies=[2], dst=s.at(4), src=s.at(2),
           size=8)  # fmt: skip
    s.call("graph_instantiate", graph_exec=6, graph=5)
    s.call("memcpy_htod", dst=s.base, stream=0, payload=floats(random.Random(2), 8 * N))
    pieces = profiled(s, [("graph_launch", {"graph_exec": 6, "stream": 0})])
    assert [(p.call, p.name) for p in pieces] == [
        (0, "add"), (0, "rows"), (0, "graph_add_memcpy_node")]  # fmt: skip
    assert relative(s, pieces[2].covers) == ((4 * BYTES, 4 * BYTES + 8),)
    after = s.memory()
    s.call("memcpy_htod", dst=s.base, stream=0, payload=floats(random.Random(2), 8 * N))
    for name, fields in (s.launch("add", 1, 0, 3), s.launch("rows", 2, 1, 3)):
        s.call(name, **fields)
    s.call("memcpy_dtod", dst=s.at(4), src=s.at(2), size=8, stream=0)
    assert after == s.memory()


def inference(rnd, session):
    """Random calls: inputs, launches in any order on any buffers, a copy or fill, an output."""
    calls = [("memcpy_htod", {"dst": session.at(rnd.randrange(2)), "stream": 0,
                              "payload": floats(rnd)})]  # fmt: skip
    for _ in range(rnd.randint(3, 9)):
        kind = rnd.random()
        if kind < 0.1:
            calls.append(
                (
                    "memcpy_dtod",
                    {
                        "dst": session.at(rnd.randrange(4), 8),
                        "stream": 0,
                        "src": session.at(4 + rnd.randrange(4)),
                        "size": 64,
                    },
                )
            )
        elif kind < 0.2:
            calls.append(("memset", {
                "dst": session.at(rnd.randrange(8)), "pitch": 64, "width": 4, "height": 3,
                "value": rnd.randrange(256), "element_bytes": 4, "stream": 0}))  # fmt: skip
        else:
            name = rnd.choice([n for n in NAMES if n != "gather" or rnd.random() < 0.2])
            buffers = [rnd.randrange(BUFFERS) for _ in range(3)]
            calls.append(session.launch(name, *buffers, n=rnd.choice((N, N, 40))))
    calls.append(("memcpy_dtoh", {"src": session.at(rnd.randrange(8)), "size": BYTES,
                                  "stream": 0}))  # fmt: skip
    return calls


class Place:
    """Memory of one of the places that take turns on a device: addresses are the same at each."""

    def __init__(self, session):
        self.session = session
        self.content = bytearray(session.memory())

    def call(self, name, fields):
        """Execute a call on this memory; returns its result."""
        s = self.session
        s.device.memcpy_htod(s.base, bytes(self.content), 0)
        out = s.call(name, **fields)
        self.content[:] = s.memory()
        return out[24:]

    def bring(self, span, other):
        low, high = span[0] - self.session.base, span[1] - self.session.base
        self.content[low:high] = other.content[low:high]


def random_placements(sessions, seed, brings=lambda _: True):
    """Whether inferences at two places gave the results and the memory of plain execution."""
    rnd = random.Random(seed)
    (session,) = sessions(1)
    calls = inference(rnd, session)
    touched = [Touched(p.reads, p.writes, p.covers) for p in profiled(session, calls)]
    plain, *at = (Place(session) for _ in range(3))
    coherence = Coherence((0, 1))
    memory = [(session.base, session.at(BUFFERS))]
    for _ in range(6):
        fresh = floats(rnd)
        for (name, fields), call in zip(calls, touched, strict=True):
            if name == "memcpy_htod":
                fields["payload"] = fresh
            place = rnd.randrange(2)
            for transfer in coherence.before(place, call, memory):
                if brings(rnd):
                    at[place].bring(transfer.span, at[transfer.source])
            if plain.call(name, fields) != at[place].call(name, fields):
                return False
            coherence.after(place, call, memory)
    for transfer in coherence.stale(0, memory):
        at[0].bring(transfer.span, at[1])
    return at[0].content == plain.content


@pytest.mark.parametrize("seed", range(SEEDS))
def test_calls_at_random_places_give_the_bits_of_plain_execution(sessions, seed):
    assert random_placements(sessions, seed)


def test_transfers_that_are_left_out_are_seen_by_this_test(sessions):
    some = [random_placements(sessions, s, lambda rnd: rnd.random() < 0.8) for s in range(9)]
    assert not all(some)


def test_tensors_of_an_inference_are_as_long_as_what_is_used(sessions):
    (s,) = sessions(1)
    calls = [
        ("memcpy_htod", {"dst": s.at(0), "stream": 0, "payload": floats(random.Random(3))}),
        s.launch("add", 1, 0, 7), s.launch("rows", 4, 1, 0), s.launch("scale", 4, 0, 0, n=40),
        ("memcpy_dtoh", {"src": s.at(4), "size": 160, "stream": 0}),
    ]  # fmt: skip
    found = flows([Touched(p.reads, p.writes, p.covers) for p in profiled(s, calls)],
                  [(s.base, s.at(BUFFERS))])  # fmt: skip
    assert {(t.producer, t.readers): t.bytes for t in found} == {
        (0, (1,)): BYTES,
        (1, (2,)): BYTES,
        (2, (3,)): 160,
        (3, (4,)): 20,
        (3, (2, 4)): 140,  # what rows leave between them is read by the next inference's
    }
