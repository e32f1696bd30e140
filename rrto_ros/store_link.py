"""A disk store that another process keeps: owns both ends of the socket between them.

A worker executes what others wrote, so it has no way to files, and no key with which entries are
sealed. Its host keeps its stores and answers it: a `StoreKeeper` at a `DiskStore`, a `RemoteStore`
in the worker. What the worker says is checked: an entry that is kept under its content's hash gets
the hash of what the keeper read; one that is kept under a key of the worker's choice lies under a
key that no worker of another origin asks for.

A request is one packet: what, the key, bytes of content. Contents travel as descriptors of
anonymous files, or of the entry itself where the reader can tell by its key that it is right. Only
`GET` and `SIZE` are answered.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import socket
import stat
import struct
import threading
from hashlib import sha256
from typing import Protocol

from rrto_ros.disk_store import Buffer, DiskStore

GET, SIZE, PUT, KEEP, DAMAGED = range(5)
_REQUEST = struct.Struct("<B32sQ")
_ANSWER = struct.Struct("<BQ")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NO_KEY = bytes(32)


class EntryStore(Protocol):
    """What users of a store need of it, wherever it is. Nothing that is kept is needed."""

    def get(self, key: str) -> bytes | None:
        """The content of an entry, None if it is not there or not what its key says."""

    def size(self, key: str) -> int | None:
        """Bytes of an entry, None if it is not there; it is not read."""

    def put(self, key: str, data: Buffer) -> None:
        """Store an entry under a key."""

    def keep(self, data: Buffer) -> None:
        """Store an entry under the SHA-256 of its content."""

    def statistics(self) -> dict[str, int | str]:
        """Counters of this process."""


class RemoteStore:
    """The worker's end. Any thread.

    Args:
        end: Connected to a `StoreKeeper`; kept open as long as the process lives.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("hits", "misses", "stored", "corrupt", "failed"), 0)
        self._last_failure = ""

    def get(self, key: str) -> bytes | None:
        """As `EntryStore.get`; an entry that came as a file is compared with its key here."""
        answer = self._ask(GET, key)
        if answer is None:
            return None
        direct, size, file = answer
        if file < 0:
            self._counts["misses"] += 1
            return None
        try:
            with os.fdopen(file, "rb", 0) as source:
                data = _read(source.fileno(), size)
        except OSError as error:
            self._failed(error)
            return None
        if len(data) != size or (direct and sha256(data).hexdigest() != key):
            self._counts["misses"] += 1
            self._counts["corrupt"] += 1
            with self._lock, contextlib.suppress(OSError):
                self._send(DAMAGED, key)
            return None
        self._counts["hits"] += 1
        return data

    def size(self, key: str) -> int | None:
        """As `EntryStore.size`."""
        answer = self._ask(SIZE, key)
        return answer[1] if answer is not None and answer[0] else None

    def put(self, key: str, data: Buffer) -> None:
        """As `EntryStore.put`; not waited for."""
        self._give(PUT, key, data)

    def keep(self, data: Buffer) -> None:
        """As `EntryStore.keep`; not waited for."""
        self._give(KEEP, _NO_KEY.hex(), data)

    def statistics(self) -> dict[str, int | str]:
        """Counters of this end."""
        return {**self._counts, "last_failure": self._last_failure}

    def _give(self, what: int, key: str, data: Buffer) -> None:
        if not len(data):
            return
        try:
            file = _anonymous(data, seal=True)
            try:
                with self._lock:
                    self._send(what, key, len(data), file)
            finally:
                os.close(file)
        except OSError as error:
            self._failed(error)
            return
        self._counts["stored"] += 1

    def _send(self, what: int, key: str, size: int = 0, file: int = -1) -> None:
        _send(self._end, _REQUEST.pack(what, bytes.fromhex(key), size), file)

    def _ask(self, what: int, key: str) -> tuple[int, int, int] | None:
        """The numbers and the descriptor of the answer; None, which is counted, without one."""
        try:
            with self._lock:
                self._send(what, key)
                data, file = _receive(self._end, _ANSWER.size)
            if len(data) != _ANSWER.size:
                raise ConnectionResetError("the keeper of the store is gone")
        except OSError as error:
            self._failed(error)
            return None
        found, size = _ANSWER.unpack(data)
        return found, size, file

    def _failed(self, error: OSError) -> None:
        self._counts["failed"] += 1
        self._last_failure = str(error)


class StoreKeeper:
    """The host's end of one worker: a thread that answers it until the worker is gone.

    Args:
        store: What it may ask.
        end: To the worker; closed by the thread.
        sealed: Whether `store` is; keys are the worker's choice then, else contents' hashes.
        origin: Whom the worker works for. In a sealed store one origin's entries are not found by
            another: a worker that a kernel took over could store what it likes.
        most_bytes: Larger entries are not taken.
    """

    def __init__(
        self,
        store: DiskStore,
        end: socket.socket,
        *,
        sealed: bool,
        origin: bytes = b"",
        most_bytes: int,
    ) -> None:
        self._store = store
        self._end = end
        self._sealed = sealed
        self._origin = origin
        self._most = most_bytes
        self.refused = 0
        self._thread = threading.Thread(target=self._serve, name="store-keeper", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until the worker is gone and all it gave is stored."""
        self._thread.join(timeout_s)

    def _serve(self) -> None:
        with self._end:
            while True:
                try:
                    data, file = _receive(self._end, _REQUEST.size + 1)
                except OSError:
                    return
                if not data:
                    return
                try:
                    self._request(data, file)
                except (OSError, struct.error, ValueError):
                    # A worker that says what none of ours does; it gets no answer.
                    self.refused += 1
                finally:
                    if file >= 0:
                        os.close(file)

    def _request(self, data: bytes, file: int) -> None:
        what, raw, size = _REQUEST.unpack(data)
        key = (
            sha256(self._origin + raw).hexdigest() if self._origin and self._sealed else raw.hex()
        )
        if what == GET:
            self._get(key)
        elif what == SIZE:
            found = self._store.size(key)
            _send(self._end, _ANSWER.pack(found is not None, found or 0), -1)
        elif what == DAMAGED and not self._sealed:
            self._store.get(key)  # which removes it if that is so
        elif what == (PUT if self._sealed else KEEP):
            self._take(key, size, file)
        else:
            raise ValueError(f"request {what}")

    def _get(self, key: str) -> None:
        file, size = -1, 0
        if self._sealed:
            data = self._store.get(key)
            if data is not None:
                file, size = _anonymous(data), len(data)
        else:
            file, size = self._store.open(key)
        try:
            _send(self._end, _ANSWER.pack(not self._sealed, size), file)
        finally:
            if file >= 0:
                os.close(file)

    def _take(self, key: str, size: int, file: int) -> None:
        """Store what is in an anonymous file that nobody can change or cut any more."""
        if file < 0 or not 0 < size <= self._most:
            raise ValueError(f"an entry of {size} bytes")
        if not stat.S_ISREG(os.fstat(file).st_mode) or os.fstat(file).st_size != size:
            raise ValueError("an entry that is no file of its size")
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("an entry that may change while it is read")
        with mmap.mmap(file, size, access=mmap.ACCESS_READ) as area, memoryview(area) as view:
            if self._sealed:
                self._store.put(key, view)
            else:
                self._store.keep(view)


def _anonymous(data: Buffer, *, seal: bool = False) -> int:
    """A file without a name that holds data."""
    file = os.memfd_create("rrto-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.pwrite(file, view[done:], done)
        if seal:
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file


def _read(file: int, size: int) -> bytes:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        got = os.preadv(file, [view[done:]], done)
        if not got:
            break
        done += got
    view.release()
    return bytes(data[:done])


def _send(end: socket.socket, data: bytes, file: int) -> None:
    files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))] if file >= 0 else []
    end.sendmsg([data], files)


def _receive(end: socket.socket, most: int) -> tuple[bytes, int]:
    """A packet, and the descriptor that came with it (-1: none); of several all are closed."""
    data, extra, _, _ = end.recvmsg(most, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC)
    files = array.array("i")
    for level, kind, content in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    if len(files) == 1:
        return data, files[0]
    for file in files:
        os.close(file)
    return data, -1
