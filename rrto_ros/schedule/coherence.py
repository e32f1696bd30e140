"""Which place has the newest bytes of a session's memory: owns what must be brought before a call.

A session's memory is one address space with a copy at each place. Every byte has the set of
places whose copy is the newest. Before a call runs at a place, what it reads and is not newest
there is brought; what it may write and does not certainly overwrite counts as read, so that bytes
it leaves alone are right, too. What it writes is newest at its place alone.

So any placement of calls gives the bits of plain execution, whatever it costs; with bounds that
are too wide more is brought, never less (a directory of copies by byte interval, as in software
distributed shared memory: Li and Hudak, ACM TOCS 1989).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rrto_ros.schedule.dataflow import Touched
from rrto_ros.schedule.intervals import IntervalMap, without
from rrto_ros.wire.accesses import Range, merged

Places = frozenset[int]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes to bring from one place to another before a call.

    Attributes:
        source: Where they are.
        target: Where they are wanted.
        span: They.
        kind: Type of their elements, if they may be coarse (`coarse.py`).
        bits: Of an element then; 0: they are brought exactly.
    """

    source: int
    target: int
    span: Range
    kind: str = ""
    bits: int = 0


class Coherence:
    """One session's. Not thread-safe.

    Args:
        places: Numbers of the places; at first all of them hold what is in memory.
    """

    def __init__(self, places: Iterable[int]) -> None:
        self._all: Places = frozenset(places)
        self._newest: IntervalMap[Places] = IntervalMap(self._all)
        self._brought = 0
        self._transfers = 0

    def before(self, place: int, call: Touched, memory: Iterable[Range]) -> tuple[Transfer, ...]:
        """What to bring to a place before a call runs there; it counts as brought.

        Args:
            place: Where the call runs.
            call: What it touches.
            memory: What is live, for a call of which it is not known what it touches.

        Returns:
            Transfers by address; none overlap.
        """
        writes = merged(memory) if call.writes is None else call.writes
        reads = merged(memory) if call.reads is None else call.reads
        out: list[Transfer] = []
        for span in merged([*reads, *without(writes, call.covers)]):
            for start, end, newest in self._newest.within(span):
                if place not in newest:
                    out.append(Transfer(min(newest), place, (start, end)))
                    self._newest.set((start, end), newest | {place})
        self._transfers += len(out)
        self._brought += sum(t.span[1] - t.span[0] for t in out)
        return tuple(out)

    def after(self, places: Iterable[int], call: Touched, memory: Iterable[Range]) -> None:
        """A call ran, at one place or alike at several."""
        newest = frozenset(places)
        for span in merged(memory) if call.writes is None else call.writes:
            self._newest.set(span, newest)

    def missing(self, place: int, call: Touched) -> int:
        """Bytes that would have to be brought to a place for what a call reads."""
        return sum(
            end - start
            for span in merged(call.reads or ())
            for start, end, newest in self._newest.within(span)
            if place not in newest
        )

    def current(self, place: int) -> bool:
        """Whether a place has the newest of all memory."""
        return all(place in newest for _, _, newest in self._newest)

    def stale(self, place: int, memory: Iterable[Range]) -> tuple[Transfer, ...]:
        """What to bring so that a place has all of memory; it counts as brought."""
        return self.before(place, Touched(tuple(memory)), ())

    def freed(self, span: Range) -> None:
        """Memory is gone: what is there next is nobody's."""
        self._newest.set(span, self._all)

    def statistics(self) -> dict[str, int]:
        """Transfers so far, and their bytes."""
        return {"transfers": self._transfers, "brought_bytes": self._brought}
