"""Graphs as captured streams and graphs of the program become ones: the same on every device."""

import numpy as np
import pytest
from support.ptx_texts import ADD

from rrto_ros.api.results import CUresult
from rrto_ros.devices.protocol import Launch, MemcpyNode, MemsetNode
from rrto_ros.errors import CudaError

BYTES = 4096


@pytest.fixture
def work(harness):
    """A device's kernel and memory, and the graphs that a test makes."""
    made = Work(harness)
    yield made
    made.close()


class Work:
    def __init__(self, harness):
        self.device = harness.device
        self.module, self.names, _ = harness.load(ADD)
        self.at = self.device.info.arena_base + (1 << 26)
        self.device.mem_alloc(self.at, BYTES, 0)
        self.device.memcpy_htod(self.at, bytes(BYTES), 0)
        self.graphs = []

    def add(self, where, value, threads=4):
        params = np.uint64(self.at + where).tobytes() + np.uint32(value).tobytes()
        return Launch(self.module, self.names["add"], (1, 1, 1), (threads, 1, 1), 0, params)

    def copy(self, to, source, size=16):
        return MemcpyNode(self.at + to, self.at + source, size)

    def fill(self, where, value, count=4):
        return MemsetNode(self.at + where, 0, value, 4, count, 1)

    def graph(self, name, *nodes):
        """Instantiate (node, what it waits for, work); the graph itself goes, as the shim's do."""
        self.device.graph_create(name)
        for node, waits, what in nodes:
            self.device.graph_add_node(name, node, waits, what)
        self.device.graph_instantiate(name, name)
        self.device.graph_destroy(name)
        self.graphs.append(name)

    def words(self, where, count=4):
        data = self.device.memcpy_dtoh(self.at + where, 4 * count, 0)
        return np.frombuffer(bytes(data), np.uint32).tolist()

    def close(self):
        for name in self.graphs:
            self.device.graph_exec_destroy(name)
        self.device.mem_free(self.at, 0)
        self.device.module_unload(self.module)


def test_branches_that_fork_and_join_run_before_what_waits_for_both(work):
    work.graph(
        1,
        (1, [], work.fill(0, 5)),
        (2, [1], work.copy(64, 0)),
        (3, [1], work.copy(128, 0)),
        (4, [2], work.add(64, 10)),
        (5, [3], work.add(128, 100)),
        (6, [4, 5], work.copy(64, 128, 8)),
        (7, [6], work.add(64, 1)),
    )
    for _ in range(3):
        work.device.graph_launch(1, 0)
        assert work.words(64) == [106, 106, 16, 16]
        assert work.words(128) == [105] * 4


def test_a_copy_in_rows_is_waited_for_as_a_whole(work):
    work.device.memcpy_htod(work.at, np.arange(64, dtype=np.uint32).tobytes(), 0)
    rows = [(1 + i, [], work.copy(1024 + 16 * i, 64 * i)) for i in range(4)]
    work.graph(1, *rows, (5, [1, 2, 3, 4], None), (6, [5], work.add(1024, 1000, threads=16)))
    work.device.graph_launch(1, 0)
    assert work.words(1024, 16) == [1000 + 16 * y + x for y in range(4) for x in range(4)]


def test_an_executable_changes_after_its_graph_is_gone(work):
    work.graph(1, (1, [], work.fill(0, 5)), (2, [1], work.add(0, 1)), (3, [2], work.copy(64, 0)))
    work.graph(2, (1, [], work.add(64, 7)))
    work.device.graph_exec_node_set(1, 1, work.fill(0, 50))
    work.device.graph_exec_node_set(1, 2, work.add(0, 3))
    work.device.graph_exec_node_set(1, 3, work.copy(128, 0))
    for name in (1, 2):
        work.device.graph_launch(name, 0)
    assert (work.words(0), work.words(64), work.words(128)) == ([53] * 4, [7] * 4, [53] * 4)


def test_stretches_of_a_graph_and_calls_between_them_keep_the_order_of_the_stream(work):
    work.graph(1, (1, [], work.add(0, 1)))
    work.graph(2, (1, [], work.add(0, 10)), (2, [1], work.copy(64, 0)))
    for value in (3, 4):
        work.device.memcpy_htod(work.at, np.full(4, value, np.uint32).tobytes(), 0)
        work.device.graph_launch(1, 0)
        assert work.words(0) == [value + 1] * 4
        work.device.graph_launch(2, 0)
        assert work.words(64) == [value + 11] * 4


def test_what_is_no_executable_or_no_node_is_refused(work):
    work.graph(1, (1, [], work.add(0, 1)))
    for call, wanted in (
        (lambda: work.device.graph_launch(9, 0), CUresult.INVALID_HANDLE),
        (lambda: work.device.graph_exec_node_set(1, 2, work.add(0, 1)), CUresult.INVALID_VALUE),
        (lambda: work.device.graph_exec_node_set(1, 1, work.fill(0, 1)), CUresult.INVALID_VALUE),
    ):
        with pytest.raises(CudaError) as caught:
            call()
        assert caught.value.result == wanted
