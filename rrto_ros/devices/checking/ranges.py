"""Which memory is live, as the calls so far say, and who may still be using it."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from rrto_ros.api.ops import READ_WRITE

ALLOCATION, VARIABLE, MAPPING = "allocation", "variable", "mapping"
MOST_FREED = 4096
"""So many freed ranges are remembered, to say that memory was there."""


@dataclass
class Region:
    """Live memory.

    Attributes:
        start: First address.
        end: Address behind the last.
        what: Kind: an allocation, a module's variable, a mapping.
        stream: In whose order it was allocated; 0: in everybody's.
        born: Place of the allocation in the order of calls.
        flags: How it may be used.
        handle: Of the memory that is mapped, or of the module.
        uses: Stream -> place of its last use.
    """

    start: int
    end: int
    what: str
    stream: int = 0
    born: int = 0
    flags: int = READ_WRITE
    handle: int = 0
    uses: dict[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.what} of {self.end - self.start} bytes at {self.start:#x}"


class Ranges:
    """Live memory by address, and which was freed last."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self._freed: dict[int, int] = {}

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions)

    def add(self, region: Region) -> None:
        """Memory lives from now on."""
        at = bisect.bisect_left(self._starts, region.start)
        self._starts.insert(at, region.start)
        self._regions.insert(at, region)

    def remove(self, region: Region) -> None:
        """It does not any more."""
        at = bisect.bisect_left(self._starts, region.start)
        del self._starts[at], self._regions[at]
        self._freed.pop(region.start, None)
        self._freed[region.start] = region.end
        if len(self._freed) > MOST_FREED:
            del self._freed[next(iter(self._freed))]

    def at(self, address: int) -> Region | None:
        """What begins exactly there."""
        at = bisect.bisect_left(self._starts, address)
        if at < len(self._starts) and self._starts[at] == address:
            return self._regions[at]
        return None

    def holding(self, address: int) -> Region | None:
        """What an address lies in."""
        at = bisect.bisect_right(self._starts, address) - 1
        return self._regions[at] if at >= 0 and address < self._regions[at].end else None

    def touched(self, address: int, size: int) -> list[Region]:
        """What lies in a range, in part or whole."""
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0 or self._regions[at].end <= address:
            at += 1
        return self._regions[at : bisect.bisect_left(self._starts, address + size)]

    def cover(self, address: int, size: int) -> list[Region] | None:
        """The one region that holds a range, or the mappings side by side that do; else None."""
        found = self.touched(address, max(size, 1))
        if not found or found[0].start > address or found[-1].end < address + size:
            return None
        if len(found) > 1:
            joined = all(one.end == other.start for one, other in pairwise(found))
            if not joined or any(one.what != MAPPING for one in found):
                return None
        return found

    def why(self, address: int, size: int) -> str:
        """What is wrong with a range that nothing covers."""
        near = self.touched(address, max(size, 1))
        if near:
            return f"it leaves the {near[0]}"
        for start, end in reversed(self._freed.items()):
            if start <= address < end:
                return f"its memory, {end - start} bytes at {start:#x}, was freed"
        at = bisect.bisect_right(self._starts, address) - 1
        if at >= 0 and self._regions[at].end == address:
            return f"it begins behind the {self._regions[at]}"
        return "no memory is there"
