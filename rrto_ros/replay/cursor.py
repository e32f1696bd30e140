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

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from rrto_ros.api.codec import CallHeader, check_header, iter_headers
from rrto_ros.api.ops import OPS
from rrto_ros.api.wire import (
    CALL_HEADER,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    HEADER_BYTES,
    Buffer,
)
from rrto_ros.errors import ProtocolError
from rrto_ros.replay.plan import (
    MAX_PLAN_CALLS,
    MAX_PLANS,
    Plan,
    mark,
    pack_define,
    pack_reference,
)

Rewrite = Callable[[bytes, CallHeader], bytes | None]
"""Gives the record to send instead of an upload, or None (see `BlobReferences.rewrite`)."""

MAX_REFERENCE_BYTES = 16 << 20
MAX_DEFINED_BYTES = 60 << 20
"""Below what a server takes in one session."""
_IDLE_WALKS = 256
_CALLS = frozenset(op.code for op in OPS)
_PROGRAM_FLAGS = FLAG_WAITED | FLAG_REPLY
_NO_PIECE: Buffer = b""


class Known:
    """A plan that the cursor may walk, and how its walks went."""

    def __init__(self, number: int, plan: Plan) -> None:
        self.number = number
        self.plan = plan
        self.codes = [call.code for call in plan.calls]
        self.keys = plan.keys
        self.length = len(plan)
        # In a key the payload's length (4 bytes) comes before the body.
        self.ranges = {
            k: tuple((a + 4, b + 4) for a, b in ranges) for k, ranges in plan.ranges.items()
        }
        self.shared: dict[int, int] = {}
        self.active = True
        self.completed = 0
        self.failed = 0
        self.streak = 0
        self.used = 0
        self.back_at = 0

    def equals(self, position: int, code: int, key: bytes) -> bool:
        """Whether a record is the call at a position, varying words aside."""
        if position >= self.length or self.codes[position] != code:
            return False
        wanted = self.keys[position]
        ranges = self.ranges.get(position)
        if ranges is None:
            return key == wanted
        if len(key) != len(wanted):
            return False
        blank = bytearray(key)
        for start, end in ranges:
            blank[start:end] = bytes(end - start)
        return blank == wanted


@dataclass(slots=True)
class _Lane:
    known: Known | None = None
    position: int = 0


@dataclass(slots=True)
class _Open:
    """The reference that is being made."""

    known: Known
    first: int
    index: int
    thread: int
    count: int = 0
    marks: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    pieces: list[Buffer] = field(default_factory=list)
    bytes: int = 0
    replaced: int = 0
    only: Buffer | None = None


@dataclass(slots=True)
class Fed:
    """What one buffer of records became.

    Attributes:
        parts: What to send, in order; the open reference is not in it.
        waited: (index, flags) of the calls for which a program thread waits.
        clean: Whether every call was the one that its cursor expected.
        parted: Whether no lane is in the middle of a plan now.
    """

    parts: list[Buffer] = field(default_factory=list)
    waited: list[tuple[int, int]] = field(default_factory=list)
    clean: bool = True
    parted: bool = True


class Cursor:
    """The walks of one session. Not thread-safe.

    Args:
        rewrite: What to do with uploads; None to leave them.
        drop_after: A plan whose walks failed so often in a row is dropped for a while.
    """

    def __init__(self, rewrite: Rewrite | None = None, drop_after: int = 16) -> None:
        self._rewrite = rewrite
        self._drop_after = drop_after
        self._known: dict[int, Known] = {}
        self._by_digest: dict[bytes, Known] = {}
        self._active: list[Known] = []
        self._where: dict[tuple[int, bytes], list[tuple[Known, int]]] = {}
        self._lanes: dict[int, _Lane] = {}
        self._apart = False
        self._open: _Open | None = None
        self._held: dict[int, int] = {}
        self._walks = 0
        self._calls = 0
        self._hits = 0
        self._references = 0
        self._deviations = 0
        self._dropped = 0
        self._refused = 0
        self._saved_bytes = 0
        self._completed = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes of the open reference, 0 if there is none."""
        return self._open.bytes if self._open is not None else 0

    @property
    def plans(self) -> int:
        """Plans that are walked now."""
        return len(self._active)

    def statistics(self) -> dict[str, int | float]:
        """Counters since the session began; `saved_bytes` against the literal records."""
        return {
            "plans": len(self._active),
            "plans_defined": len(self._known),
            "plans_dropped": self._dropped,
            "plans_refused": self._refused,
            "walks_completed": self._completed,
            "calls": self._calls,
            "referenced_calls": self._hits,
            "hit_rate": round(self._hits / max(1, self._calls), 4),
            "references": self._references,
            "deviations": self._deviations,
            "saved_bytes": self._saved_bytes,
        }

    # ---- plans

    def set_apart(self, apart: bool) -> None:
        """Whether each thread has a cursor of its own."""
        if apart != self._apart:
            self._apart = apart
            self._lanes.clear()

    def add(self, plan: Plan) -> list[Buffer]:
        """Walk a plan from now on.

        Returns:
            What is to be sent before anything that is fed later: the open reference and the
            record that defines the plan. Nothing if the server has the plan already, or there
            is no room for it.
        """
        old = self._by_digest.get(plan.digest)
        if old is not None:
            if not old.active and self._walks >= old.back_at:
                self._activate(old)
            return []
        size = len(plan.encoded)
        number = self._number(size)
        if not number:
            self._refused += 1
            return []
        known = Known(number, plan)
        self._known[number] = self._by_digest[plan.digest] = known
        self._held[number] = size
        for other in self._known.values():
            if other is not known:
                known.shared[other.number] = other.shared[number] = _shared(known, other)
        self._activate(known)
        # The number may have meant another plan.
        open_ = [self.close()] if self._open is not None else []
        return [*open_, pack_define(number, plan)]

    def _number(self, size: int) -> int:
        """A number for a plan of so many bytes, 0 if there is none."""
        held = sum(self._held.values())
        if len(self._held) < MAX_PLANS and held + size <= MAX_DEFINED_BYTES:
            return next(n for n in range(1, MAX_PLANS + 1) if n not in self._held)
        for idle in sorted(self._known.values(), key=lambda k: k.used):
            if idle.active and self._walks - idle.used < _IDLE_WALKS:
                continue
            # The server keeps a plan until its number is defined anew.
            if held - self._held[idle.number] + size <= MAX_DEFINED_BYTES:
                self._forget(idle)
                return idle.number
        return 0

    def _forget(self, known: Known) -> None:
        if known.active:
            self._deactivate(known)
        self._leave(known)
        del self._known[known.number], self._by_digest[known.plan.digest]

    def _activate(self, known: Known) -> None:
        known.active, known.streak, known.used = True, 0, self._walks
        self._active.append(known)
        for k in range(known.length):
            if k not in known.ranges:
                places = self._where.setdefault((known.codes[k], known.keys[k]), [])
                if not any(other is known for other, _ in places):
                    places.append((known, k))

    def _deactivate(self, known: Known) -> None:
        known.active = False
        self._active.remove(known)
        for k in range(known.length):
            call = (known.codes[k], known.keys[k])
            places = self._where.get(call)
            if places is not None:
                places[:] = [p for p in places if p[0] is not known]
                if not places:
                    del self._where[call]
        self._leave(known)

    def _leave(self, known: Known) -> None:
        """No cursor may stand in a plan whose number may come to mean another."""
        for lane in self._lanes.values():
            if lane.known is known:
                lane.known, lane.position = None, 0

    # ---- records

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
            if flags & FLAG_WAITED:
                fed.waited.append((index, flags))
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
            open_ = self._open
            if (
                open_ is None
                or open_.known is not known
                or position != open_.first + open_.count
                or thread != open_.thread
                or index != open_.index + open_.count
                or open_.bytes + payload > MAX_REFERENCE_BYTES
                or open_.count >= MAX_PLAN_CALLS
            ):
                if open_ is not None:
                    parts.append(self.close())
                open_ = self._open = _Open(known, position, index, thread, bytes=56)
                if changed is None:
                    open_.only = view[offset:after]
            if payload:
                if changed is None:
                    open_.pieces.append(view[end:after])
                else:
                    flags |= _take_piece(changed, open_)
                open_.bytes += after - end
            if flags:
                open_.marks.append(mark(open_.count, flags))
                open_.bytes += 8
            ranges = known.ranges.get(position)
            if ranges is not None:
                for start, stop in ranges:
                    words = struct.unpack_from(f"<{(stop - start) >> 3}Q", key, start)
                    open_.words += words
                    open_.bytes += stop - start
            open_.count += 1
            open_.replaced += size
            lane.position = position + 1
            if position + 1 == known.length:
                self._complete(known)
            offset = after
        if literal >= 0:
            parts.append(view[literal:])
        fed.parted = all(
            lane.known is None or lane.position in (0, lane.known.length)
            for lane in lanes.values()
        )
        return fed

    def close(self) -> Buffer:
        """End the open reference; returns what to send for it (nothing if there is none)."""
        open_ = self._open
        if open_ is None:
            return b""
        self._open = None
        if open_.count == 1 and open_.only is not None and len(open_.only) <= open_.bytes:
            # Naming it would not be shorter.
            self._hits -= 1
            return open_.only
        record = pack_reference(
            open_.known.number,
            open_.first,
            open_.count,
            open_.index,
            open_.thread,
            open_.marks,
            open_.words,
            _joined(open_.pieces),
        )
        self._references += 1
        self._saved_bytes += open_.replaced - len(record)
        return record

    def reset(self) -> None:
        """Forget where the cursors are (after calls that were not fed); plans stay."""
        self._lanes.clear()

    def _lane(self, number: int) -> _Lane:
        if len(self._lanes) >= 1024:
            self._lanes.clear()
        lane = self._lanes[number] = _Lane()
        return lane

    def _complete(self, known: Known) -> None:
        known.completed += 1
        known.streak = 0
        self._completed += 1

    # ---- elsewhere

    def _seek(self, lane: _Lane, code: int, key: bytes, fed: Fed) -> Known | None:
        """Move the lane to a call that equals the record, if any plan has one."""
        if not self._active:
            fed.clean = False
            return None
        known, position = lane.known, lane.position
        ended = known is None or position >= known.length
        if known is not None and position:
            for other in self._active:
                shared = other.shared.get(known.number, 0)
                if shared >= position and other.equals(position, code, key):
                    fed.clean = fed.clean and other.length > position
                    lane.known = other
                    return other
        best = self._start(code, key)
        if best is not None and not ended and known is not None:
            fed.clean = False
            self._left(known, position)
            best = self._start(code, key)
        if best is not None:
            self._walks += 1
            best.used = self._walks
            lane.known, lane.position = best, 0
            return best
        fed.clean = False
        if not ended:
            self._deviations += 1
        places = self._where.get((code, key))
        if not places:
            return None
        other, at = next((p for p in places if p[0] is lane.known), places[0])
        lane.known, lane.position = other, at
        return other

    def _start(self, code: int, key: bytes) -> Known | None:
        """The plan that begins with this call; of several the one that was walked last."""
        best: Known | None = None
        for other in self._active:
            if other.equals(0, code, key) and (best is None or other.used >= best.used):
                best = other
        return best

    def _left(self, known: Known, position: int) -> None:
        """A walk ended before its plan did."""
        self._deviations += 1
        known.failed += 1
        if 2 * position >= known.length:
            return  # most of it was of use
        known.streak += 1
        if known.streak >= self._drop_after and known.active:
            self._dropped += 1
            known.back_at = self._walks + 4 * self._drop_after
            self._deactivate(known)


def _shared(a: Known, b: Known) -> int:
    """How many first calls two plans share."""
    count = 0
    for k in range(min(a.length, b.length)):
        same = a.codes[k] == b.codes[k] and a.keys[k] == b.keys[k]
        if not same or a.ranges.get(k) != b.ranges.get(k):
            break
        count += 1
    return count


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


def _take_piece(changed: bytes, open_: _Open) -> int:
    """Take the payload of a rewritten record; returns the flags that say what it is."""
    size, _, flags, _, _, payload = CALL_HEADER.unpack_from(changed)
    padded = (payload + 7) & ~7
    open_.pieces.append(memoryview(changed)[size - padded :])
    return int(flags) & (FLAG_BLOB_REF | FLAG_KEEP)


def _joined(pieces: list[Buffer]) -> Buffer:
    if not pieces:
        return _NO_PIECE
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
