"""Values over address ranges: owns splitting and joining.

Sorted containers of intervals exist as libraries (intervaltree, portion), but none of them
overwrites a range in place, which is all that is needed here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from rrto_ros.wire.accesses import Range, merged

V = TypeVar("V")


class IntervalMap(Generic[V]):
    """Every address has a value. Not thread-safe.

    Args:
        default: The value of what was not set.
    """

    def __init__(self, default: V) -> None:
        self._default = default
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[V] = []

    def __len__(self) -> int:
        """Intervals that have been set."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        """(start, end, value) of what was set, by address."""
        return zip(self._starts, self._ends, self._values, strict=True)

    def within(self, span: Range) -> list[tuple[int, int, V]]:
        """(start, end, value) of the pieces of a range, by address, without gaps."""
        low, high = span
        out: list[tuple[int, int, V]] = []
        place = low
        for at in range(self._first(low), len(self._starts)):
            start = max(self._starts[at], low)
            if start >= high:
                break
            end = min(self._ends[at], high)
            if place < start:
                out.append((place, start, self._default))
            out.append((start, end, self._values[at]))
            place = end
        if place < high:
            out.append((place, high, self._default))
        return out

    def set(self, span: Range, value: V) -> None:
        """Give a range a value; neighbours that have it become one piece with it."""
        low, high = span
        if low >= high:
            return
        first, end = self._first(low), bisect_left(self._starts, high)
        before: list[tuple[int, int, V]] = []
        after: list[tuple[int, int, V]] = []
        if first < end:
            start, stop = self._starts[first], self._ends[end - 1]
            if start < low:
                before.append((start, low, self._values[first]))
            if stop > high:
                after.append((high, stop, self._values[end - 1]))
        if not before and first and self._ends[first - 1] == low:
            first -= 1
            before.append((self._starts[first], low, self._values[first]))
        if not after and end < len(self._starts) and self._starts[end] == high:
            after.append((high, self._ends[end], self._values[end]))
            end += 1
        if before and before[0][2] == value:
            low = before.pop()[0]
        if after and after[0][2] == value:
            high = after.pop()[1]
        pieces = [*before, (low, high, value), *after]
        self._starts[first:end] = [p[0] for p in pieces]
        self._ends[first:end] = [p[1] for p in pieces]
        self._values[first:end] = [p[2] for p in pieces]

    def _first(self, low: int) -> int:
        """The first interval that ends behind an address."""
        at = bisect_right(self._starts, low) - 1
        return at if at >= 0 and self._ends[at] > low else at + 1


def without(spans: Iterable[Range], holes: Iterable[Range]) -> list[Range]:
    """Ranges without others."""
    ordered = merged(holes)
    starts = [low for low, _ in ordered]
    out: list[Range] = []
    for start, end in spans:
        place = start
        first = max(0, bisect_right(starts, start) - 1)
        for low, high in ordered[first : bisect_left(starts, end)]:
            if place < low:
                out.append((place, low))
            place = max(place, high)
        if place < end:
            out.append((place, end))
    return out
