"""Places on the robot where sessions can be: what they offer, and the port that knows the way.

To a session such a place is one more server, with an id of its own and a way to it that nobody
else has. What a place is made of is not known here (`nodes/local_place.py`): the robot's rooms
know nothing of those that execute calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rrto_ros.api.info import DeviceInfo
from rrto_ros.wire.port import (
    Believes,
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    RobotPort,
)


class Place(Protocol):
    """A place on the robot. Every method may be called by any thread."""

    @property
    def server(self) -> bytes:
        """The id that it answers with; no server out there has it."""
        ...

    def port(self, kind: str, like: DeviceInfo | None) -> RobotPort:
        """The way to devices of a kind.

        Args:
            kind: "cpu", "gpu" or "null".
            like: The device that a program knows: sessions get one that shows the same, where that
                changes nothing that is computed. None: as the edge's was last, or the robot's own.
        """
        ...

    def partition(self) -> RobotPort:
        """The way to sessions that run partly here and partly at an edge."""
        ...

    def parts(self, session: bytes) -> bool:
        """Whether it has a session, and that runs partly here and partly at an edge."""
        ...

    def seen(self, info: DeviceInfo) -> None:
        """An edge has opened a session on this device."""
        ...

    def say(self, text: str) -> None:
        """Write a line into the recorder's log."""
        ...

    def has(self, session: bytes) -> bool:
        """Whether a session was opened there and not closed by its robot."""
        ...

    def receive(self, message: CallsMessage) -> None:
        """Take a message of a session that it has."""
        ...

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:
        """Close a session that it has; does not wait."""
        ...

    def takes(self, message: ResultsMessage) -> bool:
        """Take a message of an edge for a part of a session that it has; whether it is one."""
        ...


class PlacedPort:
    """A `RobotPort` to servers out there, and for sessions that a place has, to the place.

    It opens sessions out there only; who wants one at the place asks `Place.port`.

    Args:
        edges: The port to servers.
        place: The place on this robot.
    """

    def __init__(self, edges: RobotPort, place: Place) -> None:
        self._edges = edges
        self._place = place

    def publish_calls(self, message: CallsMessage) -> None:
        """Send one message to wherever its session is."""
        if self._place.has(message.session):
            self._place.receive(message)
        else:
            self._edges.publish_calls(message)

    def open_session(
        self,
        request: OpenRequest,
        timeout_s: float,
        believes: Believes | None = None,
        patience_s: float = 0.0,
    ) -> OpenAnswer:
        """Ask servers out there; `RobotPort` says how."""
        return self._edges.open_session(request, timeout_s, believes, patience_s)

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:
        """Close a session wherever it is."""
        if self._place.has(session):
            self._place.close_session(session, reason, proof)
        else:
            self._edges.close_session(session, reason, proof)


def from_outside(
    place: Place, on_results: Callable[[ResultsMessage], None]
) -> Callable[[ResultsMessage], None]:
    """What takes results that came over the network.

    Sessions at the place are not sealed, since their messages do not leave the process; so what
    comes over the network in their name is of somebody else, and is dropped.
    """

    def take(message: ResultsMessage) -> None:
        if not (place.has(message.session) or place.takes(message)):
            on_results(message)

    return take
