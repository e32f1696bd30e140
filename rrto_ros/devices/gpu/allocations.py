"""Which device addresses belong to the session: allocations, module variables, the limit."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

from rrto_ros.api.results import CUresult
from rrto_ros.devices.mappings import READ, Mappings, Piece
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
        mappings: Memory that the program maps itself, at addresses without allocations.
        used: Bytes allocated (without module variables), and of such memory.
        peak: Highest `used` so far.
        removals: Counts ranges that ceased to be valid; who checked before may compare it.
    """

    def __init__(self, base: int, size: int, limit: int) -> None:
        self._base, self._end, self._limit = base, base + size, limit
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._fixed: set[int] = set()
        self.mappings = Mappings(base, size)
        self.used = 0
        self.peak = 0
        self.removals = 0

    def add(self, address: int, size: int) -> None:
        """Take a range of the arena.

        Raises:
            CudaError: INVALID_VALUE outside the arena or on top of another range;
                OUT_OF_MEMORY beyond the limit.
        """
        if size > 0:
            self._check_budget(size)
        if size <= 0 or address < self._base or address + size > self._end:
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"allocation of {size} bytes at {address:#x} is outside the arena",
            )
        self.mappings.check_free(address, size)
        self._insert(address, size)
        self._take(size)

    def check_create(self, handle: int, size: int) -> None:
        """INVALID_VALUE, INVALID_HANDLE or OUT_OF_MEMORY where memory cannot be made."""
        self.mappings.check_new(handle, size)
        self._check_budget(size)

    def create(self, handle: int, size: int) -> None:
        """Memory without an address was made."""
        self.mappings.create(handle, size)
        self._take(size)

    def release(self, handle: int) -> None:
        """It goes (see `Mappings.release`)."""
        self.used -= self.mappings.release(handle)

    def check_map(self, address: int, size: int, handle: int) -> None:
        """INVALID_VALUE or INVALID_HANDLE where memory cannot be mapped so."""
        self.mappings.check_map(address, size, handle)
        self._place(address, size)

    def unmap(self, piece: Piece) -> None:
        """A mapping went."""
        self.mappings.unmap(piece)
        self.removals += 1

    def _check_budget(self, size: int) -> None:
        if self.used + size > self._limit:
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"{size} bytes asked, {self._limit - self.used} of {self._limit} left",
            )

    def _take(self, size: int) -> None:
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

    def check(self, address: int, size: int, flags: int = READ) -> None:
        """INVALID_VALUE unless the range lies in one live allocation, variable or mapped memory.

        Args:
            address: First address.
            size: Bytes.
            flags: The access that is wanted where it is mapped memory.
        """
        index = bisect.bisect_right(self._starts, address) - 1
        if size < 0 or (
            (index < 0 or address + size > self._ends[index])
            and not self.mappings.check(address, size, flags)
        ):
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

    def _place(self, address: int, size: int) -> int:
        index = bisect.bisect_left(self._starts, address)
        if (index and self._ends[index - 1] > address) or (
            index < len(self._starts) and self._starts[index] < address + size
        ):
            raise CudaError(
                CUresult.INVALID_VALUE, f"allocation at {address:#x} overlaps another one"
            )
        return index

    def _insert(self, address: int, size: int) -> None:
        index = self._place(address, size)
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
