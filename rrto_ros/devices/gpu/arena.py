"""The arena's addresses and the memory behind them.

`MappedArena` reserves the address range and maps physical memory where allocations are: in
pieces of whole granules (2 MiB on today's GPUs). What an allocation needs alone is one piece; a
granule that it may share with a neighbour is a piece of its own, so that freeing a large
allocation can give its memory back. Memory that the program maps itself lies at addresses of its
own, as pieces that stay until it unmaps them. `BlockArena` is for GPUs without virtual memory
management: one block, held until the session ends.

Over 400 lines: allocations and mappings share the pieces.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.devices.mappings import GRANULE
from rrto_ros.errors import CudaError, UnavailableError

DEFAULT_BASE = 0x2000_0000_0000
"""As on the cpu device, so that a recorded session fits either."""
DEFAULT_BYTES = 64 << 30
ALIGNMENT = 2 << 20
DEFAULT_KEEP_BYTES = 256 << 20
_SLACK_BYTES = 64 << 20


class Arena(Protocol):
    """Where the session's allocations get their memory."""

    @property
    def base(self) -> int: ...

    @property
    def size(self) -> int: ...

    def back(self, address: int, size: int) -> None: ...

    def release(self, address: int, size: int) -> None: ...

    @property
    def unmaps(self) -> int: ...

    def mapping(self, address: int, size: int) -> tuple[int, ...]: ...

    def create(self, size: int) -> Any: ...

    def map(self, address: int, size: int, memory: Any) -> None: ...

    def unmap(self, address: int) -> None: ...

    def access(self, address: int, size: int, flags: int) -> None: ...

    def counts(self) -> dict[str, int]: ...

    def close(self) -> None: ...


@dataclass
class _Piece:
    """Physical memory mapped at [start, end), and how many allocations lie in it.

    `number` is that of its mapping, and never given again. The program's own mappings are pieces
    that nobody else uses.
    """

    start: int
    end: int
    number: int
    users: int = 0
    own: bool = False


class MappedArena:
    """A reserved address range with memory mapped on demand.

    Freed pieces stay mapped, for the next allocation there, up to `keep_bytes`; beyond that the
    longest unused are given back to the GPU, and all of them when it runs out of memory.

    Args:
        driver: With a current context.
        device: CUdevice whose memory is mapped.
        base: Wanted first address; another is taken if the driver does not give that one.
        size: Bytes of the range; a smaller one, but not below `limit`, is taken if need be.
        limit: Bytes that allocations may have.
        quiesce: Waits until the GPU is idle; called before memory is unmapped.
        keep_bytes: Unused memory that stays mapped.

    Raises:
        UnavailableError: No addresses can be reserved.
    """

    def __init__(
        self, driver: Driver, device: Any, base: int, size: int, limit: int,
        quiesce: Callable[[], None], keep_bytes: int = DEFAULT_KEEP_BYTES,
    ) -> None:  # fmt: skip
        self._driver = driver
        self._quiesce = quiesce
        self._keep = keep_bytes
        self._device = device
        self._property = _properties(driver, device)
        self._access = _access(driver, device, READ_WRITE)
        minimum = driver.module.CUmemAllocationGranularity_flags
        self._granule = int(
            driver.call(
                "cuMemGetAllocationGranularity",
                self._property,
                minimum.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED,
            )
        )
        self._most = limit + limit // 8 + _SLACK_BYTES
        self._base, self._size = self._reserve(base, size, limit)
        self._starts: list[int] = []
        self._pieces: list[_Piece] = []
        self._idle: OrderedDict[int, _Piece] = OrderedDict()
        self._idle_bytes = 0
        self._mapped = 0
        self._maps = self._unmaps = 0

    @property
    def base(self) -> int:
        return self._base

    @property
    def size(self) -> int:
        return self._size

    @property
    def unmaps(self) -> int:
        """How often memory was unmapped."""
        return self._unmaps

    def mapping(self, address: int, size: int) -> tuple[int, ...]:
        """What is mapped at [address, address + size) now; another tuple after it was remapped."""
        return tuple(piece.number for piece in self._touched(*self._granules(address, size)))

    def counts(self) -> dict[str, int]:
        return {
            "mapped_bytes": self._mapped,
            "mapped_idle_bytes": self._idle_bytes,
            "mapped_pieces": len(self._pieces),
            "maps": self._maps,
            "unmaps": self._unmaps,
        }

    def back(self, address: int, size: int) -> None:
        """Have memory behind [address, address + size).

        Raises:
            CudaError: OUT_OF_MEMORY; the arena is then as before.
        """
        first, last = self._granules(address, size)
        gaps = self._gaps(first, last)
        # In use from here on, so that a trim for the gaps does not take what is already there.
        used = self._touched(first, last)
        for piece in used:
            self._occupy(piece)
        made: list[_Piece] = []
        try:
            for gap in gaps:
                for start, end in self._split(*gap, address, address + size):
                    piece = self._map(start, end)
                    made.append(piece)
        except CudaError:
            for piece in used:
                self._leave(piece)
            for piece in made:
                self._unmap(piece)
            raise
        for piece in made:
            self._occupy(piece)

    def release(self, address: int, size: int) -> None:
        """The allocation is gone; its memory may be used anew or given back."""
        for piece in self._touched(*self._granules(address, size)):
            self._leave(piece)
        if self._idle_bytes > self._keep:
            self._trim(self._keep)

    def create(self, size: int) -> Any:
        """Physical memory that is mapped nowhere; the driver's handle of it.

        Raises:
            CudaError: OUT_OF_MEMORY; NOT_SUPPORTED where this GPU maps in other pieces than
                programs are told.
        """
        if GRANULE % self._granule:
            raise CudaError(
                CUresult.NOT_SUPPORTED, f"this GPU maps memory in pieces of {self._granule} bytes"
            )
        return self._create(size)

    def map(self, address: int, size: int, memory: Any) -> None:
        """Map physical memory where no allocation is; it may not be used yet."""
        idle = self._touched(address, address + size)
        if any(piece.users for piece in idle):
            raise CudaError(
                CUresult.OUT_OF_MEMORY, "allocations are too scattered for a mapping among them"
            )
        if idle:
            self._quiesce()
        for piece in idle:
            self._idle_bytes -= piece.end - piece.start
            del self._idle[piece.start]
            self._unmap(piece)
        self._driver.call("cuMemMap", self._pointer(address), size, 0, memory, 0)
        self._insert(_Piece(address, address + size, self._maps, 1, own=True))

    def unmap(self, address: int) -> None:
        """Take the program's mapping that begins there away, when nothing uses it any more."""
        self._quiesce()
        self._unmap(self._pieces[bisect.bisect_left(self._starts, address)])

    def access(self, address: int, size: int, flags: int) -> None:
        """Say how the program's mappings may be used."""
        self._quiesce()
        made = _access(self._driver, self._device, flags)
        self._driver.call("cuMemSetAccess", self._pointer(address), size, [made], 1)

    def close(self) -> None:
        """Unmap everything and give the addresses back; errors of a dead context are passed by."""
        for piece in self._pieces:
            self._driver.call_anyway(
                "cuMemUnmap", self._pointer(piece.start), piece.end - piece.start
            )
        self._pieces.clear()
        self._starts.clear()
        self._idle.clear()
        self._mapped = self._idle_bytes = 0
        if self._size:
            self._driver.call_anyway("cuMemAddressFree", self._pointer(self._base), self._size)
        self._size = 0

    def _occupy(self, piece: _Piece) -> None:
        piece.users += 1
        if self._idle.pop(piece.start, None) is not None:
            self._idle_bytes -= piece.end - piece.start

    def _leave(self, piece: _Piece) -> None:
        piece.users -= 1
        if piece.users == 0:
            self._idle[piece.start] = piece
            self._idle_bytes += piece.end - piece.start

    def _reserve(self, base: int, size: int, limit: int) -> tuple[int, int]:
        def rounded(count: int) -> int:
            return -(-count // self._granule) * self._granule

        wanted = base if base % max(ALIGNMENT, self._granule) == 0 else 0
        refused: CudaError | None = None
        # A program that reserves addresses reserves more of them than there is memory.
        sizes = dict.fromkeys((rounded(max(size, 8 * limit)), rounded(2 * limit), rounded(limit)))
        for bytes_wanted in sizes:
            for hint in dict.fromkeys((wanted, 0)):
                try:
                    got = self._driver.call(
                        "cuMemAddressReserve", bytes_wanted, max(ALIGNMENT, self._granule),
                        self._pointer(hint), 0,
                    )  # fmt: skip
                except CudaError as error:
                    refused = error
                    continue
                return int(got), bytes_wanted
        raise UnavailableError(
            f"the GPU's driver gives no address range of {limit >> 20} MiB for the session "
            f"({refused}); set a smaller limit_bytes"
        )

    def _granules(self, address: int, size: int) -> tuple[int, int]:
        granule, offset = self._granule, address - self._base
        first = self._base + offset // granule * granule
        return first, self._base + -(-(offset + size) // granule) * granule

    def _split(self, start: int, end: int, low: int, high: int) -> list[tuple[int, int]]:
        """Cut a gap so that granules that [low, high) fills only in part stand alone."""
        cuts = [start]
        if low > start and start + self._granule < end:
            cuts.append(start + self._granule)
        if high < end and end - self._granule > cuts[-1]:
            cuts.append(end - self._granule)
        return list(zip(cuts, [*cuts[1:], end], strict=True))

    def _gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """Parts of [first, last) where nothing is mapped."""
        out: list[tuple[int, int]] = []
        at = first
        for piece in self._touched(first, last):
            if piece.start > at:
                out.append((at, piece.start))
            at = piece.end
        if at < last:
            out.append((at, last))
        return out

    def _touched(self, first: int, last: int) -> list[_Piece]:
        index = bisect.bisect_right(self._starts, first) - 1
        if index < 0 or self._pieces[index].end <= first:
            index += 1
        return self._pieces[index : bisect.bisect_left(self._starts, last)]

    def _map(self, start: int, end: int) -> _Piece:
        size = end - start
        if self._mapped + size > self._most:
            self._trim(max(0, self._idle_bytes - size))
        if self._mapped + size > self._most:
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"{self._mapped} bytes are mapped for this session, {size} more would pass its "
                "limit; its allocations are too scattered",
            )
        call = self._driver.call
        handle = self._create(size)
        try:
            call("cuMemMap", self._pointer(start), size, 0, handle, 0)
        finally:
            # Mapped memory lives as long as its mapping.
            self._driver.call_anyway("cuMemRelease", handle)
        try:
            call("cuMemSetAccess", self._pointer(start), size, [self._access], 1)
        except CudaError:
            self._driver.call_anyway("cuMemUnmap", self._pointer(start), size)
            raise
        piece = _Piece(start, end, self._maps)
        self._insert(piece)
        self._mapped += size
        return piece

    def _create(self, size: int) -> Any:
        call = self._driver.call
        try:
            return call("cuMemCreate", size, self._property, 0)
        except CudaError as error:
            if error.result is not CUresult.OUT_OF_MEMORY or not self._idle:
                raise
            self._trim(0)
            return call("cuMemCreate", size, self._property, 0)

    def _insert(self, piece: _Piece) -> None:
        index = bisect.bisect_left(self._starts, piece.start)
        self._starts.insert(index, piece.start)
        self._pieces.insert(index, piece)
        self._maps += 1

    def _trim(self, keep: int) -> None:
        """Unmap idle pieces, the longest unused first, until at most `keep` bytes are left."""
        if self._idle_bytes > keep:
            self._quiesce()  # kernels may still use what the program has freed
        while self._idle_bytes > keep:
            _, piece = self._idle.popitem(last=False)
            self._idle_bytes -= piece.end - piece.start
            self._unmap(piece)

    def _unmap(self, piece: _Piece) -> None:
        size = piece.end - piece.start
        index = bisect.bisect_left(self._starts, piece.start)
        del self._starts[index], self._pieces[index]
        self._mapped -= 0 if piece.own else size
        self._unmaps += 1
        self._driver.call("cuMemUnmap", self._pointer(piece.start), size)

    def _pointer(self, address: int) -> Any:
        return self._driver.module.CUdeviceptr(address)


class BlockArena:
    """One block of device memory that is the whole arena; its address is the driver's choice.

    Raises:
        UnavailableError: The GPU does not have so much memory.
    """

    def __init__(self, driver: Driver, limit: int) -> None:
        self._driver = driver
        self._size = -(-limit // ALIGNMENT) * ALIGNMENT
        try:
            self._block = int(driver.call("cuMemAlloc", self._size + ALIGNMENT))
        except CudaError as error:
            raise UnavailableError(
                f"this GPU maps no memory on demand, and has no block of {self._size >> 20} MiB "
                f"for the session ({error}); set a smaller limit_bytes"
            ) from None
        self._base = -(-self._block // ALIGNMENT) * ALIGNMENT

    @property
    def base(self) -> int:
        return self._base

    @property
    def size(self) -> int:
        return self._size

    @property
    def unmaps(self) -> int:
        """Never."""
        return 0

    def mapping(self, address: int, size: int) -> tuple[int, ...]:  # noqa: ARG002
        """Always the same."""
        return ()

    def counts(self) -> dict[str, int]:
        return {"mapped_bytes": self._size + ALIGNMENT if self._block else 0}

    def back(self, address: int, size: int) -> None:
        """Everything has memory already."""

    def release(self, address: int, size: int) -> None:
        """The block is kept whole."""

    def create(self, size: int) -> Any:
        """Not where the GPU maps no memory."""
        raise CudaError(CUresult.NOT_SUPPORTED, f"{size} bytes: this GPU maps no memory")

    def map(self, address: int, size: int, memory: Any) -> None:
        """There is nothing to map."""
        raise NotImplementedError

    def unmap(self, address: int) -> None:
        """There is nothing to unmap."""
        raise NotImplementedError

    def access(self, address: int, size: int, flags: int) -> None:
        """There is no mapping."""
        raise NotImplementedError

    def close(self) -> None:
        if self._block:
            self._driver.call_anyway("cuMemFree", self._driver.module.CUdeviceptr(self._block))
        self._block = 0


def _properties(driver: Driver, device: Any) -> Any:
    """Of physical memory on the GPU."""
    cuda = driver.module
    made = cuda.CUmemAllocationProp()
    made.type = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    made.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    made.location.id = int(device)
    return made


def _access(driver: Driver, device: Any, flags: int) -> Any:
    """Access by the GPU itself: 0 none, 1 reading, 3 reading and writing."""
    cuda = driver.module
    made = cuda.CUmemAccessDesc()
    made.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    made.location.id = int(device)
    made.flags = cuda.CUmemAccess_flags(flags)
    return made
