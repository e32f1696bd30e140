"""Live device allocations of a session, as the call log shows them."""

from __future__ import annotations

import struct
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from hashlib import blake2b

_RANGE = struct.Struct("<QQ")


class Allocations:
    """Live allocations by address. Not thread-safe.

    `signature` is the same whenever the same set of allocations is live, so what was computed for
    one set can be used again when it comes back (programs that allocate in every inference).
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._sizes: dict[int, int] = {}
        self._bases: list[int] = []
        self.signature = 0
        for base, size in ranges:
            self.add(base, size)

    def __len__(self) -> int:
        return len(self._bases)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(base, size in bytes) by ascending base."""
        return ((base, self._sizes[base]) for base in self._bases)

    def copy(self) -> Allocations:
        return Allocations(self)

    def add(self, base: int, size: int) -> None:
        """An allocation came; one at the same base is replaced."""
        self.remove(base)
        self._sizes[base] = size
        insort(self._bases, base)
        self.signature ^= _digest(base, size)

    def remove(self, base: int) -> None:
        """An allocation went; an unknown base is ignored (its allocation was not logged)."""
        size = self._sizes.pop(base, None)
        if size is not None:
            del self._bases[bisect_right(self._bases, base) - 1]
            self.signature ^= _digest(base, size)

    def find(self, address: int) -> tuple[int, int] | None:
        """(base, size) of the live allocation that holds `address`."""
        at = bisect_right(self._bases, address) - 1
        if at < 0:
            return None
        base = self._bases[at]
        size = self._sizes[base]
        return (base, size) if address < base + size else None


def _digest(base: int, size: int) -> int:
    """128 bits, so that two sets of allocations have one signature by no chance."""
    return int.from_bytes(blake2b(_RANGE.pack(base, size), digest_size=16).digest(), "little")
