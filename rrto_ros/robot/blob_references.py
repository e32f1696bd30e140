"""Uploads by reference: decides which payloads are hashed, named or kept for a server that asks.

docs/wire_format.md, "Blobs". Owns one session's knowledge: which contents the server has, which
destinations change all the time (inputs, which hashing would only slow down), and the contents
behind the references that the server has not executed yet.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from rrto_ros.wire.codec import (
    BLOB_DATA_OP,
    CALL_HEADER,
    FLAG_BLOB_REF,
    FLAG_KEEP,
    HEADER_BYTES,
    LAYOUTS,
    OP_BY_NAME,
    Buffer,
    CallHeader,
    blob_tag,
    pack_blob_ref,
    pack_call,
    replace_payload,
)

CHANGES_UNTIL_INPUT = 2
MAX_DESTINATIONS = 8192
MIN_IMAGE_BYTES = 1 << 10
"""A program has few images and loads them at every start: also small ones are named."""
MAX_KEPT_BYTES = 192 << 20
ENOUGH_KEPT_BYTES = 128 << 20
"""With so much kept, the program's next calls wait until the server has executed some."""
_HTOD = OP_BY_NAME["memcpy_htod"].code
_IMAGES = (OP_BY_NAME["module_load"].code, OP_BY_NAME["module_piece"].code)
_FIXED = {code: HEADER_BYTES + LAYOUTS[code].fixed.size for code in (_HTOD, *_IMAGES)}


class BlobReferences:
    """Turns upload records into references where the server has the content.

    Args:
        tags: `blob_tag` of the blobs that the server listed when the session opened.
        min_bytes: Smaller payloads always travel as they are.
        max_kept_bytes: Bound of the contents kept for a server that lost a blob; beyond it
            uploads travel literally.
    """

    def __init__(
        self, tags: frozenset[bytes], min_bytes: int, max_kept_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        self._tags = tags
        self._known: set[bytes] = set()
        self._min_bytes = min_bytes
        self._min_image = min(min_bytes, MIN_IMAGE_BYTES)
        self._max_kept_bytes = max_kept_bytes
        self._seen: OrderedDict[tuple[int, int], tuple[bytes, int]] = OrderedDict()
        self._kept: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._hashed_bytes = 0
        self._saved_bytes = 0
        self._references = 0
        self._wanted = 0
        self._new = False

    def rewrite(self, data: Buffer, header: CallHeader) -> bytes | None:
        """The record to send instead of the one at `header`, None to send that.

        Args:
            data: Buffer of records. One that can be written is marked there, if that is all.
            header: Of one record in it, not yet a reference.
        """
        code, size = header.op, header.payload_bytes
        if code not in _FIXED or size < (self._min_bytes if code == _HTOD else self._min_image):
            return None
        start = header.offset + _FIXED[code]
        if start + size > header.offset + header.size:
            return None
        key = (0, 0)
        changes = 0
        if code == _HTOD:
            fixed = header.offset + HEADER_BYTES
            key = (int.from_bytes(data[fixed : fixed + 8], "little"), size)
            changes = self._seen.get(key, (b"", 0))[1]
            if changes >= CHANGES_UNTIL_INPUT:
                return None
        payload = memoryview(data)[start : start + size]
        digest = hashlib.sha256(payload).digest()
        self._hashed_bytes += size
        if code == _HTOD:
            self._remember(key, digest, changes)
        record = memoryview(data)[header.offset : header.offset + header.size]
        if digest not in self._known and blob_tag(digest) in self._tags:
            self._known.add(digest)
        if digest in self._known and self._kept_bytes + size <= self._max_kept_bytes:
            self._kept[header.index] = (digest, bytes(payload))
            self._kept_bytes += size
            self._saved_bytes += size
            self._references += 1
            reference = pack_blob_ref(digest, size)
            return replace_payload(record, reference, set_flags=FLAG_BLOB_REF, clear_flags=0)
        self._known.add(digest)
        self._new = True
        length, op, flags, index, thread, count = CALL_HEADER.unpack_from(record)
        if not record.readonly:
            CALL_HEADER.pack_into(record, 0, length, op, flags | FLAG_KEEP, index, thread, count)
            return None
        head = CALL_HEADER.pack(length, op, flags | FLAG_KEEP, index, thread, count)
        return b"".join((head, record[HEADER_BYTES:]))

    @property
    def full(self) -> bool:
        """Whether the server should first execute some of what refers to kept contents."""
        return self._kept_bytes > min(ENOUGH_KEPT_BYTES, self._max_kept_bytes)

    def executed(self, index: int) -> None:
        """Forget the contents of references up to the last executed call."""
        while self._kept:
            first = next(iter(self._kept))
            if first > index:
                break
            self._kept_bytes -= len(self._kept.pop(first)[1])

    def wanted(self, index: int) -> bytes | None:
        """The BLOB_DATA record for the reference in call `index`, None if there is no such."""
        found = self._kept.get(index)
        if found is None:
            return None
        self._wanted += 1
        self._new = True
        self._saved_bytes -= len(found[1])
        return pack_call("blob_data", index, payload=found[1])

    def take_new(self) -> bool:
        """Whether contents that the server lacks were given out since this was asked last."""
        new, self._new = self._new, False
        return new

    def statistics(self) -> dict[str, int]:
        """Bytes hashed and saved, references made, blobs asked for, bytes kept now."""
        return {
            "hashed_bytes": self._hashed_bytes,
            "saved_bytes": self._saved_bytes,
            "references": self._references,
            "wanted": self._wanted,
            "kept_bytes": self._kept_bytes,
            "known": len(self._known),
        }

    def _remember(self, key: tuple[int, int], digest: bytes, changes: int) -> None:
        old = self._seen.pop(key, (digest, 0))[0]
        self._seen[key] = (digest, changes + (old != digest))
        if len(self._seen) > MAX_DESTINATIONS:
            self._seen.popitem(last=False)


__all__ = ["BLOB_DATA_OP", "BlobReferences"]
