"""A program of a measurement that is told what to do line by line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rrto_ros.errors import UnavailableError

PATIENCE_S = 600.0


class Talker:
    """A process that answers each line with a line.

    Args:
        process: With pipes at both ends.
        what: For messages.
        errors: Where its standard error goes.
    """

    def __init__(self, process: subprocess.Popen[str], what: str, errors: Path) -> None:
        self.process, self._what, self._errors = process, what, errors
        self.hear()

    def hear(self, patience_s: float = PATIENCE_S) -> str:
        """The next line that is an answer.

        Raises:
            UnavailableError: The process ended, or was ended because it took longer.
        """
        assert self.process.stdout is not None
        # A process that hangs must not hang the measurement: its end closes the pipe.
        timer = threading.Timer(patience_s, self.process.kill)
        timer.start()
        try:
            while line := self.process.stdout.readline():
                if line.startswith("{") or line.strip() == "ready":
                    return line
        finally:
            timer.cancel()
        said = self._errors.read_text(errors="replace")[-1500:]
        raise UnavailableError(f"{self._what} ended: {said}")

    def ask(self, line: str, patience_s: float = PATIENCE_S) -> Any:
        """The answer to a line, waited for at most so long.

        Raises:
            UnavailableError: The process ended, or was ended because it took longer.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # `hear` says why; it may have been closed from another thread
        return json.loads(self.hear(patience_s))

    def close_input(self) -> None:
        """Tell it to leave."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self, patience_s: float = 10.0) -> None:
        """Close its input, which tells it to leave, and insist after a while."""
        self.close_input()
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def started(
    ends: ExitStack, command: Sequence[str], env: Mapping[str, str], what: str, errors: Path
) -> Talker:
    """Start a process, which ends with `ends` at the latest.

    Raises:
        UnavailableError: It ended before it was ready.
    """
    with errors.open("w") as file:
        process = subprocess.Popen(
            command, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
            text=True, start_new_session=True,
        )  # fmt: skip
    ends.callback(process.wait)
    ends.callback(process.kill)
    return Talker(process, what, errors)
