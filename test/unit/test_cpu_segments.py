"""Segments of the CPU device: run as one, calls mean what each means by itself."""

import os
import random
import signal

import numpy as np
import pytest

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import (
    Launch,
    MemcpyNode,
    MemsetNode,
    SegmentCall,
    SegmentDevice,
)
from rrto_ros.errors import CudaError
from rrto_ros.execution.executor import Executor
from rrto_ros.execution.progress import PAGE_BYTES, Progress
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.plan import Plan, Varying, pack_define
from rrto_ros.wire.reference import mark, pack_reference
from rrto_ros.wire.result_codec import iter_results
from rrto_ros.wire.templates import CallTemplate

HEAD = ".version 7.0\n.target sm_70\n.address_size 64\n"
STEP = """
.visible .entry step(.param .u64 at, .param .u32 factor) {
  .reg .b32 %r<6>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [at]; ld.param.u32 %r1, [factor];
  mov.u32 %r2, %tid.x; mad.lo.u32 %r4, %ctaid.x, 8, %r2;
  mul.wide.u32 %rd2, %r4, 4; add.s64 %rd3, %rd1, %rd2;
  ld.global.u32 %r3, [%rd3]; mad.lo.u32 %r3, %r3, %r1, PLUS; st.global.u32 [%rd3], %r3; ret;
}
"""
TRAP = """
.visible .entry trapped(.param .u64 at, .param .u32 yes) {
  .reg .pred %p; .reg .b32 %r<2>;
  ld.param.u32 %r1, [yes]; setp.ne.u32 %p, %r1, 0; @%p trap; ret;
}
"""
SPIN = """
.visible .entry spin(.param .u64 at, .param .u32 yes) {
  .reg .pred %p; .reg .b32 %r<2>;
  ld.param.u32 %r1, [yes];
again: setp.ne.u32 %p, %r1, 0; @%p bra again; ret;
}
"""
WORDS = 64
STEP_K, TRAP_K, SPIN_K = 0, 1, 2


def listing(plus=1):
    return (HEAD + STEP.replace("PLUS", str(plus)) + TRAP + SPIN).encode()


@pytest.fixture
def make(tmp_path):
    made = []

    def one(**options):
        device = CpuDevice(
            limit_bytes=1 << 20, arena_bytes=1 << 30, threads=2, cache_dir=tmp_path, **options
        )
        made.append(device)
        device.module_load(1, listing())
        device.mem_alloc(device.info.arena_base, 4096, 0)
        device.stream_create(7, 0, 0)
        return device

    yield one
    for device in made:
        device.close()


def launch(device, value, kernel=STEP_K, at=0, blocks=2):
    address = device.info.arena_base + at
    params = np.uint64(address).tobytes() + np.uint32(value).tobytes()
    return Launch(1, kernel, (blocks, 1, 1), (8, 1, 1), 0, params)


def calls_of(device, works, stream=0):
    return [
        SegmentCall(work, stream, Progress.note(20, f"k{k}".encode()))
        for k, work in enumerate(works)
    ]


def memory(device):
    return bytes(device.memcpy_dtoh(device.info.arena_base, 4096, 0))


def alone(device, call):
    work = call.work
    if isinstance(work, Launch):
        device.launch(work, call.stream)
    elif isinstance(work, MemcpyNode):
        device.memcpy_dtod(work.dst, work.src, work.bytes, call.stream)
    else:
        device.memset(work, call.stream)


def anything(device, rng):
    base = device.info.arena_base
    kind = rng.random()
    if kind < 0.8:
        return launch(
            device, rng.randrange(1, 99), at=256 * rng.randrange(4), blocks=rng.randint(1, 3)
        )
    if kind < 0.9:
        return MemcpyNode(base + 256 * rng.randrange(4), base + 2048, 128)
    return MemsetNode(base + 256 * rng.randrange(4), 0, rng.randrange(256), 1, 64, 1)


def chained(device):
    return device.statistics()["launches_chained"]


@pytest.mark.parametrize("seed", range(6))
def test_a_segment_does_what_its_calls_do_by_themselves(make, seed):
    rng = random.Random(seed)
    device, plain = make(), make()
    count = rng.randint(2, 40)
    assert isinstance(device, SegmentDevice)
    bases = device.info.arena_base, plain.info.arena_base
    state = rng.getstate()
    works = [anything(device, rng) for _ in range(count)]
    rng.setstate(state)
    twins = [anything(plain, rng) for _ in range(count)]
    assert bases[0] != bases[1]
    calls, others = calls_of(device, works), calls_of(plain, twins)
    segment = device.prepare_segment(calls)
    for _ in range(12):
        first = rng.choice([0, 0, rng.randrange(count)])
        last = rng.choice([count, rng.randint(first + 1, count)])
        changed = {}
        for k in rng.sample(range(first, last), rng.randint(0, min(3, last - first))):
            state = rng.getstate()
            changed[k] = calls[k] = SegmentCall(anything(device, rng), rng.choice([0, 7]), b"x")
            rng.setstate(state)
            others[k] = SegmentCall(anything(plain, rng), rng.choice([0, 7]), b"x")
        segment.run(first, last, changed, 100, 0)
        for call in others[first:last]:
            alone(plain, call)
        assert memory(device) == memory(plain)
    assert device.statistics()["launches"] == plain.statistics()["launches"]
    assert chained(plain) == 0


def test_short_launches_are_chained_once_they_are_known(make):
    device = make()
    segment = device.prepare_segment(calls_of(device, [launch(device, k) for k in range(9)]))
    for _ in range(3):
        segment.run(0, 9, {}, 1, 0)
    assert chained(device) >= 9
    assert device.statistics()["launches"] == 27


def test_with_memcheck_every_launch_is_made_by_itself(make):
    device = make(memcheck=True)
    segment = device.prepare_segment(calls_of(device, [launch(device, k) for k in range(9)]))
    for _ in range(3):
        segment.run(0, 9, {}, 1, 0)
    assert chained(device) == 0


def ready(device, works):
    """A segment whose calls are chained."""
    segment = device.prepare_segment(calls_of(device, works))
    for _ in range(3):
        segment.run(0, len(works), {}, 1, 0)
    assert chained(device)
    return segment


@pytest.mark.parametrize(
    ("kernel", "result"), [(TRAP_K, CUresult.LAUNCH_FAILED), (SPIN_K, CUresult.LAUNCH_TIMEOUT)]
)
def test_the_launch_that_fails_in_a_chain_is_named_and_none_after_it_runs(make, kernel, result):
    device = make(launch_timeout_s=0.3)
    works = [launch(device, 1) for _ in range(6)]
    works[3] = launch(device, 0, kernel)
    segment = ready(device, works)
    before = np.frombuffer(memory(device), np.uint32)[0]
    bad = SegmentCall(launch(device, 1, kernel), 0, b"")
    with pytest.raises(CudaError, match=r"trapped|spin") as caught:
        segment.run(0, 6, {3: bad}, 1, 0)
    assert caught.value.result == result
    assert segment.position == 3
    assert np.frombuffer(memory(device), np.uint32)[0] == before + 3


def test_a_stream_that_is_gone_is_refused_at_its_call(make):
    device = make()
    calls = calls_of(device, [launch(device, 1) for _ in range(6)])
    calls[4] = SegmentCall(calls[4].work, 7, b"")
    segment = device.prepare_segment(calls)
    for _ in range(3):
        segment.run(0, 6, {}, 1, 0)
    assert chained(device)
    device.stream_destroy(7)
    with pytest.raises(CudaError) as caught:
        segment.run(0, 6, {}, 1, 0)
    assert caught.value.result == CUresult.INVALID_HANDLE
    assert segment.position == 4


def test_a_module_that_was_loaded_anew_is_the_one_that_runs(make):
    device = make()
    works = [launch(device, 1) for _ in range(5)]
    segment = ready(device, works)
    before = np.frombuffer(memory(device), np.uint32)[0]
    device.module_unload(1)
    device.module_load(1, listing(plus=1000))
    segment.run(0, 5, {}, 1, 0)
    assert np.frombuffer(memory(device), np.uint32)[0] == before + 5000
    device.module_unload(1)
    with pytest.raises(CudaError) as caught:
        segment.run(0, 5, {}, 1, 0)
    assert (caught.value.result, segment.position) == (CUresult.INVALID_HANDLE, 0)


def test_a_launch_that_ends_the_process_in_a_chain_is_in_the_page(make):
    device = make()
    segment = ready(device, [launch(device, 1) for _ in range(8)])
    page = os.memfd_create("page")
    os.ftruncate(page, PAGE_BYTES)
    progress = Progress(page)
    stray = SegmentCall(launch(device, 1, at=1 << 29), 0, Progress.note(20, b"k5"))
    child = os.fork()
    if child == 0:
        segment.run(1, 8, {5: stray}, 501, progress.address)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGBUS)
    assert str(progress.read()) == "launch #505 of kernel 'k5'"
    os.close(page)


def test_a_graph_of_many_kernels_is_chained_and_follows_its_nodes(make):
    device = make()
    device.graph_create(1)
    for node in range(1, 7):
        device.graph_add_node(1, node, [node - 1] if node > 1 else [], launch(device, 1))
    device.graph_add_node(1, 9, [6], None)
    device.graph_instantiate(5, 1)
    for _ in range(4):
        device.graph_launch(5, 0)
    assert chained(device)
    at = np.frombuffer(memory(device), np.uint32)
    assert at[0] == 24
    device.graph_exec_node_set(5, 6, launch(device, 2))
    device.graph_launch(5, 0)
    assert np.frombuffer(memory(device), np.uint32)[0] == (24 + 5) * 2 + 1


# ---- through the executor


def fields(device, value, kernel=STEP_K):
    made = launch(device, value, kernel)
    grid = {"grid_x": 2, "grid_y": 1, "grid_z": 1}
    block = {"block_x": 8, "block_y": 1, "block_z": 1}
    return {
        "module": 1,
        "kernel": kernel,
        "flags": 0,
        **grid,
        **block,
        "shared_bytes": 0,
        "stream": 0,
        "params": made.params,
    }


def template(device, value, kernel=STEP_K):
    record = pack_call("launch", 1, **fields(device, value, kernel))
    return CallTemplate(20, 0, bytes(record[24:]))


def results(data):
    return [(r.index, r.status, r.flags, bytes(r.payload)) for r in iter_results(data)]


@pytest.mark.parametrize("bad", [None, 4])
@pytest.mark.parametrize("marked", [None, 2])
def test_a_reference_that_runs_in_rows_answers_like_its_literal_calls(make, bad, marked):
    count, rounds = 7, 5
    outcomes = []
    for literal in (True, False):
        device = make()
        executor = Executor(device)
        kernels = [TRAP_K if k == 4 else STEP_K for k in range(count)]
        # The last 8 bytes of the arguments vary: value and padding.
        calls = tuple(template(device, 0, kernel) for kernel in kernels)
        size = len(calls[0].body)
        plan = Plan(calls, tuple(Varying(k, 24 + size - 8, 8) for k in range(count)))
        out = executor.execute(b"" if literal else pack_define(1, plan))
        index = 1
        for number in range(rounds):
            values = [k + number for k in range(count)]
            values[4] = int(number == rounds - 1 and bad is not None)
            if literal:
                batch = b"".join(
                    pack_call(
                        "launch",
                        index + k,
                        record_flags=3 if k == marked else 0,
                        **fields(device, values[k], kernels[k]),
                    )
                    for k in range(count)
                )
            else:
                marks = [] if marked is None else [mark(marked, 3)]
                batch = pack_reference(1, 0, count, index, 1, marks, values, b"")
            out += executor.execute(batch)
            index += count
        out += executor.execute(pack_call("ctx_synchronize", index, record_flags=3, context=0))
        stats = executor.statistics()
        outcomes.append(
            (
                results(out),
                memory(device)[:256],
                stats["calls"],
                stats["skipped_calls"],
                executor.sticky,
                executor.executed_call,
            )
        )
        assert (chained(device) > 0) is not literal
    assert outcomes[0] == outcomes[1]
    assert bool(outcomes[0][4]) is (bad is not None)
