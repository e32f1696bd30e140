"""Bytes to result records, and back (docs/wire_format.md); re-exported by `wire.codec`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import (
    ALL_RESULT_FLAGS,
    HEADER_BYTES,
    PADDING_STATUS,
    RESULT_CONTAINED,
    RESULT_HEADER,
    RESULT_STICKY,
    Buffer,
    check_padding,
    pad8,
)

_CALL = struct.Struct("<Q")


@dataclass(slots=True)
class ResultRecord:
    """One result: the status of a call and the data that answers it.

    Attributes:
        index: The call's index.
        status: CUresult number.
        payload: Data, or a UTF-8 text where the call failed.
        flags: RESULT_* bits.
        size: Bytes of the record.
    """

    index: int
    status: int
    payload: memoryview
    flags: int
    size: int

    @property
    def sticky(self) -> bool:
        """An asynchronous call failed and the session is in error from here on."""
        return bool(self.flags & RESULT_STICKY)


def pack_contained(plan: int, since: int) -> bytes:
    """A record that says of a plan that its inferences are self-contained from a call on."""
    return pack_result(plan, 0, _CALL.pack(since), RESULT_CONTAINED)


def read_contained(result: ResultRecord) -> tuple[int, int]:
    """What such a record says.

    Returns:
        (number of the plan, number of the call).

    Raises:
        ProtocolError: It does not fit the format.
    """
    if len(result.payload) != _CALL.size:
        raise ProtocolError(f"{len(result.payload)} bytes are no number of a call")
    return result.index, int(_CALL.unpack(result.payload)[0])


def iter_results(buffer: Buffer) -> Iterator[ResultRecord]:
    """Decode the result records in `buffer`; padding is skipped.

    Raises:
        ProtocolError: A record does not fit the format.
    """
    view = memoryview(buffer).cast("B")
    offset, limit = 0, len(view)
    while offset < limit:
        if limit - offset >= 8:
            size, status = struct.unpack_from("<II", view, offset)
            if status == PADDING_STATUS:
                check_padding(offset, size, limit)
                offset += size
                continue
        if limit - offset < HEADER_BYTES:
            raise ProtocolError(
                f"result record at byte {offset}: only {limit - offset} bytes left for a header"
            )
        size, status, index, payload_bytes, flags = RESULT_HEADER.unpack_from(view, offset)
        if size != HEADER_BYTES + pad8(payload_bytes) or offset + size > limit:
            raise ProtocolError(
                f"result record at byte {offset}: size {size} with {payload_bytes} bytes of data "
                f"in a buffer of {limit}"
            )
        if flags & ~ALL_RESULT_FLAGS:
            raise ProtocolError(f"result record at byte {offset}: unknown flags 0x{flags:x}")
        start = offset + HEADER_BYTES
        yield ResultRecord(index, status, view[start : start + payload_bytes], flags, size)
        offset += size


def pack_result(index: int, status: int, payload: Buffer = b"", flags: int = 0) -> bytes:
    """One result record for call `index`."""
    length = len(payload)
    header = RESULT_HEADER.pack(HEADER_BYTES + pad8(length), status, index, length, flags)
    return b"".join((header, payload, bytes(-length % 8)))
