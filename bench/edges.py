"""What a program notices of a second edge: how long it stands still when its session moves.

    bench/edges.py 5                  # so many orders to move, and so many servers killed
    bench/edges.py 5 --mode batched --standby

A robot and two servers on this machine, device cpu. The program says what it has done after each
iteration; a pause is the longest time between two iterations around a move. For orders to move
(`rrto move`), and for kill -9 of the server that has the session while the other one runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stack import Stack, measuring_domain

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import itertools

from rrto_ros.ros.client import RECORDER, SERVER, RobotClient

PROGRAMS = Path(__file__).resolve().parents[1] / "test" / "support" / "programs"
_RESUMED = re.compile(r"is resumed as \w+ after ([\d.]+) s")
FIRST, SECOND = "offload_server", "second"
PATIENCE_S = 60.0
CALM_S = 3.0
"""Between two moves: a checkpoint may come, and the program's pace is seen."""


class TwoEdges(Stack):
    """A recorder and two servers, called as their processes are."""

    def __init__(self, mode: str, standby: bool) -> None:
        parameters = {FIRST: {"server_name": FIRST}, RECORDER: {"standby": int(standby)}}
        super().__init__("cpu", mode, parameters=parameters)
        process, parameters = self._started[FIRST]
        process = dataclasses.replace(process, name=SECOND)
        self._started[SECOND] = process, {**parameters, "server_name": SECOND}
        self._start(*self._started[SECOND])
        self._wait(SECOND, "ready on")


class Paced:
    """A program whose iterations are timed as they are told."""

    def __init__(self, edges: TwoEdges) -> None:
        command = [sys.executable, str(PROGRAMS / "wander.py"), "100000000", "--cascade"]
        whole, env = edges.command(command)
        env["PYTHONUNBUFFERED"] = "1"
        self._process = subprocess.Popen(whole, env=env, stdout=subprocess.PIPE, text=True)
        self.times: list[float] = []
        self.said = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said = line
            if "iteration" in json.loads(line):
                self.times.append(time.monotonic())

    def longest_s(self, since: float) -> float:
        """The longest time between two iterations, the second of them after a moment."""
        times = list(self.times)
        gaps = [b - a for a, b in itertools.pairwise(times) if b >= since]
        return max(gaps, default=0.0)

    def usual_s(self) -> float:
        """The median time between two iterations."""
        times = list(self.times)
        return statistics.median(b - a for a, b in itertools.pairwise(times))

    def close(self) -> None:
        """End it; it must have come this far without an error."""
        if self._process.poll() is not None:
            sys.exit(f"the program ended with {self._process.returncode}: {self.said}")
        self._process.kill()
        self._process.wait()


def until(client: RobotClient, accepts: Callable[[], bool], what: str) -> float:
    """Wait for something that a status says; returns when it did."""
    if not client.wait(accepts, PATIENCE_S):
        sys.exit(f"{what} within {PATIENCE_S:g} s: it was not so")
    return time.monotonic()


def measure(mode: str, rounds: int, standby: bool) -> dict[str, list[float]]:
    """Pauses, in seconds, by what made them; "usual" is the time of an iteration."""
    edges = TwoEdges(mode, standby)
    out: dict[str, list[float]] = {
        "ordered": [], "ordered, until there": [], "killed": [],
        "killed, until it was open elsewhere": [],
    }  # fmt: skip
    try:
        with RobotClient(edges.robot, measuring_domain()) as client:
            program = Paced(edges)

            def session() -> dict[str, object]:
                status = client.status(RECORDER)
                found = status["sessions"] if status is not None else []
                return found[0] if found else {"server": "", "resumed": -1}

            def alive() -> set[str]:
                return {
                    s["server_name"] for s, age in client.statuses_with_ages()
                    if s["kind"] == SERVER and age < 1.5
                }  # fmt: skip

            until(client, lambda: session()["server"] in (FIRST, SECOND), "a session")
            for kind in ["ordered"] * rounds + ["killed"] * rounds:
                until(client, lambda: alive() == {FIRST, SECOND}, "both servers")
                time.sleep(CALM_S)
                if standby and kind == "killed":
                    until(client, lambda: bool(session()["standby"]), "one that stands by")
                before = session()
                began = time.monotonic()
                if kind == "ordered":
                    client.move("", "")
                else:
                    edges.signal(str(before["server"]), signal.SIGKILL)

                def there(before: dict[str, object] = before) -> bool:
                    now = session()
                    return bool(now["resumed"] != before["resumed"] and now["server"])

                arrived = until(client, there, "at the other server")
                done = len(program.times)
                until(client, lambda done=done: len(program.times) > done + 5, "iterations")
                out[kind].append(program.longest_s(began))
                switched = _RESUMED.findall("\n".join(edges.lines(RECORDER)))
                if kind == "ordered":
                    out["ordered, until there"].append(arrived - began)
                else:
                    out["killed, until it was open elsewhere"].append(float(switched[-1]))
                    edges.start_again(str(before["server"]))
            out["usual"] = [program.usual_s()]
            program.close()
    finally:
        edges.close()
    return out


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("rounds", type=int)
    parser.add_argument("--mode", choices=("rpc", "batched", "replay"), default="replay")
    parser.add_argument("--standby", action="store_true")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    found = measure(options.mode, options.rounds, options.standby)
    standing = ", standby" if options.standby else ""
    print(
        f"mode {options.mode}{standing}, load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    )
    for name, seconds in found.items():
        each = ", ".join(f"{1e3 * s:.0f}" for s in seconds)
        print(f"{name}: median {1e3 * statistics.median(seconds):.0f} ms ({each})")


if __name__ == "__main__":
    main()
