"""The relationship graph: which earlier calls each call depends on.

Incremental and bounded: for every live allocation it keeps who wrote which part last, at most
`MAX_PARTS` parts (then the allocation counts as one).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rrto_ros.api.ops import Effect, Work
from rrto_ros.wire.accesses import GraphTable, accesses
from rrto_ros.wire.allocations import Allocations
from rrto_ros.wire.codec import OP_BY_NAME
from rrto_ros.wire.templates import EFFECTS, CallTemplate

MAX_PARTS = 16
_CACHE = 65536
_EVENT_DESTROY = OP_BY_NAME["event_destroy"].code


@dataclass(frozen=True, slots=True)
class _Touch:
    """Accesses as (allocation, first address, end), launches' in both."""

    reads: tuple[tuple[int, int, int], ...]
    writes: tuple[tuple[int, int, int], ...]
    handles: tuple[tuple[str, int], ...]
    needs: tuple[tuple[str, int], ...]


class Dependencies:
    """Follows a log call by call. Not thread-safe."""

    def __init__(self, allocations: Iterable[tuple[int, int]] = ()) -> None:
        self.allocations = Allocations(allocations)
        self.graphs = GraphTable()
        self._writers: dict[int, list[tuple[int, int, int]]] = {}
        self._handles: dict[tuple[str, int], int] = {}
        self._cache: dict[tuple[int, int], _Touch] = {}
        self._calls = 0
        self._edges = 0

    def statistics(self) -> dict[str, int]:
        return {
            "calls": self._calls,
            "edges": self._edges,
            "allocations": len(self.allocations),
            "cached_accesses": len(self._cache),
        }

    def step(self, position: int, number: int, template: CallTemplate) -> tuple[int, ...]:
        """Follow one call.

        Args:
            position: Its position in the log; ascending.
            number: Its exact number (accesses are kept by it).
            template: The call.

        Returns:
            Positions of the earlier calls whose results this call may use, ascending.
        """
        self._calls += 1
        got = self._touch(number, template)
        writers = self._writers
        sources: set[int] = set()
        for base, lo, hi in got.reads:
            for a, b, p in writers.get(base, ()):
                if a < hi and lo < b:
                    sources.add(p)
        for need in got.needs:
            if need in self._handles:
                sources.add(self._handles[need])
        for base, lo, hi in got.writes:
            old = writers.get(base)
            if not old or (len(old) == 1 and lo <= old[0][0] and hi >= old[0][1]):
                writers[base] = [(lo, hi, position)]
            else:
                self._write(base, old, lo, hi, position)
        for handle in got.handles:
            self._handles[handle] = position
        if EFFECTS[template.code]:
            self._apply(template)
        elif template.code == _EVENT_DESTROY:
            self._handles.pop(("event", template.fields()["event"]), None)
        sources.discard(position)
        self._edges += len(sources)
        return tuple(sorted(sources))

    def _touch(self, number: int, template: CallTemplate) -> _Touch:
        """What a call touches now; kept while the same allocations are live."""
        key = (number, self.allocations.signature)
        got = self._cache.get(key)
        if got is None:
            if len(self._cache) >= _CACHE:
                self._cache.clear()
            a = accesses(template, self.allocations, self.graphs)
            got = _Touch(
                tuple((self._base(lo), lo, hi) for lo, hi in a.reads + a.possible),
                tuple((self._base(lo), lo, hi) for lo, hi in a.writes + a.possible),
                a.handles,
                a.needs,
            )
            if template.op.work is not Work.GRAPH:  # its nodes may be changed by other calls
                self._cache[key] = got
        return got

    def _apply(self, template: CallTemplate) -> None:
        op, f = template.op, template.fields()
        if not self.allocations.follow(op.effect, f):
            self.graphs.apply(op, f, self.allocations)
        elif op.effect is Effect.FREE:
            self._writers.pop(f["address"], None)
        elif op.effect in (Effect.ACCESS, Effect.UNMAP):
            self._move(f["address"], f["size"])

    def _move(self, start: int, size: int) -> None:
        """What lies at and beside a range begins elsewhere now: who wrote there is kept anew."""
        live = [self.allocations.find(a) for a in (start - 1, start, start + size)]
        lo = min([start, *(hit[0] for hit in live if hit)])
        hi = max([start + size, *(hit[0] + hit[1] for hit in live if hit)])
        moved = [base for base in self._writers if lo <= base < hi]
        for part in [part for base in moved for part in self._writers.pop(base)]:
            hit = self.allocations.find(part[0])
            if hit is not None:
                self._writers.setdefault(hit[0], []).append(part)

    def _base(self, address: int) -> int:
        hit = self.allocations.find(address)
        return hit[0] if hit is not None else address

    def _write(
        self, base: int, old: list[tuple[int, int, int]], lo: int, hi: int, position: int
    ) -> None:
        parts: list[tuple[int, int, int]] = []
        for a, b, p in old:
            if a < lo:
                parts.append((a, min(b, lo), p))
            if b > hi:
                parts.append((max(a, hi), b, p))
        parts.append((lo, hi, position))
        if len(parts) > MAX_PARTS:
            parts = [(min(p[0] for p in parts), max(p[1] for p in parts), position)]
        self._writers[base] = parts
