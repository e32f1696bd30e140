"""From a program's call records to the batches that leave: what each mode makes of them.

`rpc` sends what it has at once, `batched` when somebody waits or after the linger time, `replay`
the same, with references in place of the calls that a plan holds. Owns the batch that is being
made, who waits for which call, and the record and replay of the session.

An upload is copied once, out of the ring, and not again on its way to the middleware. In `rpc` and
`batched` records are copied to the end of the buffer that leaves as the batch; an upload is copied
again if a record before or after it in the batch is left out or replaced by a reference. In
`replay` the batch is made around its largest upload (`batch.py`); another one that is not beside
it is copied again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Protocol

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.batch import LARGE_BYTES, ROOM, joined
from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.inferences import InferenceMeter
from rrto_ros.robot.plan_store import PlanMemory
from rrto_ros.robot.replay.replayer import Replayer
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.codec import CallHeader, iter_headers
from rrto_ros.wire.format import (
    BLOB_DATA_OP,
    CHECKPOINT_OP,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    MEMORY_RESTORE_OP,
    PLAN_DEFINE_OP,
    PLAN_REF_OP,
    PLAN_TAKEN_OP,
    PROFILE_OP,
    QUANTISED_READ_OP,
    QUANTISED_WRITE_OP,
    RESULT_PRINTED,
    RESULT_ROLLED_BACK,
    RESULT_SPECULATIVE,
    RESULTS_WANTED_OP,
    Buffer,
)
from rrto_ros.wire.result_codec import ResultRecord

MAX_TRACKED_WAITS = 1024
MAX_BACKLOG_BYTES = 32 << 20
"""Above it the search keeps pace with the calls, whoever waits."""
LONG_LINGER = 4
"""A reference without data from the program lingers so much longer: the calls that it names cost
the server little, a message costs the robot more."""
MOST_LONGER = 4
"""Each further one, while nobody waits, lingers twice as long as the one before, so many times:
the server has as much to do as was sent, and a long plan costs few messages."""
SPECULATIVE_LINGER_S = 1.0
"""References to calls that the server has executed speculatively can wait for company so long."""
_RECORDER_OPS = frozenset(
    (
        BLOB_DATA_OP,
        PLAN_DEFINE_OP,
        CHECKPOINT_OP,
        MEMORY_RESTORE_OP,
        PROFILE_OP,
        QUANTISED_READ_OP,
        QUANTISED_WRITE_OP,
    )
)
_SHIM_OPS = frozenset((PLAN_REF_OP, PLAN_TAKEN_OP))

Totals = Callable[[], tuple[int, int, int]]
"""Gives bytes sent, bytes received and round trips of the session so far."""


class Source(Protocol):
    """Where a program's records come from: `RingConsumer`."""

    def take_into(self, buffer: array[int]) -> int:
        """Copy all whole records to the end of a buffer; returns how many bytes."""
        ...


class Outgoing:
    """One session's calls on their way out.

    Belongs to the session's thread, but for `due`, `answered`, `urgent`, `measured`, `waits` and
    the cost of inferences.

    Args:
        config: Settings of the session.
        blobs: What to do with uploads; None to leave them.
        totals: For the cost of an inference.
        memory: Plans of earlier starts of the program; None for none.

    Raises:
        ConfigError: A parameter of the search cannot be used.
    """

    def __init__(
        self,
        config: SessionConfig,
        blobs: BlobReferences | None,
        totals: Totals,
        memory: PlanMemory | None = None,
    ) -> None:
        self._config = config
        self._blobs = blobs
        self._totals = totals
        self.replayer = self._replayer = Replayer(config.replay, blobs, memory)
        """Record and replay of the session."""
        self._references = self._replayer.references
        self._speculation = self._replayer.speculation
        self._replays = False
        self._parts: list[Buffer] = []
        self._parts_bytes = 0
        # The last part: nothing has a view of it while no record is looked at.
        self._open = array("B")
        self._flush = False
        self._since = 0.0
        self._lone = 0
        self.meter = InferenceMeter()
        self.waits: dict[int, float] = {}
        """Call that a thread waits for -> when it came."""

    @property
    def pending(self) -> bool:
        """Whether there is something to send."""
        if self._parts_bytes or len(self._open):
            return True
        return self._references.pending_bytes > 0

    @property
    def flush_at(self) -> float:
        """When what is pending is to leave, monotonic seconds."""
        if self._flush or self.urgent:
            return 0.0
        linger = self._config.linger_s
        if self._made or self._references.carries:
            return self._since + linger
        if not self._references.asks:
            return self._since + max(linger, SPECULATIVE_LINGER_S)
        return self._since + linger * (LONG_LINGER << min(self._lone, MOST_LONGER))

    @property
    def urgent(self) -> bool:
        """Whether a call that the server was to answer unasked has to be sent after all."""
        return self._speculation.urgent

    @property
    def saved_waits(self) -> int:
        """How often the program waited, but not for an exchange."""
        return self._speculation.waits

    def measured(self, round_trip_s: float) -> None:
        """What an exchange takes at least, seconds."""
        self._speculation.round_trip_s = round_trip_s

    @property
    def thinks(self) -> bool:
        """Whether there is something to do that can wait: to search, or to keep plans."""
        return self._replayer.idle_work

    @property
    def must_think(self) -> bool:
        """Whether the search has too much to look at."""
        return self._replayer.backlog > MAX_BACKLOG_BYTES

    def absorb(self, source: Source, mode: str, now: float) -> list[Buffer] | None:
        """Take records out of the ring into the batch that is being made.

        Returns:
            Result records for the program that are there already; None if the ring was empty.

        Raises:
            ProtocolError: A record does not fit the format, or has what no program may use.
        """
        answers: list[Buffer] = []
        new = not (self._made or self._references.asks)
        if mode == "replay":
            data = array("B", ROOM)
            size = source.take_into(data)
            if not size:
                return None
            if size >= LARGE_BYTES:
                data.frombytes(ROOM)
            self._since = now if new else self._since
            self._replays = True
            answers = self._replay(memoryview(data)[len(ROOM) : len(ROOM) + size], now)
        else:
            if self._replays:
                self._end_open()
            start = len(self._open)
            if not source.take_into(self._open):
                return None
            self._since = now if new else self._since
            if self._replays:
                self._replays = False
                for part in self._replayer.pause():
                    self._put(part)
                self.meter.interrupt()
            self._pass(start, now)
        size = self._made + self._references.pending_bytes
        rpc = mode == "rpc" and size > 0
        self._flush = self._flush or rpc or size >= self._config.batch_bytes
        return answers

    def take(self) -> Buffer:
        """The whole batch, which nobody changes from then on; a new one begins."""
        if not self._flush and not self._made and not self._references.carries:
            self._lone += 1
        for part in self._replayer.close():
            self._add(part)
        self._speculation.left()
        self._end_open()
        parts = self._parts
        self._parts, self._parts_bytes, self._flush = [], 0, False
        return joined(parts)

    def flush(self) -> None:
        """What is pending leaves with the next `take`, which is due at once."""
        self._flush = True

    def think(self, now: float) -> None:
        """Search a piece of what was sent; plans that it finds become pending."""
        found = self._replayer.think()
        if found and not self.pending:
            self._since = now
        for part in found:
            self._add(part)

    def shim_news(self) -> list[Buffer]:
        """What the shim is to be told, for the reply ring."""
        return self._replayer.shim_news()

    def drop(self) -> None:
        """Forget what is pending."""
        self.take()

    def answered(self, index: int, now: float) -> float | None:
        """A result came; returns since when a thread waited for it, None if none did."""
        since = self.waits.pop(index, None)
        self.meter.answered(index, now)
        return since

    def statistics(self) -> Mapping[str, int | float | str]:
        """Counters of record and replay."""
        return self._replayer.statistics()

    def due(self, result: ResultRecord, record: Buffer) -> Buffer | None:
        """A result came; returns what the program is to get of it now.

        Raises:
            ProtocolError: No server sends it, or nobody agreed on its being pushed.
        """
        speculation = self._speculation
        if result.flags & RESULT_PRINTED:
            return record
        if result.flags & RESULT_SPECULATIVE:
            return speculation.arrived(result, record)
        if result.flags & RESULT_ROLLED_BACK:
            speculation.told(result)
            return None
        if result.sticky:
            speculation.over()
        return record if speculation.plain(result.index) or result.sticky else None

    def _replay(self, data: memoryview, now: float) -> list[Buffer]:
        for part in self._replayer.recall():
            self._add(part)
        fed = self._replayer.feed(data)
        for part in fed.parts:
            self._add(part)
        if fed.wanted:
            self._wanted()
        for index, flags in fed.waited:
            self._waited(index, flags, now)
        for index in fed.quiet:
            self._track(index, now)
        if fed.begun:
            self.meter.begin(fed.begun, now, *self._totals())
        for index in fed.ended:
            self.meter.end(index, now, self.waits)
        return fed.answers

    def _pass(self, start: int, now: float) -> None:
        """Look at the records of the open part from `start` on; padding at the end is left out."""
        replayer, blobs = self._replayer, self._blobs
        whole = memoryview(self._open)
        data = whole[start:]
        begin, end = 0, start
        for header in iter_headers(data):
            flags = header.flags
            end = start + header.offset + header.size
            if flags & (FLAG_BLOB_REF | FLAG_KEEP) or header.op in _RECORDER_OPS:
                raise ProtocolError(
                    f"call {header.index} has flags 0x{flags:x} and operation {header.op}, which "
                    "only the recorder may use"
                )
            if header.op == RESULTS_WANTED_OP:
                self._wanted()
                begin = self._replace(whole, begin, end, header, b"")
                continue
            if header.op in _SHIM_OPS:
                record, waited = replayer.pass_item(data, header)
                begin = self._replace(whole, begin, end, header, record)
                for index in waited:
                    self._waited(index, FLAG_REPLY, now)
                continue
            if flags & FLAG_WAITED:
                self._waited(header.index, flags, now)
            replayer.pass_by(header.op, data, header.offset, header.size)
            if header.payload_bytes and blobs is not None:
                changed = blobs.rewrite(data, header)
                if changed is not None:
                    begin = self._replace(whole, begin, end, header, changed)
        if begin:
            self._open = array("B")
            self._put(whole[begin:end])
        elif end < len(whole):
            data.release()
            whole.release()
            del self._open[end:]

    def _replace(
        self, whole: memoryview, begin: int, end: int, header: CallHeader, record: Buffer
    ) -> int:
        """What leaves in the place of a record that ends at `end`, after what is before it.

        Returns:
            Where what follows begins.
        """
        self._put(whole[begin : end - header.size])
        self._put(record)
        return end

    def _wanted(self) -> None:
        """Somebody waits for what the calls so far give."""
        self._flush = True
        self._lone = 0
        self._speculation.asked = True

    def _waited(self, index: int, flags: int, now: float) -> None:
        self._wanted()
        if flags & FLAG_REPLY:
            self._track(index, now)

    def _track(self, index: int, now: float) -> None:
        if len(self.waits) < MAX_TRACKED_WAITS:
            self.waits[index] = now

    @property
    def _made(self) -> int:
        """Bytes of the batch so far."""
        return self._parts_bytes + len(self._open)

    def _end_open(self) -> None:
        """What comes next becomes another part."""
        part, self._open = self._open, array("B")
        self._put(memoryview(part))

    def _add(self, part: Buffer) -> None:
        if len(part):
            self._end_open()
            self._put(part)

    def _put(self, part: Buffer) -> None:
        """Before what is in the open part."""
        if len(part):
            self._parts.append(part)
            self._parts_bytes += len(part)
