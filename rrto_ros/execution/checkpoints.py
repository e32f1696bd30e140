"""Checkpoints: copies of what speculative calls overwrite, kept until the program makes the calls.

Calls between two reads are a group: what one of them may overwrite is copied once, before the
first that may. So memory can be brought back to where it was before a group; calls of it that the
program did make are then executed again, and nobody has read anything in between. A device that
can take checkpoints itself does; of another they are taken to the host, which every device can.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.devices.protocol import Checkpoint, CheckpointDevice, Device
from rrto_ros.errors import CudaError
from rrto_ros.wire.accesses import Range

MAX_CHECKPOINT_BYTES = 256 << 20
"""Copies that a session may hold."""
_MEASURED_BYTES = 64 << 10
_FIRST_RATE = 2e9
_PER_RANGE_S = 20e-6


class _OnHost:
    """Checkpoints in this process's memory, for a device that takes none itself.

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

    def checkpoint(self, ranges: Iterable[tuple[int, int]], stream: int) -> Copies:
        read = self._device.memcpy_dtoh
        return self.Copies(tuple((at, bytes(read(at, size, stream))) for at, size in ranges))

    def restore(self, checkpoint: Copies) -> None:
        for start, content in checkpoint.contents:
            if content:
                self._device.memcpy_htod(start, content, 0)

    def release(self, checkpoint: Copies) -> None:
        """They are gone when nothing refers to them."""


@dataclass(slots=True)
class _Group:
    """Calls that write, and no read among them."""

    began: float
    checkpoints: list[Checkpoint] = field(default_factory=list)
    have: set[Range] = field(default_factory=set)
    calls: list[tuple[int, Callable[[], object]]] = field(default_factory=list)
    confirmed: int = 0


class Checkpoints:
    """Those of one session. Not thread-safe.

    Args:
        device: Whose memory it is.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory: Any = device if isinstance(device, CheckpointDevice) else _OnHost(device)
        self._groups: deque[_Group] = deque()
        self._sealed = True
        self._rate = _FIRST_RATE
        self._held = 0
        self.taken_bytes = 0
        self.taken_s = 0.0
        self.rollbacks = 0
        self.restored_bytes = 0
        self.rolled_back_calls = 0
        self.lost_s = 0.0

    @property
    def pending(self) -> bool:
        """Whether a call was executed that the program has not made."""
        return any(group.confirmed < len(group.calls) for group in self._groups)

    def room(self, size: int) -> bool:
        """Whether so many bytes more may be copied."""
        return self._held + size <= MAX_CHECKPOINT_BYTES

    def seconds(self, ranges: int, size: int) -> float:
        """How long copying so many ranges, of so many bytes in all, will take."""
        return ranges * _PER_RANGE_S + size / self._rate

    def take(
        self, index: int, ranges: Sequence[Range], stream: int, run: Callable[[], object]
    ) -> None:
        """Copy what call `index` may overwrite; to be called before `run` executes it.

        Raises:
            CudaError: A range cannot be read; the call must not be executed.
        """
        started = time.perf_counter()
        if self._sealed:
            self._groups.append(_Group(started))
            self._sealed = False
        group = self._groups[-1]
        new = [span for span in dict.fromkeys(ranges) if span not in group.have]
        size = 0
        if new:
            spans = [(start, end - start) for start, end in new]
            checkpoint: Checkpoint = self._memory.checkpoint(spans, stream)
            group.checkpoints.append(checkpoint)
            group.have.update(new)
            size = checkpoint.bytes
            self._held += size
        group.calls.append((index, run))
        seconds = time.perf_counter() - started
        self.taken_bytes += size
        self.taken_s += seconds
        if size >= _MEASURED_BYTES:
            self._rate += (size / max(seconds, 1e-9) - self._rate) / 8

    def seal(self) -> None:
        """What is executed next is not of the last group: something was read."""
        self._sealed = True

    def confirm(self, end: int) -> None:
        """The program made the calls before index `end`."""
        while self._groups:
            group = self._groups[0]
            group.confirmed = sum(index < end for index, _ in group.calls)
            if group.confirmed < len(group.calls):
                return
            self._release(group)
            self._groups.popleft()
            self._sealed = self._sealed or not self._groups

    def roll_back_newest(self) -> int:
        """Roll back the newest call, which failed, and those of its group before it.

        Returns:
            How many calls before it.

        Raises:
            CudaError: The device failed.
        """
        group = self._groups.pop()
        self._sealed = True
        self.settle()
        self._write_back(group)
        return len(group.calls) - 1

    def roll_back(self) -> None:
        """Roll back every call that was not confirmed.

        Raises:
            CudaError: The device failed; memory is not what the program made of it.
        """
        if self.pending:
            began = self._groups[0].began
            self.rollbacks += 1
            self.settle()
            while self._groups:
                group = self._groups.pop()
                self._write_back(group)
                self._again(group, group.confirmed)
                self.rolled_back_calls += len(group.calls) - group.confirmed
            self.lost_s += time.perf_counter() - began
        self.forget()

    def forget(self) -> None:
        """Drop all checkpoints: what was done stays, the session is over."""
        while self._groups:
            self._release(self._groups.pop())
        self._sealed = True
        self._held = 0

    def _release(self, group: _Group) -> None:
        for checkpoint in group.checkpoints:
            self._held -= checkpoint.bytes
            self._memory.release(checkpoint)

    def _write_back(self, group: _Group) -> None:
        # Ranges that overlap were copied one after the other.
        for checkpoint in reversed(group.checkpoints):
            size = checkpoint.bytes
            self._memory.restore(checkpoint)
            self._held -= size
            self.restored_bytes += size
        self.settle()

    def _again(self, group: _Group, count: int) -> None:
        """Execute the first calls of a group, whose memory is as before it."""
        for _, run in group.calls[:count]:
            try:
                run()
            except CudaError:
                raise
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                raise CudaError(CUresult.UNKNOWN, text) from error

    def settle(self) -> None:
        """Wait for what any stream does.

        Raises:
            CudaError: The device failed.
        """
        self._device.ctx_synchronize()

    def statistics(self) -> dict[str, int | float]:
        """What was copied, and what had to be rolled back."""
        return {
            "speculation_checkpoint_bytes": self.taken_bytes,
            "speculation_checkpoint_s": round(self.taken_s, 6),
            "speculation_rollbacks": self.rollbacks,
            "speculation_restored_bytes": self.restored_bytes,
            "speculation_rolled_back_calls": self.rolled_back_calls,
            "speculation_lost_s": round(self.lost_s, 6),
        }
