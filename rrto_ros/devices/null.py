"""The null device: accepts what a CUDA device accepts and computes nothing.

It is for measurements of transport and scheduling only. Its name says so, copies to the host give
zeros, and kernels take a modelled time. Handles, allocations and bounds are checked as a device
does, so that a program takes the same path. Kernels and variables are those that machine code for
its architecture names, or else a scan of the PTX text.

Over 400 lines: it is the device protocol, one short method for each operation.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TypeVar

from rrto_ros.api.info import DRIVER_VERSION, DeviceInfo, GlobalInfo, KernelInfo, ModuleInfo
from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices.cubins import Cubin, Variable
from rrto_ros.devices.images import machine_code
from rrto_ros.devices.linked import link_inputs, ptx_source
from rrto_ros.devices.mappings import READ, Mappings, check_flags
from rrto_ros.devices.null_attributes import device_attributes
from rrto_ros.devices.protocol import GraphNode, Launch, MemcpyNode, MemsetNode
from rrto_ros.devices.ptx_scan import MAX_THREADS, scan_ptx
from rrto_ros.devices.textures import Texture, check_texture
from rrto_ros.errors import CudaError

_T = TypeVar("_T")

DEFAULT_ARENA_BASE = 0x7E00_0000_0000
ARENA_ALIGNMENT = 2 << 20
_VARIABLE_ALIGNMENT = 256
MOST_ARENA_BYTES = 512 << 30
DEFAULT_LAUNCH_S = 5e-6
DEFAULT_BYTES_PER_S = 10e9


def _scan(
    image: bytes, compute_capability: tuple[int, int]
) -> tuple[tuple[KernelInfo, ...], tuple[Variable, ...]]:
    code = None if link_inputs(image) else machine_code(image, compute_capability)
    if code is not None:
        cubin = Cubin(code)
        return cubin.kernels(), cubin.variables()
    source = ptx_source(image, compute_capability)
    text = source if isinstance(source, str) else "\n".join(s.text for s in source)
    return scan_ptx(text), ()


class _Memory:
    """Which ranges are allocated."""

    def __init__(self, base: int, end: int, limit: int) -> None:
        self._base, self._end, self._limit = base, end, limit
        self._starts: list[int] = []
        self._sizes: dict[int, int] = {}
        self.mappings = Mappings(base, end - base)
        self.used = 0

    def allocate(self, address: int, size: int) -> None:
        if size == 0 or address < self._base or address + size > self._end:
            raise CudaError(
                CUresult.INVALID_VALUE, f"{size} bytes at 0x{address:x} are outside the arena"
            )
        self._check_budget(size)
        self.mappings.check_free(address, size)
        at = self._gap(address, size)
        self._starts.insert(at, address)
        self._sizes[address] = size
        self.used += size

    def free(self, address: int) -> None:
        if address not in self._sizes or address >= self._end:
            raise CudaError(CUresult.INVALID_VALUE, f"0x{address:x} is not allocated")
        self.used -= self._sizes[address]
        self.forget(address)

    def place(self, size: int) -> int:
        """Room for a module's variable, which lies behind the arena."""
        address = max([self._end, *(s + self._sizes[s] for s in self._starts[-1:])])
        address += -address % _VARIABLE_ALIGNMENT
        self._starts.append(address)
        self._sizes[address] = size
        return address

    def forget(self, address: int) -> None:
        """Give a variable's room back."""
        del self._sizes[address]
        del self._starts[bisect.bisect_left(self._starts, address)]

    def create(self, handle: int, size: int) -> None:
        self.mappings.check_new(handle, size)
        self._check_budget(size)
        self.mappings.create(handle, size)
        self.used += size

    def _check_budget(self, size: int) -> None:
        if self.used + size > self._limit:
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"{size} bytes wanted, {self._limit - self.used} of {self._limit} are free",
            )

    def map(self, address: int, size: int, handle: int) -> None:
        self.mappings.check_map(address, size, handle)
        self._gap(address, size)
        self.mappings.map(address, size, handle)

    def _gap(self, address: int, size: int) -> int:
        at = bisect.bisect_right(self._starts, address)
        before = self._starts[at - 1] if at else -1
        overlaps = at > 0 and before + self._sizes[before] > address
        if overlaps or (at < len(self._starts) and self._starts[at] < address + size):
            raise CudaError(CUresult.INVALID_VALUE, f"0x{address:x} is already allocated")
        return at

    def check(self, address: int, size: int, flags: int = READ) -> None:
        at = bisect.bisect_right(self._starts, address)
        start = self._starts[at - 1] if at else 0
        if (not at or address + size > start + self._sizes[start]) and not self.mappings.check(
            address, size, flags
        ):
            raise CudaError(
                CUresult.INVALID_VALUE, f"{size} bytes at 0x{address:x} are not allocated"
            )


class NullDevice:
    """A device without results.

    Args:
        limit_bytes: Memory that may be allocated (nothing is really used).
        arena_base: Wanted base of the arena, 0 for the default.
        compute_capability: What it reports, by default (8, 9).
        launch_s: Modelled time of one kernel in seconds.
        bytes_per_s: Modelled rate of copies in bytes per second, 0 for instant copies.
    """

    def __init__(
        self,
        *,
        limit_bytes: int,
        arena_base: int = 0,
        compute_capability: tuple[int, int] | None = None,
        launch_s: float = DEFAULT_LAUNCH_S,
        bytes_per_s: float = DEFAULT_BYTES_PER_S,
    ) -> None:
        base = arena_base or DEFAULT_ARENA_BASE
        # A program that reserves addresses reserves more of them than there is memory.
        wanted = max(2 * limit_bytes, min(8 * limit_bytes, MOST_ARENA_BYTES), 1)
        size = -(-wanted // ARENA_ALIGNMENT) * ARENA_ALIGNMENT
        major, minor = compute_capability or (8, 9)
        self._info = DeviceInfo(
            "null", "RRTO null device: no results", sha256(b"rrto null device").digest()[:16],
            (major, minor), DRIVER_VERSION, limit_bytes, base, size,
            device_attributes((major, minor)),
        )  # fmt: skip
        self._launch_s = launch_s
        self._per_byte_s = 1 / bytes_per_s if bytes_per_s else 0.0
        self._memory = _Memory(base, base + size, limit_bytes)
        self._modules: dict[int, tuple[KernelInfo, ...]] = {}
        self._variables: dict[int, tuple[GlobalInfo, ...]] = {}
        self._textures: dict[int, Texture] = {}
        self._streams = {0, 1, 2}  # null, legacy and per-thread default stream
        self._events: dict[int, float | None] = {}
        self._graphs: dict[int, dict[int, GraphNode]] = {}
        self._execs: dict[int, dict[int, GraphNode]] = {}
        self._busy_until = 0.0
        self._launches = 0
        self._modelled_s = 0.0

    @property
    def info(self) -> DeviceInfo:
        return self._info

    def close(self) -> None:
        """Nothing is held."""

    def statistics(self) -> Mapping[str, int | float | str]:
        return {
            "device": "null: no results",
            "launches": self._launches,
            "modelled_s": self._modelled_s,
            "used_bytes": self._memory.used,
        }

    # modules

    def module_load(self, module: int, image: bytes) -> ModuleInfo:
        self._new(self._modules, module, "module")
        kernels, variables = _scan(bytes(image), self._info.compute_capability)
        placed = tuple(self._variable(one) for one in variables)
        self._modules[module] = kernels
        self._variables[module] = placed
        return ModuleInfo(kernels, placed)

    def kernel_load(self, module: int, kernel: int) -> KernelInfo:
        return self._kernel(module, kernel)

    def module_unload(self, module: int) -> None:
        self._get(self._modules, module, "module")
        del self._modules[module]
        for variable in self._variables.pop(module):
            self._memory.forget(variable.address)

    def function_set_attribute(self, module: int, kernel: int, attribute: int, value: int) -> None:
        self._kernel(module, kernel)
        if value < 0:
            raise CudaError(CUresult.INVALID_VALUE, f"attribute {attribute} = {value}")

    # memory

    def mem_alloc(self, address: int, size: int, stream: int) -> None:
        self._stream(stream)
        self._memory.allocate(address, size)

    def mem_free(self, address: int, stream: int) -> None:
        self._stream(stream)
        self._memory.free(address)

    def mem_create(self, handle: int, size: int) -> None:
        self._memory.create(handle, size)

    def mem_release(self, handle: int) -> None:
        self._memory.used -= self._memory.mappings.release(handle)

    def mem_map(self, address: int, size: int, handle: int) -> None:
        self._memory.map(address, size, handle)

    def mem_unmap(self, address: int, size: int) -> None:
        for piece in self._memory.mappings.whole(address, size):
            self._memory.mappings.unmap(piece)

    def mem_access(self, address: int, size: int, flags: int) -> None:
        check_flags(flags)
        for piece in self._memory.mappings.whole(address, size):
            piece.flags = flags

    def memcpy_htod(self, dst: int, data: bytes | memoryview, stream: int) -> None:
        self._stream(stream)
        self._memory.check(dst, len(data), READ_WRITE)
        self._take(len(data) * self._per_byte_s)

    def memcpy_dtoh(self, src: int, size: int, stream: int) -> bytes:
        self._stream(stream)
        self._memory.check(src, size)
        self._take(size * self._per_byte_s)
        self.ctx_synchronize()
        return bytes(size)

    def memcpy_dtod(self, dst: int, src: int, size: int, stream: int) -> None:
        self._stream(stream)
        self._memory.check(dst, size, READ_WRITE)
        self._memory.check(src, size)
        self._take(size * self._per_byte_s)

    def memset(self, fill: MemsetNode, stream: int) -> None:
        self._stream(stream)
        self._work(fill)

    # textures

    def texture_create(self, texture: int, what: Texture) -> int:
        self._new(self._textures, texture, "texture")
        check_texture(what)
        self._memory.check(what.address, what.size)
        self._textures[texture] = what
        return texture

    def texture_destroy(self, texture: int) -> None:
        self._get(self._textures, texture, "texture")
        del self._textures[texture]

    # execution

    def launch(self, launch: Launch, stream: int) -> None:
        self._stream(stream)
        self._work(launch)

    def ctx_synchronize(self) -> None:
        remaining = self._busy_until - time.perf_counter()
        if remaining > 0:
            time.sleep(remaining)  # the modelled device computes

    # streams and events

    def stream_create(self, stream: int, flags: int, priority: int) -> None:  # noqa: ARG002
        if stream in self._streams:
            raise CudaError(CUresult.INVALID_HANDLE, f"stream {stream} exists")
        self._streams.add(stream)

    def stream_destroy(self, stream: int) -> None:
        self._stream(stream)
        self._streams.discard(stream)

    def stream_synchronize(self, stream: int) -> None:
        self._stream(stream)
        self.ctx_synchronize()

    def stream_query(self, stream: int) -> bool:
        self._stream(stream)
        return time.perf_counter() >= self._busy_until

    def stream_wait_event(self, stream: int, event: int, flags: int) -> None:  # noqa: ARG002
        self._stream(stream)
        self._get(self._events, event, "event")

    def event_create(self, event: int, flags: int) -> None:  # noqa: ARG002
        self._new(self._events, event, "event")
        self._events[event] = None

    def event_destroy(self, event: int) -> None:
        self._get(self._events, event, "event")
        del self._events[event]

    def event_record(self, event: int, stream: int) -> None:
        self._stream(stream)
        self._get(self._events, event, "event")
        self._events[event] = max(self._busy_until, time.perf_counter())

    def event_synchronize(self, event: int) -> None:
        self._get(self._events, event, "event")
        self.ctx_synchronize()

    def event_query(self, event: int) -> bool:
        at = self._get(self._events, event, "event")
        return at is None or time.perf_counter() >= at

    def event_elapsed_ms(self, start: int, end: int) -> float:
        first = self._get(self._events, start, "event")
        last = self._get(self._events, end, "event")
        if first is None or last is None:
            raise CudaError(CUresult.INVALID_HANDLE, "an event was not recorded")
        if time.perf_counter() < last:
            raise CudaError(CUresult.NOT_READY, "the event is not reached yet")
        return (last - first) * 1e3

    # graphs

    def graph_create(self, graph: int) -> None:
        self._new(self._graphs, graph, "graph")
        self._graphs[graph] = {}

    def graph_destroy(self, graph: int) -> None:
        self._get(self._graphs, graph, "graph")
        del self._graphs[graph]

    def graph_add_node(
        self, graph: int, node: int, dependencies: Sequence[int], work: GraphNode
    ) -> None:
        nodes = self._get(self._graphs, graph, "graph")
        self._new(nodes, node, "graph node")
        for dependency in dependencies:
            self._get(nodes, dependency, "graph node")
        nodes[node] = work

    def graph_instantiate(self, graph_exec: int, graph: int) -> None:
        nodes = self._get(self._graphs, graph, "graph")
        self._new(self._execs, graph_exec, "executable graph")
        self._execs[graph_exec] = dict(nodes)

    def graph_exec_destroy(self, graph_exec: int) -> None:
        self._get(self._execs, graph_exec, "executable graph")
        del self._execs[graph_exec]

    def graph_exec_node_set(self, graph_exec: int, node: int, work: GraphNode) -> None:
        nodes = self._get(self._execs, graph_exec, "executable graph")
        self._get(nodes, node, "graph node")
        nodes[node] = work

    def graph_launch(self, graph_exec: int, stream: int) -> None:
        self._stream(stream)
        for work in self._get(self._execs, graph_exec, "executable graph").values():
            self._work(work)

    # what they share

    def _work(self, work: GraphNode) -> None:
        if isinstance(work, Launch):
            kernel = self._kernel(work.module, work.kernel)
            threads = work.block[0] * work.block[1] * work.block[2]
            if not 0 < threads <= MAX_THREADS or min(work.grid) < 1:
                raise CudaError(CUresult.INVALID_VALUE, f"grid {work.grid}, block {work.block}")
            if len(work.params) < kernel.param_bytes:
                raise CudaError(
                    CUresult.INVALID_VALUE,
                    f"{len(work.params)} bytes of arguments, {kernel.name} has "
                    f"{kernel.param_bytes}",
                )
            self._launches += 1
            self._take(self._launch_s)
        elif isinstance(work, MemcpyNode):
            self._memory.check(work.dst, work.bytes, READ_WRITE)
            self._memory.check(work.src, work.bytes)
            self._take(work.bytes * self._per_byte_s)
        elif isinstance(work, MemsetNode) and work.height and work.width:
            row = work.width * work.element_bytes
            size = (work.height - 1) * work.pitch + row
            self._memory.check(work.dst, size, READ_WRITE)
            self._take(row * work.height * self._per_byte_s)

    def _take(self, seconds: float) -> None:
        """The modelled device is busy for another `seconds`."""
        self._busy_until = max(self._busy_until, time.perf_counter()) + seconds
        self._modelled_s += seconds

    def _kernel(self, module: int, kernel: int) -> KernelInfo:
        kernels = self._get(self._modules, module, "module")
        if kernel >= len(kernels):
            raise CudaError(CUresult.INVALID_HANDLE, f"module {module} has no kernel {kernel}")
        return kernels[kernel]

    def _stream(self, stream: int) -> None:
        if stream not in self._streams:
            raise CudaError(CUresult.INVALID_HANDLE, f"stream {stream} does not exist")

    def _variable(self, one: Variable) -> GlobalInfo:
        return GlobalInfo(one.name, self._memory.place(max(one.bytes, 1)), one.bytes)

    @staticmethod
    def _get(table: Mapping[int, _T], handle: int, what: str) -> _T:
        if handle not in table:
            raise CudaError(CUresult.INVALID_HANDLE, f"{what} {handle} does not exist")
        return table[handle]

    @staticmethod
    def _new(table: Mapping[int, object], handle: int, what: str) -> None:
        if handle in table:
            raise CudaError(CUresult.INVALID_HANDLE, f"{what} {handle} exists already")
