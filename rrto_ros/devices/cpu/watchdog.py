"""The launch watchdog: raises a flag, which generated code polls, when a launch runs too long."""

from __future__ import annotations

import ctypes
import threading
import time


class Watchdog:
    """One flag and the thread that raises it.

    The thread starts with the first launch, sleeps while nothing is launched, and is told of no
    launch that ends in time: a launch costs two uncontended locks.

    Args:
        limit_s: Seconds that a launch may take; 0 never ends one, and needs no thread.

    Attributes:
        flag: Address of the byte that generated code reads at the end of every loop round.
        fired: How many launches were ended.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.fired = 0
        self._byte = ctypes.c_uint8(0)
        self.flag = ctypes.addressof(self._byte)
        self._changed = threading.Condition(threading.Lock())
        self._deadline = 0.0
        self._idle = True
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """A launch starts now."""
        if not self.limit_s:
            return
        with self._changed:
            self._deadline = time.monotonic() + self.limit_s
            if self._idle:
                self._idle = False
                self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._watch, name="rrto-cpu-watchdog", daemon=True
            )
            self._thread.start()

    def end(self) -> bool:
        """The launch is over; says whether it was ended."""
        if not self.limit_s:
            self._byte.value = 0
            return False
        with self._changed:
            self._deadline = 0.0
            ended = bool(self._byte.value)
            self._byte.value = 0
        self.fired += ended
        return ended

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                if not self._deadline:
                    # Nothing ran when the last limit was over: wait for a launch.
                    self._idle = True
                    self._changed.wait()
                    continue
                left = self._deadline - time.monotonic()
                if left <= 0:
                    self._byte.value = 1
                    left = self.limit_s
                self._changed.wait(left)
