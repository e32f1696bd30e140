"""Walks plans over a session's call records: records in, literal records and references out.

Each lane (the session, or one thread of it) has a cursor: a plan and the next call that it
expects. A record that equals the expected call (operation, payload length and every byte of its
fields, varying words aside) becomes part of the open reference. Any other record is looked for
elsewhere: in variants that share what was walked so far, at the start of another plan, further on
in a plan. If it is nowhere it stays literal and the cursor waits where it was.

Whatever the cursor does, the output means the input: a reference covers only records that follow
each other in the session, of one thread, with ascending indices, and is made only of calls that
were compared byte by byte. A wrong guess costs bytes, never correctness.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rrto_ros.api.codec import CallHeader, check_header, iter_headers
from rrto_ros.api.ops import OPS
from rrto_ros.api.wire import (
    CALL_HEADER,
    FLAG_REPLY,
    FLAG_WAITED,
    HEADER_BYTES,
    PLAN_REF_OP,
    PLAN_TAKEN_OP,
    Buffer,
)
from rrto_ros.errors import ProtocolError
from rrto_ros.replay.ahead_results import AheadResults
from rrto_ros.replay.known import Known, KnownPlans
from rrto_ros.replay.open_reference import OpenReference
from rrto_ros.replay.plan import Plan, Reference, pack_define
from rrto_ros.replay.run_ahead import RunAhead
from rrto_ros.replay.shim_plans import Rewrite, ShimPlans

__all__ = ["Cursor", "Fed", "Rewrite"]
MAX_LANES = 1024
_CALLS = frozenset(op.code for op in OPS)
_ITEMS = PLAN_REF_OP >> 8
_PROGRAM_FLAGS = FLAG_WAITED | FLAG_REPLY


@dataclass(slots=True)
class _Lane:
    known: Known | None = None
    begun: Known | None = None
    """The plan that this walk began in, of which `known` is a variant."""
    position: int = 0
    missing: int = 0
    """Calls of the plan that this walk left out."""
    astray: bool = False
    """The last call was none of the plan's."""


@dataclass(slots=True)
class Fed:
    """What one buffer of records became.

    Attributes:
        parts: What to send, in order; the open reference is not in it.
        waited: (index, flags) of the calls for which a program thread waits.
        quiet: Those for which one waits and whose result comes unasked.
        clean: Whether every call was the one that its cursor expected.
        parted: Whether no lane is in the middle of a plan now.
        items: Whether there were references, or answers about plans, of the shim.
        begun: Walks that began.
        ended: For each walk that reached its end, the index of the last call before it whose
            result a thread waits for; 0 for none.
        answers: Result records that the server pushed ahead, for calls that now came.
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


class Cursor:
    """The walks of one session. Not thread-safe.

    Args:
        rewrite: What to do with uploads; None to leave them.
        drop_after: A plan whose walks failed so often in a row rests for a while.
        ahead: Results that the server pushes before they are asked for; None if it is not to.
    """

    def __init__(
        self,
        rewrite: Rewrite | None = None,
        drop_after: int = 16,
        ahead: AheadResults | None = None,
    ) -> None:
        self._rewrite = rewrite
        self.shim = ShimPlans()
        self._plans = KnownPlans(self._leave, drop_after, self.shim.holds)
        self._lanes: dict[int, _Lane] = {}
        self._apart = False
        self._open: OpenReference | None = None
        self._ahead = RunAhead(ahead)
        self._waited = 0
        self._calls = 0
        self._hits = 0
        self._references = 0
        self._deviations = 0
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
        return open_.guessed and not self._ahead.comes(open_)

    @property
    def plans(self) -> KnownPlans:
        """The plans that it may walk."""
        return self._plans

    @property
    def deviations(self) -> int:
        """How often a program left a plan before its end."""
        return self._deviations

    @property
    def hit_rate(self) -> float:
        """Share of the calls that became part of a reference."""
        return self._hits / max(1, self._calls)

    def statistics(self) -> dict[str, int | float]:
        """Counters since the session began; `saved_bytes` against the literal records."""
        return {
            **self._plans.statistics(),
            **self.shim.statistics(),
            "calls": self._calls,
            "referenced_calls": self._hits,
            "hit_rate": round(self.hit_rate, 4),
            "references": self._references,
            "deviations": self._deviations,
            "saved_bytes": self._saved_bytes,
        }

    @property
    def apart(self) -> bool:
        """Whether each thread has a cursor of its own."""
        return self._apart

    def set_apart(self, apart: bool) -> None:
        """Whether each thread has a cursor of its own."""
        if apart != self._apart:
            self._apart = apart
            self._lanes.clear()

    @property
    def starts_up(self) -> bool:
        """Whether the program is expected to go on as at an earlier start."""
        lane = self._lanes.get(0)
        return lane is not None and lane.known is not None and lane.known.start_up

    def add(self, plan: Plan, start_up: int | None = None) -> list[Buffer]:
        """Walk a plan from now on.

        Args:
            plan: The plan.
            start_up: It is what the program does now and never again, with so many inferences.

        Returns:
            What is to be sent before anything that is fed later: the open reference and the
            record that defines the plan. Nothing if the server has the plan already, or there
            is no room for it.
        """
        known = self._plans.add(plan, start_up)
        if known is None:
            return []
        if start_up is not None:
            self._lanes[0] = _Lane(known)
        # The number may have meant another plan.
        open_ = [self.close()] if self._open is not None else []
        return [*open_, pack_define(known.number, plan)]

    def feed(self, data: bytes) -> Fed:
        """Take whole records, as they come out of the ring.

        Raises:
            ProtocolError: A record does not fit the format, or has what no program may use.
        """
        view = memoryview(data)
        fed = Fed()
        unpack, lanes, apart = CALL_HEADER.unpack_from, self._lanes, self._apart
        parts = fed.parts
        offset, limit, literal = 0, len(data), -1
        while offset < limit:
            if limit - offset >= HEADER_BYTES and data[offset + 5] == _ITEMS:
                if literal >= 0:
                    parts.append(view[literal:offset])
                    literal = -1
                offset = self._item(view, offset, fed)
                continue
            if limit - offset < HEADER_BYTES or not (data[offset + 4] or data[offset + 5]):
                skip = _skip(view, offset, literal, parts)
                literal = -1
                offset = skip
                continue
            size, code, flags, index, thread, payload = unpack(data, offset)
            after = offset + size
            end = after - ((payload + 7) & ~7)
            key = data[offset + 20 : end]
            number = thread if apart else 0
            lane = lanes.get(number)
            if lane is None:
                lane = self._lane(number)
            known, position = lane.known, lane.position
            if (
                known is None
                or lane.astray
                or position >= known.length
                or known.codes[position] != code
                or (
                    key != known.keys[position]
                    and (position not in known.ranges or not known.equals(position, code, key))
                )
            ):
                check_header(offset, limit, size, code, flags, payload)
                known = self._seek(lane, code, key, fed)
                position = lane.position
            if after > limit or flags & ~_PROGRAM_FLAGS or code not in _CALLS:
                check_header(offset, limit, size, code, flags, payload)
                raise ProtocolError(
                    f"call {index} has flags 0x{flags:x} and operation {code}, which only the "
                    "recorder may use"
                )
            self._calls += 1
            answered = False
            if flags & FLAG_WAITED:
                self._waited = index
            ahead = self._ahead.plan(known, position, thread, index)
            if ahead is not None:
                flags, answered = self._ahead.answer(index, flags)
            if ahead is not None and flags & FLAG_WAITED:
                if not answered:
                    fed.quiet.append(index)
            elif flags & FLAG_WAITED:
                fed.waited.append((index, flags & _PROGRAM_FLAGS))
            changed: bytes | None = None
            if payload and self._rewrite is not None:
                header = CallHeader(offset, size, code, flags, index, thread, payload)
                changed = self._rewrite(data, header)
            if known is None:
                if literal < 0:
                    if self._open is not None:
                        parts.append(self.close())
                    literal = offset
                if changed is not None:
                    if offset > literal:
                        parts.append(view[literal:offset])
                    parts.append(changed)
                    literal = -1
                offset = after
                continue
            if literal >= 0:
                parts.append(view[literal:offset])
                literal = -1
            self._hits += 1
            open_, named = self._open, ahead or known
            if open_ is not None and open_.known is not named and ahead is None:
                open_.turn(named, position)
            if open_ is None or not open_.fits(named, position, thread, index, payload):
                if open_ is not None:
                    parts.append(self.close())
                open_ = self._open = OpenReference(named, position, index, thread)
            open_.add(view[offset:after], key, flags, after - end, changed)
            open_.expect(ahead=ahead is not None, answered=answered)
            lane.astray = False
            lane.position = position + 1
            if position + 1 == known.length:
                self._ended(lane, known, fed)
            offset = after
        if literal >= 0:
            parts.append(view[literal:])
        fed.answers = self._ahead.take_answers()
        fed.parted = all(
            lane.known is None or lane.position in (0, lane.known.length)
            for lane in lanes.values()
        )
        return fed

    def close(self, *, last: bool = False) -> Buffer:
        """End the open reference; returns what to send for it (nothing if there is none).

        Args:
            last: Nothing follows it for now, so that the server may go ahead.
        """
        open_, self._open = self._open, None
        if open_ is None:
            return b""
        if last:
            self._ahead.announce(open_, self._plans)
        literal = open_.literal
        if literal is not None:
            self._hits -= 1
            return literal
        record = open_.record()
        self._references += 1
        self._saved_bytes += open_.replaced - len(record)
        return record

    def reset(self) -> None:
        """Forget where the cursors are (after calls that were not fed); plans stay."""
        self._lanes.clear()
        self._ahead.drop()

    def _item(self, view: memoryview, offset: int, fed: Fed) -> int:
        """Take what is no call but says something about plans; returns the offset after it."""
        header = CallHeader(offset, *CALL_HEADER.unpack_from(view, offset))
        check_header(
            offset, len(view), header.size, header.op, header.flags, header.payload_bytes
        )
        fed.items = True
        if header.op == PLAN_TAKEN_OP:
            self.shim.taken(view, header)
        elif header.op == PLAN_REF_OP:
            record = view[offset : offset + header.size]
            self._walked(self.shim.reference(view, header), record, fed)
        else:
            raise ProtocolError(
                f"operation {header.op} of the program, which only the recorder may use"
            )
        return offset + header.size

    def _walked(self, ref: Reference, record: memoryview, fed: Fed) -> None:
        """The shim walked these calls itself; the lane follows, and they join what is open."""
        known = self._plans.numbered(ref.plan)
        if known is None:
            raise ProtocolError(f"the program refers to plan {ref.plan}, which was dropped")
        number = ref.thread if self._apart else 0
        lane = self._lanes.get(number) or self._lane(number)
        if lane.known is not known or lane.position != ref.first or not ref.first:
            self._follow(lane, known, ref.first, fed)
        self._calls += ref.count
        self._hits += ref.count
        pieces, flagged = self.shim.payloads(ref, self._rewrite)
        named, flagged, expected, answered = self._ahead.walked(known, ref, flagged)
        for call, flags in ref.flags.items():
            if flags & FLAG_WAITED:
                self._waited = ref.index + call
                if call < expected:
                    if call not in answered:
                        fed.quiet.append(self._waited)
                else:
                    fed.waited.append((self._waited, flags))
        open_ = self._open
        if open_ is not None and open_.known is not named and not expected:
            open_.turn(named, ref.first)
        if open_ is None or not open_.fits(
            named, ref.first, ref.thread, ref.index, len(ref.payload), ref.count
        ):
            if open_ is not None:
                fed.parts.append(self.close())
            open_ = self._open = OpenReference(named, ref.first, ref.index, ref.thread)
        same = named is known and flagged == ref.flags
        same = same and (not pieces or pieces[0] is ref.payload)
        replaced = self.shim.literal_bytes(ref)
        open_.join(ref, pieces, flagged, replaced, record if same else None)
        for call in range(expected):
            open_.expect(ahead=True, answered=call in answered)
        if expected < ref.count:
            open_.expect(ahead=False, answered=False)
        lane.position = ref.first + ref.count
        lane.astray = False
        if lane.position == known.length:
            self._ended(lane, known, fed)
        if not known.active:
            self._leave(known)

    def _ended(self, lane: _Lane, known: Known, fed: Fed) -> None:
        """A walk reached the end of its plan, maybe with gaps."""
        if lane.missing:
            self._plans.fail(known, known.length - lane.missing, self._calls)
        else:
            if not known.start_up:
                fed.ended.append(self._waited)
            self._plans.complete(known)

    def _follow(self, lane: _Lane, known: Known, position: int, fed: Fed) -> None:
        """The shim went on elsewhere than this lane stands."""
        old = lane.known
        ended = old is None or lane.position in (0, old.length)
        here = old is not None and 0 < position == lane.position
        if here and old is not None and known.shared.get(old.number, 0) >= position:
            self._plans.enter(known)
            lane.known = known  # a variant
            return
        if not ended and old is not None:
            if not position:
                self._left(lane, old, fed)
            elif not self._whole(lane):
                fed.clean = False
                self._deviate(lane)
        if not position:
            self._plans.begin(known)
            fed.begun += 1
            lane.missing = 0
            lane.begun = known
        else:
            fed.clean = False
            ahead = known is old and position > lane.position
            lane.missing = lane.missing + position - lane.position if ahead else position
        lane.known = known

    def _lane(self, number: int) -> _Lane:
        if len(self._lanes) >= MAX_LANES:
            self._lanes.clear()
        lane = self._lanes[number] = _Lane()
        return lane

    def _leave(self, known: Known) -> None:
        self._ahead.leave(known)
        for lane in self._lanes.values():
            if lane.known is known:
                lane.known = lane.begun = None
                lane.position, lane.missing, lane.astray = 0, 0, False

    def _seek(self, lane: _Lane, code: int, key: bytes, fed: Fed) -> Known | None:
        """Move the lane to a call that equals the record, if any plan has one."""
        plans = self._plans
        if plans.resting:
            plans.wake(self._calls)
        if not plans.active:
            fed.clean = False
            return None
        known, position = lane.known, lane.position
        if lane.astray:
            fits = known is not None and known.equals(position, code, key)
            # Another inference is likelier than that this one goes on with a call that equals the
            # first of an inference; a start has many such calls.
            if not (fits and known is not None and known.start_up):
                best = self._begun(lane, code, key, fed)
                if best is not None:
                    return best
            if fits:
                return known
        if known is not None and position:
            other = plans.variant(known, position, code, key)
            if other is not None:
                lane.known = other
                return other
        best = None if lane.astray else self._begun(lane, code, key, fed)
        if best is not None:
            return best
        ended = known is None or position >= known.length
        fed.clean = False
        if not ended and not self._whole(lane):
            self._deviate(lane)
        places = plans.places(code, key)
        if not places:
            return None
        other, at = next((p for p in places if p[0] is lane.known), places[0])
        ahead = other is lane.known and at > lane.position
        lane.missing = lane.missing + at - lane.position if ahead else at
        lane.known, lane.position = other, at
        return other

    def _begun(self, lane: _Lane, code: int, key: bytes, fed: Fed) -> Known | None:
        """The plan that begins with this call, if there is one; the lane's own is left for it."""
        plans, known = self._plans, lane.known
        best = plans.first(code, key)
        if best is None:
            return None
        if known is not None and lane.position < known.length:
            self._left(lane, known, fed)
            # What had failed less than that, and was not put to rest by it.
            best = plans.first(code, key)
            if best is None:
                return None
        plans.begin(best)
        fed.begun += 1
        lane.known = lane.begun = best
        lane.position, lane.missing, lane.astray = 0, 0, False
        return best

    def _whole(self, lane: _Lane) -> Known | None:
        """The plan that is over where a lane stands in a longer one."""
        known = lane.known
        if known is None or lane.missing:
            return None
        return self._plans.whole(known, lane.position)

    def _left(self, lane: _Lane, known: Known, fed: Fed) -> None:
        """Another walk begins, and the lane's has not reached the end of its plan."""
        whole = self._whole(lane)
        if whole is not None:
            known.misses += 1
            self._plans.complete(whole)
            return
        fed.clean = False
        self._deviate(lane)
        self._plans.fail(known, lane.position - lane.missing, self._calls)
        if lane.begun is not None and lane.begun is not known:
            lane.begun.misses += 1

    def _deviate(self, lane: _Lane) -> None:
        """The program left the plan; literal calls that follow each other count once."""
        if not lane.astray:
            lane.astray = True
            self._deviations += 1


def _skip(view: memoryview, offset: int, literal: int, parts: list[Buffer]) -> int:
    """Leave out padding; returns the offset after it.

    Raises:
        ProtocolError: It is no padding.
    """
    if literal >= 0:
        parts.append(view[literal:offset])
    if len(view) - offset >= 8:
        size = int.from_bytes(view[offset : offset + 4], "little")
        if 8 <= size <= len(view) - offset:
            # Says what is wrong, if anything.
            for _ in iter_headers(view[offset : offset + size]):
                pass
            return offset + size
    raise ProtocolError(f"call record at byte {offset}: not whole")
