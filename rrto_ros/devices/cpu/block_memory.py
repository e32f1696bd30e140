"""Memory of running blocks: what kernels address of it, in the arena's third range.

Each worker has a slot with the shared and local memory of the block that it runs. Beside the slots
lie the arguments of launches, and the blocks of a launch that are all there at once. The frames in
which generated code keeps registers are not for kernels to address and lie elsewhere. All of it
that is not small and fixed counts as device memory. It is kept for the next launch, unless it is
much, and given back when an allocation needs it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass, field

from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu import pages
from rrto_ros.devices.cpu.attributes import MAX_BLOCKS_AT_ONCE, MAX_THREADS, SHARED_OPTIN_BYTES
from rrto_ros.devices.cpu.memory import Arena
from rrto_ros.devices.cpu.passes.layout import MAX_LOCAL_BYTES, align_up
from rrto_ros.devices.cpu.ptx.variables import MAX_ALIGNMENT
from rrto_ros.errors import CudaError

BEYOND = 4096
"""Behind shared memory, for loads of whole vectors."""
FREE_BYTES = 1 << 16
"""Of local memory, of frames and of arguments, which each worker has and nobody counts."""
KEPT_BYTES = 16 << 20
"""What a worker keeps of local memory and frames from launch to launch."""
_GAP = 2 << 20
"""Before and behind what is used of the range."""
_LOCAL_AT = 2 * _GAP
_SLOT_BYTES = 1 << 30
_SHARED_BYTES = SHARED_OPTIN_BYTES + BEYOND
_ARGUMENT_BYTES = 1 << 30

assert _LOCAL_AT + MAX_THREADS * MAX_LOCAL_BYTES + _GAP <= _SLOT_BYTES


def range_bytes(workers: int, limit: int, multiprocessors: int) -> int:
    """Addresses that blocks need, if memory is limited.

    Args:
        workers: Threads that run blocks.
        limit: Of the device's memory, in bytes.
        multiprocessors: What programs are told; so many may have blocks that are there at once.
    """
    return _ARGUMENT_BYTES + workers * _SLOT_BYTES + _together_bytes(multiprocessors, limit)


def _together_bytes(multiprocessors: int, limit: int) -> int:
    blocks = multiprocessors * MAX_BLOCKS_AT_ONCE
    return align_up(limit + blocks * 3 * MAX_ALIGNMENT, _GAP) + 2 * _GAP


@dataclass
class _Slot:
    """One worker's memory: where it lies and how much of it there is."""

    shared: int
    local: int
    local_bytes: int = 0
    frames: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, FREE_BYTES))

    @property
    def counted(self) -> int:
        """Bytes that count as device memory."""
        return _counted(self.local_bytes) + _counted(len(self.frames))

    @property
    def addresses(self) -> list[int]:
        """Of shared memory, frames and local memory."""
        return [self.shared, address_of(self.frames), self.local]


def _counted(size: int) -> int:
    return max(0, size - FREE_BYTES)


def address_of(area: mmap.mmap) -> int:
    """Where memory lies that stays as long as its object."""
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


class BlockMemory:
    """One device's. Not thread-safe: launches come one after the other.

    Args:
        arena: With a range of `range_bytes` for blocks.
        workers: Threads that run blocks.
        multiprocessors: As `range_bytes` was told.
    """

    def __init__(self, arena: Arena, workers: int, multiprocessors: int) -> None:
        self._arena = arena
        self._arguments = arena.block_base + _GAP
        self._argument_bytes = 0
        first = arena.block_base + _ARGUMENT_BYTES
        self._slots = [
            _Slot(at + _GAP, at + _LOCAL_AT)
            for at in range(first, first + workers * _SLOT_BYTES, _SLOT_BYTES)
        ]
        self._together = first + workers * _SLOT_BYTES + _GAP
        self._together_limit = _together_bytes(multiprocessors, arena.limit) - 2 * _GAP
        self._busy = 0
        self._given = False
        for slot in self._slots:
            self._open(slot.shared, _SHARED_BYTES)
            self._open(slot.local, FREE_BYTES)
            slot.local_bytes = FREE_BYTES
        arena.spare = self._spare

    @property
    def held(self) -> int:
        """Bytes that count as device memory now."""
        return sum(slot.counted for slot in self._slots) + _counted(self._argument_bytes)

    def arguments(self, size: int) -> int:
        """Where `size` bytes of arguments go until the launch is over; the same place each time.

        Raises:
            CudaError: OUT_OF_MEMORY.
        """
        self._given = True
        if size > self._argument_bytes:
            size = align_up(max(size, FREE_BYTES), mmap.PAGESIZE)
            if size > _ARGUMENT_BYTES - 2 * _GAP:
                raise CudaError(CUresult.OUT_OF_MEMORY, f"{size} bytes of arguments")
            self._arena.charge(_counted(size) - _counted(self._argument_bytes))
            self._open(self._arguments, size)
            self._argument_bytes = size
        return self._arguments

    def areas(self, workers: int, frame_bytes: int, local_bytes: int) -> list[list[int]]:
        """Addresses of the shared, frame and local memory of some workers.

        Args:
            workers: How many are wanted; there are fewer where there is no memory for more.
            frame_bytes: Of a block.
            local_bytes: Of a block.

        Raises:
            CudaError: OUT_OF_MEMORY if there is none for a single one.
        """
        for number, slot in enumerate(self._slots[:workers]):
            self._busy = number + 1
            if slot.local_bytes >= local_bytes and len(slot.frames) >= frame_bytes:
                continue
            try:
                self._grow(slot, frame_bytes, local_bytes)
            except CudaError:
                if not number:
                    self._busy = 0
                    raise
                return [slot.addresses for slot in self._slots[:number]]
        return [slot.addresses for slot in self._slots[:workers]]

    def over(self) -> None:
        """The launch is over: much memory is given back."""
        for slot in self._slots[: self._busy]:
            if slot.local_bytes + len(slot.frames) > KEPT_BYTES:
                self._drop(slot)
        self._busy, self._given = 0, False

    def together(self, size: int, step: int, blocks: int) -> tuple[int, mmap.mmap]:
        """Memory of blocks that are all there at once: where it is addressed, and the frames.

        Args:
            size: Bytes that each uses.
            step: From one to the next.
            blocks: How many.

        Raises:
            CudaError: OUT_OF_MEMORY.
        """
        try:
            self._arena.charge(size * blocks)
        except CudaError as error:
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"no room for {blocks} blocks of {size} bytes at once: {error.detail}",
            ) from None
        try:
            if step * blocks > self._together_limit:
                raise OSError("no addresses left")
            frames = mmap.mmap(-1, step * blocks)
            self._open(self._together, step * blocks)
        except (OSError, OverflowError, ValueError, CudaError) as error:
            self._arena.refund(size * blocks)
            raise CudaError(
                CUresult.OUT_OF_MEMORY,
                f"no room for {blocks} blocks of {step} bytes at once: {error}",
            ) from error
        return self._together, frames

    def apart(self, size: int, step: int, blocks: int) -> None:
        """What `together` gave is not needed any more."""
        pages.drop(self._together, align_up(step * blocks, mmap.PAGESIZE))
        self._arena.refund(size * blocks)

    def _grow(self, slot: _Slot, frame_bytes: int, local_bytes: int) -> None:
        local = max(slot.local_bytes, align_up(local_bytes, mmap.PAGESIZE))
        frames = max(len(slot.frames), align_up(frame_bytes, mmap.PAGESIZE))
        self._arena.charge(_counted(local) + _counted(frames) - slot.counted)
        try:
            if local > slot.local_bytes:
                self._open(slot.local, local)
            if frames > len(slot.frames):
                slot.frames = mmap.mmap(-1, frames)
        except (OSError, OverflowError, CudaError) as error:
            self._arena.refund(_counted(local) + _counted(frames) - slot.counted)
            raise CudaError(CUresult.OUT_OF_MEMORY, f"memory of a block: {error}") from error
        slot.local_bytes = local

    def _drop(self, slot: _Slot) -> None:
        self._arena.refund(slot.counted)
        if slot.local_bytes > FREE_BYTES:
            pages.drop(slot.local + FREE_BYTES, slot.local_bytes - FREE_BYTES)
            slot.local_bytes = FREE_BYTES
        if len(slot.frames) > FREE_BYTES:
            slot.frames = mmap.mmap(-1, FREE_BYTES)

    def _spare(self) -> None:
        """An allocation needs memory: what no launch uses goes."""
        for slot in self._slots[self._busy :]:
            self._drop(slot)
        if not self._given and self._argument_bytes > FREE_BYTES:
            self._arena.refund(_counted(self._argument_bytes))
            pages.drop(self._arguments + FREE_BYTES, self._argument_bytes - FREE_BYTES)
            self._argument_bytes = FREE_BYTES

    @staticmethod
    def _open(address: int, size: int) -> None:
        if not pages.protect(address, align_up(size, mmap.PAGESIZE), pages.READ_WRITE):
            raise CudaError(CUresult.OUT_OF_MEMORY, os.strerror(ctypes.get_errno()))
