"""What an evaluation has on the robot's side of the link: runs a program in a mode, and watches.

    robot_side.py ROBOT DOMAIN RECORDER_PID

A JSON line on standard input is one run, answered by one line. When the input closes, a program
that still runs is ended and this process leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from rrto_ros.bringup.stand_ins import with_stand_ins
from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.evaluation.stack import cpu_seconds
from rrto_ros.ros.client import RECORDER, SERVER, RobotClient
from rrto_ros.ros.reports import collect_reports

READY_S = 60.0
MODE_S = 20.0
MOST_TEXT = 2000
LEAST_STEADY = 5
"""Inferences between two statuses below which nothing is said of one inference."""


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


class RobotSide:
    """Runs programs one after the other.

    Args:
        client: Follows the robot.
        recorder: Process id of its recorder.
    """

    def __init__(self, client: RobotClient, recorder: int) -> None:
        self._client, self._recorder = client, recorder
        self._program: subprocess.Popen[str] | None = None

    def end(self) -> None:
        """End the program that runs, and whatever it has started."""
        program = self._program
        if program is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)

    def run(self, wanted: Wanted) -> dict[str, Any]:
        """One run; what is known of it.

        Raises:
            UnavailableError: The mode cannot be had, or the program cannot be started.
        """
        self._mode(wanted.mode)
        cpu = cpu_seconds(self._recorder)
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            done = self._go(wanted, errors)
            errors.seek(0, os.SEEK_END)
            errors.seek(max(0, errors.tell() - MOST_TEXT))
            said = errors.read()
        sessions, complete = collect_reports(self._client, wanted.label)
        if done["exit_code"]:
            done["said"] = (said or done["said"]).strip()[-MOST_TEXT:]
        else:
            del done["said"]
        done["recorder_cpu_s"] = cpu_seconds(self._recorder) - cpu
        done["recorder_memory_kb"] = memory_kb(self._recorder)
        return {**done, "sessions": sessions, "complete": complete}

    def _mode(self, mode: str) -> None:
        reason = self._client.set_parameter("mode", mode)
        if reason:
            raise UnavailableError(f"recorder_replayer refuses mode {mode!r}: {reason}")
        since = time.monotonic()

        def set_() -> bool:
            status = self._client.status(RECORDER, since)
            return status is not None and status["mode"] == mode

        if not self._client.wait(set_, MODE_S):
            raise UnavailableError(f"recorder_replayer is not in mode {mode!r} after {MODE_S:g} s")

    def _device(self) -> str:
        """Kind of the server's device."""
        if not self._client.wait(lambda: self._client.status(SERVER) is not None, MODE_S):
            raise UnavailableError(f"the server has said nothing for {MODE_S:g} s")
        return str((self._client.status(SERVER) or {})["device"])

    def _go(self, wanted: Wanted, errors: IO[str]) -> dict[str, Any]:
        environment = with_stand_ins(wanted.environment, self._device())
        output = Output(time.monotonic())
        try:
            program = subprocess.Popen(
                wanted.command, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace",
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise UnavailableError(f"cannot start {wanted.command[0]!r}: {error}") from error
        self._program = program
        late = threading.Event()

        def too_long() -> None:
            late.set()
            self.end()

        timer = threading.Timer(wanted.timeout_s, too_long)
        timer.start()
        watch = Watch(self._client, wanted.label, output, program.pid)
        assert program.stdout is not None
        try:
            with program.stdout:
                for line in program.stdout:
                    output.take(line, wanted)
            _, status, usage = os.wait4(program.pid, 0)
            seconds = time.monotonic() - output.began
            program.returncode = code = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            watch.close()
            self._program = None
        return {
            "seconds": seconds,
            "exit_code": code,
            "late": late.is_set(),
            "said": output.last,
            "first_s": output.first_s,
            "told_ms": output.latencies_ms,
            "sampled_ms": sampled(watch.seen),
            "steady": steady(watch.seen),
            "results": output.results.hexdigest()[:16],
            "program_cpu_s": usage.ru_utime + usage.ru_stime,
            "program_memory_kb": watch.memory_kb or None,
        }


def request(wanted: Wanted) -> str:
    """The line that asks for a run."""
    return json.dumps(asdict(wanted))


def main() -> None:
    """Answer until the input closes."""
    robot, domain, recorder = sys.argv[1:4]
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    with RobotClient(robot, int(domain)) as client:
        side = RobotSide(client, int(recorder))

        def read() -> None:
            for line in sys.stdin:
                lines.put(line)
            lines.put("")
            side.end()

        client.wait_ready(READY_S)
        threading.Thread(target=read, name="requests", daemon=True).start()
        print("ready", flush=True)
        while line := lines.get():
            try:
                answer = side.run(Wanted(**json.loads(line)))
            except RrtoError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    try:
        main()
    except RrtoError as failure:
        sys.exit(str(failure))
