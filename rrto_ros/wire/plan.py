"""Plans: owns their bytes, both ways (docs/wire_format.md, "Plans").

A plan is the calls of a sequence without what differs each time: index, thread, flags, payload
contents, and the words that vary, which are zero in it. It is named by the SHA-256 of its bytes.
References to plans are in `wire.reference`. Pure: no state, no device.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

from rrto_ros.api.ops import OPS
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import LAYOUTS, OP_BY_NAME, CallHeader, decode_call, pack_call
from rrto_ros.wire.format import HEADER_BYTES, TABLE_HASH, Buffer
from rrto_ros.wire.templates import READS, WRITES, CallTemplate

MAX_PLANS = 64
"""Numbers of plans in a session, from 1."""
MAX_PLAN_CALLS = 32768
MAX_PLAN_BYTES = 16 << 20
MAX_PLAN_VARYING = 4096
MAX_SPECULATIVE_CALLS = 256
"""Calls that only read which may be executed speculatively."""
MAX_SPECULATIVE_BYTES = 4 << 20
"""Results that may be under way before the program asked for them."""
COSTS = struct.Struct("<4Q")
"""Of a RESULT_ROLLED_BACK record, since the session began: rollbacks, calls rolled back,
nanoseconds lost by them, nanoseconds spent on checkpoints."""
_MAGIC = 0x50545252
_VERSION = 1
_HEAD = struct.Struct("<II32sII")
_CALL = struct.Struct("<HHII")
_VARYING = struct.Struct("<III")
_CALLS = frozenset(op.code for op in OPS)
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
    def result_bytes(self) -> tuple[int, ...]:
        """Of each call: bytes of its result if it only reads, -2 if it can be rolled back.

        Else -1: it must not be executed speculatively.
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
    def _speculative(self) -> dict[tuple[int, bool], int]:
        return {}

    def speculative(self, position: int, *, writes: bool) -> int:
        """How many calls from `position` on may be executed speculatively.

        Args:
            position: The first of them.
            writes: Whether there may be calls that write among them; the last one reads in any
                case.
        """
        count = self._speculative.get((position, writes))
        if count is not None:
            return count
        count, size = 0, 0
        limit = len(self) if writes else min(len(self), position + MAX_SPECULATIVE_CALLS)
        for k in range(position, limit):
            result = self.result_bytes[k]
            if result == -1 or (result < 0 and not writes):
                break
            size += max(result, 0)
            if size > MAX_SPECULATIVE_BYTES:
                break
            if result >= 0:
                count = k + 1 - position
        self._speculative[position, writes] = count
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
