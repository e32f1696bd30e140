"""The reference that is being made: owns the rule for what may join it, and its record."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from rrto_ros.robot.replay.plan_entries import PlanEntry
from rrto_ros.wire.format import (
    CALL_HEADER,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_SPECULATIVE,
    HEADER_BYTES,
    Buffer,
)
from rrto_ros.wire.plan import MAX_PLAN_CALLS
from rrto_ros.wire.reference import Reference, allowing, mark, pack_reference

MAX_REFERENCE_BYTES = 16 << 20
_FIXED_BYTES = HEADER_BYTES + 32


@dataclass(slots=True)
class OpenReference:
    """Consecutive calls of one plan, of one thread, with ascending indices.

    Attributes:
        entry: The plan.
        first: Its first call in the reference.
        index: Index of that call in the session.
        thread: Of all calls.
        count: Calls so far.
        size: Bytes of the record so far.
        carries: Whether it has a payload.
        replaced: Bytes of the records that it stands for.
        asks: Whether it has calls that the server was not to execute speculatively.
        guessed: Whether it is not known of the others that it has.
        bound: Whether it has calls that the server was to execute speculatively, in just this
            plan.
        speculative: How many calls after it the server may execute speculatively.
        worth_us: What a saved exchange is worth, if some of these calls write.
    """

    entry: PlanEntry
    first: int
    index: int
    thread: int
    count: int = 0
    size: int = _FIXED_BYTES
    carries: bool = False
    replaced: int = 0
    asks: bool = field(default=False, init=False)
    speculative: int = 0
    worth_us: int = 0
    guessed: bool = field(default=False, init=False)
    bound: bool = field(default=False, init=False)
    _marks: list[int] = field(default_factory=list)
    _words: list[int] = field(default_factory=list)
    _pieces: list[Buffer] = field(default_factory=list)
    _only: Buffer | None = None
    _whole: tuple[int, Buffer] | None = None

    def fits(
        self,
        entry: PlanEntry,
        position: int,
        thread: int,
        index: int,
        payload: int,
        count: int = 1,
    ) -> bool:
        """Whether a call, or so many that follow each other, may join."""
        return (
            self.entry is entry
            and position == self.first + self.count
            and thread == self.thread
            and index == self.index + self.count
            and self.size + payload <= MAX_REFERENCE_BYTES
            and self.count + count <= MAX_PLAN_CALLS
        )

    def turn(self, entry: PlanEntry, position: int) -> None:
        """The program goes on with another plan; so far the calls may be the same in both.

        Args:
            entry: The other plan.
            position: Of the next call there.
        """
        end = self.first + self.count
        if not self.bound and position == end <= entry.shared.get(self.entry.number, 0):
            self.entry = entry

    def add(self, record: memoryview, flags: int, payload: int, changed: bytes | None) -> None:
        """Take the next call.

        Args:
            record: As the program made it.
            flags: Of the record; FLAG_SPECULATIVE if its result may have been pushed.
            payload: Padded bytes of its payload.
            changed: The record to send instead (an upload by reference, or to be kept).
        """
        if not self.count and changed is None and not flags & FLAG_SPECULATIVE:
            self._only = record
        self._whole = None
        if changed is not None:
            whole, _, made, _, _, length = CALL_HEADER.unpack_from(changed)
            padded = (length + 7) & ~7
            self._pieces.append(memoryview(changed)[whole - padded :])
            self.size += padded
            self.carries = True
            flags |= made & (FLAG_BLOB_REF | FLAG_KEEP)
        elif payload:
            self._pieces.append(record[len(record) - payload :])
            self.size += payload
            self.carries = True
        if flags:
            self._marks.append(mark(self.count, flags))
            self.size += 8
        ranges = self.entry.plan.ranges.get(self.first + self.count)
        if ranges is not None:
            for start, stop in ranges:
                at = HEADER_BYTES + start
                self._words += struct.unpack_from(f"<{(stop - start) >> 3}Q", record, at)
                self.size += stop - start
        self.count += 1
        self.replaced += len(record)

    def join(
        self,
        ref: Reference,
        pieces: list[Buffer],
        flags: Mapping[int, int],
        replaced: int,
        record: Buffer | None = None,
    ) -> None:
        """Take a reference whose calls follow.

        Args:
            ref: The reference.
            pieces: Its payloads, each padded to 8.
            flags: Of its calls, where they are not 0.
            replaced: Bytes of the records that it stands for.
            record: Its own record, if that has just these pieces and flags.
        """
        self._whole = None if self.count or record is None else (ref.plan, record)
        self._marks += [mark(self.count + call, bits) for call, bits in flags.items()]
        self._words += ref.words
        self._pieces += pieces
        self.carries = self.carries or bool(pieces)
        self.size += 8 * (len(flags) + len(ref.words)) + sum(len(piece) for piece in pieces)
        self.count += ref.count
        self.replaced += replaced

    def expect(self, *, speculative: bool, answered: bool) -> None:
        """Note of the call that joined whether the server has executed it.

        Args:
            speculative: It may have.
            answered: Its result is here, so it has, and what came before.
        """
        if not speculative:
            self.asks = True
            return
        self.bound = True
        # A literal call would say that the program does something else.
        self._only = None
        if answered:
            self.guessed = False
        else:
            self.guessed = True

    @property
    def literal(self) -> Buffer | None:
        """The record itself where naming it would not be shorter."""
        only = self._only
        shorter = only is not None and self.count == 1 and len(only) <= self.size
        return only if shorter and not self.speculative else None

    def record(self) -> Buffer:
        """The PLAN_REF record."""
        if self._whole is not None and self._whole[0] == self.entry.number:
            return allowing(self._whole[1], self.speculative, self.worth_us)
        pieces = self._pieces
        payload: Buffer = b""
        if pieces:
            payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return pack_reference(
            self.entry.number,
            self.first,
            self.count,
            self.index,
            self.thread,
            self._marks,
            self._words,
            payload,
            self.speculative,
            self.worth_us,
        )
