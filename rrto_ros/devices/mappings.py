"""Memory without addresses and where it is mapped: the bookkeeping that devices share.

A session makes memory under a handle, maps it at addresses that no allocation has, in as many
places as it likes, and says how each may be used. Pieces that lie beside each other are used as
one. What is behind the addresses is the device's business.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError

GRANULE = 2 << 20
"""Memory is made and mapped in multiples of this; the shim says so to programs."""
READ = 1


@dataclass
class Piece:
    """One mapping: memory `handle` from its beginning on, and the access to it."""

    start: int
    end: int
    handle: int
    flags: int = 0


class Mappings:
    """Those of one session.

    Args:
        base: First address of the arena.
        size: Bytes of the arena.
    """

    def __init__(self, base: int, size: int) -> None:
        self._base, self._end = base, base + size
        self._sizes: dict[int, int] = {}
        self._mapped: dict[int, int] = {}
        self._starts: list[int] = []
        self._pieces: list[Piece] = []

    def __len__(self) -> int:
        return len(self._pieces)

    def check_new(self, handle: int, size: int) -> None:
        """INVALID_VALUE or INVALID_HANDLE where no such memory can be made."""
        if handle in self._sizes:
            raise CudaError(CUresult.INVALID_HANDLE, f"memory {handle} exists already")
        if size <= 0 or size % GRANULE:
            raise CudaError(CUresult.INVALID_VALUE, f"memory of {size} bytes cannot be made")

    def create(self, handle: int, size: int) -> None:
        """Memory was made."""
        self._sizes[handle] = size
        self._mapped[handle] = 0

    def release(self, handle: int) -> int:
        """Memory goes; its bytes (INVALID_HANDLE if there is none, or it is mapped)."""
        self.size_of(handle)
        if self._mapped[handle]:
            raise CudaError(CUresult.INVALID_HANDLE, f"memory {handle} is still mapped")
        del self._mapped[handle]
        return self._sizes.pop(handle)

    def size_of(self, handle: int) -> int:
        """Bytes of memory (INVALID_HANDLE)."""
        size = self._sizes.get(handle)
        if size is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"memory {handle} is unknown")
        return size

    def check_map(self, address: int, size: int, handle: int) -> None:
        """INVALID_VALUE or INVALID_HANDLE where memory cannot be mapped so."""
        most = self.size_of(handle)
        inside = self._base <= address and address + size <= self._end
        if (address - self._base) % GRANULE or size % GRANULE or not (inside and 0 < size <= most):
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"{size} bytes of memory {handle} cannot be mapped at {address:#x}",
            )
        self.check_free(address, size)

    def check_free(self, address: int, size: int) -> None:
        """INVALID_VALUE if something is mapped in a range."""
        if self._touched(address, address + size):
            raise CudaError(CUresult.INVALID_VALUE, f"memory is mapped at {address:#x} already")

    def map(self, address: int, size: int, handle: int) -> None:
        """Memory was mapped."""
        at = bisect.bisect_left(self._starts, address)
        self._starts.insert(at, address)
        self._pieces.insert(at, Piece(address, address + size, handle))
        self._mapped[handle] += 1

    def whole(self, address: int, size: int) -> list[Piece]:
        """The pieces that make up a range exactly (INVALID_VALUE)."""
        pieces = self._touched(address, address + size)
        at = address
        for piece in pieces:
            if piece.start != at:
                break
            at = piece.end
        if not pieces or at != address + size:
            raise CudaError(
                CUresult.INVALID_VALUE, f"{size} bytes at {address:#x} are not whole mappings"
            )
        return pieces

    def unmap(self, piece: Piece) -> None:
        """A piece was unmapped."""
        at = bisect.bisect_left(self._starts, piece.start)
        del self._starts[at], self._pieces[at]
        self._mapped[piece.handle] -= 1

    def check(self, address: int, size: int, flags: int = READ) -> bool:
        """Whether a range lies in mapped memory to which there is this access."""
        end = address + size
        for piece in self._touched(address, max(end, address + 1)):
            if piece.start > address or piece.flags & flags != flags:
                return False
            address = piece.end
            if end <= address:
                return True
        return False

    def ranges(self) -> list[tuple[int, int]]:
        """First address and end of what may be read, neighbours as one."""
        out: list[tuple[int, int]] = []
        for piece in self._pieces:
            if piece.flags & READ:
                if out and out[-1][1] == piece.start:
                    out[-1] = out[-1][0], piece.end
                else:
                    out.append((piece.start, piece.end))
        return out

    def _touched(self, first: int, last: int) -> list[Piece]:
        at = bisect.bisect_right(self._starts, first) - 1
        if at < 0 or self._pieces[at].end <= first:
            at += 1
        return self._pieces[at : bisect.bisect_left(self._starts, last)]


def check_flags(flags: int) -> None:
    """INVALID_VALUE for what is no access."""
    if flags not in (0, READ, READ_WRITE):
        raise CudaError(CUresult.INVALID_VALUE, f"access {flags}")
