"""Graphs of the stand-in for the driver: CUgraph -> {CUgraphNode: (waits, what it does)}."""
# ruff: noqa: N802, N803 the bindings' names

import functools

from support.fake_cuda_check import INVALID, OK, checked
from support.fake_cuda_memory import FaultError


class Transfer:
    """A copy or fill of a graph, made for the memory that lay there at its making."""

    def __init__(self, memory, operands, run):
        self.memory, self.operands, self.run = memory, operands, run
        self.made_for = self.now()

    def now(self):
        return [data for operand in self.operands for data in self.memory.mapping(*operand)]

    @property
    def stale(self):
        try:
            now = self.now()
        except FaultError:
            return True
        return len(now) != len(self.made_for) or any(
            a is not b for a, b in zip(now, self.made_for, strict=True)
        )

    def __call__(self):
        self.run()


class GraphCalls:
    """A part of `FakeCuda`."""

    @checked
    def cuGraphCreate(self, flags):
        return OK, self._new("CUgraph", {})

    @checked
    def cuGraphDestroy(self, hGraph):
        for node in self._alive.pop(hGraph):
            del self._alive[node]
        return OK

    def _node(self, graph, waits, count, run):
        assert count == len(waits)
        nodes = self._alive[graph]
        assert all(wait in nodes for wait in waits)
        assert len(set(waits)) == len(waits), "dependencies may not have duplicates"
        node = self._new("CUgraphNode", graph)
        nodes[node] = (tuple(waits), run)
        return OK, node

    @checked
    def cuGraphAddKernelNode(self, hGraph, dependencies, numDependencies, nodeParams):
        return self._node(hGraph, dependencies, numDependencies, self._kernel_of(nodeParams))

    @checked
    def cuGraphAddMemcpyNode(self, hGraph, dependencies, numDependencies, copyParams, ctx):
        return self._node(hGraph, dependencies, numDependencies, self._copy_of(copyParams))

    @checked
    def cuGraphAddMemsetNode(self, hGraph, dependencies, numDependencies, memsetParams, ctx):
        return self._node(hGraph, dependencies, numDependencies, self._fill_of(memsetParams))

    @checked
    def cuGraphAddEmptyNode(self, hGraph, dependencies, numDependencies):
        return self._node(hGraph, dependencies, numDependencies, None)

    @checked
    def cuGraphAddEventRecordNode(self, hGraph, dependencies, numDependencies, event):
        # Nothing says in which order two nodes would record it.
        records = [run for _, run in self._alive[hGraph].values()]
        assert event not in records, "two nodes record one event"
        return self._node(hGraph, dependencies, numDependencies, event)

    def _kernel_of(self, p):
        for name in ("gridDimX", "blockDimX"):
            assert getattr(p, name) > 0
        grid = (p.gridDimX, p.gridDimY, p.gridDimZ)
        block = (p.blockDimX, p.blockDimY, p.blockDimZ)
        assert p.func in self._alive, "a kernel node of a function that is gone"
        return self._kernel(p.func, grid, block, p.sharedMemBytes, p.extra)

    def _copy_of(self, p):
        assert (p.srcMemoryType, p.dstMemoryType, p.Height, p.Depth) == (2, 2, 1, 1)
        dst, src, size = int(p.dstDevice), int(p.srcDevice), p.WidthInBytes
        return Transfer(
            self.memory, [(dst, size), (src, size)], functools.partial(self._copy, dst, src, size)
        )

    def _fill_of(self, p):
        row = int(p.value).to_bytes(p.elementSize, "little") * p.width

        def run():
            for number in range(p.height):
                self.memory.write(int(p.dst) + number * p.pitch, row)

        return Transfer(self.memory, [(int(p.dst), p.pitch * (p.height - 1) + len(row))], run)

    @checked
    def cuGraphKernelNodeSetParams(self, hNode, nodeParams):
        nodes = self._alive[self._alive[hNode]]
        nodes[hNode] = (nodes[hNode][0], self._kernel_of(nodeParams))
        return OK

    @checked
    def cuGraphInstantiate(self, hGraph, flags):
        return OK, self._new("CUgraphExec", dict(self._alive[hGraph]))

    @checked
    def cuGraphExecDestroy(self, hGraphExec):
        del self._alive[hGraphExec]
        return OK

    def _update(self, executable, node, run):
        nodes = self._alive[executable]
        if isinstance(nodes[node][1], Transfer) and nodes[node][1].stale:
            return INVALID  # "if the memory operands' mappings changed"
        nodes[node] = (nodes[node][0], run)
        return OK

    @checked
    def cuGraphExecKernelNodeSetParams(self, hGraphExec, hNode, nodeParams):
        return self._update(hGraphExec, hNode, self._kernel_of(nodeParams))

    @checked
    def cuGraphExecMemcpyNodeSetParams(self, hGraphExec, hNode, copyParams, ctx):
        if not copyParams.WidthInBytes:
            return INVALID  # "Zero-length operations are not supported."
        return self._update(hGraphExec, hNode, self._copy_of(copyParams))

    @checked
    def cuGraphExecMemsetNodeSetParams(self, hGraphExec, hNode, memsetParams, ctx):
        if not memsetParams.width or memsetParams.height != 1:
            return INVALID  # nothing, or more than one dimension
        return self._update(hGraphExec, hNode, self._fill_of(memsetParams))

    @checked
    def cuGraphLaunch(self, hGraphExec, hStream):
        entry = self.queue.entry(int(hStream))
        done = {}
        for node, (waits, run) in self._alive[hGraphExec].items():
            assert not isinstance(run, Transfer) or not run.stale, "other memory is mapped there"
            record = run if type(run).__name__ == "CUevent" else None
            work = self.queue.inner(
                self._contained(None if record else run), [*entry, *(done[w] for w in waits)]
            )
            if record:
                self._alive[record] = work
            done[node] = work
        self.queue.submit(int(hStream), None, done.values())
        return OK
