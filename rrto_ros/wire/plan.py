"""Plans and references to them: owns their bytes, both ways (docs/wire_format.md, "Plans").

A plan is the calls of a sequence without what differs each time: index, thread, flags, payload
contents, and the words that vary, which are zero in it. It is named by the SHA-256 of its bytes.
A reference says "calls i to j of that plan, with these words, payloads and flags", and means
exactly the literal records that `literal` makes of it. Pure: no state, no device.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from rrto_ros.api.ops import OPS
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import (
    ALL_FLAGS,
    BLOB_REF,
    FLAG_AHEAD,
    FLAG_BLOB_REF,
    FLAG_REPLY,
    HEADER_BYTES,
    LAYOUTS,
    OP_BY_NAME,
    TABLE_HASH,
    Buffer,
    CallHeader,
    decode_call,
    pack_call,
    pad8,
)
from rrto_ros.wire.templates import READS, WRITES, CallTemplate

MAX_PLANS = 64
"""Numbers of plans in a session, from 1."""
MAX_PLAN_CALLS = 32768
MAX_PLAN_BYTES = 16 << 20
MAX_PLAN_VARYING = 4096
MAX_AHEAD_CALLS = 256
"""Calls that only read which may be executed before the program makes them."""
MAX_AHEAD_BYTES = 4 << 20
"""Results that may be under way before the program asked for them."""
WORTH_UNIT_US = 10
"""Of what a saved exchange is worth, in a reference; at most 65,535 of them."""
COSTS = struct.Struct("<4Q")
"""Of a RESULT_UNDONE record, since the session began: restores, calls undone, nanoseconds that
were lost by them, nanoseconds spent on copies."""
_FIELDS = LAYOUTS[OP_BY_NAME["plan_ref"].code].fixed
_WORD = struct.Struct("<I")
_AHEAD_AT = HEADER_BYTES + _FIELDS.size - _WORD.size
_MAGIC = 0x50545252
_VERSION = 1
_HEAD = struct.Struct("<II32sII")
_CALL = struct.Struct("<HHII")
_VARYING = struct.Struct("<III")
_LENGTH = struct.Struct("<I")
_CALLS = frozenset(op.code for op in OPS)
_FLAGS_AT = 32
_WORTH_AT = 16
_WANTED = FLAG_AHEAD | FLAG_REPLY
_DTOH = OP_BY_NAME["memcpy_dtoh"].code
_DTOH_SIZE = struct.Struct("<8xQ")


@dataclass(frozen=True, slots=True, order=True)
class Varying:
    """Bytes of one call that differ between inferences.

    Attributes:
        call: Index of the call in the sequence.
        offset: First byte, counted from the start of the call's record (header included).
        size: Bytes; a multiple of 8.
    """

    call: int
    offset: int
    size: int


@dataclass(frozen=True)
class Plan:
    """Calls in order, and which of their words vary.

    Attributes:
        calls: The calls; varying words are zero.
        varying: Ascending; offsets count from the start of the record, as in a `Sequence`.
    """

    calls: tuple[CallTemplate, ...]
    varying: tuple[Varying, ...] = ()

    def __len__(self) -> int:
        return len(self.calls)

    @cached_property
    def ranges(self) -> dict[int, tuple[tuple[int, int], ...]]:
        """Call -> (start, end) of its varying words in the body, for calls that have any."""
        out: dict[int, tuple[tuple[int, int], ...]] = {}
        for v in self.varying:
            at = v.offset - HEADER_BYTES
            out[v.call] = (*out.get(v.call, ()), (at, at + v.size))
        return out

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes."""
        parts = [_HEAD.pack(_MAGIC, _VERSION, TABLE_HASH, len(self.calls), len(self.varying))]
        for call in self.calls:
            parts.append(_CALL.pack(call.code, 0, call.payload_bytes, len(call.body)))
            parts.append(call.body)
        parts += [_VARYING.pack(v.call, v.offset, v.size) for v in self.varying]
        return b"".join(parts)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes: the plan's name."""
        return hashlib.sha256(self.encoded).digest()

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """Of each call: payload length as u32, then the body (what a record must equal)."""
        return tuple(_LENGTH.pack(call.payload_bytes) + call.body for call in self.calls)

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """Of each call: bytes of its result if it only reads, -2 if what it does can be undone.

        Else -1: it must not be executed before the program makes it.
        """
        return tuple(
            -1 if call.payload_bytes or k in self.ranges
            else -2 if call.code in WRITES
            else -1 if call.code not in READS
            else _DTOH_SIZE.unpack_from(call.body)[0] if call.code == _DTOH
            else 0
            for k, call in enumerate(self.calls)
        )  # fmt: skip

    @cached_property
    def _ahead(self) -> dict[tuple[int, bool], int]:
        return {}

    def ahead(self, position: int, *, writes: bool) -> int:
        """How many calls from `position` on may be executed before the program makes them.

        Args:
            position: The first of them.
            writes: Whether there may be calls among them that have to be undone; the last one is
                a call that reads in any case.
        """
        count = self._ahead.get((position, writes))
        if count is not None:
            return count
        count, size = 0, 0
        limit = len(self) if writes else min(len(self), position + MAX_AHEAD_CALLS)
        for k in range(position, limit):
            answer = self.answers[k]
            if answer == -1 or (answer < 0 and not writes):
                break
            size += max(answer, 0)
            if size > MAX_AHEAD_BYTES:
                break
            if answer >= 0:
                count = k + 1 - position
        self._ahead[position, writes] = count
        return count


def check(plan: Plan) -> None:
    """Check the bounds of a plan.

    Raises:
        ProtocolError: It is empty, too long, or has impossible calls or varying words.
    """
    if not 1 <= len(plan) <= MAX_PLAN_CALLS or len(plan.encoded) > MAX_PLAN_BYTES:
        raise ProtocolError(
            f"plan of {len(plan)} calls and {len(plan.encoded)} bytes; allowed are 1 to "
            f"{MAX_PLAN_CALLS} calls and {MAX_PLAN_BYTES} bytes"
        )
    if len(plan.varying) > MAX_PLAN_VARYING:
        raise ProtocolError(f"plan with {len(plan.varying)} varying ranges")
    for i, call in enumerate(plan.calls):
        layout = LAYOUTS.get(call.code)
        if call.code not in _CALLS or layout is None:
            raise ProtocolError(f"call {i} of a plan: operation {call.code} is no call")
        if len(call.body) % 8 or len(call.body) < layout.fixed.size:
            raise ProtocolError(f"call {i} of a plan: {len(call.body)} bytes of fields")
        if call.payload_bytes and not layout.payload:
            raise ProtocolError(f"call {i} of a plan: {layout.op.name} has no payload")
    last = (-1, 0)
    for v in plan.varying:
        if not 0 <= v.call < len(plan):
            raise ProtocolError(f"a plan of {len(plan)} calls varies in call {v.call}")
        end = HEADER_BYTES + len(plan.calls[v.call].body)
        ascends = v.call > last[0] or v.offset >= last[1]
        inside = v.offset >= HEADER_BYTES and v.offset + v.size <= end
        if not (ascends and inside) or v.size < 8 or v.size % 8 or v.offset % 8:
            raise ProtocolError(
                f"call {v.call} of a plan varies in {v.size} bytes at {v.offset}: no whole words "
                "of its fields, or not in ascending order"
            )
        last = (v.call, v.offset + v.size)


def decode_plan(data: Buffer, digest: bytes) -> Plan:
    """The plan with these bytes.

    Raises:
        ProtocolError: They are not a plan's canonical bytes, or have another digest.
    """
    raw = bytes(data)
    if len(raw) > MAX_PLAN_BYTES:
        raise ProtocolError(f"plan of {len(raw)} bytes, at most {MAX_PLAN_BYTES} are allowed")
    if hashlib.sha256(raw).digest() != digest:
        raise ProtocolError(f"plan of {len(raw)} bytes has not the digest {digest.hex()[:16]}...")
    try:
        plan = _decode(raw)
    except struct.error as error:
        raise ProtocolError(f"plan of {len(raw)} bytes ends too early") from error
    check(plan)
    if plan.encoded != raw:
        raise ProtocolError("plan is not in its canonical form")
    return plan


def _decode(raw: bytes) -> Plan:
    magic, version, table, count, varying = _HEAD.unpack_from(raw)
    if (magic, version, table) != (_MAGIC, _VERSION, TABLE_HASH):
        raise ProtocolError("plan of another version or table of driver calls")
    if not 1 <= count <= MAX_PLAN_CALLS or varying > MAX_PLAN_VARYING:
        raise ProtocolError(f"plan of {count} calls with {varying} varying ranges")
    at = _HEAD.size
    calls: list[CallTemplate] = []
    for _ in range(count):
        code, _, payload_bytes, size = _CALL.unpack_from(raw, at)
        at += _CALL.size
        calls.append(CallTemplate(code, payload_bytes, raw[at : at + size]))
        at += size
    ranges = [Varying(*_VARYING.unpack_from(raw, at + i * _VARYING.size)) for i in range(varying)]
    return Plan(tuple(calls), tuple(ranges))


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference as it was read; not yet compared with its plan.

    Attributes:
        plan: The plan's number in the session.
        first: First call, counted from 0.
        count: Number of calls.
        index: Number of the first driver call in its session; the others follow by 1.
        thread: Thread of all of them.
        flags: Call, relative to `first` -> flags of its record, where they are not 0.
        words: Varying words of these calls, in order.
        payload: Payloads of these calls in order, each padded to 8.
        ahead: How many of the plan's next calls may be executed before the program makes them.
        worth_us: What a saved exchange is worth; 0: calls that write are not among them.
    """

    plan: int
    first: int
    count: int
    index: int
    thread: int
    flags: dict[int, int]
    words: tuple[int, ...]
    payload: memoryview
    ahead: int = 0
    worth_us: int = 0


def pack_define(number: int, plan: Plan) -> bytes:
    """The record that defines a plan for a session."""
    return pack_call("plan_define", 0, plan=number, digest=plan.digest, payload=plan.encoded)


def read_define(view: memoryview, header: CallHeader) -> tuple[int, Plan]:
    """Number and plan of a PLAN_DEFINE record.

    Raises:
        ProtocolError: It does not fit the format.
    """
    record = decode_call(view, header)
    number, digest = record.values
    if not 1 <= number <= MAX_PLANS:
        raise ProtocolError(f"plan number {number}, they are 1 to {MAX_PLANS}")
    return number, decode_plan(record.payload or b"", bytes(digest))


def pack_reference(
    number: int,
    first: int,
    count: int,
    index: int,
    thread: int,
    marks: list[int],
    words: list[int],
    payload: Buffer,
    ahead: int = 0,
    worth_us: int = 0,
) -> bytes:
    """A reference's record.

    Args:
        number: The plan's number.
        first: First call.
        count: Number of calls.
        index: Session-wide number of the first call.
        thread: Thread of the calls.
        marks: `mark` of each call with flags, ascending.
        words: Values of the varying words.
        payload: Payloads, each padded to 8.
        ahead: How many of the plan's next calls may be executed ahead.
        worth_us: What a saved exchange is worth, if some of these calls write.
    """
    return pack_call(
        "plan_ref",
        index,
        thread=thread,
        payload=payload,
        plan=number,
        first=first,
        count=count,
        marks=marks,
        words=words,
        ahead=_ahead_word(ahead, worth_us),
    )


def allowing(record: Buffer, ahead: int, worth_us: int) -> Buffer:
    """A reference's record that allows nothing yet, with these calls to be executed ahead."""
    word = _ahead_word(ahead, worth_us)
    if not word:
        return record
    changed = bytearray(record)
    _WORD.pack_into(changed, _AHEAD_AT, word)
    return changed


def _ahead_word(ahead: int, worth_us: int) -> int:
    return ahead | min(-(-worth_us // WORTH_UNIT_US), 0xFFFF) << _WORTH_AT


def mark(call: int, flags: int) -> int:
    """Flags of a call of a reference (counted from its first), as one word."""
    return call | flags << _FLAGS_AT


def read_reference(view: memoryview, header: CallHeader) -> Reference:
    """Decode a PLAN_REF record.

    Raises:
        ProtocolError: It does not fit the format.
    """
    offset, size = header.offset, header.size
    begin = offset + HEADER_BYTES + _FIELDS.size
    if begin > offset + size:
        decode_call(view, header)  # says what is wrong
    plan, first, count, marked, varied, ahead = _FIELDS.unpack_from(view, begin - _FIELDS.size)
    after = begin + 8 * (marked + varied)
    end = after + header.payload_bytes
    if after + pad8(header.payload_bytes) != offset + size:
        decode_call(view, header)
    # Most of what a session sends: not by way of the fields of just any call.
    marks = struct.unpack_from(f"<{marked}Q", view, begin)
    words = struct.unpack_from(f"<{varied}Q", view, after - 8 * varied)
    if not 1 <= count <= MAX_PLAN_CALLS or header.flags:
        raise ProtocolError(f"reference to {count} calls of a plan, flags 0x{header.flags:x}")
    flags: dict[int, int] = {}
    last = -1
    for word in marks:
        call, bits = word & 0xFFFFFFFF, word >> _FLAGS_AT
        known = bits and not bits & ~(ALL_FLAGS | FLAG_AHEAD)
        if not last < call < count or not known or bits & _WANTED == FLAG_AHEAD:
            raise ProtocolError(f"reference marks call {call} of {count} with flags 0x{bits:x}")
        flags[call] = bits
        last = call
    return Reference(
        plan, first, count, header.index, header.thread, flags, words, view[after:end],
        ahead & 0xFFFF, (ahead >> _WORTH_AT) * WORTH_UNIT_US,
    )  # fmt: skip


def marked_calls(view: memoryview, header: CallHeader) -> list[CallHeader]:
    """Headers of the calls of a reference that have flags, without looking at the plan.

    Raises:
        ProtocolError: It does not fit the format.
    """
    ref = read_reference(view, header)
    return [
        CallHeader(0, 0, header.op, flags & ALL_FLAGS, ref.index + call, ref.thread, 0)
        for call, flags in ref.flags.items()
    ]


def pieces(
    plan: Plan, ref: Reference
) -> Iterator[tuple[int, int, bytes | None, memoryview | None]]:
    """What a reference brings for each of its calls.

    Yields:
        (call of the plan, flags of its mark, patched body or None where nothing varies, payload
        or None).

    Raises:
        ProtocolError: The reference does not fit the plan. The first item may come before.
    """
    last = ref.first + ref.count
    if last > len(plan):
        raise ProtocolError(
            f"reference to calls {ref.first} to {last - 1} of a plan of {len(plan)} calls"
        )
    if ref.ahead > plan.ahead(last, writes=ref.worth_us > 0):
        raise ProtocolError(
            f"reference lets {ref.ahead} calls from {last} on be executed ahead, which is more "
            "than the plan has"
        )
    ranges, at, word = plan.ranges, 0, 0
    for k in range(ref.first, last):
        call = plan.calls[k]
        flags = ref.flags.get(k - ref.first, 0)
        body: bytes | None = None
        if flags & FLAG_AHEAD and call.code not in READS:
            raise ProtocolError(f"reference marks call {k} as executed ahead, but it writes")
        if k in ranges:
            patched = bytearray(call.body)
            for start, end in ranges[k]:
                count = (end - start) // 8
                values = ref.words[word : word + count]
                if len(values) != count:
                    raise ProtocolError(f"reference with {len(ref.words)} words, it needs more")
                struct.pack_into(f"<{count}Q", patched, start, *values)
                word += count
            body = bytes(patched)
        payload: memoryview | None = None
        size = BLOB_REF.size if flags & FLAG_BLOB_REF else call.payload_bytes
        if flags & FLAG_BLOB_REF and not call.payload_bytes:
            raise ProtocolError(f"reference with a blob for call {k}, which has no payload")
        if size:
            payload = ref.payload[at : at + size]
            at += pad8(size)
            if at > len(ref.payload):
                raise ProtocolError(f"reference with {len(ref.payload)} bytes, it needs more")
            if flags & FLAG_BLOB_REF and BLOB_REF.unpack(payload)[1] != call.payload_bytes:
                raise ProtocolError(f"reference with a blob of another length for call {k}")
        yield k, flags, body, payload
    if word != len(ref.words) or at != len(ref.payload):
        raise ProtocolError(
            f"reference with {len(ref.words)} words and {len(ref.payload)} bytes; its calls take "
            f"{word} and {at}"
        )


def literal(plan: Plan, ref: Reference) -> list[bytes]:
    """The call records that a reference stands for.

    Raises:
        ProtocolError: The reference does not fit the plan.
    """
    out: list[bytes] = []
    for k, flags, body, payload in pieces(plan, ref):
        call = plan.calls[k]
        size = len(payload) if payload is not None else 0
        whole = CallTemplate(call.code, size, call.body if body is None else body)
        shown = flags & ALL_FLAGS
        out.append(whole.record(ref.index + k - ref.first, ref.thread, shown, payload))
    return out
