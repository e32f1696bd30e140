"""Live device allocations of a session, as the call log shows them.

Memory that a program maps piece by piece (`Effect.ACCESS`) counts as one allocation where pieces
lie beside each other: it uses them as one. What textures read is known, too: a launch that reads a
texture has no pointer to its memory among its arguments.
"""

from __future__ import annotations

import struct
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from rrto_ros.api.ops import READ_WRITE, SURFACE, Effect

_RANGE = struct.Struct("<QQ")
_MOST = (1 << 64) - 1


class Allocations:
    """Live allocations by address. Not thread-safe.

    `signature` is the same whenever the same set of allocations is live, so what was computed for
    one set can be used again when it comes back (programs that allocate in every inference).
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._sizes: dict[int, int] = {}
        self._bases: list[int] = []
        self._mapped: set[int] = set()
        self._textures: dict[int, tuple[int, int]] = {}
        self._surfaces: set[int] = set()
        self.signature = 0
        for base, size in ranges:
            self.add(base, size)

    def __len__(self) -> int:
        return len(self._bases)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(base, size in bytes) by ascending base."""
        return ((base, self._sizes[base]) for base in self._bases)

    def copy(self) -> Allocations:
        out = Allocations(self)
        out._mapped = set(self._mapped)
        out._textures = dict(self._textures)
        out._surfaces = set(self._surfaces)
        out.signature = self.signature
        return out

    @property
    def textures(self) -> tuple[tuple[int, int], ...]:
        """What any kernel may read by a texture: first address and that after the last."""
        return tuple(self._textures.values())

    @property
    def surfaces(self) -> tuple[tuple[int, int], ...]:
        """What of it any kernel may write, too."""
        return tuple(self._textures[name] for name in self._surfaces)

    def follow(self, effect: Effect, f: dict[str, Any]) -> bool:
        """Apply an operation with its decoded fields; False if its effect is on something else."""
        if effect is Effect.ALLOCATE:
            self.add(f["address"], f["size"])
        elif effect is Effect.FREE:
            self.remove(f["address"])
        elif effect is Effect.ACCESS and f["flags"] == READ_WRITE:
            self._join(f["address"], f["size"])
        elif effect in (Effect.ACCESS, Effect.UNMAP):
            self._cut(f["address"], f["size"])
        elif effect is Effect.TEXTURE_MAKE:
            self._drop_texture(f["texture"])
            self._textures[f["texture"]] = f["address"], f["address"] + f["size"]
            self.signature ^= _digest(~f["texture"] & _MOST, f["address"] ^ f["size"])
            if f["flags"] & SURFACE:
                self._surfaces.add(f["texture"])
        elif effect is Effect.TEXTURE_DROP:
            self._drop_texture(f["texture"])
        else:
            return False
        return True

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
            self._mapped.discard(base)
            self.signature ^= _digest(base, size)

    def _drop_texture(self, texture: int) -> None:
        known = self._textures.pop(texture, None)
        if known is not None:
            self._surfaces.discard(texture)
            start, end = known
            self.signature ^= _digest(~texture & _MOST, start ^ (end - start))

    def _join(self, start: int, size: int) -> None:
        """Mapped memory may be used: one allocation with that beside it."""
        self._cut(start, size)
        end = start + size
        before, behind = self.find(start - 1), self.find(end)
        if before is not None and before[0] in self._mapped:
            start = before[0]
        if behind is not None and behind[0] in self._mapped:
            end = behind[0] + behind[1]
            self.remove(behind[0])
        self._add_mapped(start, end)

    def _cut(self, start: int, size: int) -> None:
        """Mapped memory may not be used any more."""
        end = start + size
        at = max(bisect_right(self._bases, start) - 1, 0)
        touched = []
        while at < len(self._bases) and self._bases[at] < end:
            base = self._bases[at]
            if base in self._mapped and base + self._sizes[base] > start:
                touched.append((base, base + self._sizes[base]))
            at += 1
        for base, last in touched:
            self.remove(base)
            self._add_mapped(base, start)
            self._add_mapped(end, last)

    def _add_mapped(self, start: int, end: int) -> None:
        if start < end:
            self.add(start, end - start)
            self._mapped.add(start)

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
