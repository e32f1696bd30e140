"""Compiled kernels on disk: content-addressed, checked when read, least recently used go first.

Several processes may share a directory: entries are written to a temporary file and renamed, and
an entry that is missing, cut short or damaged is simply compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_MAGIC = b"RRTOOBJ1"


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
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
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
        self._evict()

    def _path(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / key[:2] / f"{key[2:]}.o"

    def _evict(self) -> None:
        assert self.directory is not None
        found = []
        for path in self.directory.glob("??/*.o"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found, key=lambda item: item[0]):
            if total <= self.limit_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
