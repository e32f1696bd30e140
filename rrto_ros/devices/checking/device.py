"""A device that checks every call before another device executes it.

It is for finding defects of this package: calls that were lost, doubled, put in another order or
changed between a program and its device. It keeps its own account of what lives and what comes
after what, from the calls alone, and compares each call with what the CUDA driver's documentation
allows. What it finds goes to the program's error output, to the statistics and, at the end, to the
log; the call is made all the same, and answered by the device inside.

It offers none of the short cuts that a device may offer (rows of calls, checkpoints), so that
every call passes here. Over 400 lines: it is the device protocol, one short method each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rrto_ros.api.info import DeviceInfo, KernelInfo, ModuleInfo
from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices.checking.findings import PREFIX, Findings, Rule
from rrto_ros.devices.checking.launches import LaunchLimits
from rrto_ros.devices.checking.memory import CheckedMemory
from rrto_ros.devices.checking.order import DEFAULT_STREAMS, Order
from rrto_ros.devices.protocol import (
    Device,
    GraphNode,
    Launch,
    MemcpyNode,
    MemsetNode,
    PrintingDevice,
    check_fill,
)
from rrto_ros.devices.textures import Texture
from rrto_ros.errors import CudaError

_NO_TIMING = 2
_EXPECTED = frozenset({CUresult.NOT_READY, CUresult.OUT_OF_MEMORY})
"""What a device answers to calls that are right."""


@dataclass
class _Module:
    kernels: list[KernelInfo]
    shared: dict[int, int] = field(default_factory=dict)
    """Kernel -> dynamic shared bytes that were allowed for it."""


@dataclass
class _Event:
    flags: int
    recorded: bool = False


_Nodes = dict[int, GraphNode]
"""Of a graph, by number."""


class CheckingDevice:
    """Checks the calls of one session.

    Args:
        inner: The device that executes them.
    """

    def __init__(self, inner: Device) -> None:
        self._inner = inner
        info = inner.info
        self._found = Findings()
        self._order = Order()
        arena = (info.arena_base, info.arena_base + info.arena_bytes)
        self._memory = CheckedMemory(self._found, self._order, arena)
        self._limits = LaunchLimits(info.attributes)
        self._modules: dict[int, _Module] = {}
        self._streams = set(DEFAULT_STREAMS)
        self._events: dict[int, _Event] = {}
        self._graphs: dict[int, _Nodes] = {}
        self._execs: dict[int, _Nodes] = {}

    @property
    def info(self) -> DeviceInfo:
        return self._inner.info

    def close(self) -> None:
        """Say in the log what was found and what is left; close the device inside."""
        self._found.begin("the end")
        for graph in self._graphs:  # a program's graph is the shim's until it is instantiated
            self._found.add(Rule.LEFT, f"graph {graph} was instantiated and not destroyed")
        left = ", ".join(f"{count} {what}" for what, count in self.left().items() if count)
        found = self._found
        lines = found.take().decode()
        lines += (
            f"{PREFIX}{found.calls - 1} calls, {found.total} findings"
            f"{_named(found.counts)}; left at the end: {left or 'nothing'}\n"
        )
        print(lines, end="", file=sys.stderr, flush=True)
        self._inner.close()

    def statistics(self) -> Mapping[str, int | float | str]:
        found = self._found
        return {
            **self._inner.statistics(),
            "checked_calls": found.calls,
            "findings": found.total,
            "first_finding": found.first,
            **{f"findings_{rule}": count for rule, count in found.counts.items()},
            **{f"live_{what.replace(' ', '_')}": count for what, count in self.left().items()},
        }

    def left(self) -> dict[str, int]:
        """What lives now, by kind."""
        return {
            **self._memory.left(),
            "modules": len(self._modules),
            "streams": len(self._streams - DEFAULT_STREAMS),
            "events": len(self._events),
            "executable graphs": len(self._execs),
        }

    # what a device may offer besides

    def call_comes(self, index: int) -> None:
        """The session's number of the next call."""
        self._found.number(index)

    def take_output(self) -> tuple[bytes, bytes]:
        """What kernels printed; findings are error output."""
        inner = self._inner
        out, errors = inner.take_output() if isinstance(inner, PrintingDevice) else (b"", b"")
        return out, errors + self._found.take()

    # modules

    def module_load(self, module: int, image: bytes) -> ModuleInfo:
        with self._call("module_load"):
            self._new(self._modules, module, "module")
            info = self._inner.module_load(module, image)
        self._modules[module] = _Module(list(info.kernels))
        for one in info.globals:
            self._memory.variable(one.address, one.bytes, module)
        return info

    def kernel_load(self, module: int, kernel: int) -> KernelInfo:
        with self._call("kernel_load"):
            known = self._kernel(module, kernel)
            info = self._inner.kernel_load(module, kernel)
        if known is not None:
            self._modules[module].kernels[kernel] = info
        return info

    def module_unload(self, module: int) -> None:
        with self._call("module_unload"):
            self._live(self._modules, module, "module")
            self._inner.module_unload(module)
        self._modules.pop(module, None)
        self._memory.module_gone(module)

    def function_set_attribute(self, module: int, kernel: int, attribute: int, value: int) -> None:
        with self._call("function_set_attribute"):
            found = self._kernel(module, kernel)
            if found is not None:
                for text in self._limits.attribute(found, attribute, value):
                    self._found.add(Rule.LAUNCH, text)
            self._inner.function_set_attribute(module, kernel, attribute, value)
        if attribute == LaunchLimits.DYNAMIC_SHARED and module in self._modules:
            self._modules[module].shared[kernel] = value

    # memory

    def mem_alloc(self, address: int, size: int, stream: int) -> None:
        with self._call("mem_alloc", stream):
            self._memory.check_new(address, size)
            self._inner.mem_alloc(address, size, stream)
        self._memory.allocate(address, size, stream, self._order.place)

    def mem_free(self, address: int, stream: int) -> None:
        with self._call("mem_free", stream):
            self._memory.check_free(address, stream)
            self._inner.mem_free(address, stream)
        self._memory.free(address)

    def mem_create(self, handle: int, size: int) -> None:
        with self._call("mem_create"):
            self._new(self._memory.created, handle, "memory")
            self._inner.mem_create(handle, size)
        self._memory.created[handle] = size

    def mem_release(self, handle: int) -> None:
        with self._call("mem_release"):
            self._live(self._memory.created, handle, "memory")
            self._memory.check_release(handle)
            self._inner.mem_release(handle)
        self._memory.created.pop(handle, None)

    def mem_map(self, address: int, size: int, handle: int) -> None:
        with self._call("mem_map"):
            self._live(self._memory.created, handle, "memory")
            self._memory.check_map(address, size, handle)
            self._inner.mem_map(address, size, handle)
        self._memory.map(address, size, handle)

    def mem_unmap(self, address: int, size: int) -> None:
        with self._call("mem_unmap"):
            regions = self._memory.mapped(address, size)
            self._inner.mem_unmap(address, size)
        self._memory.unmap(regions)

    def mem_access(self, address: int, size: int, flags: int) -> None:
        with self._call("mem_access"):
            regions = self._memory.mapped(address, size)
            self._inner.mem_access(address, size, flags)
        for region in regions:
            region.flags = flags

    def memcpy_htod(self, dst: int, data: bytes | memoryview, stream: int) -> None:
        with self._call("memcpy_htod", stream):
            self._memory.use(dst, len(data), stream, READ_WRITE)
            self._inner.memcpy_htod(dst, data, stream)

    def memcpy_dtoh(self, src: int, size: int, stream: int) -> bytes | memoryview:
        with self._call("memcpy_dtoh", stream):
            self._memory.use(src, size, stream)
            data = self._inner.memcpy_dtoh(src, size, stream)
            if len(data) != size:
                self._found.add(Rule.MEMORY, f"{len(data)} bytes came, {size} were wanted")
        return data

    def memcpy_dtod(self, dst: int, src: int, size: int, stream: int) -> None:
        with self._call("memcpy_dtod", stream):
            self._work(MemcpyNode(dst, src, size), stream)
            self._inner.memcpy_dtod(dst, src, size, stream)

    def memset(self, fill: MemsetNode, stream: int) -> None:
        with self._call("memset", stream):
            self._work(fill, stream)
            self._inner.memset(fill, stream)

    # textures

    def texture_create(self, texture: int, what: Texture) -> int:
        with self._call("texture_create"):
            self._new(self._memory.textures, texture, "texture")
            self._memory.use(what.address, what.size, 0)
            number = self._inner.texture_create(texture, what)
        self._memory.textures[texture] = what
        return number

    def texture_destroy(self, texture: int) -> None:
        with self._call("texture_destroy"):
            self._live(self._memory.textures, texture, "texture")
            self._inner.texture_destroy(texture)
        self._memory.textures.pop(texture, None)

    # execution

    def launch(self, launch: Launch, stream: int) -> None:
        with self._call("launch", stream):
            self._work(launch, stream)
            self._inner.launch(launch, stream)

    def ctx_synchronize(self) -> None:
        with self._call("ctx_synchronize"):
            self._inner.ctx_synchronize()
        self._order.program_waited()

    # streams and events

    def stream_create(self, stream: int, flags: int, priority: int) -> None:
        with self._call("stream_create"):
            self._new(self._streams, stream, "stream")
            self._inner.stream_create(stream, flags, priority)
        self._streams.add(stream)
        self._order.stream_made(stream, flags)

    def stream_destroy(self, stream: int) -> None:
        with self._call("stream_destroy"):
            self._live(self._streams - DEFAULT_STREAMS, stream, "stream")
            self._inner.stream_destroy(stream)
        self._streams.discard(stream)
        self._order.stream_gone(stream)

    def stream_synchronize(self, stream: int) -> None:
        with self._call("stream_synchronize"):
            self._live(self._streams, stream, "stream")
            self._inner.stream_synchronize(stream)
        self._order.program_waited(stream)

    def stream_query(self, stream: int) -> bool:
        with self._call("stream_query"):
            self._live(self._streams, stream, "stream")
            done = self._inner.stream_query(stream)
        if done:
            self._order.program_waited(stream)
        return done

    def stream_wait_event(self, stream: int, event: int, flags: int) -> None:
        with self._call("stream_wait_event"):
            self._live(self._streams, stream, "stream")
            self._recorded(event, "a stream waits for")
            self._inner.stream_wait_event(stream, event, flags)
        self._order.waits(stream, event)

    def event_create(self, event: int, flags: int) -> None:
        with self._call("event_create"):
            self._new(self._events, event, "event")
            self._inner.event_create(event, flags)
        self._events[event] = _Event(flags)

    def event_destroy(self, event: int) -> None:
        with self._call("event_destroy"):
            self._live(self._events, event, "event")
            self._inner.event_destroy(event)
        self._events.pop(event, None)
        self._order.event_gone(event)

    def event_record(self, event: int, stream: int) -> None:
        with self._call("event_record"):
            self._live(self._streams, stream, "stream")
            self._live(self._events, event, "event")
            self._inner.event_record(event, stream)
        if found := self._events.get(event):
            found.recorded = True
            self._order.recorded(event, stream)

    def event_synchronize(self, event: int) -> None:
        with self._call("event_synchronize"):
            self._recorded(event, "the program waits for")
            self._inner.event_synchronize(event)
        self._order.program_waited(event=event)

    def event_query(self, event: int) -> bool:
        with self._call("event_query"):
            self._live(self._events, event, "event")
            done = self._inner.event_query(event)
        if done:
            self._order.program_waited(event=event)
        return done

    def event_elapsed_ms(self, start: int, end: int) -> float:
        with self._call("event_elapsed_ms"):
            for event in (start, end):
                found = self._recorded(event, "the time is asked of")
                if found is not None and found.flags & _NO_TIMING:
                    self._found.add(Rule.EVENT, f"event {event} was made without timing")
            return self._inner.event_elapsed_ms(start, end)

    # graphs

    def graph_create(self, graph: int) -> None:
        with self._call("graph_create"):
            self._new(self._graphs, graph, "graph")
            self._inner.graph_create(graph)
        self._graphs[graph] = {}

    def graph_destroy(self, graph: int) -> None:
        with self._call("graph_destroy"):
            self._live(self._graphs, graph, "graph")
            self._inner.graph_destroy(graph)
        self._graphs.pop(graph, None)

    def graph_add_node(
        self, graph: int, node: int, dependencies: Sequence[int], work: GraphNode
    ) -> None:
        with self._call("graph_add_node"):
            if self._live(self._graphs, graph, "graph"):
                nodes = self._graphs[graph]
                self._new(nodes, node, f"node of graph {graph}")
                for other in dependencies:
                    self._live(nodes, other, f"node of graph {graph}")
            self._sizes(work)
            self._inner.graph_add_node(graph, node, dependencies, work)
        if graph in self._graphs:
            self._graphs[graph][node] = work

    def graph_instantiate(self, graph_exec: int, graph: int) -> None:
        with self._call("graph_instantiate"):
            self._live(self._graphs, graph, "graph")
            self._new(self._execs, graph_exec, "executable graph")
            self._inner.graph_instantiate(graph_exec, graph)
        if graph in self._graphs:
            self._execs[graph_exec] = dict(self._graphs[graph])

    def graph_exec_destroy(self, graph_exec: int) -> None:
        with self._call("graph_exec_destroy"):
            self._live(self._execs, graph_exec, "executable graph")
            self._inner.graph_exec_destroy(graph_exec)
        self._execs.pop(graph_exec, None)

    def graph_exec_node_set(self, graph_exec: int, node: int, work: GraphNode) -> None:
        with self._call("graph_exec_node_set"):
            if self._live(self._execs, graph_exec, "executable graph"):
                nodes = self._execs[graph_exec]
                known = self._live(nodes, node, f"node of executable graph {graph_exec}")
                if known and type(nodes[node]) is not type(work):
                    self._found.add(Rule.HANDLE, f"node {node} becomes another kind of node")
            self._sizes(work)
            self._inner.graph_exec_node_set(graph_exec, node, work)
        if graph_exec in self._execs:
            self._execs[graph_exec][node] = work

    def graph_launch(self, graph_exec: int, stream: int) -> None:
        with self._call("graph_launch", stream):
            if self._live(self._execs, graph_exec, "executable graph"):
                for work in self._execs[graph_exec].values():
                    self._work(work, stream)
            self._inner.graph_launch(graph_exec, stream)

    # what they share

    @contextmanager
    def _call(self, name: str, stream: int | None = None) -> Iterator[None]:
        """A call, which may be work of a stream; what the device refuses is a finding too."""
        self._found.begin(name)
        if stream is not None:
            self._live(self._streams, stream, "stream")
            self._order.work(stream)
        try:
            yield
        except CudaError as error:
            if not self._found.in_call and error.result not in _EXPECTED:
                self._found.add(Rule.REFUSED, f"{error.result.name}: {error}")
            raise

    def _work(self, work: GraphNode, stream: int) -> None:
        """What a stream executes: its sizes, and the memory that it uses."""
        self._sizes(work)
        if isinstance(work, Launch):
            kernel = self._kernel(work.module, work.kernel, tell=False)
            if kernel is not None:
                self._memory.pointers(kernel.name, work.params, stream)
        elif isinstance(work, MemcpyNode):
            self._memory.use(work.dst, work.bytes, stream, READ_WRITE)
            self._memory.use(work.src, work.bytes, stream)
        elif isinstance(work, MemsetNode):
            try:
                size = check_fill(work)
            except CudaError as error:
                self._found.add(Rule.MEMORY, str(error))
            else:
                self._memory.use(work.dst, size, stream, READ_WRITE)

    def _sizes(self, work: GraphNode) -> None:
        """A launch's kernel, sizes and arguments."""
        if not isinstance(work, Launch):
            return
        kernel = self._kernel(work.module, work.kernel)
        if kernel is None:
            return
        allowed = self._modules[work.module].shared.get(work.kernel)
        for text in self._limits.launch(kernel, work, allowed):
            self._found.add(Rule.LAUNCH, text)
        if len(work.params) != kernel.param_bytes:
            self._found.add(
                Rule.ARGUMENTS,
                f"{kernel.name} wants {kernel.param_bytes} bytes of arguments, "
                f"{len(work.params)} came",
            )

    def _kernel(self, module: int, kernel: int, *, tell: bool = True) -> KernelInfo | None:
        if module in self._modules and 0 <= kernel < len(self._modules[module].kernels):
            return self._modules[module].kernels[kernel]
        if tell and self._live(self._modules, module, "module"):
            self._found.add(Rule.HANDLE, f"module {module} has no kernel {kernel}")
        return None

    def _recorded(self, event: int, how: str) -> _Event | None:
        if not self._live(self._events, event, "event"):
            return None
        found = self._events[event]
        if not found.recorded:
            self._found.add(Rule.EVENT, f"{how} event {event}, which was never recorded")
        return found

    def _live(self, table: Mapping[int, object] | set[int], handle: int, what: str) -> bool:
        if handle not in table:
            self._found.add(Rule.HANDLE, f"{what} {handle} is not live")
        return handle in table

    def _new(self, table: Mapping[int, object] | set[int], handle: int, what: str) -> None:
        if handle in table:
            self._found.add(Rule.HANDLE, f"{what} {handle} is live already")


def _named(counts: Mapping[str, int]) -> str:
    named = ", ".join(f"{rule} {count}" for rule, count in counts.items())
    return f" ({named})" if named else ""
