"""Runs compiled kernels: contexts, arguments and the spread of blocks over cores.

Blocks of a kernel are independent but for global atomics, so the result does not depend on which
worker runs which; kernels with global atomics whose order shows (float sums, values read back) run
in block order on one worker. Results are therefore the same bit for bit every time. Blocks of a
cooperative launch, which may wait for each other, are all there at once and take turns.
"""

from __future__ import annotations

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.attributes import MAX_BLOCKS_AT_ONCE
from rrto_ros.devices.cpu.block_memory import BEYOND, BlockMemory, address_of
from rrto_ros.devices.cpu.codegen.checks import (
    ASSERTED,
    BROKEN,
    MISALIGNED,
    NO_FUNCTION,
    NO_ROOM,
    REPORT_WORDS,
    TRAPPED,
)
from rrto_ros.devices.cpu.codegen.kernel import CONTEXT_FIELDS
from rrto_ros.devices.cpu.jit import LoadedCode
from rrto_ros.devices.cpu.memory import Arena
from rrto_ros.devices.cpu.output import KernelOutput
from rrto_ros.devices.cpu.passes.layout import align_up
from rrto_ros.devices.cpu.passes.recursion import STACK_BYTES
from rrto_ros.devices.cpu.ptx.variables import MAX_ALIGNMENT
from rrto_ros.devices.cpu.watchdog import Watchdog
from rrto_ros.errors import AccessError, CudaError

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_Context = ctypes.c_int64 * len(CONTEXT_FIELDS)
# Below this, handing blocks to another thread costs more than it saves.
_SPREAD_NS = 300_000
_CHUNKS_PER_WORKER = 8
_TOTAL_SHARED, _STEP = CONTEXT_FIELDS.index("total_smem"), CONTEXT_FIELDS.index("step")
_WORKSPACE_BYTES = 64
TAIL = bytes(64)
"""Behind arguments: loads of whole vectors may read past the last parameter."""


@dataclass
class Runnable:
    """A compiled kernel for one block size, with what its last run cost.

    Attributes:
        together: Its blocks are all there at once and take turns.
        last_ns: Processor time of its last run, all workers together, without what handing blocks
            to them cost: that would keep a kernel spread for ever on a busy machine.
    """

    name: str
    code: LoadedCode
    frame_bytes: int
    local_bytes: int
    ordered: bool
    together: bool = False
    last_ns: int = 0

    def __post_init__(self) -> None:
        self.call = _SIGNATURE(self.code.address)


def reported(word: int, name: str) -> CudaError:
    """What the first word of a report means."""
    if word == MISALIGNED:
        return CudaError(
            CUresult.MISALIGNED_ADDRESS,
            f"kernel {name} accessed memory at an address that is no multiple of the access's "
            "size; the parameter memcheck names thread and line",
        )
    if word == ASSERTED:
        return CudaError(CUresult.ASSERT, f"an assertion of kernel {name} does not hold")
    if word == NO_ROOM:
        return CudaError(
            CUresult.LAUNCH_FAILED,
            f"functions of kernel {name} call themselves deeper than "
            f"the {STACK_BYTES >> 10} KiB of a thread's stack hold; make what they keep smaller, "
            "or call them less deep",
        )
    if word == NO_FUNCTION:
        return CudaError(
            CUresult.INVALID_PC,
            f"kernel {name} called through a register that holds the address "
            "of no function with such parameters",
        )
    if word == BROKEN:
        return CudaError(
            CUresult.LAUNCH_FAILED, f"kernel {name} executed brkpt, and there is no debugger"
        )
    return CudaError(CUresult.LAUNCH_FAILED, f"kernel {name} executed trap")


def _place(number: int, size: tuple[int, int, int]) -> tuple[int, int, int]:
    return number % size[0], number // size[0] % size[1], number // (size[0] * size[1])


class Launcher:
    """A small pool of worker threads; the calling thread works too.

    Args:
        threads: Threads in all.
        arena: What kernels may access, with a range for the memory of blocks.
        timeout_s: Seconds after which a launch is ended; 0 never ends one.
        memcheck: Whether kernels look up every access among the allocations.
        multiprocessors: What programs are told; 0 for as many as threads.
    """

    def __init__(
        self,
        threads: int,
        arena: Arena,
        timeout_s: float = 0.0,
        *,
        memcheck: bool = False,
        multiprocessors: int = 0,
    ) -> None:
        self._arena = arena
        self._memcheck = memcheck
        self.watchdog = Watchdog(timeout_s)
        self.output = KernelOutput(arena.contained)
        self.threads = max(1, threads)
        multiprocessors = multiprocessors or self.threads
        self.most_at_once = multiprocessors * MAX_BLOCKS_AT_ONCE
        """Blocks of a cooperative launch."""
        self.memory = BlockMemory(arena, self.threads, multiprocessors)
        self._pool = (
            ThreadPoolExecutor(self.threads - 1, thread_name_prefix="rrto-cpu")
            if self.threads > 1
            else None
        )
        self._scratch = ctypes.create_string_buffer(256)

    def close(self) -> None:
        self.watchdog.close()
        if self._pool is not None:
            self._pool.shutdown()

    def run(
        self,
        kernel: Runnable,
        grid: tuple[int, int, int],
        params: bytes,
        module_base: int,
        shared: tuple[int, int],
        block: tuple[int, int, int] = (1, 1, 1),
        *,
        cooperative: bool = False,
    ) -> None:
        """Runs every block of a grid and returns when all are done.

        Args:
            kernel: Code for the block size.
            grid: Blocks along x, y, z.
            params: The packed argument buffer.
            module_base: Address of the module's variables.
            shared: (static, dynamic) shared bytes.
            block: Threads along x, y, z, to name a thread.
            cooperative: The grid has a workspace, in which its barrier is.

        Raises:
            CudaError: OUT_OF_MEMORY if there is no room for all blocks at once.
            CudaError: LAUNCH_TIMEOUT if it ran longer than it may; what it wrote stays.
            CudaError: LAUNCH_FAILED if it executed trap.
            AccessError: A checked access went astray; what was written before stays.
        """
        arguments = params + TAIL
        distance = align_up(len(arguments), _WORKSPACE_BYTES)
        if cooperative:
            size = _WORKSPACE_BYTES.to_bytes(4, "little").ljust(_WORKSPACE_BYTES, b"\0")
            arguments = arguments.ljust(distance, b"\0") + size
        first = self.memory.arguments(len(arguments))
        workspace = first + distance if cooperative else 0
        ctypes.memmove(first, arguments, len(arguments))
        words = (
            first,
            0,
            0,
            0,
            module_base,
            ctypes.addressof(self._scratch),
            *grid,
            shared[1],
            shared[0] + shared[1],
            self.watchdog.flag,
            *self._memory_map(workspace),
            self.output.address,
            0,
            workspace,
            *self.session,
        )
        self.output.begins(one=True)
        total = grid[0] * grid[1] * grid[2]
        spread = (
            self._pool is not None
            and total > 1
            and not kernel.ordered
            and (kernel.last_ns > _SPREAD_NS or kernel.last_ns == 0)
        )
        self.watchdog.begin()
        try:
            if kernel.together:
                spent = self._together(kernel, words, total)
            elif spread:
                spent = self._spread(kernel, words, total)
            else:
                areas = self.memory.areas(1, kernel.frame_bytes, kernel.local_bytes)
                spent = self._blocks(kernel, words, areas[0], 0, total)
        finally:
            ended = self.watchdog.end()
            self.memory.over()
            self._raise_report(kernel.name, grid, block)
        if ended:
            raise CudaError(CUresult.LAUNCH_TIMEOUT, self.too_long(kernel.name))
        kernel.last_ns = max(1, spent)

    @property
    def scratch(self) -> int:
        """Address of the memory that kernels may write anything to."""
        return ctypes.addressof(self._scratch)

    @property
    def session(self) -> tuple[int, int]:
        """The lowest address that kernels may form, and how far the highest lies from it."""
        return self._arena.low, self._arena.span

    @property
    def checks(self) -> bool:
        """Whether every access is looked up."""
        return self._memcheck

    def too_long(self, name: str) -> str:
        """What a launch says that the watchdog ended."""
        return f"kernel {name} ran longer than {self.watchdog.limit_s:g} s (launch_timeout_s)"

    def _memory_map(self, workspace: int) -> tuple[int, int, int]:
        """Address of the live allocations, how many, and where traps and so on are reported."""
        ranges = self._arena.ranges() if self._memcheck else []
        if ranges and workspace:
            pairs = sorted(
                [
                    *zip(ranges[::2], ranges[1::2], strict=True),
                    (workspace, workspace + _WORKSPACE_BYTES),
                ]
            )
            ranges = [at for pair in pairs for at in pair]
        self._ranges = (ctypes.c_int64 * len(ranges))(*ranges)
        self._report = (ctypes.c_int64 * REPORT_WORDS)()
        return (ctypes.addressof(self._ranges), len(ranges) // 2, ctypes.addressof(self._report))

    def _raise_report(
        self, name: str, grid: tuple[int, int, int], block: tuple[int, int, int]
    ) -> None:
        if self._report[0] in (TRAPPED, MISALIGNED, ASSERTED, BROKEN, NO_ROOM, NO_FUNCTION):
            raise reported(self._report[0], name)
        if not self._memcheck or not self._report[0]:
            return
        _, address, what, number, thread = self._report
        does = "writes" if what >> 16 & 1 else "reads"
        place = (
            f"offset {address} of shared memory"
            if what >> 17 & 1
            else f"{address:#x}, {self._arena.describe(address)}"
        )
        text = (
            f"kernel {name}, line {what >> 32}: thread {_place(thread, block)} of block "
            f"{_place(number, grid)} {does} {what & 0xFFFF} bytes at {place}"
        )
        if what >> 18 & 1:
            raise CudaError(
                CUresult.MISALIGNED_ADDRESS, f"{text}, which is no multiple of {what & 0xFFFF}"
            )
        raise AccessError(text)

    def _spread(self, kernel: Runnable, words: tuple[int, ...], total: int) -> int:
        """Run all blocks on all workers; returns their processor time in nanoseconds."""
        assert self._pool is not None
        areas = self.memory.areas(self.threads, kernel.frame_bytes, kernel.local_bytes)
        chunk = max(1, total // (self.threads * _CHUNKS_PER_WORKER))
        starts = iter(range(0, total, chunk))
        lock = threading.Lock()

        def work(own: list[int]) -> int:
            spent = 0
            while True:
                with lock:
                    first = next(starts, -1)
                if first < 0:
                    return spent
                spent += self._blocks(kernel, words, own, first, min(first + chunk, total))

        others = [self._pool.submit(work, own) for own in areas[1:]]
        return work(areas[0]) + sum(other.result() for other in others)

    def _together(self, kernel: Runnable, words: tuple[int, ...], total: int) -> int:
        """Run all blocks at once, each worker some of them in turns.

        Where the order of blocks shows, one worker runs all: what a thread sees of another block
        then depends on the code alone.
        """
        size = words[_TOTAL_SHARED] + BEYOND + kernel.local_bytes + kernel.frame_bytes
        shared = align_up(words[_TOTAL_SHARED] + BEYOND, MAX_ALIGNMENT)
        local = align_up(kernel.local_bytes, MAX_ALIGNMENT)
        step = align_up(shared + local + kernel.frame_bytes, MAX_ALIGNMENT)
        try:
            at, frames = self.memory.together(size, step, total)
        except CudaError as error:
            raise CudaError(error.result, f"kernel {kernel.name}: {error.detail}") from error
        placed = [*words]
        placed[1:4], placed[_STEP] = (at, address_of(frames), at + shared), step
        parts = 1 if kernel.ordered or self._pool is None else min(self.threads, total)
        bounds = [total * k // parts for k in range(parts + 1)]

        def work(part: int) -> int:
            context = _Context(*placed)
            started = time.thread_time_ns()
            kernel.call(ctypes.addressof(context), bounds[part], bounds[part + 1])
            return time.thread_time_ns() - started

        # As many as there are workers: none waits in a queue for another to end.
        others = [self._pool.submit(work, k) for k in range(1, parts)] if self._pool else []
        spent = work(0) + sum(other.result() for other in others)
        self.memory.apart(size, step, total)
        return spent

    def _blocks(
        self, kernel: Runnable, words: tuple[int, ...], areas: list[int], first: int, last: int
    ) -> int:
        """Run some blocks in this thread; returns its processor time in nanoseconds."""
        context = _Context(words[0], *areas, *words[4:])
        started = time.thread_time_ns()
        kernel.call(ctypes.addressof(context), first, last)
        return time.thread_time_ns() - started
