"""Copies of what calls executed ahead overwrite: owns them until the program confirms the calls.

One entry per call, so that memory can be brought back to where it was before any of them. A device
that can keep copies itself does; of another they are taken to the host, which every device can.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rrto_ros.devices.protocol import Device, KeepDevice, Kept
from rrto_ros.record.accesses import Range

MAX_UNDO_BYTES = 256 << 20
"""Copies that a session may hold."""
_MEASURED_BYTES = 64 << 10
_FIRST_RATE = 2e9
_PER_RANGE_S = 20e-6


class _OnHost:
    """Copies in this process's memory, for a device that keeps none itself.

    Args:
        device: Whose memory it is.
    """

    @dataclass(frozen=True)
    class Copies:
        """(First address, content) of each range."""

        contents: tuple[tuple[int, bytes], ...]

        @property
        def bytes(self) -> int:
            return sum(len(content) for _, content in self.contents)

    def __init__(self, device: Device) -> None:
        self._device = device

    def keep(self, ranges: Iterable[tuple[int, int]], stream: int) -> Copies:
        read = self._device.memcpy_dtoh
        return self.Copies(tuple((at, bytes(read(at, size, stream))) for at, size in ranges))

    def restore(self, kept: Copies) -> None:
        for start, content in kept.contents:
            if content:
                self._device.memcpy_htod(start, content, 0)

    def release(self, kept: Copies) -> None:
        """They are gone when nothing refers to them."""


class Undo:
    """The copies of one session. Not thread-safe.

    Args:
        device: Whose memory it is.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._keeper: Any = device if isinstance(device, KeepDevice) else _OnHost(device)
        self._entries: deque[tuple[int, Kept, float]] = deque()
        self._rate = _FIRST_RATE
        self._held = 0
        self.saved_bytes = 0
        self.save_s = 0.0
        self.restores = 0
        self.restored_bytes = 0
        self.undone_calls = 0
        self.lost_s = 0.0

    @property
    def pending(self) -> bool:
        """Whether a call was executed that the program has not made."""
        return bool(self._entries)

    def room(self, size: int) -> bool:
        """Whether so many bytes more may be copied."""
        return self._held + size <= MAX_UNDO_BYTES

    def seconds(self, ranges: int, size: int) -> float:
        """How long copying so many ranges, of so many bytes in all, will take."""
        return ranges * _PER_RANGE_S + size / self._rate

    def save(self, index: int, ranges: Sequence[Range], stream: int) -> None:
        """Copy what call `index` may overwrite; to be called before it is executed.

        Raises:
            CudaError: A range cannot be read; nothing is kept.
        """
        started = time.perf_counter()
        kept: Kept = self._keeper.keep([(start, end - start) for start, end in ranges], stream)
        size = kept.bytes
        seconds = time.perf_counter() - started
        self._entries.append((index, kept, started))
        self._held += size
        self.saved_bytes += size
        self.save_s += seconds
        if size >= _MEASURED_BYTES:
            self._rate += (size / max(seconds, 1e-9) - self._rate) / 8

    def confirm(self, end: int) -> None:
        """The program made the calls before index `end`."""
        while self._entries and self._entries[0][0] < end:
            kept = self._entries.popleft()[1]
            self._held -= kept.bytes
            self._keeper.release(kept)

    def take_back(self) -> None:
        """Undo the newest call alone, which failed.

        Raises:
            CudaError: The device failed.
        """
        self.settle()
        self._write_back(self._entries.pop()[1])

    def restore(self) -> None:
        """Undo every call that was not confirmed.

        Raises:
            CudaError: The device failed; memory is not what the program made of it.
        """
        if not self._entries:
            return
        began = self._entries[0][2]
        self.restores += 1
        self.undone_calls += len(self._entries)
        self.settle()
        while self._entries:
            self._write_back(self._entries.pop()[1])
        self.lost_s += time.perf_counter() - began

    def forget(self) -> None:
        """Keep what was done; the session is over."""
        while self._entries:
            self._keeper.release(self._entries.pop()[1])
        self._held = 0

    def settle(self) -> None:
        """Wait for what any stream does.

        Raises:
            CudaError: The device failed.
        """
        self._device.ctx_synchronize()

    def _write_back(self, kept: Kept) -> None:
        size = kept.bytes
        self._keeper.restore(kept)
        self._held -= size
        self.restored_bytes += size
        self._device.ctx_synchronize()
