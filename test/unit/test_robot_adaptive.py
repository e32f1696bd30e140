"""Transfers in fewer bits: fewer bytes, errors within the budget, and exact for everybody else."""

import random
import struct

import numpy as np
import pytest
from support.partitioned import (
    BASE,
    FAR,
    IMAGE,
    KERNELS,
    NEAR,
    Inference,
    Parted,
    Plain,
    Program,
    floats,
    template,
)
from support.partitioned import BYTES as SMALL
from support.partitioned import at as small
from support.partitioned import launch as small_launch

from rrto_ros.api.ops import Work
from rrto_ros.robot.partition.adaptive import Adaptive
from rrto_ros.robot.partition.placed import Placed
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.schedule.precision import LEAST_SAMPLES, relative_error
from rrto_ros.wire.codec import iter_calls, pack_call
from rrto_ros.wire.plan import Plan, pack_define
from rrto_ros.wire.reference import mark, pack_reference

BUDGET = 0.005
COUNT = 4096
SIZE = 4 * COUNT
FIRST = BASE + (1 << 20)


class Link:
    bytes_per_s = 1e5


def at(buffer):
    return FIRST + buffer * SIZE


def launch(kernel, a, b, c):
    sizes = {f"{of}_{axis}": 1 for of in ("grid", "block") for axis in "xyz"}
    sizes |= {"grid_x": COUNT // 32, "block_x": 32}
    params = struct.pack("<QQQI4x", at(a), at(b), at(c), COUNT)
    return "launch", {"module": 1, "kernel": KERNELS.index(kernel), "flags": 0, **sizes,
                      "shared_bytes": 0, "stream": 0, "params": params}  # fmt: skip


X, W1, W2, W3, A, B, C = range(7)


class Network(Inference):
    """Three layers: one here, one at the edge, one here; a copy to the program."""

    uploaded = SIZE
    varies = ()

    def __init__(self, kernel="add"):
        self.calls = [
            ("memcpy_htod", {"dst": at(X), "stream": 0}),
            launch("add", A, X, W1),
            launch(kernel, B, A, W2),
            launch("add", C, B, W3),
            ("memcpy_dtoh", {"src": at(C), "size": SIZE, "stream": 0}),
        ]
        self.plan = Plan(tuple(template(*call, payload_bytes=SIZE * (k == 0))
                               for k, call in enumerate(self.calls)))  # fmt: skip
        self.work = tuple(call.op.work is not Work.NONE for call in self.plan.calls)

    def placed(self, knows, places=(NEAR, NEAR, FAR, NEAR, NEAR)):
        touched = []
        for k, (name, fields) in enumerate(self.calls):
            payload = bytes(SIZE) if k == 0 else b""
            (record,) = iter_calls(pack_call(name, 1, payload=payload, **fields))
            found = knows.touched(record)
            touched.append(Touched(found.reads, found.writes, found.writes))
        coarse = self.coarse(knows, touched)
        return Placed(knows.code, places, tuple(touched), self.work, coarse, busy_s=1e-3)


class Layers(Inference):
    """Random layers, each of what was made before it: no state, so it can be executed again."""

    def __init__(self, rnd):
        self.uploaded, self.varies = SMALL, []
        buffers = rnd.sample(range(8), 8)
        made = [buffers[0]]
        self.calls = [("memcpy_htod", {"dst": small(buffers[0]), "stream": 0})]
        for buffer in buffers[1 : rnd.randint(4, 8)]:
            self.calls.append(small_launch("add", buffer, rnd.choice(made), rnd.choice(made)))
            made.append(buffer)
        self.calls.append(("memcpy_dtoh", {"src": small(made[-1]), "size": SMALL, "stream": 0}))
        self.plan = Plan(tuple(template(*call, payload_bytes=SMALL * (k == 0))
                               for k, call in enumerate(self.calls)))  # fmt: skip
        self.work = tuple(call.op.work is not Work.NONE for call in self.plan.calls)


class Watched(Parted):
    """A parted session whose bytes to and from the edge are counted."""

    def __init__(self, ends, adaptive):
        super().__init__(ends, adaptive)
        self.adaptive = adaptive
        self.bytes = 0
        far, results = ends[FAR], self.session.results
        execute = far.execute

        def counted(batch):
            self.bytes += len(batch)
            execute(batch)

        def told(records):
            self.bytes += len(records)
            results(FAR, records)

        far.execute, far.take = counted, told


class Adapted(Program):
    """A program with the network's memory, in a plain session and in an adaptive one."""

    def __init__(self, *sessions):
        super().__init__(*sessions)
        self.call("mem_alloc", address=FIRST, size=7 * SIZE, stream=0)
        for buffer in (W1, W2, W3):
            self.upload(buffer, np.random.default_rng(buffer).normal(size=COUNT))

    def upload(self, buffer, values):
        content = values.astype(np.float32).tobytes()
        self.call("memcpy_htod", dst=at(buffer), stream=0, payload=content)

    def infer(self, one, values, number=1):
        """One inference; (its error, bytes to and from the edge, its bits, if it was a sample)."""
        plain, parted = self.sessions
        before, samples = parted.bytes, parted.adaptive.statistics()["samples"]
        last = len(one) - 1
        record = pack_reference(
            number, 0, len(one), self.index + 1, 1, [mark(last, 3)], [],
            values.astype(np.float32).tobytes(),
        )  # fmt: skip
        self.send(record)
        self.index += len(one)
        exact, got = plain.answer(self.index), parted.answer(self.index)
        assert (exact[1], got[1]) == (0, 0)
        said = parted.adaptive.statistics()
        error = relative_error(got[2], exact[2], "f32")
        return error, parted.bytes - before, said["bits"], said["samples"] > samples


@pytest.fixture
def make(tmp_path):
    ends = [Plain(tmp_path) for _ in range(3)]
    made = []

    def make(budget=BUDGET, adaptive=True):
        made.append(Watched(ends[1:], Adaptive(budget, Link()) if adaptive else None))
        return Adapted(ends[0], made[0])

    yield make
    ends[0].close()
    for parted in made:
        parted.close()


def test_fewer_bytes_cross_and_no_output_is_off_by_more_than_the_budget(make):
    program = make()
    one, parted = Network(), program.sessions[1]
    program.send(pack_define(1, one.plan))
    placed = one.placed(parted.knows)
    assert placed.coarse.refused == ""
    assert placed.coarse.reads[2] == {"f32": ((at(A), at(A) + SIZE),)}
    parted.session.place(1, placed)
    rng = np.random.default_rng(1)
    went = [program.infer(one, rng.normal(size=COUNT)) for _ in range(150)]
    before, after = [w for w in went[:3] if not w[3]], [w for w in went[-60:] if not w[3]]
    assert all(error == 0.0 for error, *_ in before)
    assert all(error == 0.0 for error, _, _, sample in went if sample)
    assert max(error for error, *_ in went) <= BUDGET
    assert max(error for error, *_ in after) > 0
    said = parted.adaptive.statistics()
    assert said["bits"] in (8, 10, 12)
    assert max(size for _, size, *_ in after) < before[0][1] / 2
    # Both directions: to the edge what the first layer made, back what the second did.
    assert said["coarse_bytes"] == said["coarse_inferences"] * 2 * SIZE
    assert said["worst_error"] <= BUDGET / 2
    assert parted.adaptive.measured()[said["bits"]][0] >= LEAST_SAMPLES


def test_what_the_program_reads_itself_and_what_it_uploads_is_exact(make):
    program = make()
    one, parted = Network(), program.sessions[1]
    program.send(pack_define(1, one.plan))
    parted.session.place(1, one.placed(parted.knows))
    rng = np.random.default_rng(2)
    # Until an inference has coarse transfers.
    assert any(program.infer(one, rng.normal(size=COUNT))[0] > 0.0 for _ in range(300))
    for buffer in (X, W1, W2, W3, A):
        program.call("memcpy_dtoh", src=at(buffer), size=SIZE, stream=0)
    # Work that is no part of the inference gets exact bytes, too, wherever it runs.
    name, fields = launch("add", B, A, W2)
    program.call(name, **fields)
    program.call("memcpy_dtoh", src=at(B), size=SIZE, stream=0)


def test_a_width_that_is_too_coarse_is_never_used(make):
    """What the edge does is the difference of what is nearly equal: hardly any error is small."""
    program = make()
    program.call("module_unload", module=1)
    program.call("module_load", module=1, payload=SUBTRACTS)
    one, parted = Network("gather"), program.sessions[1]
    program.send(pack_define(1, one.plan))
    program.upload(W1, np.zeros(COUNT))
    program.upload(W2, np.full(COUNT, 50.0))
    program.upload(W3, np.zeros(COUNT))
    parted.session.place(1, one.placed(parted.knows))
    rng = np.random.default_rng(3)
    went = [program.infer(one, 100 + rng.normal(size=COUNT) / 100) for _ in range(120)]
    assert max(error for error, *_ in went) <= BUDGET
    tried = parted.adaptive.measured()
    assert tried[4] == (1, pytest.approx(tried[4][1]))
    assert tried[4][1] > BUDGET, "it was tried once, in a sample, and left"
    assert all(width not in (4, 6) for _, _, width, _ in went)


def test_the_guard_raises_precision_when_outputs_get_worse(make):
    """A width passed with the inputs of the beginning; with those that come then it would not."""
    program = make()
    program.call("module_unload", module=1)
    program.call("module_load", module=1, payload=SUBTRACTS)
    one, parted = Network("gather"), program.sessions[1]
    program.send(pack_define(1, one.plan))
    for buffer in (W1, W2, W3):
        program.upload(buffer, np.zeros(COUNT))
    parted.session.place(1, one.placed(parted.knows))
    rng = np.random.default_rng(4)
    went = [program.infer(one, rng.normal(size=COUNT)) for _ in range(100)]
    assert max(error for error, *_ in went) <= BUDGET
    bits = max(width for _, _, width, _ in went[-20:])
    assert bits in (8, 10, 12)
    said = parted.adaptive.statistics()
    assert (said["raised"], said["coarse_inferences"] > 10) == (0, True)
    # Now one value in each block makes the steps large, and the others hardly matter to them.
    spread = rng.normal(size=COUNT) / 1000
    spread[::1024] = 10.0
    program.upload(W2, np.where(spread == 10.0, 5.0, 0.0))
    went = [program.infer(one, spread)]
    while not parted.adaptive.statistics()["raised"]:
        assert len(went) < 600
        went.append(program.infer(one, spread))
    assert went[-1][3], "it was seen in a sample, whose result was exact"
    assert went[-1][0] == 0.0
    after = [program.infer(one, spread) for _ in range(60)]
    assert max(error for error, *_ in after) <= BUDGET
    assert all(not width or width > bits for _, _, width, _ in after)
    assert parted.adaptive.statistics()["worst_error"] > BUDGET / 2


def test_samples_change_neither_results_nor_memory(make):
    """With a budget that nothing meets: all is exact, and executed again and again."""
    program = make(budget=1e-12)
    parted = program.sessions[1]
    samples = 0
    for seed in range(12):
        rnd = random.Random(seed)
        one = Layers(rnd)
        program.send(pack_define(1, one.plan))
        for k in range(25):
            if not k or rnd.random() < 0.1:
                parted.session.place(1, one.placed(parted.knows, rnd))
            left = rnd.random() < 0.2
            count = rnd.randint(1, len(one) - 1) if left else len(one)
            program.send(one.reference(1, program.index + 1, rnd, 0, count))
            program.index += count
            if not left:
                program.same(program.index)
            elif rnd.random() < 0.5:
                program.call("memcpy_htod", dst=BASE, stream=0, payload=floats(rnd))
        program.memory()
        samples = parted.adaptive.statistics()["samples"]
    assert samples > 10
    assert parted.adaptive.statistics()["coarse_inferences"] == 0
    assert parted.session.statistics()["awaited"] == 0


def test_a_session_whose_transfers_are_exact_has_nothing_of_this(make):
    program = make(adaptive=False)
    assert type(program.sessions[1].session._coherence).__name__ == "Coherence"


SUBTRACTS = IMAGE.replace(
    b"""  add.s64 %d5, %d1, %d4; add.s64 %d7, %d3, %d4;
  ld.global.u32 %r4, [%d7]; and.b32 %r4, %r4, 63; mul.wide.u32 %d8, %r4, 4;
  add.s64 %d9, %d2, %d8; ld.global.f32 %f1, [%d9]; st.global.f32 [%d5], %f1;
""",
    b"""  add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4; add.s64 %d7, %d3, %d4;
  ld.global.f32 %f1, [%d6]; ld.global.f32 %f2, [%d7]; sub.f32 %f1, %f1, %f2;
  st.global.f32 [%d5], %f1;
""",
)
