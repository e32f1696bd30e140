"""Uploads kept on disk under their SHA-256: owns the files, their size limit and their integrity.

Several worker processes use one directory at once: files appear by atomic rename, are never
changed, and are hashed again whenever they are read, so that a damaged file is removed and asked
for again instead of used. A session gets a blob only by naming its SHA-256; `newest` (which the
server tells a session that opens, if it announces blobs) is therefore as confidential as the
contents.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from rrto_ros.errors import ConfigError
from rrto_ros.wire.format import Buffer

DEFAULT_LIMIT_BYTES = 4 << 30
_RESCAN_SHARE = 16
"""After this part of the limit was written, what other processes wrote is looked at again."""
_KEEP_SHARE = 0.9
"""Eviction leaves this much of the limit, so that it is not needed at every write."""


def default_directory() -> Path:
    """``$XDG_CACHE_HOME/rrto/blobs``, by default ``~/.cache/rrto/blobs``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "rrto" / "blobs"


class BlobStore:
    """A content-addressed store of bytes in one directory.

    Args:
        directory: Where the files are; created with mode 0700.
        limit_bytes: Least recently used blobs go when the files exceed this; processes that write
            at the same time may exceed it by a sixteenth each. 0 keeps nothing.

    Raises:
        ConfigError: The directory cannot be made or written.
    """

    def __init__(self, directory: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._root = directory
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._unscanned = 0
        self._hits = 0
        self._misses = 0
        self._stored = 0
        self._evicted = 0
        self._corrupt = 0
        self._failed = 0
        self._last_failure = ""
        self._total = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise ConfigError(
                f"blob directory {directory}: {error.strerror}; choose another blob_directory"
            ) from error
        self._evict()

    def get(self, digest: bytes, length: int) -> bytes | None:
        """The blob's content, None if it is not there (any more) or was damaged.

        Args:
            digest: 32 bytes of SHA-256.
            length: Size of the content in bytes, as the reference says.
        """
        path = self._path(digest)
        try:
            if path.stat().st_size != length:
                data = b""
            else:
                data = path.read_bytes()
        except OSError:
            self._misses += 1
            return None
        if sha256(data).digest() != digest:
            # A right file with a wrong length in the reference stays: it is not damaged.
            if data or self._damaged(path, digest):
                self._corrupt += 1
                path.unlink(missing_ok=True)
            self._misses += 1
            return None
        self._touch(path)
        self._hits += 1
        return data

    def has(self, digest: bytes, length: int) -> bool:
        """Whether a file of that name and length is there (its content is not read)."""
        try:
            return self._path(digest).stat().st_size == length
        except OSError:
            return False

    def remove(self, digest: bytes) -> None:
        """Remove a blob, if it is there."""
        with contextlib.suppress(OSError):
            self._path(digest).unlink(missing_ok=True)

    def keep(self, data: Buffer) -> None:
        """Store `data` under its SHA-256, which is computed here. A full disk is only counted."""
        size = len(data)
        if size == 0 or size > self._limit:
            return
        path = self._path(sha256(data).digest())
        if path.exists():
            self._touch(path)
            return
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            self._failed += 1
            self._last_failure = str(error)
            return
        with self._lock:
            self._stored += 1
            self._total += size
            self._unscanned += size
            full = self._total > self._limit
            full = full or self._unscanned > self._limit // _RESCAN_SHARE
        if full:
            self._evict()

    def newest(self, count: int) -> list[bytes]:
        """At most `count` digests, the most recently used first."""
        files = sorted(self._files(), key=lambda item: item[1].st_mtime_ns, reverse=True)
        return [bytes.fromhex(path.name) for path, _ in files[:count]]

    def statistics(self) -> dict[str, int | str]:
        """Counters of this process and the size at the last look."""
        return {
            "bytes": self._total,
            "limit_bytes": self._limit,
            "hits": self._hits,
            "misses": self._misses,
            "stored": self._stored,
            "evicted": self._evicted,
            "corrupt": self._corrupt,
            "failed": self._failed,
            "last_failure": self._last_failure,
        }

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._root / name[:2] / name

    def _touch(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            os.utime(path)

    def _damaged(self, path: Path, digest: bytes) -> bool:
        try:
            return sha256(path.read_bytes()).digest() != digest
        except OSError:
            return False

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in self._root.glob("[0-9a-f][0-9a-f]"):
            for path in folder.glob("[0-9a-f]*"):
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    if len(path.name) == 64:
                        yield path, stat

    def _evict(self) -> None:
        """Look at what is there, and remove the least recently used beyond the limit."""
        with self._lock, (self._root / ".lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            files = sorted(self._files(), key=lambda item: item[1].st_mtime_ns)
            total = sum(stat.st_size for _, stat in files)
            if total > self._limit:
                for path, stat in files:
                    if total <= self._limit * _KEEP_SHARE:
                        break
                    path.unlink(missing_ok=True)
                    total -= stat.st_size
                    self._evicted += 1
            self._total = total
            self._unscanned = 0


class BlobWriter:
    """A blob source whose `keep` hashes and writes on a thread of its own, off the hot path.

    Args:
        store: Where the blobs go.
        pending_bytes: What waits to be written is bounded by this; more is not kept.
    """

    def __init__(self, store: BlobStore, pending_bytes: int = 128 << 20) -> None:
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
