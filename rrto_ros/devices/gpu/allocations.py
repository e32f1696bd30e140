"""Which device addresses belong to the session: allocations, module variables, the limit."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError

Range = tuple[int, int]
"""First address and bytes."""


class Allocations:
    """Live ranges of the arena, and of module variables, which lie where the driver put them.

    Args:
        base: First address of the arena.
        size: Bytes of the arena.
        limit: Bytes that may be allocated at once.

    Attributes:
        used: Bytes allocated (without module variables).
        peak: Highest `used` so far.
        removals: Counts ranges that ceased to be valid; who checked before may compare it.
    """

    def __init__(self, base: int, size: int, limit: int) -> None:
        self._base, self._end, self._limit = base, base + size, limit
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._fixed: set[int] = set()
        self.used = 0
        self.peak = 0
        self.removals = 0

    def add(self, address: int, size: int) -> None:
        """Take a range of the arena.

        Raises:
            CudaError: INVALID_VALUE outside the arena or on top of another range;
                OUT_OF_MEMORY beyond the limit.
        """
        if size > 0 and self.used + size > self._limit:
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"{size} bytes asked, {self._limit - self.used} of {self._limit} left",
            )
        if size <= 0 or address < self._base or address + size > self._end:
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"allocation of {size} bytes at {address:#x} is outside the arena",
            )
        self._insert(address, size)
        self.used += size
        self.peak = max(self.peak, self.used)

    def add_fixed(self, address: int, size: int) -> None:
        """Note a module variable: it may be copied, not freed, and does not count as used."""
        if size > 0:
            self._insert(address, size)
            self._fixed.add(address)

    def remove(self, address: int) -> int:
        """Forget the allocation that begins at `address`; returns its size (INVALID_VALUE)."""
        if address in self._fixed:
            raise CudaError(CUresult.INVALID_VALUE, "a module's variable cannot be freed")
        size = self._erase(address)
        self.used -= size
        return size

    def remove_fixed(self, address: int) -> None:
        """Forget a module variable, if it was noted."""
        if address in self._fixed:
            self._fixed.remove(address)
            self._erase(address)

    def check(self, address: int, size: int) -> None:
        """INVALID_VALUE unless the range lies inside one live allocation or variable."""
        index = bisect.bisect_right(self._starts, address) - 1
        if size < 0 or index < 0 or address + size > self._ends[index]:
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"{size} bytes at {address:#x} are not inside a live allocation",
            )

    def find(self, address: int) -> tuple[int, int] | None:
        """(start, size) of the allocation or variable that holds an address."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._ends[index]:
            return None
        return self._starts[index], self._ends[index] - self._starts[index]

    def __len__(self) -> int:
        return len(self._starts)

    def _insert(self, address: int, size: int) -> None:
        index = bisect.bisect_left(self._starts, address)
        if (index and self._ends[index - 1] > address) or (
            index < len(self._starts) and self._starts[index] < address + size
        ):
            raise CudaError(
                CUresult.INVALID_VALUE, f"allocation at {address:#x} overlaps another one"
            )
        self._starts.insert(index, address)
        self._ends.insert(index, address + size)

    def _erase(self, address: int) -> int:
        index = bisect.bisect_left(self._starts, address)
        if index == len(self._starts) or self._starts[index] != address:
            raise CudaError(CUresult.INVALID_VALUE, f"no allocation starts at {address:#x}")
        size = self._ends[index] - address
        del self._starts[index], self._ends[index]
        self.removals += 1
        return size


class FreedRanges:
    """What was freed while the GPU may still have been using it, and in which stream's order.

    Cleared when the GPU is known to be idle.
    """

    MOST = 1024

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, int]] = []

    def add(self, address: int, size: int, stream: int) -> None:
        self._ranges.append((address, address + size, stream))

    def clear(self) -> None:
        self._ranges.clear()

    def streams(self, address: int, size: int) -> set[int]:
        """In whose order memory of a range was freed; -1 if that is not known."""
        if len(self._ranges) > self.MOST:
            return {-1}
        end = address + size
        return {stream for first, last, stream in self._ranges if first < end and last > address}


def merged(ranges: Iterable[Range]) -> Sequence[Range]:
    """The same bytes in ascending ranges that do not overlap."""
    out: list[Range] = []
    for address, size in sorted((a, s) for a, s in ranges if s > 0):
        if out and address <= out[-1][0] + out[-1][1]:
            start, known = out[-1]
            out[-1] = (start, max(known, address + size - start))
        else:
            out.append((address, size))
    return out
