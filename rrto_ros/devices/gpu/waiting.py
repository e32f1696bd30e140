"""Waiting for the GPU, with a limit: a kernel that never ends must not hold its session for ever.

The driver's own waits have no limit. So with one, the state is asked in a loop: without pause
for as long as inferences usually take, as the driver's own waits do, then at short intervals.
"""

from __future__ import annotations

import time
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.errors import CudaError

_SPIN_S = 0.020
_INTERVAL_S = 0.0002


class Waiter:
    """Waits for streams and events.

    Args:
        driver: With a current context.
        limit_s: Seconds that one wait may take, 0 for as long as it takes.

    Attributes:
        waits: How many waits there were.
        waited_s: Seconds spent in them.
        expired: Whether a wait took too long; the GPU may then still be busy.
    """

    def __init__(self, driver: Driver, limit_s: float) -> None:
        self._driver = driver
        self._limit = limit_s
        self.waits = 0
        self.waited_s = 0.0
        self.expired = False

    def stream(self, stream: Any) -> None:
        """Wait for everything in a stream.

        Raises:
            CudaError: What failed in it, or LAUNCH_TIMEOUT.
        """
        self._wait("cuStreamQuery", "cuStreamSynchronize", stream)

    def event(self, event: Any) -> None:
        """Wait for an event.

        Raises:
            CudaError: What failed before it, or LAUNCH_TIMEOUT.
        """
        self._wait("cuEventQuery", "cuEventSynchronize", event)

    def _wait(self, query: str, wait: str, handle: Any) -> None:
        started = time.perf_counter()
        self.waits += 1
        if not self._limit:
            self._driver.call(wait, handle)
        else:
            ready = self._driver.ready
            while not ready(query, handle):
                taken = time.perf_counter() - started
                if taken > self._limit:
                    self._expire(taken)
                if taken > _SPIN_S:
                    time.sleep(_INTERVAL_S)
        self.waited_s += time.perf_counter() - started

    def _expire(self, taken: float) -> None:
        self.expired = True
        error = CudaError(
            CUresult.LAUNCH_TIMEOUT,
            f"the GPU was still at work after {taken:.1f} s (launch_timeout_s)",
        )
        # The kernel cannot be stopped; only the end of the process ends it.
        self._driver.poisoned = error
        raise error
