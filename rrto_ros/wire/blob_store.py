"""Uploads kept on disk under their SHA-256, in a `DiskStore` that a server keeps for its workers.

A session gets a blob only by naming its SHA-256; `newest` (which the server tells a session that
opens, if it announces blobs) is therefore as confidential as the contents.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path

from rrto_ros.disk_store import DiskStore
from rrto_ros.store_link import EntryStore
from rrto_ros.wire.format import Buffer

FOLDER = "blobs"
DEFAULT_LIMIT_BYTES = 4 << 30
MOST_PENDING_BYTES = 128 << 20
"""What a worker has not stored yet."""


class Blobs:
    """A content-addressed store of bytes, wherever it is."""

    def __init__(self, store: EntryStore) -> None:
        self._entries = store

    def get(self, digest: bytes, length: int) -> bytes | None:
        """The blob's content, None if it is not there (any more) or was damaged."""
        data = self._entries.get(digest.hex())
        # A right file with a wrong length in the reference stays: it is not damaged.
        return data if data is not None and len(data) == length else None

    def has(self, digest: bytes, length: int) -> bool:
        """Whether a file of that name and length is there (its content is not read)."""
        return self._entries.size(digest.hex()) == length

    def keep(self, data: Buffer) -> None:
        """Store `data` under its SHA-256, computed by who stores it. A full disk is counted."""
        self._entries.keep(data)

    def statistics(self) -> dict[str, int | str]:
        """Counters of this process."""
        return self._entries.statistics()


class BlobStore(Blobs):
    """Blobs in a directory of this process; see `DiskStore`."""

    def __init__(self, directory: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.store = DiskStore(directory, limit_bytes, "blob")
        super().__init__(self.store)
        self.directory = directory
        self.store.look()

    def newest(self, count: int) -> list[bytes]:
        """At most `count` digests, the most recently used first."""
        return [bytes.fromhex(key) for key in self.store.newest(count)]


class BlobWriter:
    """A blob source whose `keep` hashes and writes on a thread of its own, off the hot path.

    Args:
        store: Where the blobs go.
        pending_bytes: What waits to be written is bounded by this; more is not kept.
    """

    def __init__(self, store: Blobs, pending_bytes: int = MOST_PENDING_BYTES) -> None:
        self._store = store
        self._limit = pending_bytes
        self._pending = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._queue: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._write, name="blob-writer", daemon=True).start()

    def get(self, digest: bytes, length: int) -> bytes | None:
        """As `BlobStore.get`, after everything kept before was written."""
        self._queue.join()
        return self._store.get(digest, length)

    def has(self, digest: bytes, length: int) -> bool:
        """As `BlobStore.has`, after everything kept before was written."""
        self._queue.join()
        return self._store.has(digest, length)

    def keep(self, data: Buffer) -> None:
        """Copy `data` and store it soon."""
        size = len(data)
        with self._lock:
            if self._pending + size > self._limit:
                self._dropped += 1
                return
            self._pending += size
        self._queue.put(bytes(data))

    def flush(self) -> None:
        """Wait until everything kept so far is on disk."""
        self._queue.join()

    def statistics(self) -> dict[str, int | str]:
        """Those of the store, and what was dropped because the disk was too slow."""
        return {**self._store.statistics(), "dropped": self._dropped}

    def _write(self) -> None:
        while True:
            data = self._queue.get()
            try:
                self._store.keep(data)
            finally:
                with self._lock:
                    self._pending -= len(data)
                self._queue.task_done()
