"""A robot and an edge for one test: starts their real nodes and programs, watches, breaks them."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from support.processes import PATIENCE_S, Process

PROGRAMS = Path(__file__).resolve().parent / "programs"
ROOT = Path(__file__).resolve().parents[2]
START_S = 40.0
"""Bound of a node's start on a busy machine; a start takes about two seconds."""


class Rig:
    """Processes of one test in one ROS domain.

    Args:
        domain: ROS domain number.
        folder: For files that the processes write.

    Attributes:
        robot: Robot name, the topics' prefix.
        server_silence_s: The recorder's parameter server_timeout_s in these tests.
        machines: Set to `Machines` to run the edge's and the robot's processes apart.
        variables: Added to the environment of processes that start from now on.
    """

    def __init__(self, domain, folder):
        self.domain = domain
        self.folder = Path(folder)
        self.robot = f"robot{domain}"
        self.machines = None
        self.variables = {}
        self.processes = []
        # The path of a Unix socket is short by nature, pytest's folders are not.
        self._run = tempfile.mkdtemp(prefix="rrto-test-")
        self._counts = {}

    # ---- environments

    def environment(self, **extra):
        """Of a ROS process of this test, not interposed."""
        from rrto_ros.bringup.environment import NODE_DEFAULTS

        env = {k: v for k, v in os.environ.items() if not k.startswith("RRTO_")}
        path = os.pathsep.join(p for p in (str(ROOT), env.get("PYTHONPATH", "")) if p)
        apart = self.machines is not None
        return {
            **env,
            **NODE_DEFAULTS,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "ROS_DOMAIN_ID": str(self.domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET" if apart else "LOCALHOST",
            "RRTO_APART": str(int(apart)),
            "ROS_LOG_DIR": str(self.folder / "log"),
            "XDG_RUNTIME_DIR": self._run,
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            **self.variables,
            **extra,
        }

    def interposed(self, robot=None, **extra):
        """Of a program of this test that loads the shim as libcuda."""
        from rrto_ros.bringup.environment import interposed_environment

        return interposed_environment(self.environment(**extra), robot or self.robot)

    # ---- nodes

    def running(self, module):
        """Process ids of what runs this Python module in this test's runtime folder."""
        mine, found = f"XDG_RUNTIME_DIR={self._run}", []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_text().split("\0")
                if module in words and mine in (folder / "environ").read_text().split("\0"):
                    found.append(int(folder.name))
        return found

    def server(self, device="cpu", robot=None, wait=True, side="edge", **parameters):
        """Start an offload_server, usually on the edge; ready when this returns."""
        robot = robot or self.robot
        node = self._node(
            "offload_server", robot, {"device": device, "robot": robot, "spare_workers": 1,
            "blob_directory": str(self.folder / "blobs"), **parameters}, side,
        )  # fmt: skip
        if wait:
            node.wait_for(r"ready on", START_S)
        return node

    def recorder(self, mode="batched", robot=None, wait=True, **parameters):
        """Start a recorder_replayer on the robot; it accepts programs when this returns."""
        robot = robot or self.robot
        node = self._node(
            "recorder_replayer", robot,
            {"mode": mode, "robot": robot, "autostart": True,
            "plan_cache_directory": str(self.folder / "plans"), **parameters}, "robot",
        )  # fmt: skip
        if wait:
            node.wait_for(r"\bactive in mode", START_S)
        return node

    def both(self, device="cpu", mode="batched", server=None, recorder=None):
        """Start server and recorder; returns them when both are ready."""
        edge = self.server(device, wait=False, **(server or {}))
        robot = self.recorder(mode, wait=False, **(recorder or {}))
        edge.wait_for(r"ready on", START_S)
        robot.wait_for(r"\bactive in mode", START_S)
        return edge, robot

    def _node(self, module, robot, parameters, side):
        arguments = [sys.executable, "-m", f"rrto_ros.nodes.{module}", "--ros-args"]
        arguments += ["-r", f"__ns:=/{robot}"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]
        return self.start(module, arguments, self.environment(), side)

    # ---- programs

    def start(self, name, arguments, env, side="robot", stdin=False):
        """Start any process on a side and keep it for logs and the end."""
        number = self._counts[name] = self._counts.get(name, 0) + 1
        title = name if number == 1 else f"{name} ({number})"
        where = None if self.machines is None else getattr(self.machines, side)
        process = Process(title, arguments, env, where, stdin)
        self.processes.append(process)
        return process

    def program(self, script, *arguments, robot=None, stdin=False, **extra):
        """Start one of test/support/programs as an unmodified CUDA program, interposed."""
        command = [sys.executable, PROGRAMS / script, *arguments]
        return self.start(script, command, self.interposed(robot, **extra), "robot", stdin)

    def helper(self, script, *arguments, stdin=True, side="robot"):
        """Start one of test/support/programs as a ROS program that is not interposed."""
        command = [sys.executable, PROGRAMS / script, *arguments]
        return self.start(script, command, self.environment(), side, stdin)

    def watch(self, robot=None, side="robot"):
        """Watch the status topic of a robot."""
        process = self.helper("status_watch.py", robot or self.robot, stdin=False, side=side)
        process.wait_for("watching", START_S)
        return StatusWatch(process)

    # ---- the end

    def logs(self):
        """The last output of every process, by name."""
        return {
            process.name: process.text(3 if "status_watch" in process.name else 60)
            for process in self.processes
        }

    def close(self):
        """End every process, the nodes last."""
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self._run, ignore_errors=True)


class StatusWatch:
    """Reads the status messages that a watching process prints."""

    def __init__(self, process):
        self._process = process

    def wait(self, kind, accepts, timeout_s=PATIENCE_S, what="status"):
        """Wait for the next status of `kind` (offload_server, recorder_replayer) that fits.

        Only messages from now on count. Returns the whole message.
        """

        def look(line):
            message = parsed(line)
            fits = message.get("kind") == kind and accepts(message)
            return message if fits else None

        after = len(self._process.lines)
        return self._process.wait_until(look, timeout_s, after, f"{kind} status: {what}")

    def diagnosed(self, accepts, timeout_s=PATIENCE_S):
        """Wait for the next line on /diagnostics whose name, level and message fit; returns it."""

        def look(line):
            found = parsed(line).get("diagnostics")
            return found if found and accepts(found) else None

        return self._process.wait_until(look, timeout_s, len(self._process.lines), "diagnostics")

    def report(self, pid, timeout_s=PATIENCE_S):
        """The final report of the session of a process, once it is there."""

        def look(line):
            found = parsed(line).get("report")
            return found if found and found["pid"] == pid else None

        return self._process.wait_until(look, timeout_s, 0, f"report of process {pid}")


def parsed(line):
    """The JSON object of a line, an empty one if it is none."""
    if not line.startswith("{"):
        return {}
    try:
        return json.loads(line)
    except ValueError:
        return {}


def said(process, timeout_s=PATIENCE_S, after=0, **fields):
    """Wait for a JSON line that has the fields (a value of ... is any); returns the object."""

    def look(line):
        message = parsed(line)
        if message and all(
            key in message and (value is ... or message[key] == value)
            for key, value in fields.items()
        ):
            return message
        return None

    return process.wait_until(look, timeout_s, after, f"JSON line with {fields}")


def steps(process):
    """[(call, result)] that a misuse program has reported."""
    return [
        (message["call"], message.get("result"))
        for message in map(parsed, process.lines)
        if "call" in message
    ]
