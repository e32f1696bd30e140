"""A private server and recorder for a measurement: owns their start, their end, their log.

Both run with the package's own bring-up, under a robot name and a socket that no one else has, so
that a measurement meets neither another one nor a robot that is in use.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rrto_ros.api.parameters import RECORDER, SERVER
from rrto_ros.bringup.environment import interposed_environment
from rrto_ros.bringup.options import Options
from rrto_ros.bringup.processes import Process, recorder, server
from rrto_ros.bringup.supervisor import Child
from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation.netns import Machines

START_TIMEOUT_S = 60.0
_READY = {"offload_server": r"ready on", "recorder_replayer": r"\bactive\b"}


def measuring_domain() -> int:
    """The ROS domain of what this process measures."""
    return 1 + os.getpid() % 101


def cpu_seconds(pid: int) -> float:
    """Processor time that a running process used so far, all threads, in seconds.

    Raises:
        UnavailableError: There is no such process.
    """
    try:
        # clock_getcpuclockid(): the kernel's own count, not rounded to ticks.
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        raise UnavailableError(f"process {pid} has ended") from None


class Running:
    """What a running pair is, however its two ends meet.

    Args:
        robot: Robot name; pairs that run at once need different ones.

    Attributes:
        robot: The same.
    """

    def __init__(self, robot: str) -> None:
        self.robot = robot or f"measure{os.getpid()}"
        self._folder = tempfile.TemporaryDirectory(prefix="rrto-")
        self._changed = threading.Condition()
        self._lines: list[tuple[str, str]] = []
        self._ended: set[str] = set()
        self._base: dict[str, str] = {}
        self._machines: Machines | None = None
        self._meets: dict[str, str] = {}
        self._children: list[Child] = []

    def run(
        self,
        command: Sequence[str],
        timeout_s: float = 300.0,
        *,
        foreign: bool = False,
        allowed: Sequence[int] = (0,),
        **environment: str,
    ) -> list[dict[str, Any]]:
        """Run an interposed program to its end; returns the JSON objects it printed, one a line.

        Args:
            command: Program and arguments.
            timeout_s: For so long at most.
            foreign: Whether it may use another Python than this one.
            allowed: Exit codes that are no failure.
            **environment: Variables besides.

        Raises:
            UnavailableError: It failed, or took longer than `timeout_s`.
        """
        whole, env = self.command(command, foreign=foreign, **environment)
        try:
            done = subprocess.run(
                whole, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{command[0]} still ran after {timeout_s:g} s") from None
        if done.returncode not in allowed:
            raise UnavailableError(
                f"{' '.join(command)} ended with {done.returncode}: "
                f"{(done.stderr or done.stdout).strip()[-1000:]}\n{self.log()}"
            )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    def command(
        self, command: Sequence[str], *, foreign: bool = False, **environment: str
    ) -> tuple[list[str], dict[str, str]]:
        """The command line and the environment that run an interposed program beside the robot.

        Args:
            command: Program and arguments.
            foreign: Whether it may use another Python than this one.
            **environment: Variables besides.
        """
        env = interposed_environment({**self._base, **environment}, self.robot, foreign=foreign)
        env.update(self._meets)
        machines = self._machines
        return list(command) if machines is None else machines.robot.command(command), env

    def cpu_s(self, node: str) -> float:
        """Processor time that a node of the stack used so far, in seconds."""
        return cpu_seconds(self.pid(node))

    def pid(self, node: str) -> int:
        """The process of a node of the stack."""
        (pid,) = (child.pid for child in self._children if child.process.name == node)
        return pid

    def signal(self, node: str, number: int) -> None:
        """Send a signal to a node, and to no process of its own."""
        os.kill(self.pid(node), number)

    def lines(self, node: str) -> list[str]:
        """What a node wrote so far."""
        with self._changed:
            return [line for name, line in self._lines if name == node]

    def log(self, last: int = 20) -> str:
        """The last lines that the nodes wrote."""
        with self._changed:
            return "\n".join(f"[{name}] {line}" for name, line in self._lines[-last:])

    def statistics(self) -> dict[str, int]:
        """Processes running and log lines so far."""
        with self._changed:
            running = sum(child.code is None for child in self._children)
            return {"running": running, "lines": len(self._lines)}

    def close(self) -> None:
        """End both nodes, the recorder first."""
        for child in reversed(self._children):
            child.stop()
        self._folder.cleanup()

    def _said(self, name: str, line: str) -> None:
        with self._changed:
            self._lines.append((name, line))
            self._changed.notify_all()

    def _over(self, child: Child) -> None:
        with self._changed:
            self._ended.add(child.process.name)
            self._changed.notify_all()

    def _wait(self, wanted: str, pattern: str) -> None:
        search, end = re.compile(pattern).search, time.monotonic() + START_TIMEOUT_S
        with self._changed:
            while not any(name == wanted and search(line) for name, line in self._lines):
                left = end - time.monotonic()
                if wanted in self._ended or left <= 0:
                    said = "\n".join(line for _, line in self._lines[-20:])
                    raise UnavailableError(f"{wanted} did not become ready:\n{said}")
                self._changed.wait(left)


NODES = {"offload_server": SERVER, "recorder_replayer": RECORDER}
"""Node name -> its parameters."""
SETTINGS: dict[str, str] = {}
"""Parameters of all pairs of nodes that are made from now on, whichever node has them."""


class Stack(Running):
    """A running pair of nodes.

    Args:
        device: Of the server: cpu, gpu or null.
        mode: Of the recorder: rpc, batched or replay.
        machines: Two namespaces to put them in (server: edge, recorder: robot), or None.
        name: Robot name; stacks that run at once need different ones.
        discovery: ROS_AUTOMATIC_DISCOVERY_RANGE of nodes on one machine. With LOCALHOST the
            middleware takes transports of its own, whose shared memory holds 512 KB.
        parameters: Node name -> further ROS parameters, as in a parameter file.
        recorder_script: What Python runs instead of the recorder's own module, with arguments.

    Raises:
        UnavailableError: A node ended or was not ready in time; the text holds its log.
    """

    def __init__(
        self,
        device: str = "null",
        mode: str = "batched",
        machines: Machines | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        name: str = "",
        discovery: str = "LOCALHOST",
        recorder_script: Sequence[str] = (),
    ) -> None:
        super().__init__(name)
        self._recorder_script = tuple(recorder_script)
        self._machines = machines
        self._started: dict[str, tuple[Process, Mapping[str, Any]]] = {}
        self._meets["ROS_DOMAIN_ID"] = str(measuring_domain())
        discovery = discovery if machines is None else "SUBNET"
        self._base = {
            **os.environ,
            "XDG_RUNTIME_DIR": self._folder.name,
            "ROS_AUTOMATIC_DISCOVERY_RANGE": discovery,
            "RRTO_APART": "0" if machines is None else "1",
        }
        self._base.pop("RRTO_SOCKET", None)
        options = Options(robot=self.robot, device=device, mode=mode, domain=measuring_domain())
        extra = dict(parameters or {})
        blobs = {"blob_directory": f"{self._folder.name}/blobs"}
        extra["offload_server"] = {**blobs, **extra.get("offload_server", {})}
        plans = {"plan_cache_directory": f"{self._folder.name}/plans"}
        extra["recorder_replayer"] = {**plans, **extra.get("recorder_replayer", {})}
        try:
            for process in (server(options), recorder(options)):
                self._started[process.name] = process, extra.get(process.name, {})
                self._start(*self._started[process.name])
            for name, pattern in _READY.items():
                self._wait(name, pattern)
        except BaseException:
            self.close()
            raise

    def start_again(self, node: str) -> None:
        """Start a node that has ended; does not wait until it is ready."""
        self._children = [child for child in self._children if child.process.name != node]
        self._ended.discard(node)
        self._start(*self._started[node])

    def _start(self, process: Process, parameters: Mapping[str, Any]) -> None:
        command = list(process.command)
        if self._recorder_script and process.lifecycle:
            assert command[1] == "-m"
            command[1:3] = self._recorder_script
        at = command.index("--log-level")
        settings = {name: value for name, value in SETTINGS.items() if name in NODES[process.name]}
        for name, value in {**settings, **parameters}.items():
            command[at:at] = ["-p", f"{name}:={json.dumps(value)}"]
        if self._machines is not None:
            side = self._machines.edge if process.name == "offload_server" else None
            command = (side or self._machines.robot).command(command)
        started = Process(process.name, tuple(command), process.environment)
        self._children.append(Child(started, self._said, self._over, self._base))
