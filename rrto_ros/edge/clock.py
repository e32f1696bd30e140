"""Looks at sessions for which nothing comes: owns the thread, and when each is looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rrto_ros.edge.host import SessionHost

MEASURE_PERIOD_S = 1.0
"""How often the memory of workers is looked at."""
_NEVER_S = 3600.0


class SessionClock:
    """Ticks each session at its deadline, and has all measured once per second.

    Args:
        hosts: The open sessions.
        over: Told a session that is over, and why.
        measure: Looks at what a session's worker holds.
    """

    def __init__(
        self,
        hosts: Callable[[], list[SessionHost]],
        over: Callable[[SessionHost, str], None],
        measure: Callable[[SessionHost], None],
    ) -> None:
        self._hosts = hosts
        self._over = over
        self._measure = measure
        self._clock = threading.Condition()
        self._next_tick = 0.0
        self._measured_at = 0.0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="session-clock", daemon=True)
        self._thread.start()

    def wake(self, deadline: float) -> None:
        """A session wants to be looked at then, on the monotonic clock (any thread)."""
        # Read without the lock: at worst the clock is woken once too often.
        if deadline < self._next_tick:
            with self._clock:
                self._next_tick = min(self._next_tick, deadline)
                self._clock.notify()

    def close(self) -> None:
        """Tick no more; waits for the tick of now."""
        with self._clock:
            self._stopped = True
            self._clock.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stopped:
            now = time.monotonic()
            with self._clock:
                self._next_tick = now + _NEVER_S
            measure_at = self._measured_at + MEASURE_PERIOD_S
            for host in self._hosts():
                if host.deadline <= now and (reason := host.tick(now)):
                    self._over(host, reason)
                    continue
                if now >= measure_at:
                    self._measure(host)
                with self._clock:
                    self._next_tick = min(self._next_tick, host.deadline)
            if now >= measure_at:
                self._measured_at = now
            with self._clock:
                remaining = self._next_tick - time.monotonic()
                if remaining > 0 and not self._stopped:
                    self._clock.wait(remaining)
