"""The device `gpu` on a real GPU: sessions apart, memory given back, graphs, events, limits."""

import dataclasses
import json
import re
import struct
import time

import pytest
from support.processes import PATIENCE_S

from rrto_ros.devices.gpu.device import GpuDevice
from rrto_ros.devices.gpu.segment_graphs import GraphCall, RecordEvent
from rrto_ros.devices.protocol import Launch, MemcpyNode, MemsetNode
from rrto_ros.errors import CudaError

GIB = 1 << 30
PTX = b"""
.version 7.5
.target sm_75
.address_size 64
.visible .entry burn(.param .u64 pa, .param .u32 rounds)
{
    .reg .b64 %rd<2>; .reg .b32 %r<4>; .reg .pred %p;
    ld.param.u64 %rd1, [pa]; ld.param.u32 %r1, [rounds]; ld.global.u32 %r2, [%rd1];
AGAIN:
    mad.lo.u32 %r2, %r2, 5, %r1; sub.u32 %r1, %r1, 1; setp.ne.u32 %p, %r1, 0; @%p bra AGAIN;
    st.global.u32 [%rd1], %r2;
    ret;
}
.visible .global .align 4 .u32 counter = 0;
.visible .entry count()
{
    .reg .b32 %r<2>;
    atom.global.add.u32 %r1, [counter], 1;
    ret;
}
"""
COUNT = Launch(1, 1, (1, 1, 1), (1, 1, 1), 0, b"")


@pytest.fixture
def device():
    made = GpuDevice(limit_bytes=4 * GIB, wait_limit_s=60.0)
    yield made
    made.close()


def burn(at, rounds):
    params = at.to_bytes(8, "little") + rounds.to_bytes(4, "little")
    return Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, params)


def burnt(value, rounds):
    """What a `burn` makes of a word."""
    for k in range(rounds, 0, -1):
        value = (value * 5 + k) & 0xFFFFFFFF
    return value


def words(device, at, count):
    return list(struct.unpack(f"<{count}I", bytes(device.memcpy_dtoh(at, 4 * count, 0))))


def free_bytes(device):
    return int(device._driver.call("cuMemGetInfo")[0])


def last(process):
    assert process.wait(PATIENCE_S) == 0, process.text()
    return json.loads(process.lines[-1])


def has_mapping(device):
    if "maps" not in device.statistics():
        pytest.skip("this GPU has no virtual memory management")


class TestMemory:
    def test_the_arena_is_where_the_cpu_device_has_it(self, device):
        has_mapping(device)
        assert device.info.arena_base == 0x2000_0000_0000

    def test_memory_is_mapped_on_demand_and_given_back(self, device):
        has_mapping(device)
        before, base = free_bytes(device), device.info.arena_base
        device.mem_alloc(base, GIB, 0)
        device.memset(MemsetNode(base, 0, 7, 4, GIB // 4, 1), 0)
        device.ctx_synchronize()
        assert before - free_bytes(device) >= GIB
        device.mem_free(base, 0)
        assert before - free_bytes(device) < 512 << 20  # the rest is kept for the next one

    def test_a_killed_session_frees_its_memory(self, device, session):
        before = free_bytes(device)
        holder = session("hold", 2 * GIB)
        holder.wait_for("holding", PATIENCE_S)
        assert before - free_bytes(device) >= 2 * GIB
        holder.kill()
        end = time.monotonic() + 20
        while before - free_bytes(device) > 64 << 20:
            assert time.monotonic() < end, "the killed session's memory did not come back"
            time.sleep(0.05)  # the driver says nothing when it has freed it

    def test_too_much_is_an_error_of_that_call_alone(self, session):
        assert last(session("greedy"))["results"] == ["OUT_OF_MEMORY"]


class TestSessions:
    def test_a_fault_ends_its_own_session_and_no_other(self, session):
        steady = session("steady", 3000)
        steady.wait_for("at work", PATIENCE_S)
        faulty = session("fault")
        assert last(faulty)["results"] == ["ILLEGAL_ADDRESS", "ILLEGAL_ADDRESS"]
        assert last(steady)["wrong"] == 0

    def test_two_sessions_share_the_gpu(self, session):
        both = [session("steady", 2000) for _ in range(2)]
        assert [last(one)["wrong"] for one in both] == [0, 0]

    def test_an_endless_kernel_is_a_timeout_and_the_process_can_end(self, session):
        found = last(session("endless"))
        assert found["results"] == ["LAUNCH_TIMEOUT"]
        assert found["waited_s"] < 5

    def test_a_thousand_replayed_inferences_neither_drift_nor_leak(self, session):
        found = last(session("steady", 1000))
        assert found["wrong"] == 0
        assert (found["segment_builds"], found["segments_declined"]) == (1, 0)
        assert found["segment_runs"] == 999


class TestGraphs:
    def test_events_inside_a_graph_measure_the_kernels_between_them(self, device):
        base = device.info.arena_base
        device.module_load(1, PTX)
        device.mem_alloc(base, 4096, 0)
        device.memset(MemsetNode(base, 0, 0, 1, 4096, 1), 0)
        for event in (1, 2):
            device.event_create(event, 0)
        calls = [GraphCall(RecordEvent(1), 0), *[GraphCall(burn(base, 1_000_000), 0)] * 3,
                 GraphCall(RecordEvent(2), 0)]  # fmt: skip
        graph = device.graphs.prepare(calls)
        assert graph.run()
        device.event_synchronize(2)
        assert device.event_elapsed_ms(1, 2) > 0.5
        assert device.statistics()["segments_declined"] == 0

    def test_kernels_without_parameters_run_alone_cooperatively_and_in_graphs(self, device):
        variables = device.module_load(1, PTX).globals
        (counter,) = [v.address for v in variables if v.name == "counter"]
        device.launch(COUNT, 0)
        device.launch(dataclasses.replace(COUNT, cooperative=True), 0)
        graph = device.graphs.prepare([GraphCall(COUNT, 0)] * 8)
        for _ in range(3):
            assert graph.run()
        assert words(device, counter, 1) == [2 + 3 * 8]
        assert device.statistics()["segment_refusal"] == ""

    def test_copies_and_fills_in_graphs_cross_pieces_of_mapped_memory(self, device):
        base, half = device.info.arena_base, 3 << 20
        device.module_load(1, PTX)
        device.mem_alloc(base, 512, 0)  # so that what follows begins inside a granule
        start, copy = base + 512, base + 512 + half
        device.mem_alloc(start, 2 * half, 0)
        calls = [
            GraphCall(MemsetNode(start, 0, 7, 4, half // 4, 1), 0), GraphCall(burn(start, 9), 0),
            GraphCall(burn(start + half - 4, 5), 0), GraphCall(MemcpyNode(copy, start, half), 0),
        ]  # fmt: skip
        graph = device.graphs.prepare(calls)
        assert graph.run(), device.statistics()["segment_refusal"]
        assert words(device, copy, 2) == [burnt(7, 9), 7]
        assert words(device, copy + half - 8, 2) == [7, burnt(7, 5)]
        changed = {0: MemsetNode(start, 0, 8, 4, half // 4, 1), 2: burn(start + 4, 3),
                   3: MemcpyNode(copy + 4, start, half - 4)}  # fmt: skip
        assert graph.run(changed), device.statistics()["segment_refusal"]
        assert words(device, copy + 4, 3) == [burnt(8, 9), burnt(8, 3), 8]

    def test_a_graph_is_right_when_its_memory_was_mapped_anew(self, device):
        has_mapping(device)
        base, size = device.info.arena_base, 512 << 20  # more than is kept when it is free
        device.module_load(1, PTX)
        device.mem_alloc(base, 4096, 0)
        far = base + GIB
        graph = device.graphs.prepare([
            GraphCall(MemsetNode(far, 0, 3, 4, 1, 1), 0), GraphCall(burn(far, 4), 0),
            GraphCall(burn(far, 2), 0), GraphCall(MemcpyNode(base, far, 4), 0),
        ])  # fmt: skip
        for _ in range(3):
            device.mem_alloc(far, size, 0)
            assert graph.run(), device.statistics()["segment_refusal"]
            assert words(device, base, 1) == [burnt(burnt(3, 4), 2)]
            device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
            device.mem_free(far, 0)
        assert device.statistics()["unmaps"] >= 3

    def test_an_event_recorded_twice_in_a_graph_is_the_last_one(self, device):
        base = device.info.arena_base
        device.module_load(1, PTX)
        device.mem_alloc(base, 4096, 0)
        for event in (1, 2):
            device.event_create(event, 0)
        graph = device.graphs.prepare([
            GraphCall(RecordEvent(1), 0), GraphCall(RecordEvent(2), 0),
            GraphCall(burn(base, 1_000_000), 0), GraphCall(RecordEvent(2), 0),
        ])  # fmt: skip
        assert graph.run()
        device.event_synchronize(2)
        assert device.event_elapsed_ms(1, 2) > 0.5

    def test_a_module_is_unloaded_behind_its_kernels(self, device):
        base = device.info.arena_base
        device.mem_alloc(base, 4096, 0)
        device.memset(MemsetNode(base, 0, 1, 4, 1, 1), 0)
        for name in (1, 2, 3):
            device.module_load(name, PTX)
            device.launch(dataclasses.replace(burn(base, 20_000), module=name), 0)
            device.module_unload(name)
        want = 1
        for _ in range(3):
            want = burnt(want, 20_000)
        assert words(device, base, 1) == [want]

    def test_a_checkpoint_brings_memory_back_as_it_was(self, device):
        base, size = device.info.arena_base, 5 << 20
        device.mem_alloc(base, size, 0)
        data = bytes(range(256)) * (size // 256)
        device.memcpy_htod(base, data, 0)
        taken = device.checkpoint([(base + 1000, size - 2000), (base + 2000, 4096)], 0)
        device.memset(MemsetNode(base, 0, 0, 1, size, 1), 0)
        device.restore(taken)
        got = bytes(device.memcpy_dtoh(base, size, 0))
        assert got == bytes(1000) + data[1000 : size - 1000] + bytes(1000)

    def test_the_clock_of_the_session_counts_the_kernels(self, device):
        base = device.info.arena_base
        device.module_load(1, PTX)
        device.mem_alloc(base, 4096, 0)
        device.launch(burn(base, 1_000_000), 0)
        device.stream_synchronize(0)
        assert 1e-4 < device.statistics()["device_s"] < 10


def test_an_image_for_no_gpu_is_refused_with_the_compilers_words(device):
    with pytest.raises(CudaError) as caught:
        device.module_load(1, PTX.replace(b"mad.lo.u32", b"mad.nonsense"))
    # Its words differ between releases: the line, the modifier or the instruction.
    assert re.search(r"ptxas|line \d+|nonsense|'mad", str(caught.value)), caught.value
