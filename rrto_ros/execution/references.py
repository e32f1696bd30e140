"""Uploads by reference: owns which contents are looked up, asked for and awaited.

A call may name its upload by digest. Where the content is not kept on this machine it is asked
for, and the execution pauses at that call until a later batch brings it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Protocol

from rrto_ros.api.results import CUresult
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.codec import CallHeader, iter_headers, unpack_blob_ref
from rrto_ros.wire.format import (
    BLOB_DATA_OP,
    BLOB_REF,
    FLAG_BLOB_REF,
    HEADER_BYTES,
    MEMORY_RESTORE_OP,
    RESULT_BLOB_WANTED,
    Buffer,
)
from rrto_ros.wire.result_codec import pack_result


class BlobSource(Protocol):
    """Where the contents of blob references come from."""

    def get(self, digest: bytes, length: int) -> bytes | None: ...

    def has(self, digest: bytes, length: int) -> bool: ...

    def keep(self, data: Buffer) -> None: ...


class NoBlobs:
    """A blob source that keeps nothing."""

    def get(self, digest: bytes, length: int) -> bytes | None:  # noqa: ARG002
        return None

    def has(self, digest: bytes, length: int) -> bool:  # noqa: ARG002
        return False

    def keep(self, data: Buffer) -> None:
        """Forget `data`."""


class BlobAwaited(Exception):  # noqa: N818 not an error: the execution pauses
    """A reference cannot be resolved yet."""


class BlobReferences:
    """One session's.

    Args:
        source: Where contents are looked up and kept.
        results: Where requests for contents go.
        broken: Told the call and the reason if what came is not what was asked for.
    """

    def __init__(
        self, source: BlobSource, results: list[bytes], broken: Callable[[int, str], None]
    ) -> None:
        self._source = source
        self._results = results
        self._broken = broken
        self._wanted: dict[bytes, tuple[int, int]] = {}
        self._arrived: dict[bytes, bytes] = {}
        self._used = 0
        self._asked = 0
        self._ignored = 0

    @property
    def awaited(self) -> bool:
        """Whether something was asked for that did not come yet."""
        return bool(self._wanted)

    def keep(self, data: Buffer) -> None:
        """Keep an upload for later references."""
        self._source.keep(data)

    def resolve(self, header: CallHeader, payload: Buffer) -> bytes:
        """The content that a call names.

        Raises:
            BlobAwaited: It is not here, and was asked for.
        """
        digest, length = unpack_blob_ref(payload)
        data = self._arrived.pop(digest, None)
        if data is None:
            data = self._source.get(digest, length)
        if data is None:
            self._ask(header.index, digest, length)
            raise BlobAwaited
        self._used += 1
        return data

    def ask(self, batches: Iterable[memoryview], after: int) -> None:
        """Ask for every unknown content of waiting batches, so that all cost one round trip.

        Args:
            batches: The batches.
            after: Only calls with a higher index.
        """
        for view in batches:
            try:
                for header in iter_headers(view):
                    if not header.flags & FLAG_BLOB_REF:
                        continue
                    if header.index <= after and header.op != MEMORY_RESTORE_OP:
                        continue
                    end = header.offset + header.size
                    digest, length = unpack_blob_ref(view[end - BLOB_REF.size : end])
                    if not self._source.has(digest, length):
                        self._ask(header.index, digest, length)
            except ProtocolError:
                continue  # reported when the execution gets there

    def take(self, batch: Buffer) -> None:
        """Take the contents that a batch brings."""
        view = memoryview(batch).cast("B")
        try:
            for header in iter_headers(view):
                if header.op == BLOB_DATA_OP:
                    start = header.offset + HEADER_BYTES
                    self._take(header.index, view[start : start + header.payload_bytes])
        except ProtocolError:
            return  # reported when the execution gets there

    def statistics(self) -> dict[str, int]:
        """References resolved, contents asked for, and contents that nobody awaited."""
        return {
            "blobs_used": self._used,
            "blobs_asked": self._asked,
            "blobs_ignored": self._ignored,
        }

    def _ask(self, index: int, digest: bytes, length: int) -> None:
        if digest in self._wanted or digest in self._arrived:
            return
        self._wanted[digest] = (index, length)
        self._asked += 1
        self._results.append(pack_result(index, CUresult.NOT_FOUND, b"", RESULT_BLOB_WANTED))

    def _take(self, index: int, content: memoryview) -> None:
        digest = sha256(content).digest()
        length = self._wanted.get(digest, (0, -1))[1]
        if length == len(content):
            del self._wanted[digest]
            self._arrived[digest] = bytes(content)
            self._source.keep(content)
            return
        self._ignored += 1
        for known, (asked, _) in list(self._wanted.items()):
            if asked == index:
                # Waiting on would hang the program: nothing else will come for this call.
                self._wanted.clear()
                self._broken(
                    index,
                    f"blob for call #{index}: content of {len(content)} bytes with SHA-256 "
                    f"{digest.hex()[:16]}..., wanted {known.hex()[:16]}...",
                )
                return
