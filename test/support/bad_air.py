"""Messages between a robot and its servers in bad weather: lanes that lose and mix them."""

import contextlib
import heapq
import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Weather:
    """What happens to each message of a lane for a while.

    Attributes:
        cut: Nothing arrives.
        loss: Probability that a message is lost.
        double: Probability that it comes twice.
        swap: Probability that it comes late, behind others.
        late_s: How late at most.
    """

    cut: bool = False
    loss: float = 0.0
    double: float = 0.0
    swap: float = 0.0
    late_s: float = 0.05


class BadLane:
    """One direction of one robot's way to its servers.

    Args:
        deliver: Takes each message that arrives, in the lane's thread.
        rng: Decides what is lost.
    """

    def __init__(self, deliver, rng):
        self._deliver = deliver
        self._rng = rng
        self._due, self._numbers = [], itertools.count()
        self._changed = threading.Condition()
        self._over = False
        self._weather = []
        self.counts = Counter()
        self._thread = threading.Thread(target=self._run, name="bad-lane", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def under(self, weather):
        """Let some weather come over the lane, beside what is there already."""
        with self._changed:
            self._weather.append(weather)
        try:
            yield
        finally:
            with self._changed:
                self._weather.remove(weather)

    @property
    def cut(self):
        """Whether nothing arrives now."""
        with self._changed:
            return any(weather.cut for weather in self._weather)

    def loses(self):
        """Whether one more thing that is sent now is lost."""
        with self._changed:
            return any(w.cut or self._rng.random() < w.loss for w in self._weather)

    def put(self, message):
        """Send a message."""
        now, late, copies = time.monotonic(), 0.0, 1
        with self._changed:
            for weather in self._weather:
                if weather.cut or self._rng.random() < weather.loss:
                    self.counts["lost"] += 1
                    return
                if self._rng.random() < weather.double:
                    self.counts["doubled"] += 1
                    copies += 1
                if self._rng.random() < weather.swap:
                    self.counts["swapped"] += 1
                    late += self._rng.uniform(0, weather.late_s)
            self.counts["sent"] += 1
            for copy in range(copies):
                late += copy and self._rng.uniform(0, 0.01)
                heapq.heappush(self._due, (now + late, next(self._numbers), message))
            self._changed.notify()

    def close(self):
        """End the lane; what is under way is lost."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    def _run(self):
        while True:
            with self._changed:
                while not self._over:
                    wait_s = self._due[0][0] - time.monotonic() if self._due else None
                    if wait_s is not None and wait_s <= 0:
                        break
                    self._changed.wait(wait_s)
                if self._over:
                    return
                message = heapq.heappop(self._due)[2]
            self._deliver(message)
