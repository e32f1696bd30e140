"""What a fallback to the robot's own device takes: the edge is killed while a model runs.

    bench/fallback.py                    # a program of the tests, and NanoDet
    bench/fallback.py --models FOLDER    # other .onnx files
    bench/fallback.py --json found.json

An unchanged program infers again and again on the same picture, in mode `replay`, with `fallback:
local`. The server is killed; the program goes on on the robot. The server is started again; the
session returns. All of that twice: the first time the robot's kernel cache is empty. Told are the
seconds from the kill to the next result, what an inference takes at the edge and on the robot, and
the longest inference around the return. Both ends are this machine, so the robot's device is as
fast as the edge's here. Exits with 1 if an output differs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import machine
from replay_models import HERE, NANODET, PROGRAM
from stack import Stack, stack

from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.evaluation.talker import Talker, started

WANDER = HERE.parent / "test" / "support" / "programs" / "wander.py"
WARM = 12
HERE_S = 5.0
"""How long the program runs on the robot before the server is started again."""
PATIENCE_S = 180.0


class Run:
    """One model's run.

    Args:
        nodes: Recorder and server.
        program: The program.
    """

    def __init__(self, nodes: Stack, program: Talker) -> None:
        self._nodes = nodes
        self._program = program
        self.digests: set[str] = set()

    def infer(self, count: int = 1) -> list[float]:
        """So many inferences; seconds of each."""
        said = self._program.ask(str(count))
        # Only the first of them has the picture that all others had.
        self.digests.add(said["digests"][0])
        return list(said["seconds"])

    def until(self, pattern: str, seen: int) -> list[float]:
        """Infer until the recorder writes a line with this text; seconds of each inference."""
        taken, end = [], time.monotonic() + PATIENCE_S
        while not any(pattern in line for line in self._nodes.lines("recorder_replayer")[seen:]):
            if time.monotonic() > end:
                raise UnavailableError(f"no line with {pattern!r}:\n{self._nodes.log()}")
            taken += self.infer()
        return taken

    def away_and_back(self) -> dict[str, float]:
        """Kill the server, run on the robot, start it again, return."""
        edge = [second for _ in range(WARM) for second in self.infer()]
        seen = len(self._nodes.lines("recorder_replayer"))
        killed = time.monotonic()
        self._nodes.signal("offload_server", signal.SIGKILL)
        self.infer()
        loss_s = time.monotonic() - killed
        while not any("goes on on" in line for line in self._lines(seen)):
            self.infer()
            loss_s = time.monotonic() - killed
        here = []
        end = time.monotonic() + HERE_S
        while time.monotonic() < end or len(here) < WARM:
            here += self.infer()
        seen = len(self._nodes.lines("recorder_replayer"))
        again = time.monotonic()
        self._nodes.start_again("offload_server")
        back = self.until("is back at an edge", seen) + self.infer()
        back_s = time.monotonic() - again
        return {
            "edge_ms": 1e3 * statistics.median(edge),
            "loss_to_result_s": loss_s,
            "here_ms": 1e3 * statistics.median(here),
            "start_to_return_s": back_s,
            "longest_around_return_ms": 1e3 * max(back[-3:]),
        }

    def _lines(self, seen: int) -> list[str]:
        return self._nodes.lines("recorder_replayer")[seen:]


class PacedRun(Run):
    """A run of a small program of the tests, which goes on by a step when it is told."""

    def infer(self, count: int = 1) -> list[float]:
        """So many steps; seconds of each."""
        taken = []
        for _ in range(count):
            began = time.monotonic()
            self._program.ask("go")
            taken.append(time.monotonic() - began)
        return taken


def measured(command: list[str], kind: type[Run]) -> tuple[list[dict[str, float]], int]:
    """Two times away and back, and how many outputs there were for one picture."""
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="rrto-bench-")))
        # The robot's own kernel cache, empty at first; the edge has another.
        os.environ["XDG_CACHE_HOME"] = str(folder / "robot")
        parameters = {
            "recorder_replayer": {"fallback": "local", "outage_timeout_s": PATIENCE_S},
            "offload_server": {"kernel_cache_directory": str(folder / "edge")},
        }
        nodes = ends.enter_context(stack("cpu", "replay", parameters=parameters))
        assert isinstance(nodes, Stack)
        whole, env = nodes.command(command, **PROGRAM)
        program = started(ends, whole, env, "the program", folder / "errors")
        run = kind(nodes, program)
        run.infer(WARM)
        return [run.away_and_back() for _ in range(2)], len(run.digests)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, help="a folder of .onnx files; default: NanoDet")
    parser.add_argument("--small", action="store_true", help="only the small program")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    options = parser.parse_args()
    models = sorted(options.models.glob("*.onnx")) if options.models else [NANODET]
    program = [sys.executable, str(HERE / "replay_program.py")]
    runs: dict[str, tuple[list[str], type[Run]]] = {
        model.stem: ([*program, str(model)], Run) for model in models
    }
    if options.small:
        runs.clear()
    if not options.models:
        command = [sys.executable, str(WANDER), "1000000", "--pace", "--every", "1000000"]
        runs = {WANDER.stem: (command, PacedRun), **runs}
    body: dict[str, Any] = {"on": machine(), "models": {}}
    code = 0
    for name, (command, kind) in runs.items():
        times, outputs = measured(command, kind)
        for which, one in zip(("empty cache", "full cache"), times, strict=True):
            said = ", ".join(f"{key} {value:.1f}" for key, value in one.items())
            print(f"{name}, {which}: {said}", flush=True)
        if outputs > 1:
            print(f"{name}: {outputs} different outputs for one picture")
            code = 1
        body["models"][name] = times
    if options.json:
        options.json.write_text(json.dumps(body, indent=1) + "\n")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RrtoError as failure:
        sys.exit(f"fallback: {failure}")
