"""The reference that is being made: owns the rule for what may join it, and its record.

A large payload is the last of its reference, so that it need not be copied for it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from rrto_ros.robot.batch import LARGE_BYTES
from rrto_ros.robot.replay.plan_entries import PlanEntry
from rrto_ros.wire.format import (
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_SPECULATIVE,
    HEADER_BYTES,
    Buffer,
)
from rrto_ros.wire.plan import MAX_PLAN_CALLS
from rrto_ros.wire.reference import Reference, allow, mark, pack_reference

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
    _whole: tuple[int, memoryview] | None = None

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
            and not (self._pieces and len(self._pieces[-1]) >= LARGE_BYTES)
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

    def add(self, record: memoryview, flags: int, payload: Buffer) -> None:
        """Take the next call.

        Args:
            record: As the program made it.
            flags: As they leave; FLAG_SPECULATIVE if its result may have been pushed.
            payload: Its payload as it leaves, padded to 8.
        """
        named = flags & (FLAG_SPECULATIVE | FLAG_BLOB_REF | FLAG_KEEP)
        if not self.count and not named and len(payload) < LARGE_BYTES:
            self._only = record
        self._whole = None
        if payload:
            self._pieces.append(payload)
            self.size += len(payload)
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
        record: memoryview | None = None,
    ) -> None:
        """Take a reference whose calls follow.

        Args:
            ref: The reference.
            pieces: Its payloads, each padded to 8.
            flags: Of its calls, where they are not 0.
            replaced: Bytes of the records that it stands for.
            record: Its own record, which may be changed, if that has just these pieces and flags.
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

    def record(self) -> list[Buffer]:
        """The PLAN_REF record; a large payload is a part of its own, where it was."""
        if self._whole is not None and self._whole[0] == self.entry.number:
            allow(self._whole[1], self.speculative, self.worth_us)
            return [self._whole[1]]
        pieces = self._pieces
        large = pieces[-1:] if pieces and len(pieces[-1]) >= LARGE_BYTES else []
        return [
            pack_reference(
                self.entry.number,
                self.first,
                self.count,
                self.index,
                self.thread,
                self._marks,
                self._words,
                b"".join(pieces[: len(pieces) - len(large)]),
                self.speculative,
                self.worth_us,
                sum(map(len, large)),
            ),
            *large,
        ]
