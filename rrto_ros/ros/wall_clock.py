"""Notices that the wall clock was set: owns the thread that looks.

Nothing of ours waits until a time of day. The ROS 2 wheels do: they are built for systems whose C
library could wait by no other clock (glibc before 2.30), so a wait for 0.2 s is one until a time
of day, and lasts an hour and 0.2 s when the clock is set back by an hour meanwhile. Whoever waits
so is woken here, and waits anew by the clock as it is then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_S = 0.5
"""How often the clocks are compared."""
JUMP_S = 0.25
"""A smaller step is not worth waking anybody: it makes a wait longer by as much, once."""


class WallClockWatch:
    """Compares the wall clock with the one that nobody sets.

    Args:
        jumped: Called in a thread of this object each time that the wall clock was set.
        look_s: How often it looks.
        wall: The wall clock.
    """

    def __init__(
        self,
        jumped: Callable[[], object],
        look_s: float = LOOK_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._jumped = jumped
        self._look_s = look_s
        self._wall = wall
        self._jumps = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wall-clock", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def statistics(self) -> dict[str, int]:
        """How often the clock was set."""
        return {"jumps": self._jumps}

    def _run(self) -> None:
        before = self._wall() - time.monotonic()
        while not self._stop.wait(self._look_s):
            ahead = self._wall() - time.monotonic()
            if abs(ahead - before) > JUMP_S:
                self._jumps += 1
                before = ahead
                self._jumped()
