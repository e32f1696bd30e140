"""Which bytes go from call to call of an inference: owns the tensors of a recorded plan.

Calls are walked in order over a map of memory in which every byte has the call that wrote it last
(static single assignment over byte intervals). What a call reads makes it a reader of every piece
that it reads of. A write that does not cover a piece leaves the rest as it was. Pieces that one
call wrote and the same calls read are one tensor, however many they are.

What is read before the inference has written it comes from before. If no call of the inference
writes those bytes they never change (weights) and lie at every place; otherwise they are what the
inference before left there, and the tensor's producer comes later in the order than its reader.

A call of which only bounds are known may leave bytes within them as they were: what it does not
write for certain it reads, too. Design of this project (static single assignment: Cytron et al.,
TOPLAS 1991).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from rrto_ros.schedule.intervals import IntervalMap, without
from rrto_ros.wire.accesses import Range

_UNSEEN, _BROUGHT, _MADE = range(3)
"""Of a byte in an inference: not accessed yet, read as it was before, written by it."""
BEFORE = -1
"""Instead of a producer: written before the inference began."""


@dataclass(frozen=True, slots=True)
class Touched:
    """What one call accesses.

    Attributes:
        reads: Ranges that it may read; None: any memory.
        writes: Ranges that it may write; None: any memory.
        covers: Ranges that it writes for certain, whole.
    """

    reads: tuple[Range, ...] | None = ()
    writes: tuple[Range, ...] | None = ()
    covers: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """Bytes that go from one call to others.

    Attributes:
        producer: Place of the call that wrote them.
        readers: Places of those that read them, ascending. A reader that comes before the
            producer reads what the inference before left.
        bytes: How many they are.
    """

    producer: int
    readers: tuple[int, ...]
    bytes: int


def self_contained(calls: Sequence[Touched]) -> bool:
    """Whether an inference leaves the same behind however many of its kind came before.

    So it is if every byte that it may write is written for certain, and nothing that it reads
    before that is one that it writes: then each inference makes all of what it leaves from what
    none of them changes, and from its uploads.

    Args:
        calls: Of the inference, in order.
    """
    seen: IntervalMap[int] = IntervalMap(_UNSEEN)
    for call in calls:
        if call.reads is None or call.writes is None:
            return False
        for span in call.reads:
            for start, end, how in list(seen.within(span)):
                if how == _UNSEEN:
                    seen.set((start, end), _BROUGHT)
        # What is not written for certain may be what was there before.
        for span in without(call.writes, call.covers):
            if any(how != _MADE for *_, how in seen.within(span)):
                return False
        for span in call.covers:
            if any(how == _BROUGHT for *_, how in seen.within(span)):
                return False
            seen.set(span, _MADE)
    return True


@dataclass(slots=True)
class _Piece:
    start: int
    end: int
    producer: int
    readers: set[int] = field(default_factory=set)


class _Map:
    """Pieces of memory by address, without overlap. What is in none is from before."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[_Piece] = []
        self.done: list[_Piece] = []

    def within(self, span: Range) -> list[_Piece]:
        """The pieces of a range, split at its ends, with new ones where there were none."""
        low, high = span
        if low >= high:
            return []
        self._split(low)
        self._split(high)
        at = bisect_left(self._starts, low)
        end = bisect_left(self._starts, high)
        out: list[_Piece] = []
        place = low
        for piece in self._pieces[at:end]:
            if place < piece.start:
                out.append(_Piece(place, piece.start, BEFORE))
            out.append(piece)
            place = piece.end
        if place < high:
            out.append(_Piece(place, high, BEFORE))
        self._starts[at:end] = [piece.start for piece in out]
        self._pieces[at:end] = out
        return out

    def write(self, span: Range, producer: int) -> None:
        """A range has a new content."""
        pieces = self.within(span)
        if not pieces:
            return
        self.done += pieces
        at = bisect_left(self._starts, span[0])
        self._starts[at : at + len(pieces)] = [span[0]]
        self._pieces[at : at + len(pieces)] = [_Piece(span[0], span[1], producer)]

    def rest(self) -> list[_Piece]:
        """What is there at the end."""
        return list(self._pieces)

    def _split(self, address: int) -> None:
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return
        piece = self._pieces[at]
        if piece.start < address < piece.end:
            after = _Piece(address, piece.end, piece.producer, set(piece.readers))
            piece.end = address
            self._pieces.insert(at + 1, after)
            self._starts.insert(at + 1, address)


def flows(calls: Sequence[Touched], memory: Iterable[Range]) -> tuple[Flow, ...]:
    """What goes from call to call in an inference that is repeated.

    Args:
        calls: The calls in order.
        memory: What is live, for calls of which it is not known what they access.

    Returns:
        Tensors by producer, then readers; each (producer, readers) once.
    """
    everything = tuple(memory)
    pieces = _Map()
    for place, call in enumerate(calls):
        writes = everything if call.writes is None else call.writes
        reads = everything if call.reads is None else call.reads
        for span in (*reads, *without(writes, call.covers)):
            for piece in pieces.within(span):
                piece.readers.add(place)
        for span in writes:
            pieces.write(span, place)
    # What came from before and is overwritten: those who wrote there last left it.
    for piece in pieces.done:
        if piece.producer == BEFORE and piece.readers:
            for last in pieces.within((piece.start, piece.end)):
                last.readers |= piece.readers
    found: dict[tuple[int, tuple[int, ...]], int] = {}
    for piece in [*pieces.done, *pieces.rest()]:
        # A call that reads what it left itself has it where it runs.
        readers = tuple(sorted(piece.readers - {piece.producer}))
        if piece.producer != BEFORE and readers:
            key = piece.producer, readers
            found[key] = found.get(key, 0) + piece.end - piece.start
    return tuple(Flow(producer, readers, size)
                 for (producer, readers), size in sorted(found.items()))  # fmt: skip


def live(tensors: Iterable[Flow], calls: int) -> list[int]:
    """Bytes that cross a cut before each call, and one after the last, which none cross.

    They cross it once per inference, in the direction of their tensor.
    """
    change = [0] * (calls + 2)
    for tensor in tensors:
        ends = tensor.producer, *tensor.readers
        change[min(ends) + 1] += tensor.bytes
        change[max(ends) + 1] -= tensor.bytes
    return list(accumulate(change[: calls + 1]))
