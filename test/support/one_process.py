"""Recorder and server in the test's process, without ROS: for real programs and real workers.

The two are joined by a lane each way, which can be slow. What every part holds is watched all the
time, so that a test can say how much it was at most.
"""

import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from rrto_ros.bringup.environment import interposed_environment
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.edge.table import SessionTable
from rrto_ros.robot.host import RobotHost

PROGRAMS = Path(__file__).resolve().parent / "programs"
ROOT = Path(__file__).resolve().parents[2]


class Lane:
    """One direction: hands messages on in order, as fast as its rate lets them pass.

    Args:
        deliver: Takes each message, in the lane's thread.
        bytes_per_s: Rate; 0 for none.
    """

    def __init__(self, deliver, bytes_per_s):
        self._deliver = deliver
        self._rate = bytes_per_s
        self._queue = queue.SimpleQueue()
        self._over = False
        self.waiting = 0
        self.most_waiting = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, message):
        self.waiting += len(message.data)
        self.most_waiting = max(self.most_waiting, self.waiting)
        self._queue.put(message)

    def close(self):
        self._over = True
        self._queue.put(None)
        self._thread.join()

    def _run(self):
        while (message := self._queue.get()) is not None and not self._over:
            if self._rate:
                time.sleep((len(message.data) + 100) / self._rate)
            self.waiting -= len(message.data)
            self._deliver(message)


class OneProcess:
    """A recorder and a server.

    Args:
        path: Of the recorder's socket.
        config: SessionConfig.
        limits: HostLimits.
        bytes_per_s: Rate of each direction; 0 for none.
        gate: Who may open a session (`edge.gate.Gate`); None for anybody.
        server: Further ServerSettings.

    Attributes:
        on_the_way: Called with ("up" or "down", message); gives the messages that arrive for it.
        most: The most bytes that each part held at once, by the part's name.
    """

    def __init__(self, path, config, limits, bytes_per_s=0, gate=None, **server):
        self.on_the_way = lambda _, message: [message]
        self.reports, self.events, self.lines = queue.SimpleQueue(), queue.SimpleQueue(), []
        settings = {
            "device": "cpu",
            "device_settings": DeviceSettings(limit_bytes=256 << 20, threads=1),
            "limits": limits,
            **server,
        }
        self.host = RobotHost(path, config, 4, self.reports.put, self.lines.append)
        self.settings = ServerSettings(**settings)
        self._gate = gate
        self.down = Lane(self._arriving("down", self.host.on_results), bytes_per_s)
        self.table = self.make_table()
        self.up = Lane(self._arriving("up", self.receive), bytes_per_s)
        self.most = {}
        self.programs = []
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        self.host.activate(self)

    def make_table(self):
        """The server."""
        return SessionTable(
            self.settings, self.down.put, self.events.put, self.lines.append, self._gate
        )

    def receive(self, message):
        """A message of calls has arrived at the server."""
        self.table.receive(message)

    def _arriving(self, way, deliver):
        def arrive(message):
            for one in self.on_the_way(way, message):
                deliver(one)

        return arrive

    # the robot's port

    def publish_calls(self, message):
        self.up.put(message)

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        return self.table.open(request)

    def close_session(self, session, reason, proof=b""):
        self.table.close_session(session, reason, proof)

    # for tests

    def start(self, script, *arguments, **variables):
        """Start one of programs/ on the shim, with environment variables besides."""
        env = interposed_environment({"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, "r")
        env |= {"RRTO_SOCKET": str(self.host.path), **variables}
        program = subprocess.Popen(
            [sys.executable, str(PROGRAMS / script), *map(str, arguments)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.programs.append(program)
        return program

    def close(self):
        for program in self.programs:
            program.kill()
            program.communicate()
        self.host.close()
        self.table.close()
        self._over.set()
        self._watch.join()
        self.up.close()
        self.down.close()

    def held(self):
        """Bytes that each part holds now."""
        out = {}
        for host in self.table.hosts:
            numbers = host.statistics()
            out["calls at the server"] = numbers["unexecuted_bytes"]
            sent = numbers["sent"]
            out["results at the server"] = sent["queued_bytes"] + sent["unacknowledged_bytes"]
            out["deferred calls"] = numbers["deferred"]
        for session in self.host.sessions:
            numbers = session.statistics()
            out["results at the robot"] = numbers.get("replies_pending_bytes", 0)
            out["calls at the robot"] = (
                numbers["sender_queued_bytes"] + numbers["sender_unacknowledged_bytes"]
            )
            out["kept at the robot"] = numbers.get("blobs_kept_bytes", 0)
            out["blobs asked for"] = numbers.get("blobs_wanted", 0)
        return out

    def _look(self):
        while not self._over.wait(0.003):
            for name, size in self.held().items():
                self.most[name] = max(size, self.most.get(name, 0))
