"""Compiled kernels on disk: content-addressed, checked when read, least recently used go first.

Several processes may share a directory: entries are written to a temporary file and renamed, and
an entry that is missing, cut short or damaged is simply compiled again. The directory is looked
through at the first entry that a process adds, and then once it has added a part of what was free.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_MAGIC = b"RRTOOBJ1"
_PREFIX = ".new-"
_FORGOTTEN_S = 3600.0


def default_directory() -> Path:
    """$XDG_CACHE_HOME/rrto/kernels, or ~/.cache/rrto/kernels."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rrto" / "kernels"


_GENERATOR = ("ptx/*.py", "passes/*.py", "codegen/*.py", "program.py", "facts.py", "jit.py")


@lru_cache(maxsize=1)
def generator_fingerprint() -> str:
    """A hash of what turns PTX into entries, so that a change of it empties the cache."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(p for pattern in _GENERATOR for p in folder.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_key(*parts: str) -> str:
    """The name of an entry: a hash over everything that the code depends on."""
    digest = hashlib.sha256(generator_fingerprint().encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Entry:
    """One compiled kernel: object code and the facts needed to run it."""

    code: bytes
    facts: dict[str, Any]


class KernelCache:
    """A directory of entries, at most `limit_bytes` in all. None as directory keeps nothing."""

    def __init__(self, directory: Path | None, limit_bytes: int) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.hits = 0
        self.misses = 0
        self.errors = 0
        self.scans = 0
        self._room = 0

    def get(self, key: str) -> Entry | None:
        """The entry, or None if it is not there or not intact."""
        entry = self._read(key)
        if entry is None:
            self.misses += 1
        else:
            self.hits += 1
        return entry

    def holds(self, key: str) -> bool:
        """Whether there is an entry; it may still turn out to be damaged."""
        return self.directory is not None and self._path(key).exists()

    def _read(self, key: str) -> Entry | None:
        if self.directory is None:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        body = data[40:]
        if data[:8] != _MAGIC or hashlib.sha256(body).digest() != data[8:40]:
            self.errors += 1
            return None
        length = int.from_bytes(body[:4], "little")
        facts = json.loads(body[4 : 4 + length])
        with contextlib.suppress(OSError):
            os.utime(path)
        return Entry(body[4 + length :], facts)

    def put(self, key: str, entry: Entry) -> None:
        """Stores an entry; a full or read-only disk is counted, not raised."""
        if self.directory is None:
            return
        head = json.dumps(entry.facts, sort_keys=True).encode()
        body = len(head).to_bytes(4, "little") + head + entry.code
        data = _MAGIC + hashlib.sha256(body).digest() + body
        try:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                Path(name).replace(path)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError:
            self.errors += 1
            return
        self._room -= len(data)
        if self._room < 0:
            self._evict()

    def _path(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / key[:2] / f"{key[2:]}.o"

    def _evict(self) -> None:
        """Looks through the directory; where it is too full, the oldest entries go.

        A look costs as much as there are entries, so there must be many entries between two: a
        full directory is emptied by an eighth, and each process may add a quarter of what is free
        before it looks again. Several that fill it at once may exceed the limit by a tenth.
        """
        assert self.directory is not None
        self.scans += 1
        found = []
        for folder in self.directory.glob("??"):
            with contextlib.suppress(OSError), os.scandir(folder) as files:
                for file in files:
                    stat = file.stat()
                    if file.name.endswith(".o"):
                        found.append((stat.st_mtime, stat.st_size, file.path))
                    elif time.time() - stat.st_mtime > _FORGOTTEN_S:
                        Path(file).unlink()
        total = sum(size for _, size, _ in found)
        step = self.limit_bytes // 32
        if total > self.limit_bytes - step:
            wanted = self.limit_bytes - self.limit_bytes // 8
            for _, size, name in sorted(found):
                if total <= wanted:
                    break
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                    total -= size
        self._room = max(step, (self.limit_bytes - total) // 4)
