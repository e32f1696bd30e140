"""What is seen of a program while it runs: what it writes, its session's statuses, its memory."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from rrto_ros.ros.client import RECORDER, RobotClient

LEAST_STEADY = 5
"""Inferences between two statuses below which nothing is said of one inference."""
MOST_TEXT = 2000


@dataclass(frozen=True)
class Wanted:
    """One run of a program.

    Attributes:
        mode: Of the recorder.
        command: Program and arguments.
        environment: The whole one, interposed; what the server's device needs is added.
        label: Of its sessions.
        timeout_s: For so long at most.
        latency: A pattern whose group is an inference's time in ms in a line of its output.
        result: A pattern of what the output says of results; empty: all but the times.
    """

    mode: str
    command: list[str]
    environment: dict[str, str]
    label: str
    timeout_s: float
    latency: str = ""
    result: str = ""


@dataclass
class Output:
    """What a program wrote so far.

    Attributes:
        latencies_ms: That it told.
        first_s: When its first result (or, without a pattern, its first line) was there.
        last: The end of it, for messages.
    """

    began: float
    latencies_ms: list[float] = field(default_factory=list)
    first_s: float | None = None
    last: str = ""
    results: Any = field(default_factory=sha256)

    def take(self, line: str, wanted: Wanted) -> None:
        """A line came."""
        self.last = (self.last + line)[-MOST_TEXT:]
        found = re.search(wanted.latency, line) if wanted.latency else None
        if self.first_s is None and (found or (not wanted.latency and line.strip())):
            self.first_s = time.monotonic() - self.began
        if found:
            with contextlib.suppress(ValueError):
                self.latencies_ms.append(float(found[1]))
        if wanted.result:
            for one in re.finditer(wanted.result, line):
                self.results.update(one[0].encode() + b"\0")
            return
        kept = line[: found.start(1)] + line[found.end(1) :] if found else line
        self.results.update(kept.encode())


@dataclass(frozen=True)
class Seen:
    """A program's session in a status, and how far the program was."""

    at_s: float
    told: int
    session: dict[str, Any]


class Watch:
    """Collects the statuses of the sessions of a label while a program runs.

    Args:
        client: Follows the robot.
        label: Of the sessions.
        output: What the program wrote so far.
        pid: Of the program.

    Attributes:
        seen: The statuses.
        memory_kb: Of the program at most, up to the last status.
    """

    def __init__(self, client: RobotClient, label: str, output: Output, pid: int) -> None:
        self.seen: list[Seen] = []
        self.memory_kb = 0
        self._pid = pid
        self._client, self._label, self._output = client, label, output
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more."""
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        since = time.monotonic()

        def newer() -> bool:
            return self._over.is_set() or self._client.status(RECORDER, since) is not None

        while not self._over.is_set():
            if not self._client.wait(newer, 1.0):
                continue
            status = self._client.status(RECORDER, since)
            since = time.monotonic()
            self.memory_kb = memory_kb(self._pid, "VmHWM") or self.memory_kb
            mine = [s for s in (status or {}).get("sessions", []) if s["label"] == self._label]
            if len(mine) == 1 and mine[0]["phase"] != "closed":
                self.seen.append(Seen(since, len(self._output.latencies_ms), mine[0]))


_RATES = ("bytes_sent", "bytes_received", "round_trips", "wait_s")


def steady(seen: list[Seen]) -> dict[str, float]:
    """What one inference took in the later two thirds of a run, from the statuses' differences.

    Returns:
        Empty where too few inferences lie between two statuses.
    """
    if not seen:
        return {}
    told = bool(seen[-1].told)

    def count(one: Seen) -> int:
        return one.told if told else int(one.session["inferences"])

    last = seen[-1]
    for first in seen:
        done = count(last) - count(first)
        if 3 * count(first) >= count(last) and done >= LEAST_STEADY:
            out = {name: (last.session[name] - first.session[name]) / done for name in _RATES}
            return {**out, "seconds": (last.at_s - first.at_s) / done, "inferences": done}
    return {}


def sampled(seen: list[Seen]) -> list[float]:
    """Inferences' times as the recorder measured them: the last one of each status."""
    out, before = [], 0
    for one in seen:
        if one.session["inferences"] > before:
            before = one.session["inferences"]
            out.append(float(one.session["last_inference_ms"]))
    return out


def memory_kb(pid: int, line_of: str = "VmRSS") -> int:
    """Memory of a process, 0 if it has ended.

    The usage that `os.wait4` gives begins with this process's own memory, which the program shared
    before it was executed; the kernel's lines are of the program alone.

    Args:
        pid: The process.
        line_of: `VmRSS` for now, `VmHWM` for the most so far.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{line_of}:"):
                return int(line.split()[1])
    return 0
