"""Streams and events of a device that finishes every operation before it returns."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError

_DEFAULT_STREAMS = frozenset({0, 1, 2})  # NULL, legacy and per-thread default stream
_DISABLE_TIMING = 2


@dataclass
class _Event:
    flags: int
    recorded_ns: int | None = None


class Timeline:
    """Bookkeeping of handles; every handle that is not live is INVALID_HANDLE."""

    def __init__(self) -> None:
        self._streams: set[int] = set()
        self._events: dict[int, _Event] = {}

    def create_stream(self, stream: int) -> None:
        if stream in self._streams or stream in _DEFAULT_STREAMS:
            raise CudaError(CUresult.INVALID_HANDLE, f"stream {stream} exists already")
        self._streams.add(stream)

    def destroy_stream(self, stream: int) -> None:
        if stream not in self._streams:
            raise CudaError(CUresult.INVALID_HANDLE, f"stream {stream} is unknown")
        self._streams.remove(stream)

    def check_stream(self, stream: int) -> None:
        if stream not in self._streams and stream not in _DEFAULT_STREAMS:
            raise CudaError(CUresult.INVALID_HANDLE, f"stream {stream} is unknown")

    def create_event(self, event: int, flags: int) -> None:
        if event in self._events:
            raise CudaError(CUresult.INVALID_HANDLE, f"event {event} exists already")
        self._events[event] = _Event(flags)

    def destroy_event(self, event: int) -> None:
        self.event(event)
        del self._events[event]

    def event(self, event: int) -> _Event:
        """The event, or INVALID_HANDLE."""
        found = self._events.get(event)
        if found is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"event {event} is unknown")
        return found

    def record(self, event: int, stream: int) -> None:
        self.check_stream(stream)
        self.event(event).recorded_ns = time.perf_counter_ns()

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two recorded events with timing."""
        first, second = self.event(start), self.event(end)
        if (first.flags | second.flags) & _DISABLE_TIMING:
            raise CudaError(CUresult.INVALID_HANDLE, "an event was created without timing")
        if first.recorded_ns is None or second.recorded_ns is None:
            raise CudaError(CUresult.INVALID_HANDLE, "an event was never recorded")
        return (second.recorded_ns - first.recorded_ns) / 1e6

    def counts(self) -> dict[str, int]:
        return {"streams": len(self._streams), "events": len(self._events)}
