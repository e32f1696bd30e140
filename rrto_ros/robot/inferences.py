"""What an inference costs, measured from one start of a sequence to the next."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Container
from dataclasses import dataclass

SAMPLES = 64


@dataclass(frozen=True)
class InferenceCost:
    """Medians of the last inferences; 0 before there is one.

    Attributes:
        bytes_sent, bytes_received, round_trips: Per inference.
        last_ms, median_ms: From its first call to the last result it waits for.
    """

    bytes_sent: float = 0.0
    bytes_received: float = 0.0
    round_trips: float = 0.0
    last_ms: float = 0.0
    median_ms: float = 0.0


class InferenceMeter:
    """Samples of one session. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mark: tuple[int, ...] | None = None
        self._in_mark = 1
        self._began = 0.0
        self._costs: deque[tuple[float, ...]] = deque(maxlen=SAMPLES)
        self._times: deque[float] = deque(maxlen=SAMPLES)
        self._due: dict[int, float] = {}

    def begin(self, count: int, now: float, *totals: int) -> None:
        """Inferences begin now; a buffer of records may have several.

        Args:
            count: How many.
            now: Monotonic seconds.
            totals: Bytes sent, bytes received and round trips so far.
        """
        with self._lock:
            if self._mark is not None:
                self._costs.append(
                    tuple((a - b) / self._in_mark for a, b in zip(totals, self._mark, strict=True))
                )
            self._mark, self._in_mark, self._began = totals, count, now

    def end(self, index: int, now: float, waits: Container[int]) -> None:
        """An inference's last call came.

        Args:
            index: The last call whose result it waits for.
            now: Monotonic seconds.
            waits: The calls that are waited for; one leaves before `answered` is told of it.
        """
        with self._lock:
            if index not in waits:
                self._times.append(now - self._began)
            elif len(self._due) < SAMPLES:
                self._due[index] = self._began

    def answered(self, index: int, now: float) -> None:
        """A result that the program waited for is there."""
        if index not in self._due:
            return  # the usual case, without the lock
        with self._lock:
            began = self._due.pop(index, None)
            if began is not None:
                self._times.append(now - began)

    def moved(self) -> None:
        """Another server executes from now on, which may take another time."""
        with self._lock:
            self._mark = None
            self._costs.clear()
            self._times.clear()
            self._due.clear()

    def interrupt(self) -> None:
        """What comes next is not counted (another mode)."""
        self._mark = None

    def cost(self) -> InferenceCost:
        """Medians of the last inferences."""
        with self._lock:
            samples, times = list(self._costs), list(self._times)
        if not times:
            return InferenceCost()
        sent, received, trips = ([c[k] for c in samples] or [0.0] for k in range(3))
        return InferenceCost(
            statistics.median(sent),
            statistics.median(received),
            statistics.median(trips),
            times[-1] * 1000,
            statistics.median(times) * 1000,
        )
