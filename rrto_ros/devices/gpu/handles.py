"""The session's streams and events: the robot's names for them, and the driver's handles.

Names 0, 1 and 2 are CUDA's null, legacy and per-thread default stream. The calls of all threads
of a program come here through one thread, so the per-thread streams of its threads are one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.devices.gpu.waiting import Waiter
from rrto_ros.errors import CudaError

NON_BLOCKING = 1
LEGACY = frozenset({0, 1})
_DEFAULTS = (0, 1, 2)
_NO_TIMING = 2
_EVENT_FLAGS = 3
"""Blocking wait and no timing; events between processes do not travel."""


class Streams:
    """Streams by name, and which of them may have unfinished work.

    Attributes:
        dirty: Names of streams that got work since the GPU was last known to be idle.
    """

    def __init__(self, driver: Driver, waiter: Waiter) -> None:
        self._driver = driver
        self._waiter = waiter
        stream = driver.module.CUstream
        self._defaults = {name: stream(name) for name in _DEFAULTS}
        self._streams: dict[int, Any] = dict(self._defaults)
        self._free: set[int] = set()
        self._event: Any = None
        self.dirty: set[int] = set()

    def __len__(self) -> int:
        return len(self._streams) - len(self._defaults)

    def get(self, name: int) -> Any:
        """The CUstream (INVALID_HANDLE if there is none)."""
        found = self._streams.get(name)
        if found is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"stream {name} is unknown")
        return found

    def use(self, name: int) -> Any:
        """The CUstream, which is about to get work."""
        found = self.get(name)
        self.dirty.add(name)
        return found

    def is_free(self, name: int) -> bool:
        """Whether a stream does not wait for the legacy default stream."""
        return name in self._free

    def create(self, name: int, flags: int, priority: int) -> None:
        if name in self._streams:
            raise CudaError(CUresult.INVALID_HANDLE, f"stream {name} exists already")
        if flags & NON_BLOCKING and self.dirty:
            # See `settle_reuse`: from now on work may overtake what the default stream does.
            self.wait_all()
        self._streams[name] = self._driver.call("cuStreamCreateWithPriority", flags, priority)
        if flags & NON_BLOCKING:
            self._free.add(name)

    def destroy(self, name: int) -> None:
        """Forget a stream; the driver finishes its work."""
        stream = self.get(name)
        if name in self._defaults:
            raise CudaError(CUresult.INVALID_HANDLE, f"stream {name} is a default stream")
        if name in self.dirty:
            # Its name vanishes, so it could not be waited for before memory is unmapped.
            self._waiter.stream(stream)
            self.dirty.discard(name)
        self._driver.call("cuStreamDestroy", stream)
        del self._streams[name]
        self._free.discard(name)

    def wait(self, name: int) -> None:
        """Wait for one stream."""
        self._waiter.stream(self.get(name))
        self.dirty.discard(name)

    def wait_all(self) -> None:
        """Wait until the GPU has done everything of this session."""
        for name in list(self.dirty):
            self._waiter.stream(self._streams[name])
        self._driver.call("cuCtxSynchronize")
        self.dirty.clear()

    def settle_reuse(self, freed_in: int, stream: int) -> None:
        """Before memory is used again: nothing that was started may still reach it.

        cuMemFree waits for the GPU in a program; here it came without a wait, so what it would
        have waited for is waited for now, unless the streams' own order suffices.
        """
        if not self.dirty:
            return
        ordered = freed_in == stream and self.dirty <= {stream}
        if ordered and not (stream in LEGACY and self._free):
            return
        self.wait_all()

    def join(self, into: int, names: Iterable[int]) -> None:
        """Let a stream wait for what other streams have got so far."""
        self._order(names, (into,))

    def fork(self, origin: int, names: Iterable[int]) -> None:
        """Let other streams wait for what a stream has got so far."""
        self._order((origin,), names)

    def _order(self, first: Iterable[int], then: Iterable[int]) -> None:
        later = [(name, self.use(name)) for name in then]
        for name in first:
            stream = self.get(name)
            if all(other == name for other, _ in later):
                continue
            if self._event is None:
                self._event = self._driver.call("cuEventCreate", _NO_TIMING)
            # A wait refers to the record before it, so one event serves all.
            self._driver.call("cuEventRecord", self._event, stream)
            for other, waiting in later:
                if other != name:
                    self._driver.call("cuStreamWaitEvent", waiting, self._event, 0)

    def close(self) -> None:
        if self._event is not None:
            self._driver.call_anyway("cuEventDestroy", self._event)
        self._event = None
        for name, stream in self._streams.items():
            if name not in self._defaults:
                self._driver.call_anyway("cuStreamDestroy", stream)
        self._streams = dict(self._defaults)
        self._free.clear()
        self.dirty.clear()


class Events:
    """Events by name."""

    def __init__(self, driver: Driver, waiter: Waiter) -> None:
        self._driver = driver
        self._waiter = waiter
        self._events: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._events)

    def get(self, name: int) -> Any:
        """The CUevent (INVALID_HANDLE if there is none)."""
        found = self._events.get(name)
        if found is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"event {name} is unknown")
        return found

    def create(self, name: int, flags: int) -> None:
        if name in self._events:
            raise CudaError(CUresult.INVALID_HANDLE, f"event {name} exists already")
        self._events[name] = self._driver.call("cuEventCreate", flags & _EVENT_FLAGS)

    def destroy(self, name: int) -> None:
        """Forget an event; who waits for it goes on when it is reached."""
        self._driver.call("cuEventDestroy", self.get(name))
        del self._events[name]

    def record(self, name: int, stream: Any) -> None:
        self._driver.call("cuEventRecord", self.get(name), stream)

    def wait(self, name: int) -> None:
        self._waiter.event(self.get(name))

    def reached(self, name: int) -> bool:
        return self._driver.ready("cuEventQuery", self.get(name))

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events.

        Raises:
            CudaError: INVALID_HANDLE (not recorded, or without timing), NOT_READY.
        """
        return float(self._driver.call("cuEventElapsedTime", self.get(start), self.get(end)))

    def close(self) -> None:
        for event in self._events.values():
            self._driver.call_anyway("cuEventDestroy", event)
        self._events.clear()
