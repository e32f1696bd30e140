"""Launches that run one after the other in native code, without Python between them.

Owns the arguments and contexts of the launches and the small loop that calls their kernels. Only
for short kernels that one worker runs: what a long one costs is not the way to it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.codegen.checks import REPORT_WORDS
from rrto_ros.devices.cpu.codegen.kernel import CONTEXT_FIELDS
from rrto_ros.devices.cpu.jit import LoadedCode, compile_object, host_target
from rrto_ros.devices.cpu.launcher import TAIL, Launcher, Runnable, reported
from rrto_ros.devices.cpu.passes.layout import PARAMS_ALIGNMENT
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

SHORT_NS = 200_000
"""A kernel of more processor time is not chained."""
MAX_CHAIN_NS = 50_000_000
"""Of all launches of a chain: the watchdog looks at a chain as at one launch."""
_PARAMS_ALIGN = PARAMS_ALIGNMENT
_ENTRY_WORDS = 5
_NOTE_BYTES = 4096
_SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3,
                              *[ctypes.c_void_p] * 2)  # fmt: skip

# An entry: kernel, context, blocks, note, words of the note. The note of the launch that runs is
# in the page after its index, so that whoever finds the page knows what ended the process.
_LOOP = """
define i64 @rrto_chain(ptr %entries, ptr %page, i64 %first, i64 %last, i64 %index, ptr %stop,
                       ptr %report) {
entry:
  %body = getelementptr i64, ptr %page, i64 1
  br label %head
head:
  %k = phi i64 [%first, %entry], [%next, %sound]
  %more = icmp slt i64 %k, %last
  br i1 %more, label %begin, label %done
begin:
  %at = mul i64 %k, 5
  %entry.at = getelementptr i64, ptr %entries, i64 %at
  %p1 = getelementptr i64, ptr %entry.at, i64 1
  %p2 = getelementptr i64, ptr %entry.at, i64 2
  %p3 = getelementptr i64, ptr %entry.at, i64 3
  %p4 = getelementptr i64, ptr %entry.at, i64 4
  %kernel = load ptr, ptr %entry.at
  %context = load ptr, ptr %p1
  %blocks = load i64, ptr %p2
  %note = load ptr, ptr %p3
  %words = load i64, ptr %p4
  br label %copy
copy:
  %w = phi i64 [0, %begin], [%w.next, %word]
  %w.more = icmp slt i64 %w, %words
  br i1 %w.more, label %word, label %run
word:
  %from = getelementptr i64, ptr %note, i64 %w
  %to = getelementptr i64, ptr %body, i64 %w
  %value = load i64, ptr %from
  store volatile i64 %value, ptr %to
  %w.next = add i64 %w, 1
  br label %copy
run:
  %number = add i64 %index, %k
  store volatile i64 %number, ptr %page
  call void %kernel(ptr %context, i64 0, i64 %blocks)
  %stopped = load volatile i8, ptr %stop
  %goes = icmp eq i8 %stopped, 0
  br i1 %goes, label %look, label %broken
look:
  %reported = load volatile i64, ptr %report
  %silent = icmp eq i64 %reported, 0
  br i1 %silent, label %sound, label %broken
sound:
  %next = add i64 %k, 1
  br label %head
broken:
  ret i64 %k
done:
  ret i64 %last
}
"""


@lru_cache(maxsize=1)
def _loop() -> tuple[LoadedCode, ctypes._CFunctionType]:
    # A session waits for this once, and optimising the loop takes longer than it ever saves.
    code = LoadedCode(compile_object(_LOOP, host_target(), level=0), "rrto_chain")
    return code, _SIGNATURE(code.address)


@dataclass(frozen=True)
class Link:
    """One launch of a chain.

    Attributes:
        runnable: Its kernel for its block size.
        launch: The launch, already checked.
        module_base: Address of its module's variables.
        static_bytes: Shared memory of the kernel itself.
        note: What the page says while it runs.
    """

    runnable: Runnable
    launch: Launch
    module_base: int
    static_bytes: int
    note: bytes


class Chain:
    """Launches that are always made in this order.

    Args:
        launcher: Whose memory and watchdog they use.
        links: The launches.

    Attributes:
        failed: The launch that failed, after `run` raised.
    """

    def __init__(self, launcher: Launcher, links: Sequence[Link]) -> None:
        self._launcher = launcher
        self.links = list(links)
        self.expected_ns = sum(link.runnable.last_ns for link in links)
        self._needs = (
            max(link.runnable.frame_bytes for link in links),
            max(link.runnable.local_bytes for link in links),
        )
        _, self._call = _loop()
        offsets = [0]
        for link in links:
            size = len(link.launch.params) + len(TAIL)
            offsets.append(offsets[-1] + -(-size // _PARAMS_ALIGN) * _PARAMS_ALIGN)
        # They are put in their place before each run: kernels may write there.
        self._params = np.zeros(offsets[-1], np.uint8)
        self._offsets = offsets
        self._report = np.zeros(REPORT_WORDS, np.int64)
        self._areas: list[int] = []
        self.failed = 0
        self._contexts = np.zeros((len(links), len(CONTEXT_FIELDS)), np.int64)
        self._entries = np.zeros((len(links), _ENTRY_WORDS), np.int64)
        self._notes = [
            np.frombuffer(link.note + bytes(-len(link.note) % 8), np.int64) for link in links
        ]
        self._page = np.zeros(_NOTE_BYTES // 8, np.int64)
        for k, link in enumerate(links):
            self._write(k, link.launch.params)
            total = link.launch.grid[0] * link.launch.grid[1] * link.launch.grid[2]
            self._entries[k] = (
                link.runnable.code.address,
                self._contexts[k].ctypes.data,
                total,
                self._notes[k].ctypes.data,
                len(self._notes[k]),
            )

    def set(self, k: int, launch: Launch) -> bool:
        """Give launch `k` other arguments; False if more than they would change."""
        link = self.links[k]
        old = link.launch
        if launch is old:
            return True
        if (launch.grid, launch.block, launch.shared_bytes, launch.module, launch.kernel,
            len(launch.params)) != (old.grid, old.block, old.shared_bytes, old.module, old.kernel,
                                    len(old.params)):  # fmt: skip
            return False
        self.links[k] = Link(link.runnable, launch, link.module_base, link.static_bytes, link.note)
        self._write(k, launch.params)
        return True

    def run(self, first: int, last: int, index: int, page: int) -> int:
        """Run launches `first` to before `last`.

        Args:
            first: In the chain.
            last: The one after them.
            index: What the page calls launch 0 of the chain.
            page: Address where the note of the launch that runs is kept; 0: nowhere.

        Returns:
            How many nanoseconds of processor time that took.

        Raises:
            CudaError: LAUNCH_TIMEOUT, LAUNCH_FAILED or MISALIGNED_ADDRESS, with its launch in
                `failed`.
        """
        try:
            return self._run(first, last, index, page)
        finally:
            self._launcher.memory.over()

    def _run(self, first: int, last: int, index: int, page: int) -> int:
        launcher, watchdog = self._launcher, self._launcher.watchdog
        start, end = self._offsets[first], self._offsets[last]
        arguments = launcher.memory.arguments(len(self._params))
        areas = [arguments, *launcher.memory.areas(1, *self._needs)[0]]
        if areas != self._areas:
            self._place(areas)
        ctypes.memmove(arguments + start, self._params.ctypes.data + start, end - start)
        self._report[0] = 0
        launcher.output.begins(one=False)
        started = time.thread_time_ns()
        watchdog.begin()
        try:
            reached = self._call(
                self._entries.ctypes.data, page or self._page.ctypes.data, first, last, index,
                watchdog.flag, self._report.ctypes.data,
            )  # fmt: skip
        finally:
            ended = watchdog.end()
        if reached < last or ended:
            self.failed = min(reached, last - 1)
            name = self.links[self.failed].runnable.name
            if self._report[0]:
                raise reported(int(self._report[0]), name)
            raise CudaError(CUresult.LAUNCH_TIMEOUT, launcher.too_long(name))
        return time.thread_time_ns() - started

    def _write(self, k: int, params: bytes) -> None:
        at = self._offsets[k]
        self._params[at : at + len(params)] = np.frombuffer(params, np.uint8)

    def _place(self, areas: list[int]) -> None:
        """The memory that blocks use lies elsewhere than before: arguments, then the areas."""
        self._areas = areas
        (base, *own), launcher = areas, self._launcher
        for k, link in enumerate(self.links):
            launch, static = link.launch, link.static_bytes
            self._contexts[k] = (
                base + self._offsets[k], *own, link.module_base, launcher.scratch, *launch.grid,
                launch.shared_bytes, static + launch.shared_bytes, launcher.watchdog.flag,
                0, 0, self._report.ctypes.data, launcher.output.address, 0, 0,
                *launcher.session,
            )  # fmt: skip
