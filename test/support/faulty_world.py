"""Robots and servers in one process, without ROS, with everything between and in them breakable.

Programs, shims, recorders, servers and workers are the real ones; messages go through `bad_air`.
Sessions are sealed, and a server that is started anew has the id that it had.
"""

import contextlib
import dataclasses
import itertools
import os
import queue
import random
import re
import signal
import threading
import time

from support.bad_air import BadLane

from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.gate import Gate
from rrto_ros.edge.host import HostLimits
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.edge.table import SessionTable
from rrto_ros.errors import UnavailableError
from rrto_ros.nodes.local_place import LocalPlace
from rrto_ros.nodes.robot_places import RobotPlaces
from rrto_ros.robot.host import RobotHost
from rrto_ros.robot.partition.planner import Aim
from rrto_ros.robot.places.place import PlacedPort, from_outside
from rrto_ros.wire.handshake import Credentials

ASK_S = 0.05
"""How often a robot repeats a question that nobody answers."""

_RESUMED = re.compile(r"resumed as \w+ after ([\d.]+) s")


class BreakableServer:
    """A server that can die, rise, and stand still.

    Args:
        number: Its own.
        settings: ServerSettings.
        user: Credentials.
        publish: Takes what it says.
        log: Takes its lines.
    """

    def __init__(self, number, settings, user, publish, log):
        self._make = lambda say: SessionTable(
            settings, say, lambda _: None, log, Gate(lambda: user, f"server {number}")
        )
        self._publish = publish
        self._lock = threading.Lock()
        self._thawed = threading.Event()
        self._thawed.set()
        self._enders = []
        self.table = None
        self.rise()
        # Of its own, so that a server that stands still holds nobody up but itself.
        self._heard = queue.SimpleQueue()
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing.start()

    @property
    def alive(self):
        return self.table is not None

    def receive(self, message):
        """A message of calls arrives."""
        self._heard.put(message)

    def _hear(self):
        while (message := self._heard.get()) is not None:
            self._thawed.wait()
            table = self.table
            if table is not None:
                table.receive(message)

    def open(self, request):
        """Its answer, None for none."""
        table = self.table
        if table is None or not self._thawed.is_set():
            return None
        answer = table.open(request)
        self._thawed.wait()
        # A dead server's answer does not arrive.
        return answer if self.table is table else None

    def close_session(self, session, reason, proof):
        table = self.table
        if table is not None and self._thawed.is_set():
            table.close_session(session, reason, proof)

    def workers(self):
        """(pid, session) of each that executes one."""
        table = self.table
        return [(host.worker.pid, host.session) for host in table.hosts] if table else []

    def die(self):
        """It and its workers are gone at once; nobody is told."""
        with self._lock:
            table, self.table = self.table, None
        if table is None:
            return
        for host in table.hosts:
            with contextlib.suppress(ProcessLookupError):
                os.kill(host.worker.pid, signal.SIGKILL)
        ender = threading.Thread(target=table.close)
        ender.start()
        self._enders = [one for one in self._enders if one.is_alive()] + [ender]

    def rise(self):
        """It is there again, and knows nothing."""
        with self._lock:
            if self.table is None:
                made = []

                def say(message):
                    self._thawed.wait()
                    if made and self.table is made[0]:
                        self._publish(message)

                made.append(self._make(say))
                self.table = made[0]

    @contextlib.contextmanager
    def frozen(self):
        """It does nothing, and neither do its workers."""
        self._thawed.clear()
        pids = [pid for pid, _ in self.workers()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._thawed.set()

    def close(self):
        self._thawed.set()
        self.die()
        self._heard.put(None)
        self._hearing.join()
        for ender in self._enders:
            ender.join()


class BreakableRobot:
    """A recorder; the port of its sessions.

    Args:
        world: Where it is.
        path: Of its socket.
        config: SessionConfig.
        rng: Of its lanes.

    Attributes:
        algorithm: Of the placements of sessions that are opened in mode partition.
    """

    def __init__(self, world, path, config, rng):
        self._world = world
        self._over = False
        self.algorithm = "min_cut"
        self.reports = queue.SimpleQueue()
        local = LocalPlace(self._deliver, world.log)
        self.places = RobotPlaces(local, self._deliver, world.log)
        config = dataclasses.replace(config, place=self.places)
        self.host = RobotHost(path, config, 4, self.reports.put, world.log)
        self.up = BadLane(world.to_server, random.Random(rng.random()))
        outside = from_outside(self.places, self.host.on_results)
        self.down = BadLane(outside, random.Random(rng.random()))
        self.places.connect(self, lambda: self.host._config, lambda: Aim(self.algorithm))
        self.host.activate(PlacedPort(self, self.places))

    def _deliver(self, message):
        if not self.places.takes(message):
            self.host.on_results(message)

    @property
    def lanes(self):
        return (self.up, self.down)

    def publish_calls(self, message):
        self.up.put(message)

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        end = time.monotonic() + timeout_s
        while not self._over and time.monotonic() < end:
            stranger = None
            for server in self._world.turned():
                if self.up.loses():
                    continue
                answer = server.open(request)
                if answer is None or self.down.loses():
                    continue
                if answer.accepted:
                    self._world.opened(request.session, self, server)
                if believes is None or believes(answer):
                    return answer
                stranger = answer
            if stranger is not None:
                return stranger
            time.sleep(ASK_S)
        raise UnavailableError("no server is there")

    def close_session(self, session, reason, proof=b""):
        server = self._world.server_of(session)
        if server is not None and not self.up.loses():
            server.close_session(session, reason, proof)

    def has(self, session):
        """Whether a session is that of a program here, or was opened for a part of one."""
        mine = any(one.id == session for one in self.host.sessions)
        return mine or self._world.robot_of(session) is self

    def close(self):
        self._over = True
        self.host.close()
        self.places.close("the campaign is over")
        for lane in self.lanes:
            lane.close()


class FaultyWorld:
    """Robots and servers.

    Args:
        folder: For sockets and kept files.
        robots: How many.
        servers: How many.
        seed: Of what is lost on the way.
        config: Makes the SessionConfig of a robot, of its credentials.
        stores: Where uploads and kernels are kept.

    Attributes:
        robots: Each a `BreakableRobot`.
        servers: Each a `BreakableServer`.
        lines: The last lines of all logs.
        outages_s: How long each session that went on elsewhere had no server.
    """

    def __init__(self, folder, robots, servers, seed, config, stores):
        rng, user = random.Random(f"world {seed}"), Credentials(local=rng_bytes(seed))
        settings = ServerSettings(
            device="cpu",
            device_settings=DeviceSettings(
                limit_bytes=256 << 20, threads=1, cache_directory=stores / "kernels",
                cache_bytes=64 << 20,
            ),
            limits=HostLimits(),
            max_sessions=8 * robots + 8,
            blob_directory=stores / "blobs",
            blob_bytes=64 << 20,
            confinement="off",
        )  # fmt: skip
        self._where = {}
        self._lock = threading.Lock()
        self._turn = itertools.count()
        self.lines, self.outages_s = [], []
        self.servers = [
            BreakableServer(number, settings, user, self.to_robot, self.log)
            for number in range(servers)
        ]
        made = config(lambda: user)
        self.robots = [
            BreakableRobot(self, folder / f"r{number}" / "s.sock", made, rng)
            for number in range(robots)
        ]

    def log(self, line):
        found = _RESUMED.search(line)
        with self._lock:
            self.lines.append(line)
            del self.lines[:-400]
            if found:
                self.outages_s.append(float(found[1]))

    def turned(self):
        """The servers, each question another one first."""
        first = next(self._turn) % len(self.servers)
        return [*self.servers[first:], *self.servers[:first]]

    def opened(self, session, robot, server):
        with self._lock:
            self._where[session] = robot, server

    def robot_of(self, session):
        found = self._where.get(session)
        return found[0] if found else None

    def server_of(self, session):
        found = self._where.get(session)
        return found[1] if found else None

    def to_server(self, message):
        server = self.server_of(message.session)
        if server is not None:
            server.receive(message)

    def to_robot(self, message):
        robot = self.robot_of(message.session)
        if robot is not None:
            robot.down.put(message)

    def forget(self):
        """Drop what is known of sessions that nobody has any more."""
        alive = {session for server in self.servers for _, session in server.workers()}
        alive |= {session.id for robot in self.robots for session in robot.host.sessions}
        with self._lock:
            for session in list(self._where):
                if session not in alive:
                    del self._where[session]

    def close(self):
        for robot in self.robots:
            robot.close()
        for server in self.servers:
            server.close()


def rng_bytes(seed):
    """A secret of a test's own."""
    return random.Random(f"secret {seed}").randbytes(32)
