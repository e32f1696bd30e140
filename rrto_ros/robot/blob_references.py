"""Uploads by reference: decides which payloads are hashed, named or kept for a server that asks.

docs/wire_format.md, "Blobs". Owns one session's knowledge: which contents the server has, which
destinations change all the time (inputs, which hashing would only slow down), and the contents
behind the references that the server has not executed yet.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict

from rrto_ros.wire.codec import (
    LAYOUTS,
    OP_BY_NAME,
    CallHeader,
    blob_tag,
    pack_blob_ref,
    pack_call,
    replace_payload,
)
from rrto_ros.wire.format import FLAG_BLOB_REF, FLAG_KEEP, HEADER_BYTES, Buffer, pad8

CHANGES_UNTIL_INPUT = 2
MAX_DESTINATIONS = 8192
MIN_IMAGE_BYTES = 1 << 10
"""A program has few images and loads them at every start: also small ones are named."""
MAX_KEPT_BYTES = 192 << 20
ENOUGH_KEPT_BYTES = 128 << 20
"""With so much kept, the program's next calls wait until the server has executed some."""
_HTOD = OP_BY_NAME["memcpy_htod"].code
_IMAGES = (OP_BY_NAME["module_load"].code, OP_BY_NAME["module_piece"].code)
_BODY = {code: LAYOUTS[code].fixed.size for code in (_HTOD, *_IMAGES)}
_FLAGS = struct.Struct("<H")
_FLAGS_AT = 6


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
        self._enough_bytes = min(ENOUGH_KEPT_BYTES, max_kept_bytes)
        self._seen: OrderedDict[tuple[int, int], tuple[bytes, int]] = OrderedDict()
        self._kept: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._archive: dict[int, tuple[bytes, bytes]] = {}
        self._aside = 0
        self._asked: set[int] = set()
        self._hashed_bytes = 0
        self._saved_bytes = 0
        self._not_saved: set[int] = set()
        self._references = 0
        self._wanted = 0
        self._new = False

    def rewrite(self, data: memoryview, header: CallHeader) -> bytes | None:
        """The record to send instead of the one at `header`; None to send that one.

        Args:
            data: Records, where one whose content is to be kept is marked.
            header: Of one record in it, not yet a reference.
        """
        record = data[header.offset : header.offset + header.size]
        fields = header.size - pad8(header.payload_bytes)
        payload = record[fields : fields + header.payload_bytes]
        bits, reference = self.name(header.op, header.index, record[HEADER_BYTES:fields], payload)
        if reference:
            return replace_payload(record, reference, set_flags=bits, clear_flags=0)
        _FLAGS.pack_into(record, _FLAGS_AT, header.flags | bits)
        return None

    def name(self, code: int, index: int, body: Buffer, payload: Buffer) -> tuple[int, bytes]:
        """How a payload leaves: its flag, and the reference that takes its place, if one does.

        Args:
            code: Operation of the call.
            index: Its number.
            body: Its fields.
            payload: What it uploads.
        """
        size = len(payload)
        least = self._min_bytes if code == _HTOD else self._min_image
        if size < least or len(body) != _BODY.get(code):
            return 0, b""
        key = (0, 0)
        changes = 0
        if code == _HTOD:
            key = (int.from_bytes(body[:8], "little"), size)
            changes = self._seen.get(key, (b"", 0))[1]
            if changes >= CHANGES_UNTIL_INPUT:
                return 0, b""
        digest = hashlib.sha256(payload).digest()
        self._hashed_bytes += size
        if code == _HTOD:
            self._remember(key, digest, changes)
        if digest not in self._known and blob_tag(digest) in self._tags:
            self._known.add(digest)
        if digest in self._known and self._kept_bytes + size <= self._max_kept_bytes:
            self._kept[index] = (digest, bytes(payload))
            self._kept_bytes += size
            self._saved_bytes += size
            self._references += 1
            return FLAG_BLOB_REF, pack_blob_ref(digest, size)
        self._known.add(digest)
        self._new = True
        return FLAG_KEEP, b""

    @property
    def full(self) -> bool:
        """Whether the server should first execute some of what refers to kept contents."""
        return self._kept_bytes > self._enough_bytes

    def executed(self, index: int, *, keep: bool = False) -> int:
        """Forget the contents of references up to the last executed call.

        Args:
            index: Of that call.
            keep: Rather put them aside, for another server that may ask for them.

        Returns:
            Bytes put aside.
        """
        aside, self._aside = self._aside, 0
        while self._kept:
            first = next(iter(self._kept))
            if first > index:
                break
            entry = self._kept.pop(first)
            self._kept_bytes -= len(entry[1])
            if keep:
                self._archive[first] = entry
                aside += len(entry[1])
        if not keep:
            self._archive.clear()
        return aside

    def wanted(self, index: int) -> bytes | None:
        """The BLOB_DATA record for the reference in call `index`, None if there is no such."""
        found = self._kept.pop(index, None)
        if found is not None:
            self._kept_bytes -= len(found[1])
            self._archive[index] = found
            self._aside += len(found[1])
        else:
            found = self._archive.get(index)
        if found is None:
            return None
        if index not in self._not_saved:
            # Another server may want it again, and it was saved only once.
            self._not_saved.add(index)
            self._saved_bytes -= len(found[1])
        return self.brought(index, found[1])

    def brought(self, index: int, content: bytes) -> bytes | None:
        """The BLOB_DATA record for a reference to this content, once for each server."""
        if index in self._asked:
            # Who asks again would have it sent as often as it likes.
            return None
        self._asked.add(index)
        self._wanted += 1
        self._new = True
        return pack_call("blob_data", index, payload=content)

    def resumed(self) -> None:
        """Another server executes the session's calls again, and may ask for what it lacks."""
        self._asked.clear()

    def put_aside(self, index: int) -> tuple[bytes, bytes] | None:
        """Digest and content of the upload of an executed call, if it is kept."""
        return self._archive.get(index) or self._kept.get(index)

    def forget_aside(self, index: int) -> int:
        """Nobody will ask any more for what calls up to this one uploaded.

        Returns:
            Bytes that are still put aside.
        """
        for call in [call for call in self._archive if call <= index]:
            del self._archive[call]
        return sum(len(content) for _, content in self._archive.values())

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
