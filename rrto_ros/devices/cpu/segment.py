"""Calls that a program makes again and again in this order: prepared once, run by parts.

Each is executed as the device would execute it by itself. What is known to be short runs in chains
(`chain`); the rest, and everything at first, one by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Protocol

from rrto_ros.devices.cpu.chain import MAX_CHAIN_NS, SHORT_NS, Chain, Link
from rrto_ros.devices.cpu.launcher import Launcher
from rrto_ros.devices.protocol import Launch, SegmentCall
from rrto_ros.devices.segments import Maker, make_call
from rrto_ros.errors import CudaError

_REBUILD_AFTER = 16
_SLOW_FACTOR = 4
_SLOW_NS = 2_000_000
_NOTE_AT = 8


class Executor(Maker, Protocol):
    """The device, as far as a segment needs it."""

    version: int
    launcher: Launcher

    def stream_synchronize(self, stream: int) -> None: ...

    def link(self, launch: Launch, note: bytes) -> Link | None: ...

    def short(self, launch: Launch) -> bool: ...

    def chained(self, launches: int) -> None: ...


class CpuSegment:
    """A segment on the CPU device; see `protocol.Segment`.

    Args:
        device: Executes what is not chained.
        calls: The calls.
    """

    def __init__(self, device: Executor, calls: Sequence[SegmentCall]) -> None:
        self._device = device
        self._calls = list(calls)
        self.position = 0
        # Call -> (chain, its place there), None where it is made by itself.
        self._places: list[tuple[Chain, int] | None] = [None] * len(calls)
        self._starts: dict[Chain, int] = {}
        self._version = -1
        self._better = True
        self._runs = 0
        self._streams: set[int] = set()

    def run(
        self, first: int, last: int, changed: Mapping[int, SegmentCall], index: int, page: int
    ) -> None:
        """Execute calls `first` to before `last`; see `protocol.Segment`."""
        calls = self._calls
        for k, call in changed.items():
            calls[k] = call
        self._runs += 1
        if self._version != self._device.version or (
            self._better and (self._runs <= 2 or self._runs % _REBUILD_AFTER == 0)
        ):
            self._build()
        else:
            for k, call in changed.items():
                self._change(k, call)
        if self._starts and not self._streams_live():
            # One by one: the call that is refused is then known.
            self._dissolve(*self._starts)
        k = first
        while k < last:
            place = self._places[k]
            if place is None:
                self._single(k, index + k - first, page)
                k += 1
                continue
            chain, at = place
            end = min(at + last - k, len(chain.links))
            self._chain(chain, at, end, index - first + self._starts[chain], page)
            k += end - at

    def _change(self, k: int, call: SegmentCall) -> None:
        place = self._places[k]
        if place is None:
            return
        chain, at = place
        if not isinstance(call.work, Launch) or not chain.set(at, call.work):
            self._dissolve(chain)
        self._streams.add(call.stream)

    def _single(self, k: int, index: int, page: int) -> None:
        call, device = self._calls[k], self._device
        self.position = k
        if page:
            ctypes.memmove(page + _NOTE_AT, call.note, len(call.note))
            ctypes.c_uint64.from_address(page).value = index
        make_call(device, call)
        if isinstance(call.work, Launch):
            self._better = self._better or device.short(call.work)

    def _chain(self, chain: Chain, at: int, end: int, index: int, page: int) -> None:
        try:
            spent = chain.run(at, end, index, page)
        except CudaError:
            self.position = self._starts[chain] + chain.failed
            raise
        self._device.chained(end - at)
        if spent > _SLOW_FACTOR * chain.expected_ns + _SLOW_NS:
            # Its kernels do more than they did: each is to be measured again.
            for link in chain.links:
                link.runnable.last_ns = 0
            self._dissolve(chain)

    def _dissolve(self, *chains: Chain) -> None:
        for chain in chains:
            start = self._starts.pop(chain)
            for k in range(start, start + len(chain.links)):
                self._places[k] = None
        self._better = True

    def _streams_live(self) -> bool:
        try:
            for stream in self._streams:
                self._device.stream_synchronize(stream)
        except CudaError:
            return False
        return True

    def _build(self) -> None:
        """Make chains of what may be chained as things are."""
        self._version, self._better = self._device.version, False
        self._starts.clear()
        self._streams.clear()
        self._places = [None] * len(self._calls)
        links: list[Link] = []
        for k, call in enumerate([*self._calls, None]):
            link = None
            if call is not None and isinstance(call.work, Launch):
                link = self._device.link(call.work, call.note)
            total = sum(known.runnable.last_ns for known in links)
            if links and (link is None or total + link.runnable.last_ns > MAX_CHAIN_NS):
                self._add(k - len(links), links)
                links = []
            if link is not None and call is not None:
                links.append(link)
                self._streams.add(call.stream)

    def _add(self, start: int, links: list[Link]) -> None:
        if len(links) < 2:
            return
        chain = Chain(self._device.launcher, links)
        self._starts[chain] = start
        for place in range(len(links)):
            self._places[start + place] = chain, place


def short(link: Link) -> bool:
    """Whether a launch may be chained: it is known, and short."""
    return 0 < link.runnable.last_ns <= SHORT_NS
