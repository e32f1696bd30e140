"""Copies, on the GPU, of memory that run-ahead may overwrite, until the program's calls confirm.

`keep` copies ranges before work that the program has not asked for yet; `restore` puts them back
when it asks for something else; `release` forgets them when it asked for just that. All of it is
work in stream order: nothing waits.
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
class Kept:
    """What one `keep` holds."""

    copies: tuple[_Copy, ...]
    blocks: tuple[int, ...]
    stream: int

    @property
    def bytes(self) -> int:
        """Bytes copied."""
        return sum(copy.size for copy in self.copies)


class KeptCopies:
    """Keeps and restores ranges of device memory.

    Args:
        driver: With a current context.
        streams: Whose work a copy has to wait for.
        allocations: Checks the ranges.
        most_bytes: Memory for copies, beside the session's limit.

    Attributes:
        keeps: How often ranges were kept.
        restores: How often they were put back.
        kept_bytes: Bytes copied by `keep` so far.
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
        self._live: set[Kept] = set()
        self.keeps = self.restores = self.kept_bytes = 0

    def keep(self, ranges: Iterable[Range], stream: int) -> Kept:
        """Copy ranges as they are after everything that the session's streams have got.

        Args:
            ranges: First address and bytes of each; they may overlap.
            stream: In whose order the copies are made.

        Raises:
            CudaError: INVALID_VALUE for what is not allocated; OUT_OF_MEMORY if the copies
                would take too much: then do not run ahead.
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
        kept = Kept(tuple(copies), (block,) if block else (), stream)
        self._live.add(kept)
        self.keeps += 1
        self.kept_bytes += kept.bytes
        return kept

    def restore(self, kept: protocol.Kept) -> None:
        """Put everything back as it was, behind all work so far, and release it."""
        if not isinstance(kept, Kept) or kept not in self._live:
            raise CudaError(CUresult.INVALID_HANDLE, "these copies were released before")
        stream = kept.stream
        others = self._streams.dirty - {stream}
        self._streams.join(stream, others)
        for copy in kept.copies:
            self._copy(copy.address, copy.copy, copy.size, self._streams.use(stream))
        self._streams.fork(stream, others)
        self.restores += 1
        self.release(kept)

    def release(self, kept: protocol.Kept) -> None:
        """Forget copies; their memory is used again, behind what still reads it."""
        if isinstance(kept, Kept) and kept in self._live:
            self._live.discard(kept)
            self._spare.update(kept.blocks)

    def counts(self) -> dict[str, int]:
        return {
            "kept_copies": len(self._live),
            "kept_memory_bytes": sum(self._sizes.values()),
            "keeps": self.keeps,
            "restores": self.restores,
            "kept_bytes": self.kept_bytes,
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
                f"copies of {size} bytes beside {held}, at most {self._most} are kept",
            )
        block = int(self._driver.call("cuMemAlloc", size))
        self._sizes[block] = size
        return block

    def _free_anyway(self, block: int) -> None:
        self._driver.call_anyway("cuMemFree", self._driver.module.CUdeviceptr(block))
