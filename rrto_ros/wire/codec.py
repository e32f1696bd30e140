"""Bytes to call records, and back (docs/wire_format.md).

Everything that is read is checked before it is used: sizes, bounds, operation codes, flags. What
does not fit the format raises `ProtocolError` with a text that names what was got. The layouts
come from `ops.OPS`; nothing here knows a particular operation. Handshake and descriptions are in
`wire.descriptions`, results in `wire.result_codec`, the shared numbers in `wire.format`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rrto_ros.api.ops import CONTROL, OPS, Op
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import (
    ALL_FLAGS,
    BLOB_REF,
    CALL_HEADER,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    HEADER_BYTES,
    PADDING_OP,
    Buffer,
    check_padding,
    pad8,
)

_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i32": 4, "f32": 4, "u64[]": 4, "bytes": 4}
_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i32": "i", "f32": "f"}
_CODES |= {"u64[]": "I", "bytes": "I"}


@dataclass(frozen=True)
class Layout:
    """How one operation's fields lie in a record.

    Attributes:
        op: The operation.
        fixed: Packs and unpacks the fixed part, padded to 8.
        names: Field names without the payload, in order.
        position: Field name -> index in a record's `values`.
        variable: (index in `values`, item bytes) of the fields with content, in order.
        payload: Whether a payload is allowed.
    """

    op: Op
    fixed: struct.Struct
    names: tuple[str, ...]
    position: dict[str, int]
    variable: tuple[tuple[int, int], ...]
    payload: bool


def _layout(op: Op) -> Layout:
    text, offset = "<", 0
    names: list[str] = []
    variable: list[tuple[int, int]] = []
    for name, kind in op.fields:
        if kind == "payload":
            continue
        size = _SIZES[kind]
        gap = -offset % size
        text += f"{gap}x" * bool(gap) + _CODES[kind]
        offset += gap + size
        if kind in ("u64[]", "bytes"):
            variable.append((len(names), 8 if kind == "u64[]" else 1))
        names.append(name)
    tail = -offset % 8
    fixed = struct.Struct(text + f"{tail}x" * bool(tail))
    has_payload = any(kind == "payload" for _, kind in op.fields)
    position = {name: i for i, name in enumerate(names)}
    return Layout(op, fixed, tuple(names), position, tuple(variable), has_payload)


_ALL = (*OPS, *CONTROL)
LAYOUTS: dict[int, Layout] = {op.code: _layout(op) for op in _ALL}
"""Layout of every operation and control record, by code."""
OP_BY_NAME: dict[str, Op] = {op.name: op for op in _ALL}
OP_BY_CODE: dict[int, Op] = {op.code: op for op in _ALL}


@dataclass(slots=True)
class CallRecord:
    """One decoded call record.

    Attributes:
        op: The operation.
        flags: FLAG_* bits.
        index: Number of the driver call in its session, from 1.
        thread: Small number of the calling thread, from 1.
        values: The fields without the payload, in the order of `op.fields`; variable fields are
            a memoryview (`bytes`) or a tuple of int (`u64[]`).
        payload: The payload's bytes, or None where the operation has none or it is empty.
        size: Bytes of the record.
        offset: Where the record starts in the buffer it was read from.
    """

    op: Op
    flags: int
    index: int
    thread: int
    values: tuple[Any, ...]
    payload: memoryview | None
    size: int
    offset: int = 0

    def __getitem__(self, name: str) -> Any:
        """The field's value.

        Raises:
            KeyError: The operation has no such field.
        """
        return self.values[LAYOUTS[self.op.code].position[name]]

    def fields(self) -> dict[str, Any]:
        """The fields by name, without the payload."""
        return dict(zip(LAYOUTS[self.op.code].names, self.values, strict=True))

    @property
    def waited(self) -> bool:
        """A program thread waits for the result."""
        return bool(self.flags & FLAG_WAITED)

    @property
    def reply(self) -> bool:
        """The sender wants a result record."""
        return bool(self.flags & FLAG_REPLY)


@dataclass(slots=True)
class CallHeader:
    """The header of one call record: enough to cut, count and route without decoding."""

    offset: int
    size: int
    op: int
    flags: int
    index: int
    thread: int
    payload_bytes: int


def check_header(
    offset: int, limit: int, size: int, code: int, flags: int, payload_bytes: int
) -> None:
    """Check one header that was read at `offset` of a buffer that ends at `limit`.

    Raises:
        ProtocolError: It does not fit the format.
    """
    if size < HEADER_BYTES or size % 8:
        raise ProtocolError(
            f"call record at byte {offset}: size {size} is not a multiple of 8 of at least 24"
        )
    if offset + size > limit:
        raise ProtocolError(
            f"call record at byte {offset}: size {size} goes past the buffer's end at {limit}"
        )
    if flags & ~ALL_FLAGS:
        raise ProtocolError(f"call record at byte {offset}: unknown flags 0x{flags:04x}")
    if payload_bytes > size - HEADER_BYTES:
        raise ProtocolError(
            f"call record at byte {offset}: payload of {payload_bytes} bytes does not fit into a "
            f"record of {size} bytes"
        )
    if flags & FLAG_BLOB_REF and payload_bytes != BLOB_REF.size:
        raise ProtocolError(
            f"call record at byte {offset}: a blob reference has {BLOB_REF.size} bytes, "
            f"not {payload_bytes}"
        )
    if code != PADDING_OP and code not in LAYOUTS:
        raise ProtocolError(f"call record at byte {offset}: unknown operation code {code}")


def iter_headers(buffer: Buffer) -> Iterator[CallHeader]:
    """Read the records' headers without decoding fields; padding records are skipped.

    Args:
        buffer: Whole records, one after another.

    Raises:
        ProtocolError: A header does not fit the format, or the buffer ends inside a record.
    """
    view = memoryview(buffer).cast("B")
    offset, limit = 0, len(view)
    while offset < limit:
        if limit - offset >= 8 and view[offset + 4] == 0 and view[offset + 5] == 0:
            size = int.from_bytes(view[offset : offset + 4], "little")
            check_padding(offset, size, limit)
            offset += size
            continue
        if limit - offset < HEADER_BYTES:
            raise ProtocolError(
                f"call record at byte {offset}: only {limit - offset} bytes left for a header"
            )
        size, code, flags, index, thread, payload_bytes = CALL_HEADER.unpack_from(view, offset)
        check_header(offset, limit, size, code, flags, payload_bytes)
        yield CallHeader(offset, size, code, flags, index, thread, payload_bytes)
        offset += size


def decode_call(view: memoryview, header: CallHeader) -> CallRecord:
    """Decode the record whose header was read from `view` (bytes, as `iter_headers` saw it).

    Raises:
        ProtocolError: The fields do not fill the record exactly, or it has a payload where the
            operation allows none.
    """
    layout = LAYOUTS[header.op]
    offset, size = header.offset, header.size
    at = offset + HEADER_BYTES
    end = offset + size
    if at + layout.fixed.size > end:
        raise ProtocolError(
            f"{layout.op.name} at byte {offset}: {size} bytes are too short for its fields"
        )
    values = layout.fixed.unpack_from(view, at)
    at += layout.fixed.size
    if layout.variable:
        changed: list[Any] = list(values)
        for position, item_bytes in layout.variable:
            length = values[position] * item_bytes
            if at + length > end:
                raise ProtocolError(
                    f"{layout.op.name} at byte {offset}: field {layout.names[position]} of "
                    f"{length} bytes goes past the record's end"
                )
            content = view[at : at + length]
            changed[position] = content if item_bytes == 1 else tuple(content.cast("Q"))
            at += pad8(length)
        values = tuple(changed)
    payload: memoryview | None = None
    if header.payload_bytes or header.flags & (FLAG_BLOB_REF | FLAG_KEEP):
        if not layout.payload:
            raise ProtocolError(f"{layout.op.name} at byte {offset}: it has no payload")
        if at + header.payload_bytes > end:
            raise ProtocolError(
                f"{layout.op.name} at byte {offset}: payload of {header.payload_bytes} bytes goes "
                "past the record's end"
            )
        payload = view[at : at + header.payload_bytes]
        at += pad8(header.payload_bytes)
    if at != end:
        raise ProtocolError(
            f"{layout.op.name} at byte {offset}: record of {size} bytes, but its content takes "
            f"{at - offset}"
        )
    return CallRecord(
        layout.op, header.flags, header.index, header.thread, values, payload, size, offset
    )


def iter_calls(buffer: Buffer) -> Iterator[CallRecord]:
    """Decode the call records in `buffer`; views in the records point into it.

    Raises:
        ProtocolError: A record does not fit the format; those before it were yielded.
    """
    view = memoryview(buffer).cast("B")
    for header in iter_headers(view):
        yield decode_call(view, header)


def pack_call(
    name: str,
    index: int,
    /,
    *,
    thread: int = 1,
    record_flags: int = 0,
    payload: Buffer = b"",
    apart: int = 0,
    **fields: Any,
) -> bytes:
    """One call record.

    Args:
        name: Operation name.
        index: Number of the driver call in its session.
        thread: Small number of the calling thread.
        record_flags: FLAG_* bits of the record (`flags` is a field of some operations); REPLY is
            added for operations with a reply.
        payload: Bulk data, for operations that have it.
        apart: So many bytes more belong to the payload and are put behind the record by whoever
            sends it: what is here must be a multiple of 8, and so must they.
        **fields: Every field of the operation but the payload: int, float, bytes (`bytes`) or a
            sequence of int (`u64[]`).

    Raises:
        ProtocolError: Unknown operation, missing or unknown field, or a value out of range.
    """
    op = OP_BY_NAME.get(name)
    if op is None:
        raise ProtocolError(f"unknown operation {name!r}")
    layout = LAYOUTS[op.code]
    if fields.keys() != layout.position.keys():
        wrong = sorted(fields.keys() ^ layout.position.keys())
        raise ProtocolError(f"{name}: fields missing or unknown: {', '.join(wrong)}")
    if payload and not layout.payload:
        raise ProtocolError(f"{name}: it has no payload")
    if op.reply != "none":
        record_flags |= FLAG_REPLY
    values = [fields[n] for n in layout.names]
    content = b""
    for position, item_bytes in layout.variable:
        value = values[position]
        data = bytes(value) if item_bytes == 1 else struct.pack(f"<{len(value)}Q", *value)
        values[position] = len(value)
        content += data + bytes(-len(data) % 8)
    length = len(payload) + apart
    size = HEADER_BYTES + layout.fixed.size + len(content) + pad8(length)
    try:
        header = CALL_HEADER.pack(size, op.code, record_flags, index, thread, length)
        fixed = layout.fixed.pack(*values)
    except struct.error as error:
        raise ProtocolError(f"{name}: {error}") from error
    return b"".join((header, fixed, content, payload, bytes(-length % 8)))


def replace_payload(record: Buffer, payload: Buffer, *, set_flags: int, clear_flags: int) -> bytes:
    """The same call with another payload and flags (to put a blob in or take it out).

    Args:
        record: One whole call record.
        payload: The new payload.
        set_flags: FLAG_* bits to set.
        clear_flags: FLAG_* bits to clear.

    Raises:
        ProtocolError: `record` is not exactly one call record.
    """
    view = memoryview(record).cast("B")
    headers = list(iter_headers(view))
    if len(headers) != 1 or not LAYOUTS[headers[0].op].payload:
        raise ProtocolError("replace_payload needs exactly one record that may have a payload")
    old = headers[0]
    head = old.offset + old.size - pad8(old.payload_bytes)
    flags = (old.flags | set_flags) & ~clear_flags
    length = len(payload)
    size = head - old.offset + pad8(length)
    header = CALL_HEADER.pack(size, old.op, flags, old.index, old.thread, length)
    body = view[old.offset + HEADER_BYTES : head]
    return b"".join((header, body, payload, bytes(-length % 8)))


def blob_tag(digest: bytes) -> bytes:
    """What a server may tell anyone about a blob it keeps: the SHA-256 of its SHA-256.

    Who has the content recognises it; who has only the tag cannot name, and so not read, it.
    """
    return hashlib.sha256(digest).digest()


def pack_blob_ref(digest: bytes, length: int) -> bytes:
    """The payload that stands for a blob: SHA-256 digest (32 bytes) and length in bytes.

    Raises:
        ProtocolError: The digest has not 32 bytes.
    """
    if len(digest) != 32:
        raise ProtocolError(f"a blob digest has 32 bytes, not {len(digest)}")
    return BLOB_REF.pack(digest, length)


def unpack_blob_ref(payload: Buffer) -> tuple[bytes, int]:
    """(SHA-256 digest, length in bytes) of a blob reference.

    Raises:
        ProtocolError: The payload has not the size of a reference.
    """
    if len(payload) != BLOB_REF.size:
        raise ProtocolError(f"a blob reference has {BLOB_REF.size} bytes, not {len(payload)}")
    digest, length = BLOB_REF.unpack(payload)
    return digest, length
