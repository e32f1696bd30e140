"""The arena: device addresses that are real addresses of this process.

A range of virtual addresses is reserved at a fixed base. An allocation makes its pages
accessible; freeing it makes pages that no other allocation uses inaccessible and gives their
memory back, so a stray access faults instead of reading stale data. Memory that the program maps
itself (`physical.py`) lies at other addresses of the range. Behind the arena lies a second range
for module variables, and a third for the memory of running blocks (`block_memory.py`). Nothing
else lies there, and nothing at all within `2 * REACH` bytes around it: compiled kernels keep their
accesses inside (codegen/containment.py).
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu import pages
from rrto_ros.devices.cpu.codegen.containment import REACH
from rrto_ros.devices.cpu.physical import PhysicalMemory
from rrto_ros.devices.mappings import READ, Mappings
from rrto_ros.errors import CudaError, UnavailableError

MODULE_BYTES = 8 << 30
_ALIGNMENT = 2 << 20


class Arena:
    """Reserved addresses, live allocations and the checks on them.

    Attributes:
        base: First address (2 MiB aligned); another than asked for if that was taken.
        size: Bytes of the range for allocations; MODULE_BYTES for modules follow it.
        limit: Bytes that may be allocated at once.
        used: Bytes allocated, modules, memory that has no address and what was charged included.
        block_base: First address of the range for running blocks.
        low: The lowest address that kernels may form.
        span: How far the highest, which faults, lies from that.
        spare: Gives back what was charged and is not needed now.
    """

    def __init__(self, base: int, size: int, limit: int, block_bytes: int = 0) -> None:
        self.size = -(-size // _ALIGNMENT) * _ALIGNMENT
        self.limit = limit
        self.used = 0
        self.peak = 0
        self.spare: Callable[[], None] = lambda: None
        inside = self.size + MODULE_BYTES + -(-block_bytes // _ALIGNMENT) * _ALIGNMENT
        total = inside + 4 * REACH
        fits = base % _ALIGNMENT == 0 and base > 2 * REACH
        address = pages.reserve(base - 2 * REACH, total) if fits else None
        self._mapping = (address or 0, total)
        if address is None:
            address = pages.reserve(0, total + _ALIGNMENT)
            if address is None:
                raise UnavailableError(
                    f"cannot reserve {total >> 20} MiB of addresses for the device arena "
                    f"({os.strerror(ctypes.get_errno())}); ask for a smaller arena"
                )
            self._mapping = (address, total + _ALIGNMENT)
            address = -(-address // _ALIGNMENT) * _ALIGNMENT
        self.base = address + 2 * REACH
        self.block_base = self.base + self.size + MODULE_BYTES
        self.low, self.span = self.base - REACH, inside + 2 * REACH
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._module_next = self.base + self.size
        self._mappings = Mappings(self.base, self.size)
        self._physical = PhysicalMemory(self._mappings)

    def close(self) -> None:
        """Gives everything back; addresses of the arena are invalid from now on."""
        address, size = self._mapping
        if address:
            pages.give_back(address, size)
        self._physical.close()
        self._mapping = (0, 0)
        self._starts.clear()
        self._ends.clear()

    # allocations
    def allocate(self, address: int, size: int) -> None:
        """Makes [address, address + size) accessible.

        Raises:
            CudaError: INVALID_VALUE outside the arena or on top of an allocation;
                OUT_OF_MEMORY beyond the limit.
        """
        if size <= 0 or address < self.base or address + size > self.base + self.size:
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"allocation of {size} bytes at {address:#x} is outside the arena",
            )
        self._mappings.check_free(address, size)
        self._map(address, size)

    def allocate_module(self, size: int, alignment: int = 1) -> int:
        """A zero-filled block for a module's variables; addresses are never reused."""
        address = -(-self._module_next // alignment) * alignment
        if address + size > self.base + self.size + MODULE_BYTES:
            raise CudaError(CUresult.OUT_OF_MEMORY, "no addresses left for module variables")
        self._map(address, size)
        self._module_next = -(-(address + size) // mmap.PAGESIZE) * mmap.PAGESIZE
        return address

    # memory that is mapped by the program
    def create(self, handle: int, size: int) -> None:
        """Makes memory without an address (see `PhysicalMemory`)."""
        self._mappings.check_new(handle, size)
        self._check_budget(size)
        self._physical.create(handle, size)
        self._take(size)

    def release(self, handle: int) -> None:
        """Gives memory without an address back."""
        self.used -= self._physical.release(handle)

    def map(self, address: int, size: int, handle: int) -> None:
        """Maps memory where nothing is allocated."""
        self._place(address, size)
        self._physical.map(address, size, handle)

    def unmap(self, address: int, size: int) -> None:
        """Takes whole mappings away."""
        self._physical.unmap(address, size)

    def access(self, address: int, size: int, flags: int) -> None:
        """Changes the access to whole mappings."""
        self._physical.access(address, size, flags)

    # memory of running blocks
    def charge(self, size: int) -> None:
        """Counts memory that is not allocated here (OUT_OF_MEMORY beyond the limit)."""
        self._check_budget(size)
        self._take(size)

    def refund(self, size: int) -> None:
        """What was charged is not used any more."""
        self.used -= size

    def contained(self, address: int) -> int:
        """An address that a kernel gave, or one that faults if it is not the session's."""
        return self.low + min(address - self.low & (1 << 64) - 1, self.span)

    def _check_budget(self, size: int) -> None:
        if self.used + size > self.limit:
            self.spare()
        if self.used + size > self.limit:
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"{size} bytes asked, {self.limit - self.used} of {self.limit} left",
            )

    def _take(self, size: int) -> None:
        self.used += size
        self.peak = max(self.peak, self.used)

    def _place(self, address: int, size: int) -> int:
        """Among the allocations, where a new one belongs (INVALID_VALUE on top of one)."""
        index = bisect.bisect_left(self._starts, address)
        if (index and self._ends[index - 1] > address) or (
            index < len(self._starts) and self._starts[index] < address + size
        ):
            raise CudaError(
                CUresult.INVALID_VALUE, f"allocation at {address:#x} overlaps another one"
            )
        return index

    def _map(self, address: int, size: int) -> None:
        self._check_budget(size)
        index = self._place(address, size)
        first, last = self._pages(address, size)
        if not pages.protect(first, last - first, pages.READ_WRITE):
            raise CudaError(CUresult.OUT_OF_MEMORY, os.strerror(ctypes.get_errno()))
        self._starts.insert(index, address)
        self._ends.insert(index, address + size)
        self._take(size)

    @staticmethod
    def _pages(address: int, size: int) -> tuple[int, int]:
        page = mmap.PAGESIZE
        return address // page * page, -(-(address + size) // page) * page

    def free(self, address: int) -> None:
        """Frees the allocation that starts at `address` (INVALID_VALUE if none does)."""
        index = bisect.bisect_left(self._starts, address)
        if index == len(self._starts) or self._starts[index] != address:
            raise CudaError(CUresult.INVALID_VALUE, f"no allocation starts at {address:#x}")
        size = self._ends[index] - address
        del self._starts[index], self._ends[index]
        self.used -= size
        first, last = self._pages(address, size)
        # A page that a neighbour still uses stays.
        if index and self._ends[index - 1] > first:
            first = -(-self._ends[index - 1] // mmap.PAGESIZE) * mmap.PAGESIZE
        if index < len(self._starts) and self._starts[index] < last:
            last = self._starts[index] // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            pages.drop(first, last - first)

    def check(self, address: int, size: int, flags: int = READ) -> None:
        """INVALID_VALUE unless the range lies in one live allocation or in mapped memory.

        Args:
            address: First address.
            size: Bytes.
            flags: The access that is wanted where it is mapped memory.
        """
        index = bisect.bisect_right(self._starts, address) - 1
        if size < 0 or (
            (index < 0 or address + size > self._ends[index])
            and not self._mappings.check(address, size, flags)
        ):
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"{size} bytes at {address:#x} are not inside a live allocation",
            )

    def ranges(self) -> list[int]:
        """First address and end of every range that may be read, in order."""
        return [bound for pair in self._live() for bound in pair]

    def _live(self) -> list[tuple[int, int]]:
        return sorted([*zip(self._starts, self._ends, strict=True), *self._mappings.ranges()])

    def describe(self, address: int) -> str:
        """Where an address lies relative to the nearest live allocation."""
        live = self._live()
        index = bisect.bisect_right(live, (address, self.base << 1)) - 1
        near = [
            (abs(address - edge), i)
            for i in (index, index + 1)
            if 0 <= i < len(live)
            for edge in (live[i][0], live[i][1] - 1)
        ]
        if not near:
            return "and nothing is allocated"
        distance, index = min(near)
        start, end = live[index]
        what = f"the allocation of {end - start} bytes at {start:#x}"
        if start <= address < end:
            return f"{end - address} bytes before the end of {what}"
        if address >= end:
            return f"{address - end} bytes behind the end of {what}"
        return f"{distance} bytes before {what}"

    def view(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """A checked, writable byte view of device memory."""
        self.check(address, size, READ_WRITE)
        array = (ctypes.c_uint8 * size).from_address(address)
        return np.ctypeslib.as_array(array)
