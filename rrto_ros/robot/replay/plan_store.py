"""Plans kept on disk from one start of a program to the next: owns the files and their meaning.

Two kinds of files in one directory. A plan's canonical bytes lie under their SHA-256, in a
`BlobStore` (atomic rename, size limit, least recently used first, hashed again when read). A list
per program says which plans it walked, the latest first.

Nothing here must be right. A plan that does not belong to the program costs its bytes and some
comparisons, since a cursor walks it only where the calls are the same. So a program is known by
little: by its command line, and where that is new (another seed, a launch file's temporary
parameter file) by the executable and the first argument that is no option. The arena's base is
part of it because addresses are part of plans, the table of driver calls because all is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.wire.blob_store import BlobStore
from rrto_ros.wire.codec import TABLE_HASH
from rrto_ros.wire.plan import MAX_PLAN_BYTES, Plan, decode_plan

DEFAULT_LIMIT_BYTES = 256 << 20
MAX_LISTED = 16
"""Plans of one program."""
MAX_RECALLED_BYTES = 8 << 20
"""Of plans that a starting program is given, beyond the first."""
MAX_UNUSED = 8
"""A plan that so many sessions did not walk, though they walked others, is the program's no
longer."""
MAX_PROGRAMS = 4096
_LIST_BYTES = 16 << 10
_VERSION = 1


def default_directory() -> Path:
    """``$XDG_CACHE_HOME/rrto/plans``, by default ``~/.cache/rrto/plans``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "rrto" / "plans"


def program_names(command: str, arena_base: int) -> tuple[str, str]:
    """Names of a program's lists: of this very command line, and of the program.

    Args:
        command: Words with blanks between them, as the shim's HELLO has it.
        arena_base: Where the session's addresses begin.
    """
    words = command.split()
    first = next((word for word in words[1:] if not word.startswith("-")), "")
    rest = words[:1] + ([first] if first else [])
    return _name(arena_base, command), _name(arena_base, *rest, "*")


def _name(arena_base: int, *words: str) -> str:
    text = "\0".join((str(arena_base), *words)).encode(errors="replace")
    return sha256(TABLE_HASH + text).hexdigest()


@dataclass(frozen=True)
class StartUp:
    """What a program did before it repeated itself.

    Attributes:
        plan: Its calls, from the first one of the session on.
        inferences: How many are in it.
    """

    plan: Plan
    inferences: int


@dataclass(frozen=True)
class Recalled:
    """What a program walked before.

    Attributes:
        plans: The latest first.
        apart: Whether each thread walked on its own.
        start: Its start, if that is known.
    """

    plans: tuple[Plan, ...] = ()
    apart: bool = False
    start: StartUp | None = None


@dataclass(frozen=True)
class _Entry:
    digest: bytes
    size: int
    unused: int = 0


@dataclass(frozen=True)
class _List:
    entries: tuple[_Entry, ...] = ()
    apart: bool = False
    start: _Entry | None = None
    """Its `unused` is the number of inferences."""


class PlanStore:
    """The plans of one user's programs. Any thread, any number of processes.

    A damaged file is counted and removed; a full disk is counted. Neither is an error.

    Args:
        directory: Where the files are; created with mode 0700.
        limit_bytes: Least recently used plans go when the files exceed this.

    Raises:
        ConfigError: The directory cannot be made or written.
    """

    def __init__(self, directory: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        try:
            self._plans = BlobStore(directory, limit_bytes)
            self._lists = directory / "programs"
            self._lists.mkdir(mode=0o700, exist_ok=True)
        except ConfigError as error:
            raise ConfigError(str(error).replace("blob", "plan")) from error
        except OSError as error:
            raise ConfigError(f"plan directory {directory}: {error.strerror}") from error
        self._refused = 0
        self._failed = 0
        self._last_failure = ""
        self._recalled = 0

    def recall(self, names: tuple[str, str]) -> Recalled:
        """What the program walked before; of its own command line if that is known.

        Args:
            names: `program_names`.
        """
        try:
            return self._recall(names)
        except OSError as error:
            self._failed += 1
            self._last_failure = str(error)
            return Recalled()

    def keep(
        self,
        names: tuple[str, str],
        walked: Iterable[Plan],
        unused: Iterable[Plan] = (),
        *,
        apart: bool = False,
        start: StartUp | None = None,
    ) -> None:
        """Keep plans that the program walked to their end.

        Args:
            names: `program_names`.
            walked: The latest last.
            unused: Plans that were recalled and not walked in a session that walked others.
            apart: Whether each thread walked on its own.
            start: The program's start; None keeps what is known of it.
        """
        new: list[_Entry] = []
        missed = {plan.digest for plan in unused}
        try:
            for plan in walked:
                self._plans.keep(plan.encoded)
                new.insert(0, _Entry(plan.digest, len(plan.encoded)))
            first: _Entry | None = None
            if start is not None:
                self._plans.keep(start.plan.encoded)
                first = _Entry(start.plan.digest, len(start.plan.encoded), start.inferences)
            with (self._lists / ".lock").open("w") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                for name in names:
                    self._write(name, new, missed, apart, first)
                if new:
                    self._trim()
        except OSError as error:
            self._failed += 1
            self._last_failure = str(error)

    def statistics(self) -> dict[str, int | str]:
        """Size and limit of the plans' files, plans recalled, and what went wrong."""
        plans = self._plans.statistics()
        return {
            "bytes": plans["bytes"],
            "limit_bytes": plans["limit_bytes"],
            "recalled": self._recalled,
            "stored": plans["stored"],
            "evicted": plans["evicted"],
            "refused": int(plans["corrupt"]) + self._refused,
            "failed": int(plans["failed"]) + self._failed,
            "last_failure": self._last_failure or plans["last_failure"],
        }

    def _recall(self, names: tuple[str, str]) -> Recalled:
        for name in names:
            found = self._read(name)
            plans: list[Plan] = []
            size = 0
            for entry in found.entries:
                size += entry.size
                if plans and size > MAX_RECALLED_BYTES:
                    break
                plan = self._plan(entry)
                if plan is not None:
                    plans.append(plan)
            if plans:
                self._recalled += len(plans)
                start: StartUp | None = None
                if found.start is not None:
                    plan = self._plan(found.start)
                    start = StartUp(plan, found.start.unused) if plan is not None else None
                return Recalled(tuple(plans), found.apart, start)
        return Recalled()

    def _plan(self, entry: _Entry) -> Plan | None:
        data = self._plans.get(entry.digest, entry.size)
        if data is None:
            return None
        try:
            return decode_plan(data, entry.digest)
        except ProtocolError as error:
            # Its bytes are those that were written, so they are no plan of this version.
            self._refused += 1
            self._last_failure = str(error)
            self._plans.remove(entry.digest)
            return None

    def _read(self, name: str) -> _List:
        path = self._lists / name
        try:
            with path.open("rb") as file:
                data = file.read(_LIST_BYTES + 1)
        except FileNotFoundError:
            return _List()
        except OSError as error:
            self._failed += 1
            self._last_failure = str(error)
            return _List()
        try:
            return _parse(data)
        except (ValueError, KeyError, TypeError) as error:
            self._refused += 1
            self._last_failure = f"list of a program's plans: {type(error).__name__}: {error}"
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return _List()

    def _write(
        self, name: str, new: list[_Entry], missed: set[bytes], apart: bool, start: _Entry | None
    ) -> None:
        """Merge into a list; under the lock."""
        known = self._read(name)
        old = known.entries
        start = start or known.start
        again = {entry.digest for entry in new}
        kept = [
            _Entry(e.digest, e.size, e.unused + (e.digest in missed))
            for e in old
            if e.digest not in again
        ]
        entries = [*new, *(e for e in kept if e.unused < MAX_UNUSED)][:MAX_LISTED]
        if not new and not old:
            return
        value = {
            "version": _VERSION,
            "apart": apart if new else known.apart,
            "start": [start.digest.hex(), start.size, start.unused] if start else None,
            "plans": [[e.digest.hex(), e.size, e.unused] for e in entries],
        }
        handle, temporary = tempfile.mkstemp(dir=self._lists, prefix=".new-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(value, file)
            Path(temporary).replace(self._lists / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _trim(self) -> None:
        """Remove the lists that were not written for longest, beyond the limit."""
        with os.scandir(self._lists) as found:
            names = [entry.name for entry in found if len(entry.name) == 64]
        if len(names) <= MAX_PROGRAMS:
            return
        ages: list[tuple[int, str]] = []
        for name in names:
            with contextlib.suppress(OSError):
                ages.append(((self._lists / name).stat().st_mtime_ns, name))
        for _, name in sorted(ages)[: len(ages) - MAX_PROGRAMS * 9 // 10]:
            (self._lists / name).unlink(missing_ok=True)


class PlanMemory:
    """What one session recalls, and what it adds. Not thread-safe.

    Args:
        store: Of all sessions.
        names: `program_names`.
    """

    def __init__(self, store: PlanStore, names: tuple[str, str]) -> None:
        self._store = store
        self._names = names
        self._unused: dict[bytes, Plan] = {}
        self._recalled = 0
        self._kept = 0

    def recall(self) -> Recalled:
        """What the program walked at earlier starts."""
        found = self._store.recall(self._names)
        self._unused = {plan.digest: plan for plan in found.plans}
        self._recalled = len(found.plans)
        return found

    def keep(
        self, walked: Iterable[Plan], *, apart: bool, start: StartUp | None = None
    ) -> None:
        """Keep plans that were walked to their end for the first time in this session.

        Args:
            walked: The plans, the latest last.
            apart: Whether each thread walked on its own.
            start: What the program did before it repeated itself, if that is news.
        """
        plans = list(walked)
        for plan in plans:
            self._unused.pop(plan.digest, None)
        self._kept += len(plans)
        self._store.keep(self._names, plans, apart=apart, start=start)

    def close(self) -> None:
        """The session is over."""
        if self._kept and self._unused:
            self._store.keep(self._names, (), self._unused.values())

    def statistics(self) -> Mapping[str, int]:
        """Plans recalled, of these not walked so far, and plans kept."""
        return {
            "plans_recalled": self._recalled,
            "plans_recalled_unused": len(self._unused),
            "plans_kept": self._kept,
        }


def memory_of(store: PlanStore | None, command: str, arena_base: int) -> PlanMemory | None:
    """The memory of one session, if plans are kept; see `program_names`."""
    return PlanMemory(store, program_names(command, arena_base)) if store is not None else None


def _parse(data: bytes) -> _List:
    """A program's list.

    Raises:
        ValueError, KeyError, TypeError: It is no list.
    """
    if len(data) > _LIST_BYTES:
        raise ValueError(f"more than {_LIST_BYTES} bytes")
    value = json.loads(data)
    if value["version"] != _VERSION:
        raise ValueError(f"version {value['version']}")
    entries = tuple(_entry(*item) for item in value["plans"][:MAX_LISTED])
    start = _entry(*value["start"]) if value["start"] is not None else None
    return _List(entries, bool(value["apart"]), start)


def _entry(name: str, size: int, count: int) -> _Entry:
    digest = bytes.fromhex(name)
    if len(digest) != 32 or not 0 < int(size) <= MAX_PLAN_BYTES or int(count) < 0:
        raise ValueError(f"plan {name!r} of {size} bytes")
    return _Entry(digest, int(size), int(count))
