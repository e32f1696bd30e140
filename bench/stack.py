"""What the measurements here run on: a private pair of nodes, or the same without ROS.

`Stack` is rrto_ros/evaluation/stack.py's. `LocalStack` is the same in two processes that a socket
joins (bench/local_ends.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rrto_ros.bringup.processes import Process
from rrto_ros.bringup.supervisor import Child
from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation.stack import (  # noqa: F401 (what measurements import from here)
    NODES,
    SETTINGS,
    Running,
    Stack,
    measuring_domain,
)
from rrto_ros.shim.build import compiler

ENDS = Path(__file__).resolve().parent / "local_ends.py"
RING = "robot.sock"
REPORT_TIMEOUT_S = 15.0


class LocalStack(Running):
    """A running pair without ROS, on this machine.

    Args:
        device: As of `Stack`.
        mode: As of `Stack`.
        name: As of `Stack`.
        limit_bytes: Device memory of a session, 0 for the server's default.
    """

    def __init__(
        self, device: str = "null", mode: str = "batched", name: str = "", limit_bytes: int = 0
    ) -> None:
        super().__init__(name)
        folder = self._folder.name
        self._base = dict(os.environ)
        self._meets["RRTO_SOCKET"] = f"{folder}/{RING}"
        sides = {
            "server": {
                "device": device,
                "blob_directory": f"{folder}/blobs",
                "limit_bytes": limit_bytes,
            },
            "recorder": {"mode": mode, "robot": self.robot},
        }
        ready = {"server": "^ready on", "recorder": "^active"}
        try:
            for side, said in sides.items():
                command = (sys.executable, str(ENDS), side, folder, json.dumps(said))
                self._children.append(
                    Child(Process(side, command), self._said, self._over, self._base)
                )
                self._wait(side, ready[side])  # the recorder connects to the server
        except BaseException:
            self.close()
            raise

    def reports(self, at_least: int = 1) -> list[dict[str, Any]]:
        """What is known of the sessions that have ended, the first first.

        Args:
            at_least: Sessions whose end is waited for: it comes just after their program's.

        Raises:
            UnavailableError: They did not end.
        """

        def ended() -> list[dict[str, Any]]:
            lines = (line for name, line in self._lines if name == "recorder")
            return [json.loads(line)["report"] for line in lines if line.startswith('{"report"')]

        with self._changed:
            if not self._changed.wait_for(lambda: len(ended()) >= at_least, REPORT_TIMEOUT_S):
                raise UnavailableError(f"{len(ended())} of {at_least} sessions have ended")
            return ended()


@contextlib.contextmanager
def stack(
    device: str = "null", mode: str = "batched", *, local: bool = False, **settings: Any
) -> Iterator[Running]:
    """A `Stack`, or a `LocalStack`, that ends with the block; `settings`: its other arguments."""
    made = (LocalStack if local else Stack)(device, mode, **settings)
    try:
        yield made
    finally:
        made.close()


def compile_c(source: Path, folder: Path) -> Path:
    """Build a C program of the measurements; returns the executable.

    Raises:
        UnavailableError: No compiler, or it refused.
    """
    out = folder / source.stem
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra"]
    command = [compiler(), *flags, "-o", str(out), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"{source.name} cannot be compiled: {done.stderr.strip()[-2000:]}")
    return out
