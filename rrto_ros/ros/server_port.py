"""Values of `port` over DDS: owns the server's end, and when its participant is made anew."""

from __future__ import annotations

import array
import threading
from collections.abc import Callable
from typing import Any

from rrto_msgs.msg import CallBatch, CallResult, SessionEvent
from rrto_msgs.srv import CloseSession, OpenSession
from rrto_ros.ros.cdr import calls_message, results_out
from rrto_ros.ros.context import Endpoint
from rrto_ros.ros.message_bytes import byte_array, id_array
from rrto_ros.ros.participant import (
    Participant,
    SpinThread,
    TakeThread,
    announcement_qos,
    call_qos,
    listeners,
    wait_delivered,
)
from rrto_ros.ros.renewal import Renewal
from rrto_ros.wire.port import (
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    SessionAnnouncement,
    topic,
)

MAX_KNOWN_BLOBS = 4096
NO_SESSION = bytes(16)
"""No session has this id; to close it is a question that does nothing but be answered."""
APART_S = 5.0
"""How long a recorder may say that it does not reach this server before the server's participant
is made anew. The recorder's is, after 1.2 s and after 2.4 s more (`robot_port`)."""
_U32 = 0xFFFFFFFF
_NO_ANSWER = object()


class _Ends(Participant):
    """One participant with the server's topics and services on it."""

    def __init__(
        self,
        domain: int | None,
        robot: str,
        name: str,
        received: Callable[[bytes], None],
        opening: Callable[[Any, Any], Any],
        closing: Callable[[Any, Any], Any],
    ) -> None:
        super().__init__(domain, name)
        self.results = self.data.create_publisher(
            CallResult, topic(robot, "call_results"), call_qos()
        )
        self.sessions = self.control.create_publisher(
            SessionEvent, topic(robot, "sessions"), announcement_qos()
        )
        self.open = self.control.create_service(OpenSession, topic(robot, "open_session"), opening)
        # The first answer is the one that the robot gets, so who is not asked gives none.
        answer = self.open.send_response
        self.open.send_response = lambda response, header: (
            None if response is _NO_ANSWER else answer(response, header)
        )
        self.close = self.control.create_service(
            CloseSession, topic(robot, "close_session"), closing
        )
        self.take = TakeThread(
            self.data, CallBatch, topic(robot, "call_batches"), call_qos(), received
        )
        self.spin = SpinThread(self.control)

    def found(self) -> bool:
        """Whether DDS knows one of a recorder's topics, as seen from here."""
        return bool(self.results.get_subscription_count() or self.take.publishers())

    def leave(self) -> None:
        """Stop the threads and leave the graph, once the robots have what was said last."""
        wait_delivered(self.results, self.sessions)
        super().leave()

    def _endpoints(self) -> tuple[list[Endpoint], list[Endpoint]]:
        return [self.results], [self.sessions, self.open, self.close]


class RosServerPort:
    """The server's side: takes calls, publishes results, answers session requests.

    Args:
        domain: ROS domain number, None for the environment's; the port has an own context.
        robot: Robot name, the topics' prefix.
        on_calls: Called for every calls message, in the port's take thread.
        on_open: Answers a session request, in the port's service thread; may take its time. None
            leaves it to another server.
        on_close: Closes a session, given its id, a reason and who asks; returns (closed, reason
            if not).
        name: Prefix of the data nodes' names.
        server: Its id, which it says when it is asked whether it is there.
    """

    def __init__(
        self,
        domain: int | None,
        robot: str,
        on_calls: Callable[[CallsMessage], None],
        on_open: Callable[[OpenRequest], OpenAnswer | None],
        on_close: Callable[[bytes, str, bytes], tuple[bool, str]],
        name: str = "offload_server",
        server: bytes = bytes(16),
    ) -> None:
        self.robot = robot
        self._on_calls = on_calls
        self._on_open = on_open
        self._on_close = on_close
        self._server = server
        self._domain = domain
        self._name = name
        self._lock = threading.Lock()
        self._published = 0
        self._renewal = Renewal(APART_S)
        self._ends = self._make()

    def publish_results(self, message: ResultsMessage) -> None:
        """Publish one message (any thread)."""
        out = results_out(message)
        with self._lock:
            self._published += 1
            self._ends.results.publish(out)

    def listeners(self) -> list[str]:
        """Nodes that get the result messages (see `listeners`)."""
        with self._lock:
            return listeners(self._ends.data, self._ends.results.topic_name)

    def announce(self, event: SessionAnnouncement) -> None:
        """Publish that a session opened or closed (any thread)."""
        out = SessionEvent()
        out.stamp = self._ends.control.get_clock().now().to_msg()
        out.session = id_array(event.session)
        out.event = SessionEvent.OPENED if event.opened else SessionEvent.CLOSED
        out.robot = event.robot
        out.program = event.program
        out.pid = event.pid & _U32
        out.device = event.device
        out.arena_base = event.arena_base
        out.arena_bytes = event.arena_bytes
        out.reason = event.reason
        with self._lock:
            self._ends.sessions.publish(out)

    def statistics(self) -> dict[str, int | str]:
        """Messages published and taken; how often the participant was made anew."""
        return {
            "published": self._published,
            "renewed": self._renewal.renewed,
            **self._ends.take.statistics(),
        }

    def judge(self, seen: bool, reached: bool, log: Callable[[str], None]) -> None:
        """Make the participant anew where a recorder is seen that does not reach this server.

        Sessions go on: what was lost with the old participant is sent again.

        Args:
            seen: Whether a recorder that has its participant is; ask again and again, from one
                thread.
            reached: Whether it says that it reaches a server. That may be another one, so this
                one looks whether it knows the recorder's topics, too.
            log: Takes a line when it is made anew.
        """
        with self._lock:
            ends = self._ends
        apart = seen and not (reached and ends.found())
        waited_s = self._renewal.due(apart, not apart)
        if not waited_s:
            return
        log(
            f"a recorder is seen that has not reached this server for {waited_s:g} s; the "
            "participant for calls and results is made anew"
        )
        self._renewal.renew(self._make, self._swap, log)

    def close(self) -> None:
        """Stop the threads and leave the graph, once the robots have what was said last."""
        self._ends.leave()

    def _swap(self, made: _Ends) -> _Ends:
        with self._lock:
            old, self._ends = self._ends, made
        return old

    def _make(self) -> _Ends:
        return _Ends(
            self._domain, self.robot, self._name, self._received, self._opening, self._closing
        )

    def _received(self, data: bytes) -> None:
        self._on_calls(calls_message(data))

    def _opening(self, request: Any, response: Any) -> Any:
        if not request.session.any():
            response.reason = "a server is here"
            response.server = id_array(self._server)
            return response
        answer = self._on_open(
            OpenRequest(
                request.session.tobytes(),
                request.robot,
                request.program,
                request.label,
                request.pid,
                request.device,
                request.arena_base,
                request.limit_bytes,
                request.protocol_version,
                request.table_hash.tobytes(),
                request.server.tobytes(),
                request.hello.tobytes(),
                request.proof.tobytes(),
            )
        )
        if answer is None:
            return _NO_ANSWER
        response.accepted = answer.accepted
        response.reason = answer.reason
        if answer.info is not None:
            info = answer.info
            response.device = info.kind
            response.device_name = info.name
            response.device_uuid = id_array(info.uuid)
            response.compute_major, response.compute_minor = info.compute_capability
            response.driver_version = info.driver_version
            response.total_bytes = info.total_bytes
            response.arena_base = info.arena_base
            response.arena_bytes = info.arena_bytes
            pairs = sorted(info.attributes.items())
            response.attribute_ids = array.array("i", [key for key, _ in pairs])
            response.attribute_values = array.array("i", [value for _, value in pairs])
        response.max_message_bytes = answer.max_message_bytes
        response.server = id_array(answer.server)
        response.challenge = byte_array(answer.challenge)
        response.proof = byte_array(answer.proof)
        response.known_blobs = byte_array(b"".join(list(answer.known_blobs)[:MAX_KNOWN_BLOBS]))
        return response

    def _closing(self, request: Any, response: Any) -> Any:
        closed, reason = self._on_close(
            request.session.tobytes(), request.reason, request.proof.tobytes()
        )
        response.closed = closed
        response.reason = reason
        return response
