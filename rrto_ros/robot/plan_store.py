"""Plans kept on disk from one start of a program to the next: owns the files' meaning.

Two `DiskStore`s. A plan's canonical bytes lie under their SHA-256. A list per program, under its
name, says which plans it followed, the latest first.

Nothing here must be right. A plan that does not belong to the program costs its bytes and some
comparisons, since a plan is followed only where the calls are the same. So a program is known by
little: by its command line, and where that is new (another seed, a launch file's temporary
parameter file) by the executable and the first argument that is no option. The arena's base is
part of it because addresses are part of plans, the table of driver calls because all is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rrto_ros.disk_store import DiskStore
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import TABLE_HASH
from rrto_ros.wire.plan import MAX_PLAN_BYTES, Plan, decode_plan

DEFAULT_LIMIT_BYTES = 256 << 20
MAX_LISTED = 16
"""Plans of one program."""
MAX_RECALLED_BYTES = 8 << 20
"""Of plans that a starting program is given, beyond the first."""
MAX_UNUSED = 8
"""A plan that so many sessions did not follow, though they followed others, is the program's no
longer."""
MAX_PROGRAMS = 4096
_LIST_BYTES = 16 << 10
_LEAST_BYTES = 1 << 10
_VERSION = 1


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
    """What a program followed before.

    Attributes:
        plans: The latest first.
        apart: Whether each thread is matched on its own.
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

    A damaged file is counted and removed; a full disk is counted. Neither is an error. For the
    arguments see `DiskStore`.
    """

    def __init__(self, directory: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._plans = DiskStore(directory, limit_bytes, "plan")
        self._plans.look()
        self._lists = DiskStore(
            directory / "programs", MAX_PROGRAMS * _LEAST_BYTES, "plan", sealed=True,
            least_bytes=_LEAST_BYTES,
        )  # fmt: skip
        self._refused = 0
        self._refusal = ""
        self._recalled = 0

    def recall(self, names: tuple[str, str]) -> Recalled:
        """What the program followed before; of its own command line if that is known.

        Args:
            names: `program_names`.
        """
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

    def keep(
        self,
        names: tuple[str, str],
        followed: Iterable[Plan],
        unused: Iterable[Plan] = (),
        *,
        apart: bool = False,
        start: StartUp | None = None,
    ) -> None:
        """Keep plans that the program followed to their end.

        Args:
            names: `program_names`.
            followed: The latest last.
            unused: Plans that were recalled and not followed in a session that followed others.
            apart: Whether each thread is matched on its own.
            start: The program's start; None keeps what is known of it.
        """
        new = [self._put(plan) for plan in followed][::-1]
        missed = {plan.digest for plan in unused}
        first = self._put(start.plan, start.inferences) if start is not None else None
        for name in names:
            with self._lists.locked():
                merged = _merged(self._read(name), new, missed, apart, first)
                if merged is not None:
                    self._lists.put(name, merged)

    def statistics(self) -> dict[str, int | str]:
        """Size and limit of the plans' files, plans recalled, and what went wrong."""
        plans, lists = self._plans.statistics(), self._lists.statistics()
        return {
            **{name: plans[name] for name in ("bytes", "limit_bytes", "stored", "evicted")},
            "recalled": self._recalled,
            "refused": int(plans["corrupt"]) + int(lists["corrupt"]) + self._refused,
            "failed": int(plans["failed"]) + int(lists["failed"]),
            "last_failure": self._refusal or plans["last_failure"] or lists["last_failure"],
        }

    def _put(self, plan: Plan, count: int = 0) -> _Entry:
        self._plans.put(plan.digest.hex(), plan.encoded)
        return _Entry(plan.digest, len(plan.encoded), count)

    def _plan(self, entry: _Entry) -> Plan | None:
        data = self._plans.get(entry.digest.hex())
        if data is None:
            return None
        try:
            return decode_plan(data, entry.digest)
        except ProtocolError as error:
            # Its bytes are those that were written, so they are no plan of this version.
            self._refuse(str(error))
            self._plans.remove(entry.digest.hex())
            return None

    def _read(self, name: str) -> _List:
        data = self._lists.get(name)
        try:
            return _parse(data) if data is not None else _List()
        except (ValueError, KeyError, TypeError) as error:
            self._refuse(f"list of a program's plans: {type(error).__name__}: {error}")
            self._lists.remove(name)
            return _List()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._refusal = reason


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
        """What the program followed at earlier starts."""
        found = self._store.recall(self._names)
        self._unused = {plan.digest: plan for plan in found.plans}
        self._recalled = len(found.plans)
        return found

    def keep(self, followed: Iterable[Plan], *, apart: bool, start: StartUp | None = None) -> None:
        """Keep plans that were followed to their end for the first time in this session.

        Args:
            followed: The plans, the latest last.
            apart: Whether each thread is matched on its own.
            start: What the program did before it repeated itself, if that is news.
        """
        plans = list(followed)
        for plan in plans:
            self._unused.pop(plan.digest, None)
        self._kept += len(plans)
        self._store.keep(self._names, plans, apart=apart, start=start)

    def close(self) -> None:
        """The session is over."""
        if self._kept and self._unused:
            self._store.keep(self._names, (), self._unused.values())

    def statistics(self) -> Mapping[str, int]:
        """Plans recalled, of these not followed so far, and plans kept."""
        return {
            "plans_recalled": self._recalled,
            "plans_recalled_unused": len(self._unused),
            "plans_kept": self._kept,
        }


def memory_of(store: PlanStore | None, command: str, arena_base: int) -> PlanMemory | None:
    """The memory of one session, if plans are kept; see `program_names`."""
    return PlanMemory(store, program_names(command, arena_base)) if store is not None else None


def _merged(
    known: _List, new: list[_Entry], missed: set[bytes], apart: bool, start: _Entry | None
) -> bytes | None:
    """A list with what was followed now before what it had; None if it says nothing."""
    if not new and not known.entries:
        return None
    start = start or known.start
    again = {entry.digest for entry in new}
    kept = [
        _Entry(e.digest, e.size, e.unused + (e.digest in missed))
        for e in known.entries
        if e.digest not in again
    ]
    entries = [*new, *(e for e in kept if e.unused < MAX_UNUSED)][:MAX_LISTED]
    return json.dumps(
        {
            "version": _VERSION,
            "apart": apart if new else known.apart,
            "start": [start.digest.hex(), start.size, start.unused] if start else None,
            "plans": [[e.digest.hex(), e.size, e.unused] for e in entries],
        }
    ).encode()


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
