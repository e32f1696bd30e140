"""Memory of the virtual device that has no address of its own, and its mappings in the arena.

All of it lies in one anonymous file, each piece of memory at a place of its own that is never
given again: so it keeps its bytes wherever it is mapped, and two mappings are the same bytes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu import pages
from rrto_ros.devices.mappings import READ, Mappings, Piece
from rrto_ros.errors import CudaError

_PROTECTION = {0: pages.NONE, READ: pages.READ, READ_WRITE: pages.READ_WRITE}


class PhysicalMemory:
    """One session's.

    Args:
        mappings: Where it is mapped; inside an arena whose pages may be replaced.
    """

    def __init__(self, mappings: Mappings) -> None:
        self._mappings = mappings
        self._file = -1
        self._places: dict[int, int] = {}
        self._end = 0

    def create(self, handle: int, size: int) -> None:
        """Make memory; it is zero.

        Raises:
            CudaError: OUT_OF_MEMORY.
        """
        try:
            if self._file < 0:
                self._file = os.memfd_create("rrto-device-memory", os.MFD_CLOEXEC)
            os.ftruncate(self._file, self._end + size)
        except OSError as error:
            raise CudaError(CUresult.OUT_OF_MEMORY, str(error)) from None
        self._places[handle] = self._end
        self._end += size
        self._mappings.create(handle, size)

    def release(self, handle: int) -> int:
        """Give memory back that is mapped nowhere; its bytes."""
        size = self._mappings.release(handle)
        pages.punch(self._file, self._places.pop(handle), size)
        return size

    def map(self, address: int, size: int, handle: int) -> None:
        """Map memory; it may not be used yet."""
        self._mappings.check_map(address, size, handle)
        pages.map_file(address, size, self._file, self._places[handle])
        self._mappings.map(address, size, handle)

    def unmap(self, address: int, size: int) -> None:
        """Take mappings away; the addresses fault from now on."""
        for piece in self._mappings.whole(address, size):
            pages.clear(piece.start, piece.end - piece.start)
            self._mappings.unmap(piece)

    def access(self, address: int, size: int, flags: int) -> None:
        """Say how mapped memory may be used: 0 not at all, 1 read, 3 read and written."""
        protect(self._mappings.whole(address, size), flags)

    def close(self) -> None:
        """The arena is gone."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def protect(pieces: Sequence[Piece], flags: int) -> None:
    """Change the access to mappings."""
    if flags not in _PROTECTION:
        raise CudaError(CUresult.INVALID_VALUE, f"access {flags}")
    for piece in pieces:
        if not pages.protect(piece.start, piece.end - piece.start, _PROTECTION[flags]):
            raise CudaError(CUresult.OUT_OF_MEMORY, os.strerror(ctypes.get_errno()))
        piece.flags = flags
