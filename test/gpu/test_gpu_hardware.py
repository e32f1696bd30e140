"""The device `gpu` on a real GPU: sessions apart, memory given back, graphs, events, limits."""

import json
import time

import pytest
from support.processes import PATIENCE_S

from rrto_ros.devices.gpu.device import GpuDevice
from rrto_ros.devices.gpu.segment_graphs import GraphCall, RecordEvent
from rrto_ros.devices.protocol import Launch, MemsetNode
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
"""


@pytest.fixture
def device():
    made = GpuDevice(limit_bytes=4 * GIB, wait_limit_s=60.0)
    yield made
    made.close()


def burn(at, rounds):
    params = at.to_bytes(8, "little") + rounds.to_bytes(4, "little")
    return Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, params)


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
    assert "mad" in str(caught.value)
