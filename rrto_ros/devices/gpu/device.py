"""One session's device on an NVIDIA GPU (see `protocol.Device` for the calls).

The session has a process of its own, and in it the GPU's primary context, current in the thread
that made the device. Calls are given to the driver as they come; it orders them by their streams.
What the driver refuses, and what it finds wrong later, is raised with its CUresult. After an
error that ends the context every call gets that error.

Over 400 lines: it is the device protocol, one short method for each operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rrto_ros.api.info import DeviceInfo, KernelInfo, ModuleInfo
from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices import protocol
from rrto_ros.devices.gpu import properties
from rrto_ros.devices.gpu.allocations import Allocations, FreedRanges, Range
from rrto_ros.devices.gpu.arena import (
    DEFAULT_BASE,
    DEFAULT_BYTES,
    DEFAULT_KEEP_BYTES,
    Arena,
    BlockArena,
    MappedArena,
)
from rrto_ros.devices.gpu.checkpoints import GpuCheckpoint, GpuCheckpoints
from rrto_ros.devices.gpu.driver import Driver, check_available, load
from rrto_ros.devices.gpu.graphs import GpuGraphs
from rrto_ros.devices.gpu.handles import Events, Streams
from rrto_ros.devices.gpu.launching import Launcher
from rrto_ros.devices.gpu.modules import Modules
from rrto_ros.devices.gpu.replayed import ReplayedCalls
from rrto_ros.devices.gpu.segment_graphs import SegmentGraphs
from rrto_ros.devices.gpu.staging import Downloads, Uploads
from rrto_ros.devices.gpu.telemetry import DeviceClock, Nvml
from rrto_ros.devices.gpu.textures import Textures
from rrto_ros.devices.gpu.waiting import Waiter
from rrto_ros.devices.mappings import check_flags
from rrto_ros.devices.protocol import GraphNode, Launch, MemsetNode, SegmentCall, check_fill
from rrto_ros.devices.textures import Texture
from rrto_ros.errors import CudaError, UnavailableError

_LEAST_BYTES = 16 << 20
_RESERVE_BYTES = 64 << 20
"""Left for the driver's own needs of a session."""
_FILLS = {1: "cuMemsetD8Async", 2: "cuMemsetD16Async", 4: "cuMemsetD32Async"}
_FILLS_2D = {1: "cuMemsetD2D8Async", 2: "cuMemsetD2D16Async", 4: "cuMemsetD2D32Async"}


class GpuDevice:
    """One session's GPU.

    Args:
        limit_bytes: Device memory that the session may allocate; less if the GPU has less free.
        arena_base: Wanted first address, 0 for the default; another is taken, and reported in
            `info`, if the driver does not give that one.
        arena_bytes: Size of the address range.
        wait_limit_s: Seconds that a wait may take before it is LAUNCH_TIMEOUT; 0 for no limit.
        keep_bytes: Freed memory that stays with the session for its next allocations.
        module: Stand-in for `cuda.bindings.driver`.
        nvml: Stand-in for `pynvml`.

    Raises:
        UnavailableError: No GPU, driver or cuda-python, or no memory or addresses left.
    """

    def __init__(
        self,
        *,
        limit_bytes: int,
        arena_base: int = 0,
        arena_bytes: int = DEFAULT_BYTES,
        wait_limit_s: float = 0.0,
        keep_bytes: int = DEFAULT_KEEP_BYTES,
        module: Any = None,
        nvml: Any = None,
    ) -> None:
        cuda = load() if module is None else module
        check_available(cuda)
        self._closed = False
        self._driver = driver = Driver(cuda)
        self._device = driver.call("cuDeviceGet", 0)
        try:
            self._context = driver.call("cuDevicePrimaryCtxRetain", self._device)
            driver.call("cuCtxSetCurrent", self._context)
            free, _ = driver.call("cuMemGetInfo")
        except CudaError as error:
            raise UnavailableError(f"the GPU gives this session no context ({error})") from None
        limit = min(limit_bytes, max(0, int(free) - _RESERVE_BYTES))
        if limit < min(limit_bytes, _LEAST_BYTES):
            raise UnavailableError(
                f"the GPU has {int(free) >> 20} MiB free, too little for a session; see "
                "`nvidia-smi` for what uses it"
            )
        self._waiter = Waiter(driver, wait_limit_s)
        self._streams = Streams(driver, self._waiter)
        self._events = Events(driver, self._waiter)
        self._freed = FreedRanges()
        self._arena: Arena
        if properties.has_virtual_memory(driver, self._device):
            self._arena = MappedArena(
                driver, self._device, arena_base or DEFAULT_BASE, arena_bytes, limit,
                self._settle, keep_bytes,
            )  # fmt: skip
        else:
            self._arena = BlockArena(driver, limit)
        self._allocations = Allocations(self._arena.base, self._arena.size, limit)
        self._modules = Modules(driver, self._allocations)
        self._textures = Textures(driver, self._allocations, self._settle)
        self._clock = DeviceClock(driver)
        self._launcher = Launcher(driver, self._context, self._modules, self._allocations)
        self._graphs = GpuGraphs(driver, self._launcher)
        self._segments = SegmentGraphs(
            driver, self._launcher, self._streams, self._events, self._modules,
            self._allocations, self._arena, self._clock.work,
        )  # fmt: skip
        self._checkpoints = GpuCheckpoints(driver, self._streams, self._allocations)
        self._uploads = Uploads(driver, self._waiter)
        self._downloads = Downloads(driver, self._waiter)
        self._memory: dict[int, Any] = {}
        self._counts = {"copies": 0, "copied_bytes": 0, "fills": 0}
        self._info = properties.device_info(
            driver, self._device, limit, self._arena.base, self._arena.size
        )
        self._nvml = Nvml(self._info.uuid, nvml)

    @property
    def info(self) -> DeviceInfo:
        return self._info

    @property
    def graphs(self) -> SegmentGraphs:
        """Makes graphs of stretches of calls."""
        return self._segments

    def close(self) -> None:
        """Give everything back. A GPU that is stuck is left to the end of the process."""
        if self._closed:
            return
        self._closed = True
        self._nvml.close()
        if self._waiter.expired:
            return  # every call would wait for the kernel that does not end
        with contextlib.suppress(CudaError):
            self._streams.wait_all()
        for part in (
            self._segments, self._graphs, self._textures, self._checkpoints, self._uploads,
            self._downloads, self._clock, self._events, self._streams, self._modules, self._arena,
        ):  # fmt: skip
            with contextlib.suppress(CudaError):
                part.close()
        for memory in self._memory.values():
            self._driver.call_anyway("cuMemRelease", memory)
        self._driver.call_anyway("cuDevicePrimaryCtxRelease", self._device)

    def statistics(self) -> Mapping[str, int | float | str]:
        """Counters since the start; times in seconds. `gpu_*` is the whole GPU, by NVML."""
        return {
            "device": self._info.name,
            "launches": self._launcher.launches,
            **self._counts,
            **self._graphs.counts(),
            **self._segments.counts(),
            **self._checkpoints.counts(),
            **self._arena.counts(),
            "streams": len(self._streams), "events": len(self._events),
            "modules": len(self._modules), "memory_bytes": self._allocations.used,
            "memory_peak_bytes": self._allocations.peak, "upload_stalls": self._uploads.stalls,
            "waits": self._waiter.waits, "waited_s": self._waiter.waited_s,
            "device_s": self._clock.seconds, "last_device_s": self._clock.last_s,
            "poisoned": str(self._driver.poisoned or ""),
            **self._nvml.counts(),
        }  # fmt: skip

    # modules

    def module_load(self, module: int, image: bytes) -> ModuleInfo:
        return self._modules.load(module, bytes(image))

    def kernel_load(self, module: int, kernel: int) -> KernelInfo:
        return self._modules.kernel(module, kernel)[2]

    def module_unload(self, module: int) -> None:
        self._modules.get(module)
        if self._streams.dirty:
            # The driver's documentation does not say that it waits for a module's kernels, and
            # what a program relies on, the wait in cuMemFree, came here without one.
            self._settle()
        self._modules.unload(module)

    def function_set_attribute(self, module: int, kernel: int, attribute: int, value: int) -> None:
        self._modules.set_attribute(module, kernel, attribute, value)

    # memory

    def mem_alloc(self, address: int, size: int, stream: int) -> None:
        self._streams.get(stream)
        self._driver.check_sound()
        self._allocations.add(address, size)
        try:
            for freed_in in self._freed.streams(address, size):
                self._streams.settle_reuse(freed_in, stream)
                self._note_idle()
            self._arena.back(address, size)
        except CudaError:
            self._allocations.remove(address)
            raise

    def mem_free(self, address: int, stream: int) -> None:
        self._streams.get(stream)
        self._driver.check_sound()
        size = self._allocations.remove(address)
        if self._streams.dirty:
            self._freed.add(address, size, stream)
        self._arena.release(address, size)

    def mem_create(self, handle: int, size: int) -> None:
        self._driver.check_sound()
        self._allocations.check_create(handle, size)
        self._memory[handle] = self._arena.create(size)
        self._allocations.create(handle, size)

    def mem_release(self, handle: int) -> None:
        self._driver.check_sound()
        self._allocations.release(handle)
        self._driver.call("cuMemRelease", self._memory.pop(handle))

    def mem_map(self, address: int, size: int, handle: int) -> None:
        self._driver.check_sound()
        self._allocations.check_map(address, size, handle)
        self._arena.map(address, size, self._memory[handle])
        self._allocations.mappings.map(address, size, handle)

    def mem_unmap(self, address: int, size: int) -> None:
        self._driver.check_sound()
        for piece in self._allocations.mappings.whole(address, size):
            self._arena.unmap(piece.start)
            self._allocations.unmap(piece)

    def mem_access(self, address: int, size: int, flags: int) -> None:
        self._driver.check_sound()
        check_flags(flags)
        pieces = self._allocations.mappings.whole(address, size)
        self._arena.access(address, size, flags)
        self._allocations.removals += flags != READ_WRITE
        for piece in pieces:
            piece.flags = flags

    def memcpy_htod(self, dst: int, data: bytes | memoryview, stream: int) -> None:
        content = memoryview(data).cast("B")
        queue = self._streams.use(stream)
        self._count_copy(len(content))
        if len(content):
            self._allocations.check(dst, len(content), READ_WRITE)
            self._uploads.copy(dst, content, queue)

    def memcpy_dtoh(self, src: int, size: int, stream: int) -> bytes | memoryview:
        queue = self._streams.use(stream)
        self._count_copy(size)
        if size == 0:
            return b""
        self._allocations.check(src, size)
        self._clock.wait_begins(queue)
        data = self._downloads.copy(src, size, queue)
        self._clock.wait_ended()
        self._streams.dirty.discard(stream)
        self._note_idle()
        return data if isinstance(data, bytes) else memoryview(data)

    def memcpy_dtod(self, dst: int, src: int, size: int, stream: int) -> None:
        queue = self._streams.use(stream)
        self._count_copy(size)
        if size:
            self._allocations.check(dst, size, READ_WRITE)
            self._allocations.check(src, size)
            pointer = self._driver.module.CUdeviceptr
            self._driver.call("cuMemcpyDtoDAsync", pointer(dst), pointer(src), size, queue)

    def memset(self, fill: MemsetNode, stream: int) -> None:
        queue = self._streams.use(stream)
        size = check_fill(fill)
        self._counts["fills"] += 1
        if not size:
            return
        self._allocations.check(fill.dst, size, READ_WRITE)
        width = fill.element_bytes
        target = self._driver.module.CUdeviceptr(fill.dst)
        value = fill.value & (1 << 8 * width) - 1
        if fill.height == 1:
            self._driver.call(_FILLS[width], target, value, fill.width, queue)
        else:
            self._driver.call(
                _FILLS_2D[width], target, fill.pitch, value, fill.width, fill.height, queue
            )

    # textures

    def texture_create(self, texture: int, what: Texture) -> int:
        self._driver.check_sound()
        return self._textures.create(texture, what)

    def texture_destroy(self, texture: int) -> None:
        self._driver.check_sound()
        self._textures.destroy(texture)

    # execution

    def launch(self, launch: Launch, stream: int) -> None:
        queue = self._streams.use(stream)
        self._clock.work(queue)
        self._launcher.launch(launch, queue)

    def ctx_synchronize(self) -> None:
        self._clock.wait_begins(self._streams.get(0))
        self._streams.wait_all()
        self._clock.wait_ended()
        self._freed.clear()

    # streams and events

    def stream_create(self, stream: int, flags: int, priority: int) -> None:
        self._streams.create(stream, flags, priority)

    def stream_destroy(self, stream: int) -> None:
        self._streams.destroy(stream)

    def stream_synchronize(self, stream: int) -> None:
        self._clock.wait_begins(self._streams.get(stream))
        self._streams.wait(stream)
        self._clock.wait_ended()
        self._note_idle()

    def stream_query(self, stream: int) -> bool:
        return self._driver.ready("cuStreamQuery", self._streams.get(stream))

    def stream_wait_event(self, stream: int, event: int, flags: int) -> None:  # noqa: ARG002
        # The only flag says how captures behave, and nothing is captured.
        queue = self._streams.use(stream)
        self._driver.call("cuStreamWaitEvent", queue, self._events.get(event), 0)

    def event_create(self, event: int, flags: int) -> None:
        self._events.create(event, flags)

    def event_destroy(self, event: int) -> None:
        self._events.destroy(event)

    def event_record(self, event: int, stream: int) -> None:
        self._events.record(event, self._streams.use(stream))

    def event_synchronize(self, event: int) -> None:
        self._events.wait(event)

    def event_query(self, event: int) -> bool:
        return self._events.reached(event)

    def event_elapsed_ms(self, start: int, end: int) -> float:
        return self._events.elapsed_ms(start, end)

    # graphs

    def graph_create(self, graph: int) -> None:
        self._graphs.create(graph)

    def graph_destroy(self, graph: int) -> None:
        self._graphs.destroy(graph)

    def graph_add_node(
        self, graph: int, node: int, dependencies: Sequence[int], work: GraphNode
    ) -> None:
        self._graphs.add_node(graph, node, dependencies, work)

    def graph_instantiate(self, graph_exec: int, graph: int) -> None:
        self._graphs.instantiate(graph_exec, graph)

    def graph_exec_destroy(self, graph_exec: int) -> None:
        self._graphs.destroy_executable(graph_exec)

    def graph_exec_node_set(self, graph_exec: int, node: int, work: GraphNode) -> None:
        self._graphs.set_executable_node(graph_exec, node, work)

    def graph_launch(self, graph_exec: int, stream: int) -> None:
        queue = self._streams.use(stream)
        self._clock.work(queue)
        self._graphs.launch(graph_exec, queue)

    # replay

    def prepare_segment(self, calls: Sequence[SegmentCall]) -> ReplayedCalls:
        """Calls of a plan that run as CUDA graphs (see `protocol.SegmentDevice`)."""
        return ReplayedCalls(self, self._segments, calls)

    def checkpoint(self, ranges: Iterable[Range], stream: int) -> GpuCheckpoint:
        """Copies of memory that may be overwritten (see `GpuCheckpoints.checkpoint`)."""
        return self._checkpoints.checkpoint(ranges, stream)

    def restore(self, checkpoint: protocol.Checkpoint) -> None:
        """Put kept memory back as it was."""
        self._checkpoints.restore(checkpoint)

    def release(self, checkpoint: protocol.Checkpoint) -> None:
        """Forget kept memory."""
        self._checkpoints.release(checkpoint)

    # what they share

    def _settle(self) -> None:
        """Wait until nothing uses memory that the program has freed."""
        self._streams.wait_all()
        self._freed.clear()

    def _note_idle(self) -> None:
        if not self._streams.dirty:
            self._freed.clear()

    def _count_copy(self, size: int) -> None:
        if size < 0:
            raise CudaError(CUresult.INVALID_VALUE, f"a copy of {size} bytes")
        self._counts["copies"] += 1
        self._counts["copied_bytes"] += size
