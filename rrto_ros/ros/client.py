"""What a tool sees of a running robot: owns a small node that follows its status and reports.

For the `rrto` command and for waiting until everything is up. Messages are handed out as plain
values (see `plain`), so that nobody else needs their types.
"""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from rrto_msgs.msg import SessionStatus, Status
from rrto_msgs.srv import MoveSessions
from rrto_ros.errors import UnavailableError
from rrto_ros.ros.context import leave, own_context, tool_node
from rrto_ros.ros.message_bytes import id_array
from rrto_ros.ros.participant import SpinThread, announcement_qos
from rrto_ros.ros.services import ask
from rrto_ros.wire.port import RECORDER as RECORDER
from rrto_ros.wire.port import SERVER as SERVER
from rrto_ros.wire.port import topic

Plain = dict[str, Any]


def plain(message: Any) -> Any:
    """A message as dicts, lists and numbers; bytes as a hexadecimal text."""
    if hasattr(message, "get_fields_and_field_types"):
        return {name: plain(getattr(message, name)) for name in _fields(message)}
    if isinstance(message, np.ndarray):
        return message.tobytes().hex() if message.dtype == np.uint8 else message.tolist()
    if isinstance(message, array.array):
        return message.tobytes().hex() if message.typecode == "B" else message.tolist()
    if isinstance(message, list | tuple):
        return [plain(item) for item in message]
    return message


def _fields(message: Any) -> list[str]:
    return list(message.get_fields_and_field_types())


def status_qos() -> QoSProfile:
    """Of a subscription that any publisher of the status matches."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=16,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


GONE_S = 10.0
"""A server that has said nothing for so long is not shown beside others that have."""
MOST_NODES = 256
"""Anybody in the domain can say that it is a server."""
LOOK_S = 0.1
"""How often `wait_ready` asks whether its waiting still makes sense."""


class RobotClient:
    """Follows one robot. A context manager; every method may be called by any thread.

    Args:
        robot: Robot name.
        domain: ROS domain number.
    """

    def __init__(self, robot: str, domain: int) -> None:
        self.robot = robot
        self.domain = domain
        self._changed = threading.Condition()
        # By kind and, of servers, id.
        self._statuses: dict[tuple[str, str], tuple[Plain, float]] = {}
        self._reports: dict[str, Plain] = {}
        self._received = 0
        self._context = own_context(domain)
        self._node = tool_node("rrto_client", self._context)
        self._node.create_subscription(
            Status, topic(robot, "status"), self._on_status, status_qos()
        )
        self._node.create_subscription(
            SessionStatus, topic(robot, "reports"), self._on_report, announcement_qos()
        )
        self._spin = SpinThread(self._node)

    def __enter__(self) -> RobotClient:  # noqa: PYI034 (Self is newer than Python 3.10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._spin.close()
        leave(self._context, self._node)

    def wait(self, accepts: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `accepts()`; it is asked after every message. False if the time is over."""
        with self._changed:
            return self._changed.wait_for(accepts, timeout_s)

    def status(self, kind: str, since: float = 0.0) -> Plain | None:
        """The newest status of the recorder, or of a server.

        Args:
            kind: `RECORDER` or `SERVER`.
            since: Only if it came after this time (monotonic clock).
        """
        with self._changed:
            found = [value for (of, _), value in self._statuses.items() if of == kind]
            newest = max(found, key=lambda one: one[1], default=None)
            return newest[0] if newest and newest[1] > since else None

    def servers(self) -> int:
        """How many servers have said what they are."""
        with self._changed:
            return sum(kind == SERVER for kind, _ in self._statuses)

    def statuses(self) -> list[Plain]:
        """The newest status of every node seen: servers by name, then the recorder."""
        return [status for status, _ in self.statuses_with_ages()]

    def statuses_with_ages(self) -> list[tuple[Plain, float]]:
        """The newest status of every node seen, and how old it is, in seconds.

        A server that has said nothing for long is left out where another one is heard.
        """
        now = time.monotonic()
        with self._changed:
            found = [(status, now - came) for status, came in self._statuses.values()]
        heard = any(status["kind"] == SERVER and age < GONE_S for status, age in found)
        return sorted(
            (
                (status, age)
                for status, age in found
                if not (heard and status["kind"] == SERVER and age >= GONE_S)
            ),
            key=lambda one: (one[0]["kind"], one[0]["server_name"], one[0]["server_id"]),
        )

    def move(self, session: str, server: str, timeout_s: float = 10.0) -> tuple[int, str]:
        """Ask the recorder to have sessions go on at another server.

        Args:
            session: Id, 32 hexadecimal digits; empty for every session.
            server: Name; empty for any other.
            timeout_s: How long an answer is waited for.

        Returns:
            How many sessions were told, and why not all.

        Raises:
            UnavailableError: The recorder does not answer.
        """
        request = MoveSessions.Request(server=server)
        request.session = id_array(bytes.fromhex(session) if session else bytes(16))
        path = topic(self.robot, "move_sessions")
        answer = self._ask(MoveSessions, path, RECORDER, request, timeout_s)
        return int(answer.sessions), str(answer.reason)

    def reports(self, label: str = "") -> list[Plain]:
        """The final reports seen of sessions that are over, with this label unless it is empty."""
        with self._changed:
            return [r for r in self._reports.values() if not label or r["label"] == label]

    def _ready(self) -> bool:
        """Whether the recorder says that it is active and reaches a server.

        That a server is seen from here says nothing: the recorder has to reach it.
        """
        recorder = self.status(RECORDER)
        return (
            recorder is not None
            and recorder["state"] == "active"
            and recorder["server_state"] == "connected"
        )

    def wait_ready(self, timeout_s: float, alive: Callable[[], str] = lambda: "") -> None:
        """Wait until the recorder is active and knows a server.

        Args:
            timeout_s: How long at most.
            alive: Asked ten times per second; a text it returns ends the waiting.

        Raises:
            UnavailableError: It did not come to that; the text says how far it came.
        """
        end = time.monotonic() + timeout_s
        while not self.wait(self._ready, min(LOOK_S, max(0.0, end - time.monotonic()))):
            trouble = alive()
            if trouble:
                raise UnavailableError(trouble)
            if time.monotonic() >= end:
                raise UnavailableError(self._how_far(timeout_s))

    def _how_far(self, timeout_s: float) -> str:
        """Why the robot is not ready after so many seconds, and the next step."""
        recorder, server = self.status(RECORDER), self.status(SERVER)
        if recorder is None:
            state = "no recorder_replayer was seen"
        elif recorder["state"] != "active":
            state = f"recorder_replayer is {recorder['state']}, want active"
        else:
            state = "recorder_replayer is active and reaches no offload_server"
        if server is not None:
            state += f"; offload_server is {server['state']}"
        return (
            f"robot {self.robot!r} in ROS domain {self.domain} was not ready within "
            f"{timeout_s:g} s: {state}. Start what is missing with `rrto up`"
        )

    def set_parameter(
        self, name: str, value: str | bool, node: str = RECORDER, timeout_s: float = 10.0
    ) -> str:
        """Set a parameter of one of the robot's nodes.

        Returns:
            Why the node refused; empty if it did not.

        Raises:
            UnavailableError: The node does not answer.
        """
        wanted = ParameterValue()
        if isinstance(value, bool):
            wanted.type, wanted.bool_value = ParameterType.PARAMETER_BOOL, value
        else:
            wanted.type, wanted.string_value = ParameterType.PARAMETER_STRING, value
        request = SetParameters.Request(parameters=[Parameter(name=name, value=wanted)])
        result = self._call(SetParameters, node, "set_parameters", request, timeout_s).results[0]
        return "" if result.successful else result.reason or "the node gave no reason"

    def get_parameter(
        self, name: str, node: str = RECORDER, timeout_s: float = 10.0
    ) -> str | bool | int | float | None:
        """Read a parameter of one of the robot's nodes; None if it has none of that name.

        Raises:
            UnavailableError: The node does not answer.
        """
        request = GetParameters.Request(names=[name])
        value = self._call(GetParameters, node, "get_parameters", request, timeout_s).values[0]
        got: dict[int, Any] = {
            ParameterType.PARAMETER_BOOL: value.bool_value,
            ParameterType.PARAMETER_STRING: value.string_value,
            ParameterType.PARAMETER_INTEGER: value.integer_value,
            ParameterType.PARAMETER_DOUBLE: value.double_value,
        }
        found: str | bool | int | float | None = got.get(value.type)
        return found

    def announced(self, kind: str) -> int:
        """How many nodes of that name DDS knows for the robot; their status may still come."""
        found = self._node.get_publishers_info_by_topic(topic(self.robot, "status"))
        return sum(one.node_name == kind for one in found)

    def statistics(self) -> dict[str, int]:
        """Messages received, nodes and reports seen."""
        with self._changed:
            return {
                "received": self._received,
                "nodes": len(self._statuses),
                "reports": len(self._reports),
            }

    def _call(self, kind: Any, node: str, service: str, request: Any, timeout_s: float) -> Any:
        seen = self.status(node)
        full = seen["node"] if seen and str(seen["node"]).startswith("/") else None
        path = f"{full or f'/{self.robot}/{node}'}/{service}"
        return self._ask(kind, path, node, request, timeout_s)

    def _ask(self, kind: Any, path: str, node: str, request: Any, timeout_s: float) -> Any:
        client = self._node.create_client(kind, path)
        missing = UnavailableError(
            f"{path} did not answer within {timeout_s:g} s; is a {node} for robot "
            f"{self.robot!r} up in ROS domain {self.domain}? See `rrto status`"
        )
        try:
            answer = ask(client, request, timeout_s)
            if answer is None:
                raise missing
            return answer
        finally:
            self._node.destroy_client(client)

    def _on_status(self, message: Any) -> None:
        value = plain(message)
        with self._changed:
            self._received += 1
            server = value["server_id"] if value["kind"] == SERVER else ""
            self._statuses[value["kind"], server] = (value, time.monotonic())
            while len(self._statuses) > MOST_NODES:
                del self._statuses[min(self._statuses, key=lambda key: self._statuses[key][1])]
            self._changed.notify_all()

    def _on_report(self, message: Any) -> None:
        value = plain(message)
        with self._changed:
            self._received += 1
            self._reports[value["session"]] = value
            self._changed.notify_all()
