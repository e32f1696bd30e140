"""The two messages of sessions as they are in memory on the way: owns their CDR form.

rclpy makes a Python object of every message, field by field, which takes three times as long as
the middleware itself. Messages of calls and results are many and small, so here one pass of
`struct` makes and reads them. What another middleware writes in another way (big-endian, XCDR2) is
read by rclpy after all. OMG DDSI-RTPS 2.3, 10 (encapsulation); DDS-XTypes 1.3, 7.4.1 (alignment).
"""

from __future__ import annotations

import array
import struct
from typing import Any

from rclpy.serialization import deserialize_message

from rrto_msgs.msg import CallBatch, CallResult
from rrto_ros.errors import ProtocolError
from rrto_ros.ros.message_bytes import id_array, set_bytes
from rrto_ros.wire.port import CallsMessage, ResultsMessage

LITTLE_ENDIAN = b"\0\1\0\0"
"""Encapsulation of what is read and written here: plain CDR; the options are not used."""
MOST_MISSING = 64
LARGE_BYTES = 64 << 10
"""From here on a copy of the data costs more than the Python object of the message."""
_CALLS = struct.Struct("<4s16sQQQB3xI")
_RESULTS = struct.Struct("<4s16sQQQI4x")
_TAIL = struct.Struct("<QB3xI")
"""Of results, after the numbers that are missing: aligned as if there were an even count."""


def calls_bytes(message: CallsMessage) -> bytes:
    """A message of calls, to be published as it is."""
    m, size = message, memoryview(message.data).nbytes
    head = _CALLS.pack(LITTLE_ENDIAN, m.session, m.sequence, m.results_ack, m.seal, m.flags, size)
    return b"".join((head, m.data))


def results_bytes(message: ResultsMessage) -> bytes:
    """A message of results, to be published as it is."""
    m = message
    count = len(m.missing)
    head = _RESULTS.pack(
        LITTLE_ENDIAN, m.session, m.sequence, m.batches_ack, m.executed_call, count
    )
    tail = _TAIL.pack(m.seal, m.flags, memoryview(m.data).nbytes)
    if not count:
        return b"".join((head, tail, m.data))
    return b"".join((head, struct.pack(f"<{count}Q", *m.missing), tail, m.data))


def calls_out(message: CallsMessage) -> bytes | CallBatch:
    """A message of calls as it is published."""
    if len(message.data) < LARGE_BYTES:
        return calls_bytes(message)
    out: CallBatch = _object(CallBatch(), message)
    out.results_ack = message.results_ack
    return out


def results_out(message: ResultsMessage) -> bytes | CallResult:
    """A message of results as it is published."""
    if len(message.data) < LARGE_BYTES:
        return results_bytes(message)
    out: CallResult = _object(CallResult(), message)
    out.batches_ack = message.batches_ack
    out.executed_call = message.executed_call
    if message.missing:
        out.missing = array.array("Q", message.missing)
    return out


def calls_message(data: bytes) -> CallsMessage:
    """A message of calls that was taken as it was.

    Raises:
        ProtocolError: It is none.
    """
    if data[:2] != LITTLE_ENDIAN[:2]:
        m = _other(data, CallBatch)
        return CallsMessage(
            m.session.tobytes(), m.sequence, m.results_ack, m.flags, memoryview(m.data), m.seal
        )
    if len(data) < _CALLS.size:
        raise ProtocolError(f"{len(data)} bytes are no message of calls")
    _, session, sequence, ack, seal, flags, size = _CALLS.unpack_from(data)
    return CallsMessage(session, sequence, ack, flags, _rest(data, _CALLS.size, size), seal)


def results_message(data: bytes) -> ResultsMessage:
    """A message of results that was taken as it was.

    Raises:
        ProtocolError: It is none.
    """
    if data[:2] != LITTLE_ENDIAN[:2]:
        m = _other(data, CallResult)
        return ResultsMessage(
            m.session.tobytes(), m.sequence, m.batches_ack, m.executed_call, tuple(m.missing),
            m.flags, memoryview(m.data), m.seal,
        )  # fmt: skip
    if len(data) < _RESULTS.size + _TAIL.size:
        raise ProtocolError(f"{len(data)} bytes are no message of results")
    _, session, sequence, ack, executed, count = _RESULTS.unpack_from(data)
    at = _RESULTS.size + 8 * count
    if count > MOST_MISSING or len(data) < at + _TAIL.size:
        raise ProtocolError(f"a message of {len(data)} bytes names {count} others as missing")
    missing = struct.unpack_from(f"<{count}Q", data, _RESULTS.size) if count else ()
    seal, flags, size = _TAIL.unpack_from(data, at)
    rest = _rest(data, at + _TAIL.size, size)
    return ResultsMessage(session, sequence, ack, executed, missing, flags, rest, seal)


def _object(out: Any, message: CallsMessage | ResultsMessage) -> Any:
    """What both kinds have; the middleware copies the data, and nobody before."""
    out.session = id_array(message.session)
    out.sequence = message.sequence
    out.seal = message.seal
    out.flags = message.flags
    set_bytes(out, "data", message.data)
    return out


def _rest(data: bytes, at: int, size: int) -> memoryview:
    """The sequence of bytes at the end; up to three of padding may follow it."""
    if not at + size <= len(data) <= at + size + 3:
        raise ProtocolError(f"a message of {len(data)} bytes says that {size} follow {at}")
    return memoryview(data)[at : at + size]


def _other(data: bytes, kind: Any) -> Any:
    try:
        return deserialize_message(data, kind)
    except Exception as error:
        raise ProtocolError(f"{len(data)} bytes are no {kind.__name__}: {error}") from None
