"""What leaves for the places of a session: owns numbers of calls there, and bytes in between.

A place counts the calls that it gets by itself. Bytes are read at one place and written at another
between calls, in one exchange; those that may be coarse cross the link in a few bits for each
element, packed and unpacked here for the robot's own place, which is near.
"""

from __future__ import annotations

import struct
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.robot.partition.placed import ROBOT
from rrto_ros.robot.partition.replies import OrderedReplies
from rrto_ros.schedule.coherence import Transfer
from rrto_ros.wire.accesses import Range
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.quantised import KINDS, NAMES, decode, encode

PIECE_BYTES = 16 << 20
"""Brought by one call, at most."""
_INDEX = struct.Struct("<Q")
_FLAGS_AT, _INDEX_AT = 6, 8


class PlaceEnd(Protocol):
    """Where calls are executed; results come back through `PartitionedSession.results`."""

    def execute(self, batch: bytes) -> None:
        """Take whole records, to be executed after those before; does not wait for it."""
        ...


@dataclass(slots=True)
class Coarsely:
    """What crossed in fewer bits.

    Attributes:
        bytes: As they are in memory.
        elements: How many these are.
        sent: Bytes that crossed instead.
        pack_s: Seconds for packing and unpacking them here.
    """

    bytes: int = 0
    elements: int = 0
    sent: int = 0
    pack_s: float = 0.0

    def __sub__(self, other: Coarsely) -> Coarsely:
        return Coarsely(
            self.bytes - other.bytes, self.elements - other.elements, self.sent - other.sent,
            self.pack_s - other.pack_s,
        )  # fmt: skip


class Carrier:
    """One session's. Belongs to the thread that executes; answers arrive under `arrival`.

    Args:
        ends: The places.
        replies: Told what is to be answered.
        arrival: Guards `replies`; notified of answers.
        memory: Gives what memory is live.
        patience_s: How long bytes may take from place to place; None: until a place is lost.

    Attributes:
        next: Number of the next call of each place.
        patience_s: As given.
        over: Why no place will answer any more, if so (under `arrival`).
        coarsely: What crossed in fewer bits so far.
    """

    def __init__(
        self,
        ends: Sequence[PlaceEnd],
        replies: OrderedReplies,
        arrival: threading.Condition,
        memory: Callable[[], Sequence[Range]],
        patience_s: float | None,
    ) -> None:
        self._ends = ends
        self._replies = replies
        self._arrival = arrival
        self._memory = memory
        self.patience_s = patience_s
        self.next = [1] * len(ends)
        self.over = ""
        self.coarsely = Coarsely()
        self._ready: list[list[bytes]] = [[] for _ in ends]

    def number(self, place: int) -> int:
        """The number of the next call of a place, which gets it."""
        own = self.next[place]
        self.next[place] += 1
        return own

    def add(self, place: int, record: bytes) -> None:
        """A record leaves for a place, with the next flush."""
        self._ready[place].append(record)

    def flush(self) -> None:
        """What is to leave leaves."""
        for place, ready in enumerate(self._ready):
            if ready:
                batch = b"".join(ready)
                ready.clear()
                self._ends[place].execute(batch)

    def profile(self, place: int, number: int, calls: int) -> None:
        """A place is to look at its next calls, or with none to tell what it found."""
        self.add(
            place, pack_call("profile", 0, number=number, calls=calls, first=self.next[place])
        )

    def settle(self, place: int) -> None:
        """All work at a place is finished before what comes next; nobody asked for that."""
        own = self.number(place)
        with self._arrival:
            self._replies.expect([(place, own)], 0, place)
        self.add(place, pack_call("ctx_synchronize", own, context=0))

    def asked(
        self, place: int, record: bytes, got: dict[int, tuple[int, bytes]], key: int
    ) -> None:
        """A place gets a record; its answer is kept under a key."""
        own = self.number(place)
        with self._arrival:
            self._replies.expect([(place, own)], 0, place, told=_keeping(got, key))
        self.add(place, numbered(record, own))

    def silent(self, place: int, record: bytes) -> None:
        """A place gets a record once more, and nobody wants an answer."""
        own = self.number(place)
        self.add(place, numbered(record[:_FLAGS_AT] + bytes(2) + record[_FLAGS_AT + 2 :], own))

    def done(self, place: int, got: dict[int, tuple[int, bytes]], key: int) -> None:
        """An answer is kept under a key once all work at a place is finished."""
        self.asked(place, pack_call("ctx_synchronize", 0, context=0), got, key)

    def wait(self, got: dict[int, tuple[int, bytes]], count: int) -> str:
        """Wait for so many answers; what is the matter if they do not come."""
        self.flush()
        with self._arrival:
            self._arrival.wait_for(lambda: len(got) == count or self.over, self.patience_s)
        if len(got) == count:
            return ""
        return self.over or f"has not answered for {self.patience_s} s"

    def bring(self, transfers: Sequence[Transfer]) -> None:
        """Read bytes at one place and write them at another, all in one exchange.

        Raises:
            UnavailableError: They do not come.
        """
        source, target = transfers[0].source, transfers[0].target
        # What other streams have under way there is finished first.
        self.settle(source)
        got: dict[int, tuple[int, bytes]] = {}
        memory = self._memory()
        spans = [(piece, one) for one in transfers for piece in _pieces(one.span, memory)]
        for key, (span, one) in enumerate(spans):
            self.asked(source, _read(span, one), got, key)
        why = self.wait(got, len(spans))
        if why:
            size = sum(end - start for (start, end), _ in spans)
            raise UnavailableError(f"place {source} {why}: {size} bytes are missing")
        for status, text in got.values():
            if status:
                # Its answer broke the session, or does now: nothing else can be right.
                with self._arrival:
                    self._replies.break_(0, status, text)
                return
        self.settle(target)
        for key, (span, one) in enumerate(spans):
            own = self.number(target)
            self.add(target, self._write(span, one, own, got[key][1]))

    def _write(self, span: Range, one: Transfer, own: int, content: bytes) -> bytes:
        """The record that writes at a transfer's target what was read at its source."""
        start, end = span
        if not one.bits:
            return pack_call("memcpy_htod", own, dst=start, stream=0, payload=content)
        elements = (end - start) // KINDS[one.kind].itemsize
        began = time.perf_counter()
        if one.source == ROBOT:
            data = encode(content, one.kind, one.bits)
            out = _quantised("quantised_write", span, one, own, data)
        else:
            data = content
            try:
                content = decode(data, one.kind, one.bits, elements)
            except ProtocolError as error:
                raise UnavailableError(f"place {one.source} gives {error}") from error
            out = pack_call("memcpy_htod", own, dst=start, stream=0, payload=content)
        told = self.coarsely
        told.pack_s += time.perf_counter() - began
        told.bytes += end - start
        told.elements += elements
        told.sent += len(data)
        return out


def numbered(record: bytes, own: int) -> bytes:
    """A record under another number."""
    return record[:_INDEX_AT] + _INDEX.pack(own) + record[_INDEX_AT + _INDEX.size :]


def _read(span: Range, one: Transfer) -> bytes:
    """The record that reads a piece of a transfer at its source."""
    if one.bits and one.source != ROBOT:
        return _quantised("quantised_read", span, one)
    return pack_call("memcpy_dtoh", 0, src=span[0], size=span[1] - span[0], stream=0)


def _quantised(name: str, span: Range, one: Transfer, own: int = 0, data: bytes = b"") -> bytes:
    """A record about a piece of a transfer in a few bits."""
    size = KINDS[one.kind].itemsize
    return pack_call(
        name, own, address=span[0], elements=(span[1] - span[0]) // size,
        kind=NAMES.index(one.kind), bits=one.bits, payload=data,
    )  # fmt: skip


def _keeping(got: dict[int, tuple[int, bytes]], key: int) -> Callable[[int, bytes], None]:
    def told(status: int, data: bytes) -> None:
        got[key] = status, data

    return told


def _pieces(span: Range, memory: Sequence[Range]) -> Iterator[Range]:
    """A range in pieces that fit a record well, each in one allocation; no memory is left out."""
    first = max(0, bisect_right(memory, (span[0], span[0])) - 1)
    for base, limit in memory[first:]:
        if base >= span[1]:
            return
        low, high = max(base, span[0]), min(limit, span[1])
        for start in range(low, high, PIECE_BYTES):
            yield start, min(start + PIECE_BYTES, high)
