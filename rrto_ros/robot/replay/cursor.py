"""Walks plans over a session's call records: records in, literal records and references out.

A record that equals the call which its lane expects (operation, payload length and every byte of
its fields, varying words aside) becomes part of the open reference. Any other record is looked for
elsewhere (lanes.py); what is nowhere stays literal.

Whatever the cursor does, the output means the input: a reference covers only records that follow
each other in the session, of one thread, with ascending indices, and is made only of calls that
were compared byte by byte. A wrong guess costs bytes, never correctness.
"""

from __future__ import annotations

from rrto_ros.api.ops import OPS
from rrto_ros.errors import ProtocolError
from rrto_ros.robot.replay.ahead_results import AheadResults
from rrto_ros.robot.replay.known import KnownPlans
from rrto_ros.robot.replay.lanes import Fed, Lane, Lanes
from rrto_ros.robot.replay.open_reference import OpenReference
from rrto_ros.robot.replay.run_ahead import RunAhead
from rrto_ros.robot.replay.shim_plans import Rewrite, ShimPlans
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
from rrto_ros.wire.plan import Plan, Reference, pack_define

__all__ = ["Cursor", "Fed", "Rewrite"]
_CALLS = frozenset(op.code for op in OPS)
_ITEMS = PLAN_REF_OP >> 8
_PROGRAM_FLAGS = FLAG_WAITED | FLAG_REPLY


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
        self._open: OpenReference | None = None
        self._ahead = RunAhead(ahead)
        self._lanes = Lanes(drop_after, self.shim.holds, self._ahead.leave)
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
        return open_.guessed and not self._ahead.comes(open_)

    @property
    def plans(self) -> KnownPlans:
        """The plans that it may walk."""
        return self._lanes.plans

    @property
    def deviations(self) -> int:
        """How often a program left a plan before its end."""
        return self._lanes.deviations

    @property
    def hit_rate(self) -> float:
        """Share of the calls that became part of a reference."""
        return self._hits / max(1, self._lanes.calls)

    def statistics(self) -> dict[str, int | float]:
        """Counters since the session began; `saved_bytes` against the literal records."""
        return {
            **self._lanes.statistics(),
            **self.shim.statistics(),
            "referenced_calls": self._hits,
            "hit_rate": round(self.hit_rate, 4),
            "references": self._references,
            "saved_bytes": self._saved_bytes,
        }

    @property
    def apart(self) -> bool:
        """Whether each thread has a cursor of its own."""
        return self._lanes.apart

    def set_apart(self, apart: bool) -> None:
        """Whether each thread has a cursor of its own."""
        self._lanes.set_apart(apart)

    @property
    def starts_up(self) -> bool:
        """Whether the program is expected to go on as at an earlier start."""
        lane = self._lanes.by_thread.get(0)
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
        known = self.plans.add(plan, start_up)
        if known is None:
            return []
        if start_up is not None:
            self._lanes.by_thread[0] = Lane(known)
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
        unpack, lanes = CALL_HEADER.unpack_from, self._lanes
        by_thread, apart = lanes.by_thread, lanes.apart
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
            lane = by_thread.get(number)
            if lane is None:
                lane = lanes.add(number)
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
                known = lanes.seek(lane, code, key, fed)
                position = lane.position
            if after > limit or flags & ~_PROGRAM_FLAGS or code not in _CALLS:
                check_header(offset, limit, size, code, flags, payload)
                raise ProtocolError(
                    f"call {index} has flags 0x{flags:x} and operation {code}, which only the "
                    "recorder may use"
                )
            lanes.calls += 1
            answered = False
            if flags & FLAG_WAITED:
                lanes.waited = index
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
                lanes.ended(lane, known, fed)
            offset = after
        if literal >= 0:
            parts.append(view[literal:])
        fed.answers = self._ahead.take_answers()
        fed.parted = lanes.parted
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
            self._ahead.announce(open_, self.plans)
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
        self._lanes.by_thread.clear()
        self._ahead.drop()

    def _item(self, view: memoryview, offset: int, fed: Fed) -> int:
        """Take what is no call but says something about plans; returns the offset after it."""
        header = CallHeader(offset, *CALL_HEADER.unpack_from(view, offset))
        check_header(offset, len(view), header.size, header.op, header.flags, header.payload_bytes)
        fed.items = True
        if header.op == PLAN_TAKEN_OP:
            self.shim.taken(view, header)
        elif header.op == RESULTS_WANTED_OP:
            fed.wanted = True
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
        lanes = self._lanes
        known = lanes.plans.numbered(ref.plan)
        if known is None:
            raise ProtocolError(f"the program refers to plan {ref.plan}, which was dropped")
        number = ref.thread if lanes.apart else 0
        lane = lanes.by_thread.get(number) or lanes.add(number)
        if lane.known is not known or lane.position != ref.first or not ref.first:
            lanes.follow(lane, known, ref.first, fed)
        lanes.calls += ref.count
        self._hits += ref.count
        pieces, flagged = self.shim.payloads(ref, self._rewrite)
        named, flagged, expected, answered = self._ahead.walked(known, ref, flagged)
        for call, flags in ref.flags.items():
            if flags & FLAG_WAITED:
                lanes.waited = ref.index + call
                if call < expected:
                    if call not in answered:
                        fed.quiet.append(lanes.waited)
                else:
                    fed.waited.append((lanes.waited, flags))
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
        lanes.walked(lane, known, fed)


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
