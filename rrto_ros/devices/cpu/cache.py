"""Kernels and facts of modules on disk, each under a hash of all that it depends on.

An entry that is missing or damaged is simply made again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rrto_ros.devices.kernel_store import KERNELS, kernel_store
from rrto_ros.disk_store import opened
from rrto_ros.store_link import EntryStore

_GENERATOR = (
    "ptx/*.py", "passes/*.py", "codegen/*.py", "outline.py", "program.py", "facts.py", "jit.py",
)  # fmt: skip


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
    """Entries on disk; where there is no place for them, none.

    Args:
        directory: Where they are; None is the user's cache directory.
        limit_bytes: The least recently used go beyond this; 0 keeps nothing.
        kept: The store, where another process keeps it; the others mean nothing then.
    """

    def __init__(
        self, directory: Path | None, limit_bytes: int, kept: EntryStore | None = None
    ) -> None:
        self._store = kept or opened(kernel_store, KERNELS, directory, limit_bytes)

    def get(self, key: str) -> Entry | None:
        """The entry, or None if it is not there or not intact."""
        data = self._store.get(key) if self._store is not None else None
        if data is None:
            return None
        end = 4 + int.from_bytes(data[:4], "little")
        return Entry(data[end:], json.loads(data[4:end]))

    def holds(self, key: str) -> bool:
        """Whether there is an entry; it may still turn out to be damaged."""
        return self._store is not None and self._store.size(key) is not None

    def put(self, key: str, entry: Entry) -> None:
        """Stores an entry; a full or read-only disk is counted, not raised."""
        if self._store is not None:
            head = json.dumps(entry.facts, sort_keys=True).encode()
            self._store.put(key, len(head).to_bytes(4, "little") + head + entry.code)

    def statistics(self) -> dict[str, int | str]:
        """Those of the store."""
        counts = self._store.statistics() if self._store is not None else {}
        return {f"cache_{name}": value for name, value in counts.items()}
