"""From a session's call records to what is sent: literal records, and references to plans.

Consecutive calls that the matcher finds in a plan become one reference, others stay literal.
Whatever it does, the output means the input: a reference covers only records that follow each
other in the session, of one thread, with ascending indices, and is made only of calls that were
compared byte by byte. A wrong guess costs bytes, never correctness.

Over 400 lines: what is open, matched and written are one state, and each record may change all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.batch import LARGE_BYTES
from rrto_ros.robot.blob_references import BlobReferences
from rrto_ros.robot.matcher import Event, Events, Matched, Matcher
from rrto_ros.robot.replay.open_reference import OpenReference
from rrto_ros.robot.replay.plan_entries import PlanEntries, PlanEntry
from rrto_ros.robot.replay.shim_plans import ShimPlans
from rrto_ros.robot.replay.speculation import Speculation
from rrto_ros.wire.codec import CallHeader, check_header, iter_headers
from rrto_ros.wire.format import (
    CALL_HEADER,
    FLAG_REPLY,
    FLAG_WAITED,
    HEADER_BYTES,
    PLAN_REF_OP,
    PLAN_TAKEN_OP,
    RESULTS_WANTED_OP,
    Buffer,
)
from rrto_ros.wire.plan import Plan, pack_define
from rrto_ros.wire.reference import Reference

_PROGRAM_FLAGS = FLAG_WAITED | FLAG_REPLY


@dataclass(slots=True)
class Fed:
    """What one buffer of records became.

    Attributes:
        parts: What to send, in order; the open reference is not in it.
        waited: (index, flags) of the calls for which a program thread waits.
        quiet: Those for which one waits and whose result comes unasked.
        clean: Whether every call was the one that its lane expected.
        parted: Whether no lane is in the middle of a plan now.
        items: Whether there were references, or answers about plans, of the shim.
        begun: Plans that lanes began in.
        ended: For each plan that was followed to its end, the index of the last call before it
            whose result a thread waits for; 0 for none.
        answers: Result records that the server pushed, for calls that now came.
        wanted: Whether the program looks at host memory that some of the calls fill.
        large: (first, end) of each large payload in the records.
    """

    parts: list[Buffer] = field(default_factory=list)
    waited: list[tuple[int, int]] = field(default_factory=list)
    quiet: list[int] = field(default_factory=list)
    clean: bool = True
    parted: bool = True
    items: bool = False
    begun: int = 0
    ended: list[int] = field(default_factory=list)
    answers: list[Buffer] = field(default_factory=list)
    wanted: bool = False
    large: list[tuple[int, int]] = field(default_factory=list)


class ReferenceWriter:
    """The references of one session. Not thread-safe.

    Args:
        blobs: What to do with uploads; None to leave them.
        drop_after: A plan that failed so often in a row rests for a while.
        run_ahead: What the server may execute speculatively.

    Attributes:
        shim: The plans that the shim has.
        plans: The plans that calls are matched with.
        speculation: What the server executes speculatively.
        apart: Whether each thread is matched on its own.
        divergences: How often a program left a plan before its end.
    """

    def __init__(
        self,
        blobs: BlobReferences | None = None,
        drop_after: int = 16,
        run_ahead: str = "off",
    ) -> None:
        self._blobs = blobs
        self.shim = ShimPlans()
        self.apart = False
        self.divergences = 0
        self._matcher = Matcher()
        self._open: OpenReference | None = None
        self.speculation = Speculation(run_ahead)
        self.plans = PlanEntries(
            self._matcher, self.speculation.leave, drop_after, self.shim.holds
        )
        self._starting: PlanEntry | None = None
        self._calls = 0
        self._waited = 0
        self._lanes = 0
        self._hits = 0
        self._references = 0
        self._saved_bytes = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes of the open reference, 0 if there is none."""
        return self._open.size if self._open is not None else 0

    @property
    def carries(self) -> bool:
        """Whether the open reference has a payload."""
        return self._open is not None and self._open.carries

    @property
    def asks(self) -> bool:
        """Whether the open reference has calls that the server will not execute unasked."""
        open_ = self._open
        if open_ is None or open_.asks:
            return open_ is not None
        # Of what was announced, too, if it said that it stops.
        return open_.guessed and not self.speculation.comes(open_)

    @property
    def hit_rate(self) -> float:
        """Share of the calls that became part of a reference."""
        return self._hits / max(1, self._calls)

    def statistics(self) -> dict[str, int | float]:
        """Counters since the session began; `saved_bytes` against the literal records."""
        return {
            **self.plans.statistics(),
            "lanes": self._lanes,
            "calls": self._calls,
            "divergences": self.divergences,
            **self.shim.statistics(),
            "referenced_calls": self._hits,
            "hit_rate": round(self.hit_rate, 4),
            "references": self._references,
            "saved_bytes": self._saved_bytes,
        }

    def set_apart(self, apart: bool) -> None:
        """Whether each thread is matched on its own."""
        if apart != self.apart:
            self.apart = apart
            self._matcher.set_apart(apart)

    @property
    def starts_up(self) -> bool:
        """Whether the program is expected to go on as at an earlier start."""
        entry = self._starting
        if entry is not None and not (entry.start_up and self._matcher.standing() == entry.number):
            self._starting = None
        return self._starting is not None

    def add(self, plan: Plan, start_up: int | None = None) -> list[Buffer]:
        """Match calls with a plan from now on.

        Args:
            plan: The plan.
            start_up: It is what the program does now and never again, with so many inferences.

        Returns:
            What is to be sent before anything that is fed later: the open reference and the
            record that defines the plan. Nothing if the server has the plan already, or there
            is no room for it.
        """
        entry = self.plans.add(plan, start_up)
        if entry is None:
            return []
        if start_up is not None:
            self._starting = entry
        # The number may have meant another plan.
        return [*self.close(), pack_define(entry.number, plan)]

    def feed(self, view: memoryview) -> Fed:
        """Take whole records, as they come out of the ring.

        Args:
            view: The records; changed where that is all that it takes to send them.

        Raises:
            ProtocolError: A record does not fit the format, or has what no program may use.
        """
        fed = Fed()
        if self.plans.resting:
            self.plans.wake(self._calls)
        matcher, offset, limit = self._matcher, 0, len(view)
        while offset < limit:
            after, matched, events = matcher.feed(view, offset)
            fed.clean = fed.clean and matcher.clean
            if after > offset:
                self._take(view, matched, events, fed)
            else:
                after = self._no_call(view, offset, fed)
            offset = after
        fed.answers = self.speculation.take_answers()
        fed.parted, self._lanes = matcher.parted, matcher.lanes
        return fed

    def close(self, *, last: bool = False) -> list[Buffer]:
        """End the open reference; returns the parts of what to send for it, if there is one.

        Args:
            last: Nothing follows it for now, so that the server may speculate.
        """
        open_, self._open = self._open, None
        if open_ is None:
            return []
        if last:
            self.speculation.announce(open_, self.plans)
        literal = open_.literal
        if literal is not None:
            self._hits -= 1
            return [literal]
        record = open_.record()
        self._references += 1
        self._saved_bytes += open_.replaced - sum(map(len, record))
        return record

    def reset(self) -> None:
        """Forget where the lanes stand (after calls that were not fed); plans stay."""
        self._matcher.set_apart(self.apart)
        self.speculation.drop()

    def _take(
        self, view: memoryview, matched: Iterable[Matched], events: Events, fed: Fed
    ) -> None:
        """Take call records that follow each other."""
        numbered, parts, happened = self.plans.numbered, fed.parts, 0
        literal, after = -1, 0
        for each in matched:
            offset, size, code, flags, thread, index, payload, fields, number, position, so_far = (
                each
            )
            after = offset + size
            entry = numbered[number] if number else None
            self._calls += 1
            answered = False
            if flags & FLAG_WAITED:
                self._waited = index
            predicted = self.speculation.expected(entry, position, thread, index)
            if predicted is not None:
                flags, answered = self.speculation.answer(index, flags)
            if predicted is not None and flags & FLAG_WAITED:
                if not answered:
                    fed.quiet.append(index)
            elif flags & FLAG_WAITED:
                fed.waited.append((index, flags & _PROGRAM_FLAGS))
            blobs = self._blobs if payload else None
            if size - fields >= LARGE_BYTES:
                fed.large.append((offset + fields, after))
            if entry is None:
                if literal < 0:
                    parts += self.close()
                    literal = offset
                changed: bytes | None = None
                if blobs is not None:
                    header = CallHeader(offset, size, code, flags, index, thread, payload)
                    changed = blobs.rewrite(view, header)
                if changed is not None:
                    if offset > literal:
                        parts.append(view[literal:offset])
                    parts.append(changed)
                    literal = -1
            else:
                if literal >= 0:
                    parts.append(view[literal:offset])
                    literal = -1
                self._hits += 1
                expected = int(predicted is not None)
                open_ = self._opened(
                    predicted or entry, position, thread, index, payload, fed, expected=expected
                )
                record, piece = view[offset:after], view[offset + fields : after]
                bits, reference = 0, b""
                if blobs is not None:
                    bits, reference = blobs.name(
                        code, index, record[HEADER_BYTES:fields], piece[:payload]
                    )
                open_.add(record, flags | bits, reference or piece)
                open_.expect(speculative=predicted is not None, answered=answered)
            if so_far != happened:
                self._happened(events[happened:so_far], fed)
                happened = so_far
        if literal >= 0:
            parts.append(view[literal:after])

    def _opened(
        self, named: PlanEntry, position: int, thread: int, index: int, payload: int, fed: Fed,
        count: int = 1, expected: int = 0,
    ) -> OpenReference:  # fmt: skip
        """The open reference that so many calls may join; a new one if need be."""
        open_ = self._open
        if open_ is not None and open_.entry is not named and not expected:
            open_.turn(named, position)
        if open_ is None or not open_.fits(named, position, thread, index, payload, count):
            fed.parts += self.close()
            open_ = self._open = OpenReference(named, position, index, thread)
        return open_

    def _happened(self, events: Events, fed: Fed) -> None:
        plans = self.plans
        for kind, number, calls in events:
            entry = plans.numbered[number]
            if kind == Event.DIVERGED:
                self.divergences += 1
            elif kind == Event.BEGUN:
                fed.begun += 1
                plans.begin(entry)
            elif kind == Event.ENTERED:
                plans.enter(entry)
            elif kind == Event.FAILED:
                plans.fail(entry, calls, self._calls)
            else:
                if not entry.start_up and not calls:
                    fed.ended.append(self._waited)
                plans.complete(entry)

    def _no_call(self, view: memoryview, offset: int, fed: Fed) -> int:
        """Take what is no call: padding, or what says something about plans.

        Returns:
            The offset after it.

        Raises:
            ProtocolError: It is neither.
        """
        limit = len(view)
        if limit - offset < HEADER_BYTES or not (view[offset + 4] or view[offset + 5]):
            return _skip(view, offset)
        header = CallHeader(offset, *CALL_HEADER.unpack_from(view, offset))
        check_header(offset, limit, header.size, header.op, header.flags, header.payload_bytes)
        if header.op == PLAN_TAKEN_OP:
            self.shim.taken(view, header)
        elif header.op == RESULTS_WANTED_OP:
            fed.wanted = True
        elif header.op == PLAN_REF_OP:
            record = view[offset : offset + header.size]
            ref = self.shim.reference(view, header)
            if len(ref.payload) >= LARGE_BYTES:
                fed.large.append((offset + header.size - len(ref.payload), offset + header.size))
            self._refers(ref, record, fed)
        else:
            raise ProtocolError(
                f"call {header.index} has flags 0x{header.flags:x} and operation {header.op}, "
                "which only the recorder may use"
            )
        fed.items = True
        return offset + header.size

    def _refers(self, ref: Reference, record: memoryview, fed: Fed) -> None:
        """The shim matched these calls itself; the lane follows, and they join what is open."""
        entry = self.plans.numbered.get(ref.plan)
        if entry is None:
            raise ProtocolError(f"the program refers to plan {ref.plan}, which was dropped")
        events = self._matcher.follow(ref.thread, ref.plan, ref.first, ref.count)
        fed.clean = fed.clean and self._matcher.clean
        self._calls += ref.count
        self._hits += ref.count
        pieces, flagged = self.shim.payloads(ref, self._blobs)
        named, flagged, expected, answered = self.speculation.referred(entry, ref, flagged)
        for call, flags in ref.flags.items():
            if flags & FLAG_WAITED:
                self._waited = ref.index + call
                if call < expected:
                    if call not in answered:
                        fed.quiet.append(self._waited)
                else:
                    fed.waited.append((self._waited, flags))
        open_ = self._opened(
            named, ref.first, ref.thread, ref.index, len(ref.payload), fed, ref.count, expected
        )
        same = named is entry and flagged == ref.flags
        same = same and (not pieces or pieces[0] is ref.payload)
        sums = entry.sums.records
        replaced = sums[ref.first + ref.count] - sums[ref.first]
        open_.join(ref, pieces, flagged, replaced, record if same else None)
        for call in range(expected):
            open_.expect(speculative=True, answered=call in answered)
        if expected < ref.count:
            open_.expect(speculative=False, answered=False)
        self._happened(events, fed)
        if not entry.active:
            self.speculation.leave(entry)


def _skip(view: memoryview, offset: int) -> int:
    """Leave out padding; returns the offset after it.

    Raises:
        ProtocolError: It is no padding.
    """
    if len(view) - offset >= 8:
        size = int.from_bytes(view[offset : offset + 4], "little")
        if 8 <= size <= len(view) - offset:
            # Says what is wrong, if anything.
            for _ in iter_headers(view[offset : offset + size]):
                pass
            return offset + size
    raise ProtocolError(f"call record at byte {offset}: not whole")
