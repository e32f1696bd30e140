"""References to plans: owns their bytes, both ways (docs/wire_format.md, "Plans").

A reference says "calls i to j of that plan, with these words, payloads and flags", and means
exactly the literal records that `literal` makes of it. Pure: no state, no device.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import LAYOUTS, OP_BY_NAME, CallHeader, decode_call, pack_call
from rrto_ros.wire.format import (
    ALL_FLAGS,
    BLOB_REF,
    FLAG_BLOB_REF,
    FLAG_REPLY,
    FLAG_SPECULATIVE,
    HEADER_BYTES,
    Buffer,
    pad8,
)
from rrto_ros.wire.plan import MAX_PLAN_CALLS, Plan
from rrto_ros.wire.templates import READS, CallTemplate

WORTH_UNIT_US = 10
"""Of what a saved exchange is worth, in a reference; at most 65,535 of them."""
_FIELDS = LAYOUTS[OP_BY_NAME["plan_ref"].code].fixed
_WORD = struct.Struct("<I")
_SPECULATIVE_AT = HEADER_BYTES + _FIELDS.size - _WORD.size
_FLAGS_AT = 32
_WORTH_AT = 16
_WANTED = FLAG_SPECULATIVE | FLAG_REPLY


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
        speculative: How many of the plan's next calls may be executed speculatively.
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
    speculative: int = 0
    worth_us: int = 0


def pack_reference(
    number: int,
    first: int,
    count: int,
    index: int,
    thread: int,
    marks: list[int],
    words: list[int],
    payload: Buffer,
    speculative: int = 0,
    worth_us: int = 0,
    apart: int = 0,
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
        speculative: How many of the plan's next calls may be executed speculatively.
        worth_us: What a saved exchange is worth, if some of these calls write.
        apart: Bytes of the last payload, padded, if it is not in `payload` but put behind.
    """
    return pack_call(
        "plan_ref",
        index,
        thread=thread,
        payload=payload,
        apart=apart,
        plan=number,
        first=first,
        count=count,
        marks=marks,
        words=words,
        speculative=_speculative_word(speculative, worth_us),
    )


def allow(record: memoryview, speculative: int, worth_us: int) -> None:
    """Write into a reference's record, which allows nothing, what may be executed after it."""
    _WORD.pack_into(record, _SPECULATIVE_AT, _speculative_word(speculative, worth_us))


def _speculative_word(calls: int, worth_us: int) -> int:
    return calls | min(-(-worth_us // WORTH_UNIT_US), 0xFFFF) << _WORTH_AT


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
    plan, first, count, marked, varied, allowed = _FIELDS.unpack_from(view, begin - _FIELDS.size)
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
        known = bits and not bits & ~(ALL_FLAGS | FLAG_SPECULATIVE)
        if not last < call < count or not known or bits & _WANTED == FLAG_SPECULATIVE:
            raise ProtocolError(f"reference marks call {call} of {count} with flags 0x{bits:x}")
        flags[call] = bits
        last = call
    return Reference(
        plan, first, count, header.index, header.thread, flags, words, view[after:end],
        allowed & 0xFFFF, (allowed >> _WORTH_AT) * WORTH_UNIT_US,
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
    if ref.speculative > plan.speculative(last, writes=ref.worth_us > 0):
        raise ProtocolError(
            f"reference lets {ref.speculative} calls from {last} on be executed speculatively, "
            "which is more than the plan has"
        )
    ranges, at, word = plan.ranges, 0, 0
    for k in range(ref.first, last):
        call = plan.calls[k]
        flags = ref.flags.get(k - ref.first, 0)
        body: bytes | None = None
        if flags & FLAG_SPECULATIVE and call.code not in READS:
            raise ProtocolError(f"reference marks call {k} as executed already, but it writes")
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
    return [record for _, record, _ in records(plan, ref)]


def records(plan: Plan, ref: Reference) -> Iterator[tuple[int, bytes, bool]]:
    """The same, one by one.

    Yields:
        (call of the plan, its record, whether none of its words varies).

    Raises:
        ProtocolError: The reference does not fit the plan.
    """
    for k, flags, body, payload in pieces(plan, ref):
        call = plan.calls[k]
        size = len(payload) if payload is not None else 0
        whole = CallTemplate(call.code, size, call.body if body is None else body)
        shown = flags & ALL_FLAGS
        record = whole.record(ref.index + k - ref.first, ref.thread, shown, payload)
        yield k, record, body is None
