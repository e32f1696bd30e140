"""Call templates: what two calls must have in common to be the same call.

Owns the two fingerprints of a call record:

- *exact*: operation, payload length and every field. Index, thread, flags and the payload's
  content are left out, so a call that an inference repeats has one exact fingerprint.
- *skeleton*: the same without what a program may vary from one inference to the next: addresses,
  handles, launch arguments and fill values. Function, geometry and sizes stay.

Fingerprints are small numbers given out by interning, so equal numbers mean equal bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rrto_ros.api.ops import GRAPH_EFFECTS, MEMORY_EFFECTS, OPS, Kind, Op
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import LAYOUTS, decode_call, iter_headers
from rrto_ros.wire.format import BLOB_REF, CALL_HEADER, FLAG_BLOB_REF, HEADER_BYTES, Buffer, pad8

EFFECT = 8
"""Bit beside the kind: the call changes what the log tracks (allocations, graphs)."""

_FOLLOWED = GRAPH_EFFECTS | MEMORY_EFFECTS
KINDS: dict[int, int] = {op.code: int(op.kind) for op in OPS}
"""Kind of every operation, by code."""
EFFECTS: dict[int, int] = {op.code: EFFECT if op.effect in _FOLLOWED else 0 for op in OPS}
READS = frozenset(op.code for op in OPS if op.only_reads)
WRITES = frozenset(op.code for op in OPS if op.only_writes)

VARYING_FIELDS = frozenset(
    ("address", "dst", "src", "stream", "event", "start", "end", "graph", "node", "graph_exec")
) | {"context", "value", "handle", "texture"}
"""Fixed fields that are not part of the skeleton; the content of variable fields is not either."""
_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i32": 4, "f32": 4, "u64[]": 4, "bytes": 4}
_LENGTH = struct.Struct("<I")
_CODE = struct.Struct("<H")


def _kept(op: Op) -> tuple[tuple[int, int], ...]:
    """Byte ranges of the fixed part that belong to the skeleton."""
    ranges: list[tuple[int, int]] = []
    offset = 0
    for name, kind in op.fields:
        if kind == "payload":
            continue
        size = _SIZES[kind]
        offset += -offset % size
        if name not in VARYING_FIELDS:
            if ranges and ranges[-1][1] == offset:
                ranges[-1] = (ranges[-1][0], offset + size)
            else:
                ranges.append((offset, offset + size))
        offset += size
    return tuple(ranges)


_KEPT = {op.code: _kept(op) for op in OPS}


@dataclass(frozen=True, slots=True)
class CallTemplate:
    """A call without what differs each time (index, thread, flags, payload content).

    Attributes:
        code: Operation code.
        payload_bytes: Length of the payload that the program handed over (0: none).
        body: The record's bytes between header and payload.
    """

    code: int
    payload_bytes: int
    body: bytes

    @property
    def op(self) -> Op:
        return LAYOUTS[self.code].op

    @property
    def kind(self) -> Kind:
        return Kind(KINDS[self.code])

    @property
    def record_bytes(self) -> int:
        """Size of the record without its payload: the range of offsets that may vary."""
        return HEADER_BYTES + len(self.body)

    def record(
        self, index: int, thread: int = 1, flags: int = 0, payload: Buffer | None = None
    ) -> bytes:
        """A whole call record made from this template.

        Raises:
            ProtocolError: The payload has not the template's length.
        """
        length = len(payload) if payload is not None else 0
        if length != self.payload_bytes:
            raise ProtocolError(
                f"{self.op.name}: payload of {length} bytes, the template wants "
                f"{self.payload_bytes}"
            )
        size = self.record_bytes + pad8(length)
        header = CALL_HEADER.pack(size, self.code, flags, index, thread, length)
        return b"".join((header, self.body, payload or b"", bytes(-length % 8)))

    def fields(self) -> dict[str, Any]:
        """The decoded fields, without the payload.

        Raises:
            ProtocolError: The body does not fit the operation's layout.
        """
        record = CALL_HEADER.pack(self.record_bytes, self.code, 0, 0, 0, 0) + self.body
        view = memoryview(record)
        return decode_call(view, next(iter_headers(view))).fields()

    def last_field(self) -> bytes:
        """The content of the last field, of an operation whose only variable field is `bytes`.

        Raises:
            ProtocolError: The body does not fit the operation's layout.
        """
        fixed = LAYOUTS[self.code].fixed
        if len(self.body) < fixed.size:
            raise ProtocolError(f"{self.op.name}: the record does not fit its layout")
        length = fixed.unpack_from(self.body)[-1]
        content = self.body[fixed.size : fixed.size + length]
        if len(content) != length:
            raise ProtocolError(f"{self.op.name}: its last field goes past the record's end")
        return content

    def skeleton(self) -> bytes:
        """The bytes that every inference has in common."""
        body = self.body
        return b"".join(
            (
                _CODE.pack(self.code),
                _LENGTH.pack(self.payload_bytes),
                *[body[a:b] for a, b in _KEPT[self.code]],
            )
        )


Entry = tuple[int, int, int]
"""Interned call: exact number, skeleton number, kind with EFFECT bit."""


class Templates:
    """Interns call templates.

    `tables` is public because the log's hot loop looks entries up in it: operation code ->
    (payload length as u32, then body) -> `Entry`.
    """

    def __init__(self) -> None:
        self.tables: dict[int, dict[bytes, Entry]] = {op.code: {} for op in OPS}
        self.bytes = 0
        self._by_number: dict[int, tuple[int, bytes]] = {}
        self._skeletons: dict[bytes, int] = {}
        self._next = 0
        self._next_skeleton = 0
        self._first_seen: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def add(self, code: int, key: bytes, position: int) -> Entry:
        """Intern a call that is not in `tables` yet; `position` is where it was first seen.

        Raises:
            ProtocolError: The body is too short for the operation.
        """
        template = CallTemplate(code, _LENGTH.unpack_from(key)[0], key[4:])
        layout = LAYOUTS[code]
        if len(template.body) < layout.fixed.size or (
            template.payload_bytes and not layout.payload
        ):
            raise ProtocolError(f"{layout.op.name}: the record does not fit its layout")
        skeleton_key = template.skeleton()
        skeleton = self._skeletons.get(skeleton_key)
        if skeleton is None:
            skeleton = self._skeletons[skeleton_key] = self._next_skeleton
            self._next_skeleton += 1
        number = self._next
        self._next += 1
        entry = (number, skeleton, KINDS[code] | EFFECTS[code])
        self.tables[code][key] = entry
        self._by_number[number] = (code, key)
        self._first_seen[number] = position
        self.bytes += len(key) + 400  # measured: dictionaries, tuple and objects of one entry
        return entry

    def __getitem__(self, number: int) -> CallTemplate:
        """The template of an exact number.

        Raises:
            KeyError: It was dropped, or never given out.
        """
        code, key = self._by_number[number]
        return CallTemplate(code, _LENGTH.unpack_from(key)[0], key[4:])

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def entry(self, number: int) -> Entry:
        """The entry of an exact number.

        Raises:
            KeyError: It was dropped, or never given out.
        """
        code, key = self._by_number[number]
        return self.tables[code][key]

    def first_seen(self, number: int) -> int:
        """Position in the log where the call was first seen."""
        return self._first_seen[number]

    def keep_only(self, numbers: Iterable[int]) -> None:
        """Drop every template that is not in `numbers`."""
        keep = set(numbers)
        for number in [n for n in self._by_number if n not in keep]:
            code, key = self._by_number.pop(number)
            del self.tables[code][key], self._first_seen[number]
            self.bytes -= len(key) + 400
        used = {self.entry(n)[1] for n in self._by_number}
        self._skeletons = {k: s for k, s in self._skeletons.items() if s in used}


def blob_key(view: memoryview, offset: int, size: int, flags: int) -> bytes:
    """The interning key of a record whose payload is a blob reference.

    A reference stands for its content, so the key has the content's length.

    Raises:
        ProtocolError: The content is longer than a payload can be.
    """
    assert flags & FLAG_BLOB_REF
    start = offset + size - pad8(BLOB_REF.size)
    _, length = BLOB_REF.unpack_from(view, start)
    if length > 0xFFFFFFFF:
        raise ProtocolError(f"blob of {length} bytes is longer than a payload can be")
    return _LENGTH.pack(length) + view[offset + HEADER_BYTES : start].tobytes()
