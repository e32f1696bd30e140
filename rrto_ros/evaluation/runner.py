"""Makes the runs of an evaluation: a program in each mode, by turns, over one link.

One pair of nodes serves all: before each run the recorder's mode is changed, so that no other
pair costs processor time or sends over the link meanwhile. In each round every mode runs once, in
an order that is turned round by round, and all its runs begin at the same place of the link.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rrto_ros.api.runtime_tables import VALIDITY_VARIABLE
from rrto_ros.bringup.environment import find_program, node_environment
from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation.link_emulator import LinkedMachines, joined_by_link
from rrto_ros.evaluation.links import Link, played, settings
from rrto_ros.evaluation.results import Results, now
from rrto_ros.evaluation.stack import Stack, measuring_domain
from rrto_ros.evaluation.talker import Talker, started
from rrto_ros.evaluation.watching import Wanted

RECORDER = "recorder_replayer"
STATUS_RATE_HZ = 10.0
SLACK_S = 60.0
"""How much longer than its program a run may take: mode changed, reports collected."""
NOT_COUNTED = -1
"""Number of the round of a run that warms up."""
GOLDEN = 0.6180339887498949
"""Rounds begin so far apart on the link (as a share of it): never twice at one place, and evenly
spread however many there are."""


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        rounds: Turns of each mode.
        timeout_s: Of one run of the program.
        warm_modes: What runs once in each of these before the first round does not count.
    """

    rounds: int
    timeout_s: float
    warm_modes: tuple[str, ...]

    def left(self, results: Results) -> list[tuple[str, int]]:
        """(mode, round) of the runs that are still to be made, in their order."""
        done = results.done()
        modes = results.settings.modes
        out = []
        for number in range(self.rounds):
            at = number % len(modes)
            out += [(mode, number) for mode in (*modes[at:], *modes[:at])]
        return [each for each in out if each not in done]


class Stop:
    """Whether the user wants no more, and what ends the run that is being made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._end: Callable[[], object] = lambda: None

    @property
    def asked(self) -> bool:
        """Whether no more is wanted."""
        return self._asked

    def ask(self) -> None:
        """No more is wanted; any thread."""
        with self._lock:
            self._asked = True
            self._end()

    def ends(self, end: Callable[[], object]) -> None:
        """What `ask` is to call; at once where it was called before."""
        with self._lock:
            self._end = end
            if self._asked:
                end()


class Robot:
    """Nodes, and the process beside them that runs programs.

    Args:
        results: Whose settings say what is run.
        link: Between robot and edge.
        ends: All that is started ends with it.
        folder: For logs.
    """

    def __init__(self, results: Results, link: Link, ends: ExitStack, folder: Path) -> None:
        self._settings, self._link = results.settings, link
        self._machines: LinkedMachines | None = None
        if link.emulated:
            first = settings(link.steps[0])
            self._machines = ends.enter_context(joined_by_link(first))
        # The default range of discovery, as `rrto run` has it: the transports of LOCALHOST would
        # lose messages that are larger than 512 KB.
        self.nodes = Stack(
            self._settings.device, "batched", machines=self._machines,
            name=f"evaluate{os.getpid()}", discovery="SUBNET",
            parameters={RECORDER: {"status_rate_hz": STATUS_RATE_HZ}},
        )  # fmt: skip
        ends.callback(self.nodes.close)
        self._talker = self._start(ends, folder / "robot_side.log")

    def _start(self, ends: ExitStack, log: Path) -> Talker:
        robot = [self.nodes.robot, str(measuring_domain()), str(self.nodes.pid(RECORDER))]
        command = [sys.executable, "-m", "rrto_ros.evaluation.robot_side", *robot]
        if self._machines is not None:
            command = self._machines.robot.command(command)
        root = str(Path(__file__).resolve().parents[2])
        env = {
            **os.environ,
            **node_environment(),
            "PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", ""))),
            "ROS_DOMAIN_ID": str(measuring_domain()),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
            "RRTO_APART": "0" if self._machines is None else "1",
        }
        with self.explained():
            talker = started(ends, command, env, "the robot's side", log)
        ends.callback(talker.end)
        return talker

    def end(self) -> None:
        """End the program that runs; `run` returns then. Any thread."""
        self._talker.close_input()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What the nodes said last goes with what went wrong."""
        try:
            yield
        except UnavailableError as error:
            raise UnavailableError(f"{error}\n{self.nodes.log()}") from error

    def run(self, mode: str, number: int, timeout_s: float) -> dict[str, Any]:
        """Run the program once.

        Args:
            mode: Of the recorder.
            number: The round: it says where the link begins.
            timeout_s: For so long at most.

        Returns:
            What is kept of the run.

        Raises:
            UnavailableError: Nodes or link do not work.
        """
        chosen = self._settings
        _, env = self.nodes.command(chosen.program, foreign=True)
        if chosen.cuda_runtime:
            env[VALIDITY_VARIABLE] = "1"
        label = str(uuid.uuid4())
        env["RRTO_LABEL"] = label
        wanted = Wanted(mode, list(chosen.program), env, label, timeout_s,
                        chosen.latency_pattern, chosen.result_pattern)  # fmt: skip
        begin_s = (number * GOLDEN % 1.0) * self._link.total_s
        before, at = self._crossed(), now()
        load = os.getloadavg()[0]
        change = self._machines.link.set if self._machines is not None else None
        with self.explained(), played(self._link, begin_s, lambda s: change and change(s, s)):
            found = self._talker.ask(json.dumps(asdict(wanted)), timeout_s + SLACK_S)
            after = self._crossed()
        run = {"mode": mode, "round": number, "at": at, "link_begin_s": begin_s, "load": load}
        if "error" in found:
            raise UnavailableError(f"mode {mode}: {found['error']}\n{self.nodes.log()}")
        if before and after:
            run |= {"wire_up": after[0] - before[0], "wire_down": after[1] - before[1]}
        run |= found
        run["failed"] = _failure(run, mode, timeout_s)
        return run

    def _crossed(self) -> tuple[int, int] | None:
        if self._machines is None:
            return None
        found = self._machines.link.statistics()
        return found["up"]["bytes"], found["down"]["bytes"]


def _failure(run: dict[str, Any], mode: str, timeout_s: float) -> str:
    """Why a run does not count; empty if it does."""
    if run["late"]:
        return f"still ran after {timeout_s:g} s"
    if run["exit_code"]:
        return f"ended with {run['exit_code']}: {run.get('said', '')}"
    if not run["sessions"]:
        return "made no driver call"
    for session in run["sessions"]:
        if session["error"]:
            return f"its session was lost: {session['error']}"
        if session["mode"] != mode:
            return f"its session was in mode {session['mode']!r}"
    return ""


def evaluate(
    results: Results,
    plan: Plan,
    link: Link,
    folder: Path,
    begins: Callable[[str, int], object],
    ended: Callable[[dict[str, Any]], object],
    stop: Stop,
) -> None:
    """Make the runs that are still to be made; each is in the file when it is over.

    Args:
        results: What there is; the runs are added.
        plan: What is wanted.
        link: Between robot and edge.
        folder: Of the file.
        begins: Told mode and round (`NOT_COUNTED`: it warms up) of a run that begins.
        ended: Told a run that is kept.
        stop: Ends it before all are made; the run that is being made is not kept.

    Raises:
        RrtoError: The program was not found, or nodes or link do not work.
    """
    if not plan.left(results):
        return
    find_program(results.settings.program[0], os.environ)
    results.write(folder)
    with ExitStack() as ends:
        try:
            robot = _robot(results, link, ends, folder, stop)
            _make(robot, results, plan, folder, begins, ended, stop)
        except UnavailableError:
            # What was ended for the user's sake did not fail.
            if not stop.asked:
                raise


def _robot(results: Results, link: Link, ends: ExitStack, folder: Path, stop: Stop) -> Robot:
    """Nodes that meet; they are started once more where they do not, which happens.

    ARCHITECTURE.md says why: "Who does not find the other is started anew".
    """
    for last in (False, True):
        with ExitStack() as started_now:
            try:
                robot = Robot(results, link, started_now, folder)
            except UnavailableError:
                if last or stop.asked:
                    raise
                continue
            ends.enter_context(started_now.pop_all())
            return robot
    raise AssertionError


def _make(
    robot: Robot,
    results: Results,
    plan: Plan,
    folder: Path,
    begins: Callable[[str, int], object],
    ended: Callable[[dict[str, Any]], object],
    stop: Stop,
) -> None:
    """The runs of `evaluate`, when the nodes are there."""
    stop.ends(robot.end)
    for mode, number in (*((mode, NOT_COUNTED) for mode in plan.warm_modes), *plan.left(results)):
        begins(mode, number)
        run = robot.run(mode, max(number, 0), plan.timeout_s)
        if stop.asked:
            return
        if number == NOT_COUNTED:
            if run["failed"]:
                raise UnavailableError(
                    f"the program does not run in mode {mode}: {run['failed']}\n"
                    f"{robot.nodes.log()}\nTry it alone with `rrto run --mode {mode}`"
                )
            continue
        results.runs.append(run)
        results.write(folder)
        ended(run)
