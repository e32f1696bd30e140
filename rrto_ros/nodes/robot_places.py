"""The places on the robot as one: owns which of them has a session, and when each is made.

What partitioned sessions need (tables, links, what kernels touch) takes a third of a second to
import, and a recorder starts without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rrto_ros.api.info import DeviceInfo
from rrto_ros.nodes.local_place import LocalPlace
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.port import CallsMessage, ResultsMessage, RobotPort

if TYPE_CHECKING:
    from rrto_ros.nodes.partitioned_place import PartitionedPlace
    from rrto_ros.robot.partition.planner import Aim


class RobotPlaces:
    """All places on the robot as one (`robot.places.Place`).

    Args:
        local: The robot's own device.
        deliver: Takes results of partitioned sessions (any thread, of one session in order).
        log: Takes lines for the log (any thread).
    """

    def __init__(
        self,
        local: LocalPlace,
        deliver: Callable[[ResultsMessage], None],
        log: Callable[[str], None],
    ) -> None:
        self._local = local
        self._deliver = deliver
        self._log = log
        self._lock = threading.Lock()
        self._partitioned: PartitionedPlace | None = None
        self._edges: tuple[RobotPort, Callable[[], SessionConfig], Callable[[], Aim]] | None = None

    def connect(
        self, edges: RobotPort, config: Callable[[], SessionConfig], aim: Callable[[], Aim]
    ) -> None:
        """Partitioned sessions go to edges by this way; as `PartitionedPlace.connect`."""
        self._edges = edges, config, aim

    @property
    def server(self) -> bytes:
        """As `Place`."""
        return self._local.server

    def port(self, kind: str, like: DeviceInfo | None) -> RobotPort:
        """As `Place`."""
        return self._local.port(kind, like)

    def partition(self) -> RobotPort:
        """As `Place`."""
        with self._lock:
            if self._partitioned is None:
                from rrto_ros.nodes.partitioned_place import PartitionedPlace

                self._partitioned = PartitionedPlace(self._local, self._deliver, self._log)
                if self._edges is not None:
                    self._partitioned.connect(*self._edges)
            return self._partitioned

    def parts(self, session: bytes) -> bool:
        """As `Place`."""
        partitioned = self._partitioned
        return partitioned is not None and partitioned.has(session)

    def seen(self, info: DeviceInfo) -> None:
        """As `Place`."""
        self._local.seen(info)

    def say(self, text: str) -> None:
        """As `Place`."""
        self._local.say(text)

    def has(self, session: bytes) -> bool:
        """As `Place`."""
        return self._of(session).has(session)

    def receive(self, message: CallsMessage) -> None:
        """As `Place`."""
        self._of(message.session).receive(message)

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:
        """As `Place`."""
        self._of(session).close_session(session, reason, proof)

    def takes(self, message: ResultsMessage) -> bool:
        """As `Place`."""
        partitioned = self._partitioned
        return partitioned is not None and partitioned.takes(message)

    def close(self, reason: str) -> None:
        """End all sessions; waits for it."""
        if self._partitioned is not None:
            self._partitioned.close(reason)
        self._local.close(reason)

    def statistics(self) -> dict[str, Any]:
        """Of the robot's own device, and of partitioned sessions."""
        own = self._partitioned.statistics() if self._partitioned is not None else {}
        return {
            **self._local.statistics(),
            **{f"partitioned_{name}": value for name, value in own.items()},
        }

    def _of(self, session: bytes) -> PartitionedPlace | LocalPlace:
        """The place that has a session."""
        partitioned = self._partitioned
        return partitioned if partitioned is not None and self.parts(session) else self._local
