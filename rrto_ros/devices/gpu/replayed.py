"""Calls of a plan that are made again and again, run as CUDA graphs; see `protocol.Segment`.

A reference may run any stretch of them: where it is cut depends on how fast the robot is. A
stretch that comes twice gets a graph of its own, whose arguments are then set in place. One that
is new is covered by the blocks, of equal size, that lie in it; these get graphs by the same rule.
The rest, and what a graph declines, is executed one by one, so that an error belongs to the call
that has it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from rrto_ros.devices.gpu.segment_graphs import LEAST_CALLS, GraphCall, SegmentGraph, SegmentGraphs
from rrto_ros.devices.protocol import SegmentCall
from rrto_ros.devices.segments import Maker, make_call

MOST_GRAPHS = 64
"""Stretches with a graph; the longest unused one goes first."""
LEAST_BLOCK = 32
_BLOCKS = 32
_MOST_SEEN = 1024


class ReplayedCalls:
    """A segment on the GPU.

    Args:
        device: Executes single calls.
        graphs: Makes graphs.
        calls: The calls.

    Attributes:
        position: The call that failed, after `run` raised.
    """

    def __init__(self, device: Maker, graphs: SegmentGraphs, calls: Sequence[SegmentCall]) -> None:
        self._device = device
        self._graphs = graphs
        self._calls = list(calls)
        self._varied: set[int] = set()
        self._seen: set[tuple[int, int]] = set()
        self._stretches: OrderedDict[tuple[int, int], SegmentGraph] = OrderedDict()
        self._block = max(LEAST_BLOCK, -(-len(calls) // _BLOCKS))
        self.position = 0

    def run(
        self, first: int, last: int, changed: Mapping[int, SegmentCall], index: int, page: int
    ) -> None:  # fmt: skip
        """Execute calls `first` to before `last`.

        `index` and `page` are not needed: a call that fails on the GPU does not end the process.

        Raises:
            CudaError: What the driver found wrong with a call, or with an earlier one.
        """
        del index, page
        if changed:
            self._change(changed)
        if self._whole(first, last):
            return
        block, k = self._block, first
        while k < last:
            if k % block == 0 and k + block <= last and self._whole(k, k + block):
                k += block
                continue
            for single in range(k, min(last, k - k % block + block)):
                self.position = single
                make_call(self._device, self._calls[single])
            k = single + 1

    def close(self) -> None:
        """Free the graphs."""
        while self._stretches:
            self._graphs.forget(self._stretches.popitem()[1])

    def __del__(self) -> None:
        # A plan that is replaced takes its segments with it.
        self.close()

    def _whole(self, first: int, last: int) -> bool:
        """Run a stretch as one graph; False if it has none, or none that fits now."""
        self.position = first
        graph = self._stretch(first, last)
        if graph is None:
            return False
        known = range(first, last)
        return graph.run({k - first: self._calls[k].work for k in self._varied if k in known})

    def _change(self, changed: Mapping[int, SegmentCall]) -> None:
        for k, call in changed.items():
            if call.stream != self._calls[k].stream:
                self.close()  # the order among streams is built into a graph
            self._calls[k] = call
            self._varied.add(k)

    def _stretch(self, first: int, last: int) -> SegmentGraph | None:
        """The graph of a stretch; None for one that is short, or comes for the first time."""
        key = (first, last)
        graph = self._stretches.get(key)
        if graph is not None:
            self._stretches.move_to_end(key)
            return graph
        if last - first < LEAST_CALLS:
            return None
        if key not in self._seen:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen.add(key)
            return None
        if len(self._stretches) >= MOST_GRAPHS:
            self._graphs.forget(self._stretches.popitem(last=False)[1])
        graph = self._graphs.prepare(
            [GraphCall(call.work, call.stream) for call in self._calls[first:last]]
        )
        self._stretches[key] = graph
        return graph
