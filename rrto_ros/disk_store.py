"""Files kept from one start to the next: owns their place, their integrity and their number.

A store is a directory of entries by key, which several processes use at once. An entry appears
whole, by rename, and is compared with its key whenever it is read: one that is damaged, has the
name of another, or belongs to another user is removed and counts as missing. Where keys are not
the hashes of contents, key and content are sealed with a secret of the directory (HMAC-SHA-256).
A directory that another user owns or may write is not used. Nothing that is kept is needed, so
what goes wrong later than at the start is counted, never raised.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hmac
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias, TypeVar

from platformdirs import user_cache_path

from rrto_ros.errors import ConfigError
from rrto_ros.own_files import OPEN_TO_READ, is_own, make_own, secret_of, user_folder

Buffer: TypeAlias = bytes | bytearray | memoryview
_Store = TypeVar("_Store")
_SEAL_BYTES = 32
_KEY = re.compile("[0-9a-f]{64}")
_COUNTS = ("hits", "misses", "stored", "evicted", "corrupt", "failed", "scans")
_LEFT = re.compile(r"\.new-.*|[0-9a-f]{62}\.o")
"""What a killed process left half written, and compiled kernels as they were named once."""
_FORGOTTEN_S = 60.0
_LOCK = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FOREIGN = (errno.EACCES, errno.ELOOP, errno.ENXIO)


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/rrto``, by default ``~/.cache/rrto``.

    Raises:
        ConfigError: This user has no home.
    """
    return user_folder(user_cache_path, "XDG_CACHE_HOME")


def opened(
    make: Callable[[Path, int], _Store],
    kind: str,
    directory: Path | None,
    limit_bytes: int,
    log: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True),
    *,
    strict: bool = False,
) -> _Store | None:
    """A store; None to keep nothing and, with a line in the log, where there is no place for it.

    Args:
        make: Opens it in a directory, with a limit.
        kind: What it keeps, as its folder in the user's cache directory is called.
        directory: Where the user wants it; None for that folder.
        limit_bytes: Its limit; 0 keeps nothing.
        log: Takes the line, by default standard error.
        strict: Raise ConfigError for a path of the user's at which there can be no directory.
    """
    try:
        return make(directory or cache_directory() / kind, limit_bytes) if limit_bytes else None
    except ConfigError as error:
        mistake = isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError))
        if strict and directory and mistake:
            raise
        log(f"{kind} are not kept on disk: {error}")
        return None


def write_whole(path: Path, *parts: Buffer, mode: int = 0o600) -> None:
    """Put a file in its place when all of it is written; its writer has it locked until then.

    Raises:
        OSError: It cannot be written; nothing of it is left.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            file.writelines(parts)
            os.fchmod(handle, mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class DiskStore:
    """A directory of entries. Any thread, any number of processes.

    Args:
        directory: Made with what is missing above it, with mode 0700.
        limit_bytes: The least recently used entries go when all exceed this; processes that write
            at the same time may exceed it by a part of what was free each. 0 keeps nothing.
        kind: What an entry is, for messages.
        sealed: Whether keys are of the user's choice, and a seal over key and content precedes
            the content, made with a secret that lies in the directory. Else a key is the SHA-256
            of the content.
        least_bytes: What an entry counts at least, so that the number of small ones is bounded.

    Raises:
        ConfigError: The directory cannot be made or written, or is not this user's alone.
    """

    def __init__(
        self,
        directory: Path,
        limit_bytes: int,
        kind: str,
        *,
        sealed: bool = False,
        least_bytes: int = 0,
    ) -> None:
        self.directory = directory
        self._limit = limit_bytes
        self._seal_bytes = _SEAL_BYTES if sealed else 0
        self._least = least_bytes
        self._name = f"{kind} directory {directory}"
        self._guard = threading.RLock()
        self._held = False
        self._room = self._bytes = 0
        self._last_failure = ""
        self._counts = dict.fromkeys(_COUNTS, 0)
        try:
            for folder in (*reversed(directory.parents), directory):
                if not folder.exists():
                    folder.mkdir(mode=0o700, exist_ok=True)
            make_own(directory, self._name)
            with tempfile.TemporaryFile(dir=directory):
                pass
            self._secret = secret_of(directory) if sealed else b""
        except OSError as error:
            raise ConfigError(f"{self._name}: {error.strerror}; choose another one") from error

    def get(self, key: str) -> bytes | None:
        """The content of an entry, None if it is not there (any more) or is not what its key says.

        Args:
            key: 64 hexadecimal digits.
        """
        path = self._path(key)
        data, whole = b"", False
        try:
            with os.fdopen(os.open(path, OPEN_TO_READ), "rb") as file:
                found = os.fstat(file.fileno())
                if is_own(found) and found.st_size <= self._limit + self._seal_bytes:
                    seal, data = file.read(self._seal_bytes), file.read()
                    right = self._seal(key, data) if self._seal_bytes else bytes.fromhex(key)
                    whole = hmac.compare_digest(right, seal or sha256(data).digest())
        except OSError as error:
            if error.errno not in _FOREIGN:
                self._counts["misses"] += 1
                if error.errno != errno.ENOENT:
                    self._fail(error)
                return None
        if not whole:
            self._counts["misses"] += 1
            self._counts["corrupt"] += 1
            self.remove(key)
            return None
        self._counts["hits"] += 1
        _touch(path)
        return data

    def size(self, key: str) -> int | None:
        """Bytes of an entry, None if it is not there; it is not read, and may be damaged."""
        try:
            found = self._path(key).lstat()
        except OSError:
            return None
        return found.st_size - self._seal_bytes if is_own(found) else None

    def open(self, key: str) -> tuple[int, int]:
        """A descriptor to read an entry by, and its size; (-1, 0) if there is none.

        For stores whose keys are hashes: who reads it compares it with its key.
        """
        try:
            file = os.open(self._path(key), OPEN_TO_READ)
        except OSError:
            self._counts["misses"] += 1
            return -1, 0
        found = os.fstat(file)
        if not is_own(found) or found.st_size > self._limit:
            os.close(file)
            self._counts["misses"] += 1
            return -1, 0
        self._counts["hits"] += 1
        _touch(self._path(key))
        return file, found.st_size

    def keep(self, data: Buffer) -> None:
        """Store an entry under the SHA-256 of its content; for stores that have such keys."""
        self.put(sha256(data).hexdigest(), data)

    def put(self, key: str, data: Buffer) -> None:
        """Store an entry; one that is larger than the limit is not."""
        path, seal = self._path(key), [self._seal(key, data)] if self._seal_bytes else []
        if not 0 < len(data) <= self._limit:
            return
        if not seal and self.size(key) == len(data):
            _touch(path)
            return
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_whole(path, *seal, data)
        except OSError as error:
            self._fail(error)
            return
        size = max(len(data) + self._seal_bytes, self._least)
        with self._guard:
            self._counts["stored"] += 1
            self._bytes += size
            self._room -= size
            if self._room < 0:
                self.look()

    def remove(self, key: str) -> None:
        """Remove an entry, if it is there."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def newest(self, count: int) -> list[str]:
        """At most `count` keys, the most recently used first."""
        found = sorted(self._entries(), reverse=True)
        return [key for _, _, key in found[:count]]

    def look(self) -> None:
        """Look at what is there; beyond the limit, what was not used for longest goes.

        A look costs as much as there are entries, so there must be many entries between two: a
        full directory is emptied by an eighth, and each process may add a quarter of what is free
        before it looks again. Several that fill it at once may exceed the limit by a tenth.
        """
        with self.locked():
            self._counts["scans"] += 1
            entries = sorted(self._entries())
            total, step = sum(size for _, size, _ in entries), self._limit // 32
            wanted = self._limit - (self._limit // 8 if total > self._limit - step else 0)
            for _, size, key in entries:
                if total <= wanted:
                    break
                with contextlib.suppress(OSError):
                    self._path(key).unlink()
                    total -= size
                    self._counts["evicted"] += 1
            self._bytes, self._room = total, max(step, (self._limit - total) // 4)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep out all others that want this, or nobody where there can be no lock."""
        with self._guard, contextlib.ExitStack() as stack:
            if not self._held:
                try:
                    lock = os.open(self.directory / ".lock", _LOCK, 0o600)
                    stack.callback(os.close, lock)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                except OSError as error:
                    self._fail(error)
                self._held = True
                stack.callback(setattr, self, "_held", False)
            yield

    def statistics(self) -> dict[str, int | str]:
        """Counters of this process, the size at the last look and the last thing that failed."""
        size = {"bytes": self._bytes, "limit_bytes": self._limit}
        return {**size, **self._counts, "last_failure": self._last_failure}

    def _seal(self, key: str, data: Buffer) -> bytes:
        seal = hmac.new(self._secret, b"rrto entry 2 " + key.encode(), sha256)
        seal.update(data)
        return seal.digest()

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / key

    def _fail(self, error: OSError) -> None:
        if not self._counts["failed"]:
            print(f"{self._name}: {error}; more is only counted", file=sys.stderr, flush=True)
        self._counts["failed"] += 1
        self._last_failure = str(error)

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """When it was last used, size and key of each; what was left half written is removed."""
        for folder in self.directory.glob("[0-9a-f][0-9a-f]"):
            with contextlib.suppress(OSError), os.scandir(folder) as files:
                for file in files:
                    with contextlib.suppress(OSError):
                        found = file.stat(follow_symlinks=False)
                        if _KEY.fullmatch(file.name):
                            yield found.st_mtime_ns, max(found.st_size, self._least), file.name
                        elif _LEFT.fullmatch(file.name):
                            _clean(Path(file), found)


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def _clean(path: Path, found: os.stat_result) -> None:
    """Remove what is half written, if its writer, which has it locked, is gone."""
    if found.st_mtime < time.time() - _FORGOTTEN_S:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
