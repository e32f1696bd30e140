"""A cpu device that takes longer: the stand-in for a robot's weak computer, in measurements.

Results are the cpu device's. A launch is executed as fast as this machine can and then owes the
rest of the time that a slower device would have taken; the debt is slept where somebody waits for
the device, so that launches return at once, as on a device with a queue. What is copied costs no
more than here. It offers none of the short cuts that a device may offer, so each call of a plan is
made by itself.

`slow_device:by_10`, as the factory of a worker's device, is ten times slower than this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rrto_ros.devices.protocol import Device, Launch
from rrto_ros.devices.registry import DeviceSettings, create_device

_WAITS = frozenset({
    "ctx_synchronize", "event_elapsed_ms", "event_query", "event_synchronize", "memcpy_dtoh",
    "stream_query", "stream_synchronize",
})  # fmt: skip
_SHORT_CUTS = frozenset({"prepare_segment"})
_LEAST_SLEEP_S = 0.001
"""A sleep is longer by some 60 us than it was to be, which then is owed less."""


class SlowDevice:
    """One session's.

    Args:
        inner: What executes.
        times: How much longer its launches take.
    """

    def __init__(self, inner: Device, times: float) -> None:
        self._inner: Any = inner
        self._more = times - 1.0
        self._owed_s = 0.0

    def __getattr__(self, name: str) -> Any:
        if name in _SHORT_CUTS:
            raise AttributeError(name)
        method = getattr(self._inner, name)
        return self._waiting(method) if name in _WAITS else method

    def launch(self, launch: Launch, stream: int) -> None:
        """Execute a launch, and owe."""
        self._timed(self._inner.launch, launch, stream)

    def graph_launch(self, graph_exec: int, stream: int) -> None:
        """Execute a graph's nodes, and owe."""
        self._timed(self._inner.graph_launch, graph_exec, stream)

    def _timed(self, run: Callable[..., Any], *arguments: Any) -> None:
        started = time.perf_counter()
        run(*arguments)
        self._owed_s += self._more * (time.perf_counter() - started)

    def _waiting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*arguments: Any) -> Any:
            if self._owed_s >= _LEAST_SLEEP_S:
                started = time.perf_counter()
                time.sleep(self._owed_s)
                self._owed_s -= time.perf_counter() - started
            return method(*arguments)

        return wait


def __getattr__(name: str) -> Callable[[DeviceSettings], SlowDevice]:
    """The factory that is named after its factor."""
    by, _, times = name.partition("_")
    if by != "by" or not times.isdecimal():
        raise AttributeError(name)
    return lambda settings: SlowDevice(create_device("cpu", settings), float(times))
