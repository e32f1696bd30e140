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
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any

from rrto_ros.bringup.stand_ins import with_stand_ins
from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.evaluation.stack import cpu_seconds
from rrto_ros.evaluation.watching import (
    MOST_TEXT,
    Output,
    Wanted,
    Watch,
    memory_kb,
    sampled,
    steady,
)
from rrto_ros.ros.client import RECORDER, SERVER, RobotClient
from rrto_ros.ros.reports import collect_reports

READY_S = 60.0
MODE_S = 20.0


class RobotSide:
    """Runs programs one after the other.

    Args:
        client: Follows the robot.
        recorder: Process id of its recorder.
    """

    def __init__(self, client: RobotClient, recorder: int) -> None:
        self._client, self._recorder = client, recorder
        self._program: subprocess.Popen[str] | None = None
        self._over = False

    def leave(self) -> None:
        """No program is wanted any more: end the one that runs, or is about to."""
        self._over = True
        self.end()

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
        if self._over:  # said while it was being started
            self.end()
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
            side.leave()

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
