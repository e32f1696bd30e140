"""Copies of what calls executed ahead overwrite: owns them until the program confirms the calls.

One entry per call, so that memory can be brought back to where it was before any of them. Works
with what every device has: copies to and from the host.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from rrto_ros.devices.protocol import Device
from rrto_ros.record.accesses import Range

MAX_UNDO_BYTES = 256 << 20
"""Copies that a session may hold."""
_MEASURED_BYTES = 64 << 10
_FIRST_RATE = 2e9
_PER_RANGE_S = 20e-6


class Undo:
    """The copies of one session. Not thread-safe.

    Args:
        device: Whose memory it is.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._entries: deque[tuple[int, list[tuple[int, bytes]], float]] = deque()
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
        kept = [
            (start, bytes(self._device.memcpy_dtoh(start, end - start, stream)))
            for start, end in ranges
        ]
        size = sum(len(content) for _, content in kept)
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
            self._held -= sum(len(content) for _, content in self._entries.popleft()[1])

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
        self._entries.clear()
        self._held = 0

    def settle(self) -> None:
        """Wait for what any stream does.

        Raises:
            CudaError: The device failed.
        """
        self._device.ctx_synchronize()

    def _write_back(self, kept: list[tuple[int, bytes]]) -> None:
        for start, content in kept:
            if content:
                self._device.memcpy_htod(start, content, 0)
            self._held -= len(content)
            self.restored_bytes += len(content)
        self._device.ctx_synchronize()
