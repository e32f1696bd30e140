"""What a campaign of faults saw and what it left: owns the outcome, its checks, its table."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GROWTH_MIB = 48.0
"""More memory than this at the end, after the first tenth of a campaign, is a leak."""
WARM = 40
"""Faults after which memory is looked at first, at the soonest."""
_SHM = Path("/dev/shm")


@dataclass
class Outcome:
    """What a campaign saw.

    Attributes:
        faults: Of each kind.
        programs: That ended well.
        excused: That got a documented error, by the fault that was the reason.
        wrong: What was said by those that did not end so.
        resumed: How often sessions went on at a server.
        outages_s: How long programs had no server each time.
        told_s: How long after the fault a program that got an error had ended.
        resident_mib: Of each process that was watched, after the first tenth and at the end.
        left: What is still there and should not be.
        seconds: Of the whole campaign.
    """

    faults: Counter[str] = field(default_factory=Counter)
    programs: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    resumed: int = 0
    outages_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    resident_mib: dict[str, tuple[float, float]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fails(self, text: str) -> None:
        """Something was wrong: say so now, a campaign is long."""
        self.wrong.append(text)
        print(f"wrong: {text}", file=sys.stderr, flush=True)

    @property
    def growth(self) -> list[str]:
        """Processes whose memory grew."""
        return [
            f"{name}: {first:.0f} MiB, then {last:.0f} MiB"
            for name, (first, last) in self.resident_mib.items()
            if last - first > GROWTH_MIB
        ]

    @property
    def good(self) -> bool:
        """Whether everything held that must hold."""
        return not (self.wrong or self.left or self.growth)

    def figures(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {
            "faults": dict(self.faults), "programs": self.programs, "excused": dict(self.excused),
            "wrong": len(self.wrong), "resumed": self.resumed,
            "outage_s": _spread(self.outages_s), "told_s": _spread(self.told_s),
            "left": self.left, "resident_mib": self.resident_mib, "seconds": round(self.seconds),
        }  # fmt: skip

    def table(self) -> str:
        """The same as a Markdown table."""
        rows = [(name, str(count)) for name, count in sorted(self.faults.items())]
        rows.append(("**all faults**", f"**{sum(self.faults.values())}**"))
        rows.append(("programs that ended with the bytes of plain execution", str(self.programs)))
        rows += [
            (f"programs that got a documented error: {name}", str(count))
            for name, count in sorted(self.excused.items())
        ]
        rows.append(("programs with a wrong byte, or another error", str(len(self.wrong))))
        rows.append(("sessions resumed or moved", str(self.resumed)))
        for name, values in (
            ("without a server", self.outages_s),
            ("from the fault to the end of a program that got an error", self.told_s),
        ):
            if found := _spread(values):
                text = f"{found['median']:.2f} s median, {found['longest']:.2f} s at most"
                rows.append((name, text))
        for name, (first, last) in self.resident_mib.items():
            rows.append((f"memory of {name}", f"{first:.0f} MiB, at the end {last:.0f} MiB"))
        rows.append(("processes, files, sockets, shared memory left", str(len(self.left))))
        rows.append(("duration", f"{self.seconds / 60:.1f} min"))
        lines = (f"| {name} | {text} |" for name, text in rows)
        return "\n".join(("| | |", "|---|---|", *lines))


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "median": round(statistics.median(values), 3), "longest": round(max(values), 3),
        "count": len(values),
    }  # fmt: skip


class Progress:
    """A line on standard error from time to time.

    Args:
        count: Of faults that will be.
        seen: What is counted.
    """

    def __init__(self, count: int, seen: Outcome) -> None:
        self._count, self._seen = count, seen
        self._started = time.monotonic()

    def step(self) -> None:
        """One more fault has struck."""
        done = sum(self._seen.faults.values())
        live = sys.stderr.isatty()
        if not (live or done % 100 == 0):
            return
        left_s = (time.monotonic() - self._started) / done * (self._count - done)
        text = (
            f"{done} of {self._count} faults, {self._seen.programs} programs right, "
            f"{sum(self._seen.excused.values())} told, {len(self._seen.wrong)} wrong, "
            f"about {left_s / 60:.0f} min left"
        )
        sys.stderr.write(f"\r\033[K{text}" if live else text + "\n")
        sys.stderr.flush()


def resident_mib(pid: int) -> float:
    """Memory that a process has in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def children(pid: int) -> list[int]:
    """Processes that a process has started itself and that live."""
    out = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and int(parent) == pid:
                out.append(int(folder.name))
    return out


def descendants(pid: int) -> list[tuple[int, str]]:
    """(pid, command line) of everything that a process has started and that lives."""
    families: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                families.setdefault(int(parent), []).append(int(folder.name))
    out, waiting = [], [pid]
    while waiting:
        for child in families.get(waiting.pop(), ()):
            waiting.append(child)
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                out.append((child, " ".join(words)[:120]))
    return out


@dataclass(frozen=True)
class Before:
    """What was there when a campaign began; compare with it when all of it is over.

    Attributes:
        children: Processes of this one.
        shared: Names in /dev/shm.
        files: Descriptors of this process.
        threads: Of this process.
    """

    children: frozenset[int]
    shared: frozenset[str]
    files: int
    threads: int

    @classmethod
    def now(cls) -> Before:
        """As it is."""
        return cls(
            frozenset(pid for pid, _ in descendants(os.getpid())),
            frozenset(path.name for path in _SHM.iterdir()),
            len(list(Path("/proc/self/fd").iterdir())),
            threading.active_count(),
        )

    def left(self, folders: Iterable[Path] = (), patience_s: float = 10.0) -> list[str]:
        """What is there besides, once nothing more of it goes away or the time is over.

        Args:
            folders: In which no socket and nothing half written may be.
            patience_s: What ends may take so long.
        """
        end = time.monotonic() + patience_s
        while (found := self._left(folders)) and time.monotonic() < end:
            time.sleep(0.2)
        return found

    def _left(self, folders: Iterable[Path]) -> list[str]:
        out = [
            f"process {pid}: {command}"
            for pid, command in descendants(os.getpid())
            if pid not in self.children
        ]
        out += [
            f"shared memory {path.name}"
            for path in _SHM.iterdir()
            if path.name not in self.shared and _ours(path)
        ]
        for folder in folders:
            for path in folder.rglob("*"):
                if path.is_socket() or path.name.startswith(".new-"):
                    out.append(f"file {path}")
        files, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
        if files > self.files:
            out.append(f"{files - self.files} open files of this process")
        if threads > self.threads:
            names = sorted(thread.name for thread in threading.enumerate())
            out.append(f"{threads - self.threads} threads of this process, of {names}")
        return out


def _ours(path: Path) -> bool:
    """Whether it is not of somebody else on this machine, who comes and goes meanwhile."""
    return "rrto" in path.name
