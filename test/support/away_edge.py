"""A recorder with a device of its own, and an edge whose link a test cuts and mends."""

import dataclasses
import threading
import time

from support.failing_edge import FailingEdge

from rrto_ros.errors import UnavailableError
from rrto_ros.nodes.local_place import LocalPlace
from rrto_ros.nodes.robot_places import RobotPlaces
from rrto_ros.robot.places.place import PlacedPort, from_outside


class AwayEdge(FailingEdge):
    """One robot with `fallback: local`, and a server that may be away.

    Args:
        away: Whether the link is cut at first.
        path, config, limits, server: As `FailingEdge` takes them.

    Attributes:
        place: The robot's own.
    """

    def __init__(self, path, config, limits, away=False, **server):
        self._mended = threading.Event()
        if not away:
            self._mended.set()
        self.place = LocalPlace(
            lambda message: self.host.on_results(message), lambda text: self.lines.append(text)
        )
        self.places = RobotPlaces(
            self.place,
            lambda message: self.host.on_results(message),
            lambda text: self.lines.append(text),
        )
        config = dataclasses.replace(config, place=self.places)
        super().__init__(path, config, limits, **server)
        outside = from_outside(self.places, self.host.on_results)
        self.down._deliver = self._arriving("down", outside)
        self.on_the_way = lambda _, message: [message] if self._mended.is_set() else []
        self.host.activate(PlacedPort(self, self.places))

    def cut(self):
        """Nothing arrives on either side any more."""
        self._mended.clear()

    def mend(self):
        self._mended.set()

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        end = time.monotonic() + timeout_s
        if not self._mended.wait(timeout_s):
            raise UnavailableError("no offload server answered")
        answer = super().open_session(request, end - time.monotonic(), believes, patience_s)
        if not self._mended.is_set():
            raise UnavailableError("no offload server answered")
        return answer

    def close_session(self, session, reason, proof=b""):
        if self._mended.is_set():
            super().close_session(session, reason, proof)

    def close(self):
        super().close()
        self.place.close()

    def wait(self, fits, timeout_s=60):
        """Wait until a test's condition holds for the only session; returns the session."""
        end = time.monotonic() + timeout_s
        while True:
            sessions = self.host.sessions
            if sessions and fits(sessions[0]):
                return sessions[0]
            assert time.monotonic() < end, (
                self.lines, [s.snapshot() for s in sessions], [s.statistics() for s in sessions],
            )  # fmt: skip
            time.sleep(0.005)


def served(session, waits):
    """Whether its program has waited for so many results."""
    return session.snapshot().round_trips >= waits


def grows(world, by=50):
    """Wait until the session's program has got so many results more."""
    before = world.host.sessions[0].snapshot().round_trips
    world.wait(lambda session: served(session, before + by))


def is_here(session):
    """Whether it is on the robot's own device."""
    return session.snapshot().fallback
