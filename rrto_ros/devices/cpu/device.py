"""The virtual CUDA device: PTX kernels executed on the processor, with real results.

Every operation is finished when its call returns, so streams and events need bookkeeping only.
A kernel that touches an address outside live allocations faults, which ends this process; the
parent reports it as ILLEGAL_ADDRESS. It cannot reach anything else of this process
(codegen/containment.py).

Over 400 lines: it is the device protocol, one short method for each operation.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rrto_ros.api.info import DRIVER_VERSION
from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu import attributes as attr
from rrto_ros.devices.cpu.block_memory import range_bytes
from rrto_ros.devices.cpu.chain import Link
from rrto_ros.devices.cpu.compile_pool import DEFAULT_TIMEOUT_S, CompilePool
from rrto_ros.devices.cpu.facts import KernelFacts, KernelHead, ModuleFacts
from rrto_ros.devices.cpu.launcher import Launcher
from rrto_ros.devices.cpu.memory import Arena
from rrto_ros.devices.cpu.modules import Compiler, LoadedModule
from rrto_ros.devices.cpu.passes.layout import align_up
from rrto_ros.devices.cpu.segment import CpuSegment, short
from rrto_ros.devices.cpu.textures import Textures
from rrto_ros.devices.graphs import GraphExec, Graphs
from rrto_ros.devices.linked import ptx_source
from rrto_ros.devices.protocol import (
    DeviceInfo,
    GlobalInfo,
    GraphNode,
    KernelInfo,
    Launch,
    MemsetNode,
    ModuleInfo,
    SegmentCall,
    check_fill,
)
from rrto_ros.devices.textures import Texture
from rrto_ros.devices.timeline import Timeline
from rrto_ros.errors import ConfigError, CudaError
from rrto_ros.store_link import EntryStore

DEFAULT_LIMIT_BYTES = 2 << 30
DEFAULT_ARENA_BASE = 0x2000_0000_0000
DEFAULT_ARENA_BYTES = 64 << 30
DEFAULT_CACHE_BYTES = 512 << 20
DEFAULT_LAUNCH_TIMEOUT_S = 30.0
_CLOCK_KHZ = 1_500_000


class CpuDevice:
    """One session's virtual device (see `protocol.Device` for the calls).

    Args:
        limit_bytes: Device memory that the session may use: what it allocates, and local memory
            of running kernels.
        arena_base: Wanted first address; another is taken, and reported, if it is not free.
        arena_bytes: Size of the address range.
        compute_capability: What programs are told; steers the PTX that they generate.
        threads: Worker threads; 0 is one per usable core.
        multiprocessors: What programs are told; 0 is one per thread. Changes nothing but that,
            and how large a cooperative launch may be.
        cache_dir: Directory of compiled kernels; None is the user's cache directory.
        cache_bytes: Its size limit; 0 keeps nothing on disk.
        vector_lanes: Threads per vector instruction; 0 is what the processor does best.
        launch_timeout_s: Seconds after which a launch ends with LAUNCH_TIMEOUT; 0 never.
        memcheck: Look up every access; a stray one is an error that names kernel, thread, address
            and the nearest allocation. Slow; without it a stray access is an error, too, but
            without these names, and one inside the session's own memory may go unnoticed. Nothing
            outside of that is read or written in either case.
        compile_timeout_s: Seconds that compiling a kernel may take.
        compile_command: Starts a compile process; None: as `compile_pool` does it.
        kernels: The cache of compiled kernels, where another process keeps it.
    """

    def __init__(
        self,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        arena_base: int = DEFAULT_ARENA_BASE,
        arena_bytes: int = DEFAULT_ARENA_BYTES,
        compute_capability: tuple[int, int] = (12, 1),
        threads: int = 0,
        multiprocessors: int = 0,
        cache_dir: Path | str | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        vector_lanes: int = 0,
        launch_timeout_s: float = DEFAULT_LAUNCH_TIMEOUT_S,
        memcheck: bool = False,
        compile_timeout_s: float = DEFAULT_TIMEOUT_S,
        compile_command: Sequence[str] | None = None,
        kernels: EntryStore | None = None,
    ) -> None:
        if launch_timeout_s < 0:
            raise ConfigError(f"launch_timeout_s is {launch_timeout_s}, at least 0 is wanted")
        if limit_bytes <= 0 or arena_bytes < limit_bytes:
            raise ConfigError(
                f"arena_bytes ({arena_bytes}) must be at least limit_bytes "
                f"({limit_bytes}), and both positive"
            )
        cores = threads or len(os.sched_getaffinity(0))
        directory = Path(cache_dir) if cache_dir is not None else None
        self._compiler = Compiler(
            directory,
            cache_bytes,
            vector_lanes,
            CompilePool(cores, compile_timeout_s, compile_command),
            memcheck=memcheck,
            kept=kernels,
        )
        told = multiprocessors or cores
        blocks = range_bytes(cores, limit_bytes, told)
        self._arena = Arena(arena_base, arena_bytes, limit_bytes, blocks)
        self.launcher = Launcher(
            cores, self._arena, launch_timeout_s, memcheck=memcheck, multiprocessors=told
        )
        self._textures = Textures(self._arena)
        self._timeline = Timeline()
        self._graphs = Graphs()
        self._modules: dict[int, LoadedModule] = {}
        self._counts = {
            "launches": 0,
            "launches_chained": 0,
            "copies": 0,
            "copied_bytes": 0,
            "fills": 0,
        }
        self._graph_segments: dict[int, _GraphSegment] = {}
        self.version = 0
        """Counts what changes what a launch means: modules, and attributes of kernels."""
        name = f"RRTO virtual CUDA device ({cores} cores)"
        self._info = DeviceInfo(
            kind="cpu",
            name=name,
            uuid=hashlib.sha256(f"{name} {compute_capability}".encode()).digest()[:16],
            compute_capability=compute_capability,
            driver_version=DRIVER_VERSION,
            total_bytes=limit_bytes,
            arena_base=self._arena.base,
            arena_bytes=self._arena.size,
            attributes=attr.device_attributes(told, compute_capability, _CLOCK_KHZ),
        )

    @property
    def info(self) -> DeviceInfo:
        return self._info

    def close(self) -> None:
        """Ends the worker threads and compilers and gives all device memory back."""
        self.launcher.close()
        self._compiler.close()
        self._modules.clear()
        self._arena.close()

    def statistics(self) -> Mapping[str, int | float | str]:
        """Counters since the start; times in seconds."""
        compiler = self._compiler
        return {
            **self._counts,
            **self._timeline.counts(),
            **self._graphs.counts(),
            "launches_ended": self.launcher.watchdog.fired,
            "modules": len(self._modules),
            "memory_bytes": self._arena.used - self.launcher.memory.held,
            "memory_peak_bytes": self._arena.peak,
            "memory_of_blocks_bytes": self.launcher.memory.held,
            "kernels_compiled": compiler.compiled,
            "kernels_compiled_ahead": compiler.ahead,
            "modules_known": compiler.known,
            "modules_deferred": compiler.deferred,
            "functions_read": compiler.read,
            "kernels_analysed": compiler.analysed,
            "compile_failures": compiler.pool.failures,
            "kernels_vectorised": compiler.vectorised,
            "compile_seconds": compiler.compile_ns / 1e9,
            **compiler.cache.statistics(),
        }

    # modules
    def module_load(self, module: int, image: bytes) -> ModuleInfo:
        """Loads PTX (text, fatbin, link), of which every kernel is checked unless it is large."""
        if module in self._modules:
            raise CudaError(CUresult.INVALID_HANDLE, f"module {module} exists already")
        loaded = self._compiler.load(ptx_source(bytes(image), self._info.compute_capability))
        facts = loaded.facts
        if facts.total_bytes:
            loaded.base = self._arena.allocate_module(facts.total_bytes, facts.alignment)
            data = facts.initial_bytes(loaded.base)
            self._arena.view(loaded.base, len(data))[:] = np.frombuffer(data, np.uint8)
        self._modules[module] = loaded
        self.version += 1
        return ModuleInfo(
            tuple(self._kernel_info(k, facts) for k in facts.kernels),
            tuple(GlobalInfo(v.name, loaded.base + v.offset, v.size) for v in facts.variables),
        )

    def kernel_load(self, module: int, kernel: int) -> KernelInfo:
        """Reads and checks a kernel of a large module, if that was not done."""
        loaded, facts = self._kernel(module, kernel)
        self._compiler.expect(loaded, kernel)
        return self._kernel_info(facts, loaded.facts)

    def _kernel_info(self, kernel: KernelHead, module: ModuleFacts) -> KernelInfo:
        if not isinstance(kernel, KernelFacts):
            return KernelInfo(kernel.name, kernel.params, {})
        size = kernel.block or (attr.MAX_THREADS, 1, 1)
        threads = min(attr.MAX_THREADS, size[0] * size[1] * size[2])
        attributes = attr.function_attributes(
            module.version,
            self._info.compute_capability,
            threads,
            kernel.shared_bytes,
            module.constant_bytes,
            kernel.local_bytes,
            kernel.registers,
        )
        return KernelInfo(kernel.name, kernel.params, attributes)

    def module_unload(self, module: int) -> None:
        """Frees a module and its variables."""
        loaded = self._module(module)
        if loaded.base:
            self._arena.free(loaded.base)
        del self._modules[module]
        self.version += 1

    def function_set_attribute(self, module: int, kernel: int, attribute: int, value: int) -> None:
        """Sets the dynamic shared memory limit (8) or the carve-out hint (9)."""
        loaded, facts = self._kernel(module, kernel)
        if attribute == attr.FUNCTION_CARVEOUT and -1 <= value <= 100:
            return
        most = attr.SHARED_OPTIN_BYTES - facts.shared_bytes
        if attribute != attr.FUNCTION_MAX_DYNAMIC_SHARED or not 0 <= value <= most:
            raise CudaError(
                CUresult.INVALID_VALUE, f"function attribute {attribute} cannot be {value}"
            )
        loaded.max_dynamic[kernel] = value
        self.version += 1

    def _module(self, module: int) -> LoadedModule:
        found = self._modules.get(module)
        if found is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"module {module} is unknown")
        return found

    def _kernel(self, module: int, kernel: int) -> tuple[LoadedModule, KernelFacts]:
        loaded = self._module(module)
        if not 0 <= kernel < len(loaded.known):
            raise CudaError(CUresult.INVALID_HANDLE, f"module {module} has no kernel {kernel}")
        return loaded, loaded.known[kernel] or self._compiler.facts(loaded, kernel)

    # memory
    def mem_alloc(self, address: int, size: int, stream: int) -> None:
        self._timeline.check_stream(stream)
        self._arena.allocate(address, size)

    def mem_free(self, address: int, stream: int) -> None:
        self._timeline.check_stream(stream)
        if address >= self._arena.base + self._arena.size:
            raise CudaError(CUresult.INVALID_VALUE, "a module's variable cannot be freed")
        self._arena.free(address)

    def mem_create(self, handle: int, size: int) -> None:
        self._arena.create(handle, size)

    def mem_release(self, handle: int) -> None:
        self._arena.release(handle)

    def mem_map(self, address: int, size: int, handle: int) -> None:
        self._arena.map(address, size, handle)

    def mem_unmap(self, address: int, size: int) -> None:
        self._arena.unmap(address, size)

    def mem_access(self, address: int, size: int, flags: int) -> None:
        self._arena.access(address, size, flags)

    def memcpy_htod(self, dst: int, data: bytes | memoryview, stream: int) -> None:
        self._timeline.check_stream(stream)
        source = np.frombuffer(data, np.uint8)
        if source.size:
            self._arena.view(dst, source.size)[:] = source
        self._count_copy(source.size)

    def memcpy_dtoh(self, src: int, size: int, stream: int) -> bytes | memoryview:
        self._timeline.check_stream(stream)
        self._count_copy(size)
        if size == 0:
            return b""
        self._arena.check(src, size)
        return ctypes.string_at(src, size)

    def memcpy_dtod(self, dst: int, src: int, size: int, stream: int) -> None:
        self._timeline.check_stream(stream)
        self._count_copy(size)
        if size:
            self._arena.check(dst, size, READ_WRITE)
            self._arena.check(src, size)
            ctypes.memmove(dst, src, size)

    def memset(self, fill: MemsetNode, stream: int) -> None:
        self._timeline.check_stream(stream)
        size = check_fill(fill)
        self._counts["fills"] += 1
        if not size:
            return
        width = fill.element_bytes
        view = self._arena.view(fill.dst, size).view(np.dtype(f"<u{width}"))
        value = fill.value & (1 << 8 * width) - 1
        if fill.height == 1:
            view[:] = value
            return
        step = fill.pitch // width
        for start in range(0, fill.height * step, step):
            view[start : start + fill.width] = value

    def _count_copy(self, size: int) -> None:
        if size < 0:
            raise CudaError(CUresult.INVALID_VALUE, f"a copy of {size} bytes")
        self._counts["copies"] += 1
        self._counts["copied_bytes"] += size

    # textures
    def texture_create(self, texture: int, what: Texture) -> int:
        return self._textures.create(texture, what)

    def texture_destroy(self, texture: int) -> None:
        self._textures.destroy(texture)

    # execution
    def launch(self, launch: Launch, stream: int) -> None:
        """Runs a kernel to its end.

        Raises:
            CudaError: INVALID_VALUE for geometry, shared memory or arguments that do not fit
                the kernel; INVALID_HANDLE for an unknown kernel; ILLEGAL_ADDRESS with memcheck.
        """
        self._timeline.check_stream(stream)
        loaded, kernel = self._kernel(launch.module, launch.kernel)
        self._check_launch(launch, loaded, kernel)
        runnable = self._compiler.runnable(
            loaded, launch.kernel, launch.block, together=launch.cooperative and kernel.spins
        )
        static = kernel.shared_bytes
        self.launcher.run(
            runnable,
            launch.grid,
            launch.params,
            loaded.base,
            (static, launch.shared_bytes),
            launch.block,
            cooperative=launch.cooperative,
        )
        self._counts["launches"] += 1

    # segments
    def prepare_segment(self, calls: Sequence[SegmentCall]) -> CpuSegment:
        return CpuSegment(self, calls)

    def link(self, launch: Launch, note: bytes) -> Link | None:
        """The launch as a part of a chain; None where it is to be made by itself."""
        if self.launcher.checks or launch.cooperative:
            return None
        try:
            runnable = self._module(launch.module).runnable.get((launch.kernel, launch.block))
            if runnable is None:
                return None
            loaded, kernel = self._kernel(launch.module, launch.kernel)
            self._check_launch(launch, loaded, kernel)
        except CudaError:
            return None  # refused when it is made
        made = Link(runnable, launch, loaded.base, kernel.shared_bytes, note)
        return made if short(made) else None

    def short(self, launch: Launch) -> bool:
        """Whether a launch that was made could be a part of a chain."""
        return self.link(launch, b"") is not None

    def chained(self, launches: int) -> None:
        """Count launches of a chain."""
        self._counts["launches"] += launches
        self._counts["launches_chained"] += launches

    def _check_launch(self, launch: Launch, loaded: LoadedModule, kernel: KernelFacts) -> None:
        def refuse(what: str) -> CudaError:
            return CudaError(CUresult.INVALID_VALUE, f"launch of {kernel.name}: {what}")

        block, grid = launch.block, launch.grid
        threads = block[0] * block[1] * block[2]
        if any(not 0 < b <= m for b, m in zip(block, attr.MAX_BLOCK, strict=True)) or (
            threads > attr.MAX_THREADS
        ):
            raise refuse(f"block {block} is out of range")
        if any(not 0 < g <= m for g, m in zip(grid, attr.MAX_GRID, strict=True)):
            raise refuse(f"grid {grid} is out of range")
        most_blocks = self.launcher.most_at_once
        if launch.cooperative and grid[0] * grid[1] * grid[2] > most_blocks:
            raise CudaError(
                CUresult.COOPERATIVE_LAUNCH_TOO_LARGE,
                f"launch of {kernel.name}: grid {grid}, at most {most_blocks} blocks are there at "
                "once",
            )
        if kernel.required and kernel.required != block:
            raise refuse(f"block {block}, the kernel requires {kernel.required}")
        if kernel.most:
            most = kernel.most[0] * kernel.most[1] * kernel.most[2]
            if threads > most:
                raise refuse(f"{threads} threads, the kernel was built for at most {most}")
        wanted = max((o + s for o, s in kernel.params), default=0)
        # A packed argument buffer may be padded to the alignment of its largest member.
        if not wanted <= len(launch.params) <= align_up(wanted, 16):
            raise refuse(f"{len(launch.params)} bytes of arguments, the kernel has {wanted}")
        static = kernel.shared_bytes
        most = loaded.max_dynamic.get(launch.kernel, max(0, attr.SHARED_BYTES - static))
        if not 0 <= launch.shared_bytes <= most:
            raise refuse(
                f"{launch.shared_bytes} bytes of dynamic shared memory, at most {most} are allowed"
            )

    def take_output(self) -> tuple[bytes, bytes]:
        return self.launcher.output.take()

    def ctx_synchronize(self) -> None:
        """Nothing is ever pending."""

    # streams and events
    def stream_create(self, stream: int, flags: int, priority: int) -> None:  # noqa: ARG002
        self._timeline.create_stream(stream)

    def stream_destroy(self, stream: int) -> None:
        self._timeline.destroy_stream(stream)

    def stream_synchronize(self, stream: int) -> None:
        self._timeline.check_stream(stream)

    def stream_query(self, stream: int) -> bool:
        self._timeline.check_stream(stream)
        return True

    def stream_wait_event(self, stream: int, event: int, flags: int) -> None:  # noqa: ARG002
        self._timeline.check_stream(stream)
        self._timeline.event(event)

    def event_create(self, event: int, flags: int) -> None:
        self._timeline.create_event(event, flags)

    def event_destroy(self, event: int) -> None:
        self._timeline.destroy_event(event)

    def event_record(self, event: int, stream: int) -> None:
        self._timeline.record(event, stream)

    def event_synchronize(self, event: int) -> None:
        self._timeline.event(event)

    def event_query(self, event: int) -> bool:
        self._timeline.event(event)
        return True

    def event_elapsed_ms(self, start: int, end: int) -> float:
        return self._timeline.elapsed_ms(start, end)

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
        made = self._graphs.instantiate(graph_exec, graph)
        try:
            for work in made.work.values():
                self._check_work(work)
        except CudaError:
            self._graphs.destroy_exec(graph_exec)
            raise

    def _check_work(self, work: GraphNode) -> None:
        if isinstance(work, Launch):
            self._check_launch(work, *self._kernel(work.module, work.kernel))

    def graph_exec_destroy(self, graph_exec: int) -> None:
        self._graphs.destroy_exec(graph_exec)
        self._graph_segments.pop(graph_exec, None)

    def graph_exec_node_set(self, graph_exec: int, node: int, work: GraphNode) -> None:
        self._check_work(work)
        self._graphs.set_exec_node(graph_exec, node, work)

    def graph_launch(self, graph_exec: int, stream: int) -> None:
        self._timeline.check_stream(stream)
        segment = self._graph_segments.get(graph_exec)
        if segment is None:
            found = self._graphs.executable(graph_exec)
            segment = self._graph_segments[graph_exec] = _GraphSegment(self, found)
        segment.run()


class _GraphSegment:
    """A graph's nodes as a segment.

    Args:
        device: Executes it.
        graph: Instantiated.
    """

    def __init__(self, device: CpuDevice, graph: GraphExec) -> None:
        self._graph = graph
        self._nodes = [node for node in graph.order if graph.work[node] is not None]
        self._made = {node: graph.work[node] for node in self._nodes}
        # The stream is checked by the launch of the graph.
        calls = [SegmentCall(work, 0) for work in self._made.values() if work is not None]
        self._segment = CpuSegment(device, calls)

    def run(self) -> None:
        """Execute the nodes as they are now."""
        now, made = self._graph.work, self._made
        changed = {}
        for k, node in enumerate(self._nodes):
            work = now[node]
            if work is not made[node] and work is not None:
                changed[k], made[node] = SegmentCall(work, 0), work
        self._segment.run(0, len(self._nodes), changed, 0, 0)
