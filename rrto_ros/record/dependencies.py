"""The relationship graph: which earlier calls each call depends on.

Incremental and bounded: for every live allocation it keeps who wrote which part last, at most
`MAX_PARTS` parts (then the allocation counts as one).
"""

from __future__ import annotations

from collections.abc import Iterable

from rrto_ros.record.accesses import Accesses, GraphTable, Range, accesses
from rrto_ros.record.memory import Allocations
from rrto_ros.record.templates import EFFECTS, CallTemplate

MAX_PARTS = 16
_CACHE = 65536


class Dependencies:
    """Follows a log call by call. Not thread-safe."""

    def __init__(self, allocations: Iterable[tuple[int, int]] = ()) -> None:
        self.allocations = Allocations(allocations)
        self.graphs = GraphTable()
        self._writers: dict[int, list[tuple[int, int, int]]] = {}
        self._handles: dict[tuple[str, int], int] = {}
        self._cache: dict[tuple[int, int], Accesses] = {}
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
        got = self.accesses_of(number, template)
        sources: set[int] = set()
        for lo, hi in got.reads:
            self._read(lo, hi, sources)
        for lo, hi in got.possible:
            self._read(lo, hi, sources)
        for need in got.needs:
            if need in self._handles:
                sources.add(self._handles[need])
        for lo, hi in got.writes:
            self._write(lo, hi, position)
        for lo, hi in got.possible:
            self._write(lo, hi, position)
        for handle in got.handles:
            self._handles[handle] = position
        if EFFECTS[template.code]:
            self._apply(template)
        elif template.op.name == "event_destroy":
            self._handles.pop(("event", template.fields()["event"]), None)
        sources.discard(position)
        self._edges += len(sources)
        return tuple(sorted(sources))

    def accesses_of(self, number: int, template: CallTemplate) -> Accesses:
        """Accesses of a call now, from the cache where the same allocations are live."""
        if template.op.name == "graph_launch":
            return accesses(template, self.allocations, self.graphs)
        key = (number, self.allocations.signature)
        got = self._cache.get(key)
        if got is None:
            if len(self._cache) >= _CACHE:
                self._cache.clear()
            got = self._cache[key] = accesses(template, self.allocations, self.graphs)
        return got

    def _apply(self, template: CallTemplate) -> None:
        f = template.fields()
        name = template.op.name
        if name == "mem_alloc":
            self.allocations.add(f["address"], f["size"])
        elif name == "mem_free":
            self.allocations.remove(f["address"])
            self._writers.pop(f["address"], None)
        else:
            self.graphs.apply(name, f, self.allocations)

    def _base(self, address: int) -> int:
        hit = self.allocations.find(address)
        return hit[0] if hit is not None else address

    def _read(self, lo: int, hi: int, sources: set[int]) -> None:
        for a, b, position in self._writers.get(self._base(lo), ()):
            if a < hi and lo < b:
                sources.add(position)

    def _write(self, lo: int, hi: int, position: int) -> None:
        base = self._base(lo)
        old = self._writers.get(base)
        if not old or (len(old) == 1 and lo <= old[0][0] and hi >= old[0][1]):
            self._writers[base] = [(lo, hi, position)]
            return
        parts: list[tuple[int, int, int]] = []
        for a, b, p in old:
            if a < lo:
                parts.append((a, min(b, lo), p))
            if b > hi:
                parts.append((max(a, hi), b, p))
        parts.append((lo, hi, position))
        if len(parts) > MAX_PARTS:
            span: Range = (min(p[0] for p in parts), max(p[1] for p in parts))
            parts = [(*span, position)]
        self._writers[base] = parts
