"""The arena: device addresses that are real addresses of this process.

A range of virtual addresses is reserved at a fixed base. An allocation makes its pages
accessible; freeing it makes pages that no other allocation uses inaccessible and gives their
memory back, so a stray access faults instead of reading stale data. Behind the arena lies a
second range for module variables.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os

import numpy as np
import numpy.typing as npt

from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError, UnavailableError

_NONE, _READ_WRITE = 0, 3
_FLAGS = 0x02 | 0x20 | 0x4000  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
_FIXED_NOREPLACE = 0x100000
_DONTNEED = 4
_FAILED = ctypes.c_void_p(-1).value
MODULE_BYTES = 8 << 30
_ALIGNMENT = 2 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _reserve(base: int, size: int) -> int | None:
    address = _libc.mmap(base, size, _NONE, _FLAGS | (_FIXED_NOREPLACE if base else 0), -1, 0)
    if address == _FAILED or address is None:
        return None
    if base and address != base:  # an old kernel took the base as a hint
        _libc.munmap(address, size)
        return None
    return int(address)


class Arena:
    """Reserved addresses, live allocations and the checks on them.

    Attributes:
        base: First address (2 MiB aligned); another than asked for if that was taken.
        size: Bytes of the range for allocations; MODULE_BYTES for modules follow it.
        limit: Bytes that may be allocated at once.
        used: Bytes allocated, modules included.
    """

    def __init__(self, base: int, size: int, limit: int) -> None:
        self.size = -(-size // _ALIGNMENT) * _ALIGNMENT
        self.limit = limit
        self.used = 0
        self.peak = 0
        total = self.size + MODULE_BYTES
        address = _reserve(base, total) if base % _ALIGNMENT == 0 else None
        self._mapping = (address or 0, total)
        if address is None:
            address = _reserve(0, total + _ALIGNMENT)
            if address is None:
                raise UnavailableError(
                    f"cannot reserve {total >> 20} MiB of addresses for the device arena "
                    f"({os.strerror(ctypes.get_errno())}); ask for a smaller arena"
                )
            self._mapping = (address, total + _ALIGNMENT)
            address = -(-address // _ALIGNMENT) * _ALIGNMENT
        self.base = address
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._module_next = self.base + self.size

    def close(self) -> None:
        """Gives everything back; addresses of the arena are invalid from now on."""
        address, size = self._mapping
        if address:
            _libc.munmap(address, size)
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
        self._map(address, size)

    def allocate_module(self, size: int, alignment: int = 1) -> int:
        """A zero-filled block for a module's variables; addresses are never reused."""
        address = -(-self._module_next // alignment) * alignment
        if address + size > self.base + self.size + MODULE_BYTES:
            raise CudaError(CUresult.OUT_OF_MEMORY, "no addresses left for module variables")
        self._map(address, size)
        self._module_next = -(-(address + size) // mmap.PAGESIZE) * mmap.PAGESIZE
        return address

    def _map(self, address: int, size: int) -> None:
        if self.used + size > self.limit:
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"{size} bytes asked, {self.limit - self.used} of {self.limit} left",
            )
        index = bisect.bisect_left(self._starts, address)
        if (index and self._ends[index - 1] > address) or (
            index < len(self._starts) and self._starts[index] < address + size
        ):
            raise CudaError(
                CUresult.INVALID_VALUE, f"allocation at {address:#x} overlaps another one"
            )
        first, last = self._pages(address, size)
        if _libc.mprotect(first, last - first, _READ_WRITE):
            raise CudaError(CUresult.OUT_OF_MEMORY, os.strerror(ctypes.get_errno()))
        self._starts.insert(index, address)
        self._ends.insert(index, address + size)
        self.used += size
        self.peak = max(self.peak, self.used)

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
            _libc.madvise(first, last - first, _DONTNEED)
            _libc.mprotect(first, last - first, _NONE)

    def check(self, address: int, size: int) -> None:
        """INVALID_VALUE unless the range lies inside one live allocation."""
        index = bisect.bisect_right(self._starts, address) - 1
        if size < 0 or index < 0 or address + size > self._ends[index]:
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"{size} bytes at {address:#x} are not inside a live allocation",
            )

    def ranges(self) -> list[int]:
        """First address and end of every live allocation, in order."""
        return [bound for pair in zip(self._starts, self._ends, strict=True) for bound in pair]

    def describe(self, address: int) -> str:
        """Where an address lies relative to the nearest live allocation."""
        index = bisect.bisect_right(self._starts, address) - 1
        near = [
            (abs(address - edge), i)
            for i in (index, index + 1)
            if 0 <= i < len(self._starts)
            for edge in (self._starts[i], self._ends[i] - 1)
        ]
        if not near:
            return "and nothing is allocated"
        distance, index = min(near)
        start, end = self._starts[index], self._ends[index]
        what = f"the allocation of {end - start} bytes at {start:#x}"
        if start <= address < end:
            return f"{end - address} bytes before the end of {what}"
        if address >= end:
            return f"{address - end} bytes behind the end of {what}"
        return f"{distance} bytes before {what}"

    def view(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """A checked, writable byte view of device memory."""
        self.check(address, size)
        array = (ctypes.c_uint8 * size).from_address(address)
        return np.ctypeslib.as_array(array)
