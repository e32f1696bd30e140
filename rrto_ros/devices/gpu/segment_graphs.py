"""Stretches of asynchronous calls as CUDA graphs, each started at once.

A segment is built from the decoded calls, node by node, in the order that CUDA gives the calls
of its streams. Arguments that differ from inference to inference are set in place in the
executable graph. A segment never changes what the calls mean: it runs whole or not at all. When
it does not run (a module was unloaded, an argument does not fit, the driver refuses the graph),
the caller executes the same calls one by one and gets the error where it belongs.

Over 400 lines: what is built, what is set in place and what is refused follow the same nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rrto_ros.devices.gpu.allocations import Allocations, Range
from rrto_ros.devices.gpu.arena import Arena
from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.devices.gpu.handles import LEGACY, Events, Streams
from rrto_ros.devices.gpu.launching import Launcher
from rrto_ros.devices.gpu.modules import LoadedModule, Modules
from rrto_ros.devices.protocol import Launch, MemcpyNode, MemsetNode, check_fill
from rrto_ros.errors import CudaError

LEAST_CALLS = 4
"""Shorter stretches cost less as single calls."""


@dataclass(frozen=True)
class RecordEvent:
    """An event is recorded."""

    event: int


@dataclass(frozen=True)
class WaitEvent:
    """The stream waits for an event."""

    event: int


Work = Launch | MemcpyNode | MemsetNode | RecordEvent | WaitEvent


@dataclass(frozen=True)
class GraphCall:
    """One asynchronous call and the name of its stream."""

    work: Work
    stream: int


@dataclass(frozen=True)
class _Built:
    """A graph, its executable, the node of each call that has one, and what they rely on."""

    graph: Any
    executable: Any
    nodes: dict[int, Any]
    modules: dict[int, tuple[LoadedModule, int]]
    events: dict[int, Any]
    streams: dict[int, Any]
    before: tuple[int, ...]


class SegmentGraphs:
    """Makes segments and knows what they need.

    Args:
        driver: With a current context.
        launcher: Makes nodes.
        streams: The session's.
        events: The session's.
        modules: The session's.
        allocations: Checks the ranges of copies and fills.
        arena: Knows when the memory behind them was mapped anew.
        starts: Told of the stream in which a segment is about to start.

    Attributes:
        runs: How often a segment ran as a graph.
        declined: How often one did not, so that its calls were executed singly.
        updates: How many nodes got other arguments.
        builds: How many graphs were instantiated.
        refusal: Why the last one that did not was refused; empty if that never happened.
    """

    def __init__(
        self, driver: Driver, launcher: Launcher, streams: Streams, events: Events,
        modules: Modules, allocations: Allocations, arena: Arena, starts: Callable[[Any], None],
    ) -> None:  # fmt: skip
        self.driver = driver
        self.starts = starts
        self.launcher = launcher
        self.streams = streams
        self.events = events
        self.modules = modules
        self.allocations = allocations
        self.arena = arena
        self._graphs: set[SegmentGraph] = set()
        self.runs = self.declined = self.updates = self.builds = 0
        self.refusal = ""

    def prepare(self, calls: Sequence[GraphCall]) -> SegmentGraph:
        """A segment of these calls; it is built when it first runs."""
        made = SegmentGraph(self, calls)
        self._graphs.add(made)
        return made

    def forget(self, graph: SegmentGraph) -> None:
        """Free what a graph holds."""
        graph.drop()
        self._graphs.discard(graph)

    def counts(self) -> dict[str, int | str]:
        return {
            "segments": len(self._graphs),
            "segment_runs": self.runs,
            "segments_declined": self.declined,
            "segment_builds": self.builds,
            "segment_updates": self.updates,
            "segment_refusal": self.refusal,
        }

    def close(self) -> None:
        for graph in self._graphs:
            graph.drop()
        self._graphs.clear()


class SegmentGraph:
    """Calls that run as one graph.

    Args:
        owner: Where streams, events and modules are found.
        calls: In the order of the program.
    """

    def __init__(self, owner: SegmentGraphs, calls: Sequence[GraphCall]) -> None:
        self._owner = owner
        self._calls = tuple(calls)
        self._work: list[Work] = [call.work for call in calls]
        self._built: _Built | None = None
        self._refused = len(calls) < LEAST_CALLS
        self._main = calls[0].stream if calls else 0
        self._others = tuple({c.stream for c in calls} - {self._main})
        self._removals = -1
        self._unmaps = 0
        self._mapped: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self._calls)

    def run(self, patches: Mapping[int, Work] | None = None) -> bool:
        """Start all calls, or none.

        Args:
            patches: Call number in the segment -> what it does this time; of the same kind.

        Returns:
            False if nothing was started: execute the calls singly.

        Raises:
            CudaError: The driver failed at the start of the graph.
        """
        owner = self._owner
        try:
            built = self._current(patches or {})
        except CudaError as error:
            owner.driver.check_sound()
            owner.refusal = error.detail
            built = None
        if built is None:
            owner.declined += 1
            return False
        streams = owner.streams
        for event in built.before:
            owner.driver.call("cuStreamWaitEvent", streams.use(self._main), built.events[event], 0)
        if self._others:
            streams.join(self._main, self._others)
        queue = streams.use(self._main)
        owner.starts(queue)
        owner.driver.call("cuGraphLaunch", built.executable, queue)
        if self._others:
            streams.fork(self._main, self._others)
        owner.runs += 1
        return True

    def drop(self) -> None:
        """Free graph and executable; the next run builds them anew."""
        built, self._built = self._built, None
        self._removals = -1
        if built is not None and self._owner.driver.poisoned is None:
            # One that is running is freed when it is done.
            self._owner.driver.call_anyway("cuGraphExecDestroy", built.executable)
            self._owner.driver.call_anyway("cuGraphDestroy", built.graph)

    def _current(self, patches: Mapping[int, Work]) -> _Built | None:
        """The graph with this run's arguments, None if it cannot be had."""
        if self._refused:
            return None
        built = self._built
        if built is not None and not self._holds(built):
            self.drop()
            built = None
        self._check_ranges(patches)
        if built is None:
            for at, work in patches.items():
                self._work[at] = work
            self._built = built = self._build()
            self._note_mappings()
            return built
        for at, work in patches.items():
            if work != self._work[at]:
                node = built.nodes.get(at)
                if node is None or not isinstance(work, Launch | MemcpyNode | MemsetNode):
                    return None
                kind = type(self._work[at])
                if not isinstance(work, kind) or (
                    isinstance(work, Launch) and not self._same_kernel(at, work)
                ):
                    return None
                self._owner.launcher.set_exec_node(built.executable, node, work)
                self._owner.updates += 1
                self._work[at] = work
                if not isinstance(work, Launch):
                    self._note_mappings()
        return built

    def _same_kernel(self, at: int, work: Launch) -> bool:
        known = self._work[at]
        return isinstance(known, Launch) and (known.module, known.kernel, known.cooperative) == (
            work.module, work.kernel, work.cooperative
        )  # fmt: skip

    def _holds(self, built: _Built) -> bool:
        """Whether every name still means what it meant when the graph was built."""
        owner = self._owner
        return (
            all(
                owner.modules.get(name) is loaded and loaded.changes == changes
                for name, (loaded, changes) in built.modules.items()
            )
            and all(owner.events.get(name) is event for name, event in built.events.items())
            and all(owner.streams.get(name) is stream for name, stream in built.streams.items())
            and (self._unmaps == owner.arena.unmaps or self._same_mappings())
        )

    def _note_mappings(self) -> None:
        """Remember what memory lies behind copies and fills; their nodes are made for that one."""
        self._unmaps, self._mapped = self._owner.arena.unmaps, self._mappings()

    def _same_mappings(self) -> bool:
        same = self._mappings() == self._mapped
        if same:
            self._unmaps = self._owner.arena.unmaps
        return same

    def _mappings(self) -> tuple[tuple[int, ...], ...]:
        mapping = self._owner.arena.mapping
        return tuple(mapping(*part) for work in self._work for part in _operands(work))

    def _check_ranges(self, patches: Mapping[int, Work]) -> None:
        """INVALID_VALUE if a copy or fill is outside what is allocated now."""
        allocations = self._owner.allocations
        if self._removals == allocations.removals and not patches:
            return
        # Kernel arguments are unchecked, as they are for single launches.
        again = self._removals != allocations.removals
        for at, known in enumerate(self._work):
            work = patches.get(at, known)
            if not again and at not in patches:
                continue
            for address, size in _operands(work):
                allocations.check(address, size)
        self._removals = allocations.removals

    def _build(self) -> _Built | None:
        owner, call = self._owner, self._owner.driver.call
        modules: dict[int, tuple[LoadedModule, int]] = {}
        for work in self._work:
            if isinstance(work, Launch):
                if work.cooperative:
                    self._refused = True
                    return None
                loaded = owner.modules.get(work.module)
                modules[work.module] = (loaded, loaded.changes)
        graph = call("cuGraphCreate", 0)
        try:
            order = _Order(owner, graph, last_records(self._work))
            for at, item in enumerate(self._calls):
                order.add(at, item.stream, self._work[at])
            executable = call("cuGraphInstantiate", graph, 0)
        except CudaError:
            owner.driver.call_anyway("cuGraphDestroy", graph)
            self._refused = True  # it would be refused again
            raise
        owner.builds += 1
        streams = {name: owner.streams.get(name) for name in (self._main, *self._others)}
        return _Built(
            graph, executable, order.nodes, modules, order.events, streams, tuple(order.before)
        )


class _Order:
    """Adds calls to a graph with the dependencies that their streams mean.

    Args:
        owner: Where streams and events are found.
        graph: CUgraph.
        records: Calls that record an event for others than this graph (see `last_records`).

    Attributes:
        nodes: Call number -> CUgraphNode.
        events: Every event that is recorded or waited for.
        before: Events whose record lies before the segment.
    """

    def __init__(self, owner: SegmentGraphs, graph: Any, records: frozenset[int]) -> None:
        self._owner = owner
        self._graph = graph
        self._records = records
        self._tails: dict[int, list[Any]] = {}
        self._legacy: list[Any] = []
        self._recorded: dict[int, Any] = {}
        self.nodes: dict[int, Any] = {}
        self.events: dict[int, Any] = {}
        self.before: dict[int, None] = {}

    def add(self, at: int, stream: int, work: Work) -> None:
        if isinstance(work, WaitEvent):
            self._wait(stream, work.event)
            return
        waits = self._waits(stream)
        if isinstance(work, RecordEvent):
            event = self._event(work.event)
            if at in self._records:
                node = self._owner.driver.call(
                    "cuGraphAddEventRecordNode", self._graph, waits, len(waits), event
                )
            else:
                node = self._owner.launcher.add_node(self._graph, waits, None)
            self._recorded[work.event] = node
        elif (isinstance(work, MemcpyNode) and not work.bytes) or (
            isinstance(work, MemsetNode) and not check_fill(work)
        ):
            node = self._owner.launcher.add_node(self._graph, waits, None)
        else:
            node = self._owner.launcher.add_node(self._graph, waits, work)
        self.nodes[at] = node
        self._follow(stream, node)

    def _wait(self, stream: int, name: int) -> None:
        event = self._event(name)
        node = self._recorded.get(name)
        if node is None:
            self.before[name] = None
            self._owner.events.get(name)
        else:
            key = self._key(stream)
            waits = self._waits(stream)
            both = self._owner.driver.call(
                "cuGraphAddEmptyNode", self._graph, _distinct([*waits, node]),
                len(_distinct([*waits, node])),
            )  # fmt: skip
            self._follow(key, both)
        self.events[name] = event

    def _event(self, name: int) -> Any:
        self.events[name] = self._owner.events.get(name)
        return self.events[name]

    def _key(self, stream: int) -> int:
        return 0 if stream in LEGACY else stream

    def _waits(self, stream: int) -> list[Any]:
        """What the next call of a stream has to wait for."""
        if stream in LEGACY:
            blocking = [
                node
                for name, tail in self._tails.items()
                if not self._owner.streams.is_free(name)
                for node in tail
            ]
            return _distinct([*self._legacy, *blocking])
        waits = self._tails.get(stream, [])
        if not self._owner.streams.is_free(stream):
            waits = [*waits, *self._legacy]
        return _distinct(waits)

    def _follow(self, stream: int, node: Any) -> None:
        """The node is now the last of its stream."""
        if stream in LEGACY:
            self._legacy = [node]
            for name in list(self._tails):
                if not self._owner.streams.is_free(name):
                    del self._tails[name]
        else:
            self._tails[stream] = [node]


def _operands(work: Work) -> tuple[Range, ...]:
    """The ranges of a copy or fill (INVALID_VALUE for a fill that cannot be)."""
    if isinstance(work, MemcpyNode):
        return (work.dst, work.bytes), (work.src, work.bytes)
    if isinstance(work, MemsetNode) and (size := check_fill(work)):
        return ((work.dst, size),)
    return ()


def last_records(work: Sequence[Work]) -> frozenset[int]:
    """Of the calls that record events, each event's last one.

    Between two nodes that record the same event CUDA promises no order, and in a program the last
    call counts; waits inside the graph are edges and need no event.
    """
    found: dict[int, int] = {}
    for at, item in enumerate(work):
        if isinstance(item, RecordEvent):
            found[item.event] = at
    return frozenset(found.values())


def _distinct(nodes: Iterable[Any]) -> list[Any]:
    return list({id(node): node for node in nodes}.values())
