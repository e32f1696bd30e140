"""Checkpoints on the GPU: copies of memory that speculative calls may overwrite.

`checkpoint` copies ranges before work that the program has not asked for yet; `restore` puts them
back when it asks for something else; `release` frees the copies when it asked for just that. All
of it is work in stream order: nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.devices import protocol
from rrto_ros.devices.gpu.allocations import Allocations, Range, merged
from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.devices.gpu.handles import Streams
from rrto_ros.errors import CudaError

DEFAULT_MOST_BYTES = 512 << 20
_ALIGNMENT = 512


@dataclass(frozen=True)
class _Copy:
    """A range and where its copy lies."""

    address: int
    size: int
    copy: int


@dataclass(eq=False)
class GpuCheckpoint:
    """One checkpoint."""

    copies: tuple[_Copy, ...]
    blocks: tuple[int, ...]
    stream: int

    @property
    def bytes(self) -> int:
        """Bytes copied."""
        return sum(copy.size for copy in self.copies)


class GpuCheckpoints:
    """Those of one device.

    Args:
        driver: With a current context.
        streams: Whose work a copy has to wait for.
        allocations: Checks the ranges.
        most_bytes: Memory for copies, beside the session's limit.

    Attributes:
        taken: How many there were so far.
        restored: How many of them were restored.
        taken_bytes: Bytes copied for them.
    """

    def __init__(
        self, driver: Driver, streams: Streams, allocations: Allocations,
        most_bytes: int = DEFAULT_MOST_BYTES,
    ) -> None:  # fmt: skip
        self._driver = driver
        self._streams = streams
        self._allocations = allocations
        self._most = most_bytes
        self._sizes: dict[int, int] = {}
        self._spare: set[int] = set()
        self._live: set[GpuCheckpoint] = set()
        self.taken = self.restored = self.taken_bytes = 0

    def checkpoint(self, ranges: Iterable[Range], stream: int) -> GpuCheckpoint:
        """Copy ranges as they are after everything that the session's streams have got.

        Args:
            ranges: First address and bytes of each; they may overlap.
            stream: In whose order the copies are made.

        Raises:
            CudaError: INVALID_VALUE for what is not allocated; OUT_OF_MEMORY if the copies
                would take too much: then nothing is to be executed speculatively.
        """
        asked = list(ranges)
        for address, size in asked:
            self._allocations.check(address, size)
        wanted = merged(asked)
        total = sum(-(-size // _ALIGNMENT) * _ALIGNMENT for _, size in wanted)
        block = self._block(total) if total else 0
        self._streams.join(stream, self._streams.dirty - {stream})
        at = block
        copies = []
        for address, size in wanted:
            self._copy(at, address, size, self._streams.use(stream))
            copies.append(_Copy(address, size, at))
            at += -(-size // _ALIGNMENT) * _ALIGNMENT
        # Nothing may overtake the copies.
        self._streams.fork(stream, self._streams.dirty - {stream})
        taken = GpuCheckpoint(tuple(copies), (block,) if block else (), stream)
        self._live.add(taken)
        self.taken += 1
        self.taken_bytes += taken.bytes
        return taken

    def restore(self, checkpoint: protocol.Checkpoint) -> None:
        """Put memory back as it was, behind all work so far, and release the checkpoint."""
        if not isinstance(checkpoint, GpuCheckpoint) or checkpoint not in self._live:
            raise CudaError(CUresult.INVALID_HANDLE, "this checkpoint was released before")
        stream = checkpoint.stream
        others = self._streams.dirty - {stream}
        self._streams.join(stream, others)
        for copy in checkpoint.copies:
            self._copy(copy.address, copy.copy, copy.size, self._streams.use(stream))
        self._streams.fork(stream, others)
        self.restored += 1
        self.release(checkpoint)

    def release(self, checkpoint: protocol.Checkpoint) -> None:
        """Free the copies; their memory is used again, behind what still reads it."""
        if isinstance(checkpoint, GpuCheckpoint) and checkpoint in self._live:
            self._live.discard(checkpoint)
            self._spare.update(checkpoint.blocks)

    def counts(self) -> dict[str, int]:
        return {
            "checkpoints": len(self._live),
            "checkpoints_memory_bytes": sum(self._sizes.values()),
            "checkpoints_taken": self.taken,
            "checkpoints_restored": self.restored,
            "checkpoints_bytes": self.taken_bytes,
        }

    def close(self) -> None:
        for block in self._sizes:
            self._free_anyway(block)
        self._sizes.clear()
        self._spare.clear()
        self._live.clear()

    def _copy(self, dst: int, src: int, size: int, stream: Any) -> None:
        pointer = self._driver.module.CUdeviceptr
        self._driver.call("cuMemcpyDtoDAsync", pointer(dst), pointer(src), size, stream)

    def _block(self, size: int) -> int:
        """A block of at least `size` bytes: a spare one, or a new one."""
        fitting = [block for block in self._spare if self._sizes[block] >= size]
        if fitting:
            best = min(fitting, key=lambda block: self._sizes[block])
            self._spare.discard(best)
            return best
        if sum(self._sizes.values()) + size > self._most and self._spare:
            self._streams.wait_all()  # copies that read them may be under way
            for block in self._spare:
                self._driver.call("cuMemFree", self._driver.module.CUdeviceptr(block))
                del self._sizes[block]
            self._spare.clear()
        held = sum(self._sizes.values())
        if held + size > self._most:
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"checkpoints of {size} bytes beside {held}, at most {self._most} are allowed",
            )
        block = int(self._driver.call("cuMemAlloc", size))
        self._sizes[block] = size
        return block

    def _free_anyway(self, block: int) -> None:
        self._driver.call_anyway("cuMemFree", self._driver.module.CUdeviceptr(block))
