"""The device `gpu`: the program's graphs, and stretches of calls as graphs."""

import struct

import pytest
from support.gpu import (
    ADD,
    MIB,
    NONE,
    PTX,
    WRITE,
    chain,
    chained,
    kernel,
    loaded_gpu,
    refused,
    word,
)

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.segment_graphs import GraphCall, RecordEvent, WaitEvent
from rrto_ros.devices.protocol import (
    Launch,
    MemcpyNode,
    MemsetNode,
)


@pytest.fixture
def loaded():
    with loaded_gpu() as made:
        yield made


class TestProgramsGraphs:
    def build(self, device, base):
        device.graph_create(1)
        device.graph_add_node(1, 10, [], kernel(WRITE, base, 5))
        device.graph_add_node(1, 11, [10], kernel(ADD, base, 1))
        device.graph_add_node(1, 12, [11], MemcpyNode(base + 512, base, 4))
        device.graph_add_node(1, 13, [12, 12], None)
        device.graph_add_node(1, 14, [13], MemsetNode(base, 0, 0xAB, 1, 4, 1))
        device.graph_instantiate(2, 1)

    def test_nodes_run_in_the_order_of_their_dependencies(self, loaded):
        device, _, base = loaded
        self.build(device, base)
        device.graph_launch(2, 0)
        assert (word(device, base + 512), word(device, base)) == (16, 0xABABABAB)

    def test_an_executable_keeps_what_it_was_made_of_and_changes_by_itself(self, loaded):
        device, _, base = loaded
        self.build(device, base)
        device.graph_instantiate(3, 1)
        device.graph_exec_node_set(3, 10, kernel(WRITE, base, 100))
        device.graph_launch(2, 0)
        assert word(device, base + 512) == 16
        device.graph_launch(3, 0)
        assert word(device, base + 512) == 301
        device.graph_exec_node_set(2, 11, kernel(ADD, base, 7))
        device.graph_exec_node_set(2, 12, MemcpyNode(base + 1024, base, 4))
        device.graph_exec_node_set(2, 14, MemsetNode(base, 0, 0x1111, 2, 2, 1))
        device.graph_launch(2, 0)
        assert word(device, base + 1024) == 22
        assert word(device, base) == 0x11111111

    def test_an_executable_outlives_its_graph(self, loaded):
        device, cuda, base = loaded
        self.build(device, base)
        device.graph_destroy(1)
        device.graph_exec_node_set(2, 10, kernel(WRITE, base, 2))
        device.graph_launch(2, 0)
        assert word(device, base + 512) == 7
        assert cuda.count("cuGraphDestroy") == 0
        device.graph_exec_destroy(2)
        assert cuda.count("cuGraphDestroy") == 1

    def test_what_does_not_fit_is_refused(self, loaded):
        device, cuda, base = loaded
        self.build(device, base)
        far = base + 2 * MIB
        for result, call, *arguments in (
            (CUresult.INVALID_HANDLE, device.graph_launch, 9, 0),
            (CUresult.INVALID_HANDLE, device.graph_add_node, 9, 1, [], None),
            (CUresult.INVALID_VALUE, device.graph_add_node, 1, 20, [99], None),
            (CUresult.INVALID_VALUE, device.graph_add_node, 1, 20, [], MemcpyNode(far, base, 4)),
            (CUresult.INVALID_VALUE, device.graph_exec_node_set, 2, 10, MemcpyNode(base, base, 4)),
            (CUresult.INVALID_HANDLE, device.graph_instantiate, 2, 1),
            (CUresult.NOT_SUPPORTED, device.graph_add_node, 1, 21, [],
             kernel(WRITE, base, cooperative=True)),
        ):  # fmt: skip
            refused(result, call, *arguments)
        cuda.fail("cuGraphInstantiate", CUresult.OUT_OF_MEMORY)
        refused(CUresult.OUT_OF_MEMORY, device.graph_instantiate, 5, 1)
        device.graph_instantiate(5, 1)


class TestSegments:
    def test_a_segment_does_what_its_calls_do(self, loaded):
        device, cuda, base = loaded
        calls = [
            GraphCall(MemsetNode(base, 0, 0, 4, 1, 1), 0), *chain(base, [5, 6, 7]),
            GraphCall(MemcpyNode(base + 512, base, 4), 0), *chain(base, [8]),
        ]  # fmt: skip
        segment = device.graphs.prepare(calls)
        assert segment.run()
        assert word(device, base + 512) == chained(0, [5, 6, 7])
        assert word(device, base) == chained(0, [5, 6, 7, 8])
        assert (cuda.count("cuGraphLaunch"), cuda.count("cuLaunchKernel")) == (1, 0)

    def test_a_second_run_builds_nothing(self, loaded):
        device, cuda, base = loaded
        segment = device.graphs.prepare(chain(base, range(6)))
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        assert segment.run()
        before = len(cuda.calls)
        assert segment.run()
        assert cuda.names()[before:] == ["cuGraphLaunch"]
        assert word(device, base) == chained(0, [*range(6), *range(6)])
        found = device.statistics()
        assert (found["segment_runs"], found["segment_builds"]) == (2, 1)
        assert found["device_s"] > 0

    def test_changed_arguments_are_set_in_place_and_only_those(self, loaded):
        device, cuda, base = loaded
        segment = device.graphs.prepare(chain(base, [1, 2, 3, 4]))
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        assert segment.run({2: kernel(ADD, base, 30)})
        before = len(cuda.calls)
        assert segment.run({2: kernel(ADD, base, 31), 0: kernel(ADD, base, 1)})
        assert cuda.names()[before:] == ["cuGraphExecKernelNodeSetParams", "cuGraphLaunch"]
        assert word(device, base) == chained(0, [1, 2, 30, 4, 1, 2, 31, 4])

    def test_the_words_of_one_run_hold_until_others_are_given(self, loaded):
        """A caller gives all varying words each time; the same ones cost no update."""
        device, cuda, base = loaded
        segment = device.graphs.prepare(chain(base, [1, 2, 3, 4]))
        for _ in range(3):
            assert segment.run({1: kernel(ADD, base, 9)})
        assert cuda.count("cuGraphExecKernelNodeSetParams") == 0

    def test_a_run_that_is_under_way_keeps_its_arguments(self, loaded):
        device, _, base = loaded
        segment = device.graphs.prepare(
            [GraphCall(kernel(WRITE, base + 4 * n, n), 0) for n in range(4)]
        )
        assert segment.run()
        assert segment.run({0: kernel(WRITE, base + 16, 50)})
        got = struct.unpack("<5I", bytes(device.memcpy_dtoh(base, 20, 0)))
        assert got == (0, 1, 2, 3, 50)

    def test_few_calls_stay_single_calls(self, loaded):
        device, cuda, base = loaded
        segment = device.graphs.prepare(chain(base, [1, 2, 3]))
        assert not segment.run()
        assert cuda.count("cuGraphCreate") == 0
        assert device.statistics()["segments_declined"] == 1

    @pytest.mark.parametrize(
        "disturb",
        [
            lambda device, base: device.module_unload(1),
            lambda device, base: device.mem_free(base, 0),
            lambda device, base: device.event_destroy(4),
            lambda device, base: device.stream_destroy(7),
        ],
        ids=["module", "memory", "event", "stream"],
    )
    def test_nothing_runs_when_something_it_names_is_gone(self, loaded, disturb):
        device, cuda, base = loaded
        device.event_create(4, 0)
        device.stream_create(7, 1, 0)
        segment = device.graphs.prepare([
            *chain(base, [1, 2], stream=7), GraphCall(RecordEvent(4), 7),
            GraphCall(MemcpyNode(base + 512, base, 4), 7), *chain(base, [3], stream=7),
        ])  # fmt: skip
        assert segment.run()
        device.ctx_synchronize()
        ran = len(cuda.launched)
        disturb(device, base)
        assert not segment.run()
        device.ctx_synchronize()
        assert len(cuda.launched) == ran

    @pytest.mark.parametrize("what", ["module", "attribute", "event", "stream"])
    def test_a_name_that_means_something_else_now_is_built_anew(self, loaded, what):
        device, cuda, base = loaded
        device.event_create(4, 0)
        device.stream_create(7, 1, 0)
        segment = device.graphs.prepare(
            [*chain(base, [1, 2, 3], stream=7), GraphCall(RecordEvent(4), 7)]
        )
        assert segment.run()
        device.ctx_synchronize()
        if what == "module":
            device.module_unload(1)
            device.module_load(1, PTX)
        elif what == "attribute":
            device.function_set_attribute(1, ADD, 8, 64 << 10)
        elif what == "event":
            device.event_destroy(4)
            device.event_create(4, 0)
        else:
            device.stream_destroy(7)
            device.stream_create(7, 1, 0)
        assert segment.run()
        device.event_synchronize(4)
        assert cuda.count("cuGraphInstantiate") == 2
        assert len(cuda.launched) == 6

    def test_freed_and_allocated_memory_is_checked_again_not_built_again(self, loaded):
        device, cuda, base = loaded
        segment = device.graphs.prepare(
            [*chain(base, [1, 2, 3]), GraphCall(MemcpyNode(base + 512, base, 4), 0)]
        )
        assert segment.run()
        device.mem_free(base, 0)
        assert not segment.run()
        device.mem_alloc(base, MIB, 0)
        assert segment.run()
        assert cuda.count("cuGraphInstantiate") == 1

    def test_copies_whose_memory_was_mapped_anew_are_built_anew_kernels_are_not(self, loaded):
        """A copy node is made for the memory that is mapped there; a kernel has an address."""
        device, cuda, base = loaded
        far, size = base + 64 * MIB, 4 * MIB
        copies = device.graphs.prepare(
            [*chain(base, [1, 2, 3]), GraphCall(MemcpyNode(base + 512, far, 4), 0)]
        )
        kernels = device.graphs.prepare(chain(far, [1, 2, 3, 4]))
        other = device.graphs.prepare(
            [*chain(base, [1, 2, 3]), GraphCall(MemcpyNode(base + 516, base, 4), 0)]
        )
        for round_ in range(3):
            device.mem_alloc(far, size, 0)
            device.memset(MemsetNode(far, 0, round_, 4, 1, 1), 0)
            for _ in range(2):
                assert copies.run({3: MemcpyNode(base + 512 + 4 * round_, far, 4)})
                assert kernels.run()
                assert other.run()
            assert word(device, far) == chained(round_, [1, 2, 3, 4] * 2)
            device.mem_free(far, 0)
            device._arena._trim(0)
        assert device.statistics()["unmaps"] == 3
        assert cuda.count("cuGraphInstantiate") == 3 + 1 + 1

    def test_what_does_not_fit_declines_the_run_and_the_next_one_is_right(self, loaded):
        device, cuda, base = loaded
        segment = device.graphs.prepare(
            [*chain(base, [1, 2, 3]), GraphCall(MemcpyNode(base + 512, base, 4), 0)]
        )
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        assert segment.run()
        short = Launch(1, ADD, (1, 1, 1), (1, 1, 1), 0, b"12")
        for patch in (
            {0: short}, {0: kernel(WRITE, base, 1)}, {0: kernel(NONE)},
            {3: MemcpyNode(base + 2 * MIB, base, 4)}, {3: kernel(ADD, base, 1)},
            {0: kernel(ADD, base, 1, module=8)},
        ):  # fmt: skip
            assert not segment.run(patch), patch
        assert segment.run({0: kernel(ADD, base, 1), 3: MemcpyNode(base + 512, base, 4)})
        assert word(device, base) == chained(0, [1, 2, 3, 1, 2, 3])
        assert cuda.count("cuGraphLaunch") == 2

    def test_a_graph_that_the_driver_refuses_is_tried_once(self, loaded):
        device, cuda, base = loaded
        segment = device.graphs.prepare(chain(base, [1, 2, 3, 4]))
        cuda.fail("cuGraphInstantiate", CUresult.NOT_SUPPORTED)
        assert not segment.run()
        assert not segment.run()
        assert cuda.count("cuGraphInstantiate") == 1
        assert "CUgraph" not in cuda.alive()

    def test_an_update_that_the_driver_refuses_declines_that_run(self, loaded):
        device, cuda, base = loaded
        segment = device.graphs.prepare(chain(base, [1, 2, 3, 4]))
        device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
        assert segment.run()
        cuda.fail("cuGraphExecKernelNodeSetParams", 910)
        assert not segment.run({0: kernel(ADD, base, 5)})
        assert segment.run({0: kernel(ADD, base, 6)})
        assert word(device, base) == chained(0, [1, 2, 3, 4, 6, 2, 3, 4])

    def test_a_fault_inside_is_the_sessions_end(self, loaded):
        device, _, _ = loaded
        segment = device.graphs.prepare(chain(0x10, [1, 2, 3, 4]))
        assert segment.run()
        refused(CUresult.ILLEGAL_ADDRESS, device.stream_synchronize, 0)
        refused(CUresult.ILLEGAL_ADDRESS, segment.run)

    def test_a_kernel_without_parameters_gets_no_argument_buffer(self, loaded):
        device, cuda, base = loaded
        calls = [*chain(base, [1, 2, 3]), GraphCall(kernel(NONE), 0)]
        device.launch(kernel(NONE), 0)
        device.launch(kernel(NONE, cooperative=True), 0)
        assert device.graphs.prepare(calls).run()
        device.ctx_synchronize()
        assert [name for name, *_ in cuda.launched].count("no_arguments") == 3

    def test_an_event_that_is_recorded_twice_is_recorded_by_its_last_call(self, loaded):
        device, cuda, base = loaded
        device.event_create(4, 0)
        device.stream_create(7, 1, 0)
        segment = device.graphs.prepare([
            *chain(base, [1, 2], stream=7), GraphCall(RecordEvent(4), 7),
            GraphCall(WaitEvent(4), 0), *chain(base, [3], stream=0),
            GraphCall(RecordEvent(4), 0), *chain(base + 512, [4], stream=7),
        ])  # fmt: skip
        device.memset(MemsetNode(base, 0, 0, 1, 1024, 1), 0)
        device.ctx_synchronize()
        for _ in range(2):
            assert segment.run()
            device.event_synchronize(4)
        assert word(device, base) == chained(0, [1, 2, 3] * 2)
        assert cuda.count("cuGraphAddEventRecordNode") == 1

    def test_a_copy_that_becomes_nothing_declines_the_run(self, loaded):
        """The driver updates no operation to an empty one."""
        device, cuda, base = loaded
        segment = device.graphs.prepare([
            *chain(base, [1, 2, 3]), GraphCall(MemcpyNode(base + 512, base, 4), 0),
            GraphCall(MemsetNode(base + 600, 0, 1, 1, 4, 1), 0),
        ])  # fmt: skip
        assert segment.run()
        for patch in (
            {3: MemcpyNode(base + 512, base, 0)}, {4: MemsetNode(base + 600, 0, 1, 1, 0, 1)},
            {4: MemsetNode(base + 600, 8, 1, 1, 4, 2)},
        ):  # fmt: skip
            assert not segment.run(patch), patch
        assert segment.run({3: MemcpyNode(base + 516, base, 4)})
        assert cuda.count("cuGraphInstantiate") == 1

    def test_why_a_graph_was_refused_is_told(self, loaded):
        device, cuda, base = loaded
        assert device.statistics()["segment_refusal"] == ""
        cuda.fail("cuGraphInstantiate", CUresult.NOT_SUPPORTED)
        assert not device.graphs.prepare(chain(base, [1, 2, 3, 4])).run()
        assert "cuGraphInstantiate" in device.statistics()["segment_refusal"]

    def test_cooperative_launches_stay_single_calls(self, loaded):
        device, _, base = loaded
        calls = chain(base, [1, 2, 3])
        calls.append(GraphCall(kernel(ADD, base, 1, cooperative=True), 0))
        assert not device.graphs.prepare(calls).run()

    def test_a_forgotten_segment_frees_its_graph(self, loaded):
        device, cuda, base = loaded
        segment = device.graphs.prepare(chain(base, [1, 2, 3, 4]))
        assert segment.run()
        before = len(cuda.calls)
        device.graphs.forget(segment)
        # One that runs is freed by the driver when it is done: no wait.
        assert cuda.names()[before:] == ["cuGraphExecDestroy", "cuGraphDestroy"]
        assert "CUgraphExec" not in cuda.alive()
        assert device.statistics()["segments"] == 0
