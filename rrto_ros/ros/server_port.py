"""Values of `port` over DDS: owns the server's end, and what both ends are made of.

A node that carries calls or results is kept apart from the node with the parameters: the wait
for the one hot topic then looks at two entities and nothing else. It is waited for with a wait
set and `take` in a thread of its own; services and clients live in a second node with an executor
in a second thread. They share a context, and with it one DDS participant (`ros_context`).
"""

from __future__ import annotations

import array
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future

from rrto_msgs.msg import CallBatch, CallResult, SessionEvent
from rrto_msgs.srv import CloseSession, OpenSession
from rrto_ros.ros.context import (
    abandon,
    keep_private,
    leave,
    own_context,
    quiet_node,
)
from rrto_ros.ros.renewal import Renewal
from rrto_ros.ros.wall_clock import WallClockWatch
from rrto_ros.wire.format import Buffer
from rrto_ros.wire.port import (
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    SessionAnnouncement,
    topic,
)

CALL_DEPTH = 256
ANNOUNCEMENT_DEPTH = 64
MAX_KNOWN_BLOBS = 4096
CLOSE_ANSWER_S = 1.0
"""How long a port that is closed waits for answers, and then for acknowledgements."""
NO_SESSION = bytes(16)
"""No session has this id; to close it is a question that does nothing but be answered."""
APART_S = 5.0
"""How long a recorder may say that it does not reach this server before the server's participant
is made anew. The recorder's is, after 1.2 s and after 2.4 s more (`robot_port`)."""
_U32 = 0xFFFFFFFF
_NO_ANSWER = object()


def call_qos(depth: int = CALL_DEPTH) -> QoSProfile:
    """Calls and results: reliable, the newest `depth` messages kept for late acknowledgement."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def announcement_qos(depth: int = ANNOUNCEMENT_DEPTH) -> QoSProfile:
    """Sessions, plans and reports: reliable, and late subscribers get the newest `depth`."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def set_bytes(message: Any, field: str, data: Buffer) -> None:
    """Give a message's uint8[] field its bytes, which must not change before it is published.

    Publishing reads any buffer. The field's setter takes an array only, and copies it; making that
    array is another copy: 0.5 ms for 600 KB.
    """
    if f"_{field}" in message.__slots__:
        setattr(message, f"_{field}", data)
    else:
        setattr(message, field, byte_array(data))


def byte_array(data: Buffer) -> array.array[int]:
    """Bytes as the array that a uint8[] field takes without looking at every item."""
    out = array.array("B")
    out.frombytes(data)
    return out


def id_array(session: bytes) -> Any:
    """A session id as the NumPy array of a uint8[16] field."""
    return np.frombuffer(session, np.uint8)


def wait_delivered(*publishers: Any) -> None:
    """Wait a second at most until the subscribers have all that was published.

    What a node that disappears has just sent does not always arrive.
    """
    end = time.monotonic() + CLOSE_ANSWER_S
    for publisher in publishers:
        publisher.wait_for_all_acked(Duration(seconds=max(end - time.monotonic(), 0.0)))


def listeners(node: Node, topic_name: str) -> list[str]:
    """Full names of the nodes that subscribe to a topic, as far as `node` has discovered them.

    Who is on this list gets everything that `node` publishes there from now on.
    """
    try:
        found = node.get_subscriptions_info_by_topic(topic_name)
    except _rclpy.InvalidHandle:  # the port was closed meanwhile
        return []
    return sorted({f"{one.node_namespace.rstrip('/')}/{one.node_name}" for one in found})


class TakeThread:
    """Takes one subscription's messages in a thread of its own and hands them on.

    Args:
        node: The data node; nothing else may spin it.
        message_type: rrto_msgs type.
        name: Full topic name.
        qos: Of the subscription.
        handle: Called with each message, in this thread. It must not raise: what it raises is
            counted and the message is lost.
    """

    def __init__(
        self,
        node: Node,
        message_type: Any,
        name: str,
        qos: QoSProfile,
        handle: Callable[[Any], None],
    ) -> None:
        self._node = node
        self._type = message_type
        self._handle = handle
        self._stop = threading.Event()
        self._messages = 0
        self._failures = 0
        self._last_failure = ""
        self._subscription = node.create_subscription(message_type, name, lambda _: None, qos)
        self._guard = node.create_guard_condition(lambda: None)
        self._thread = threading.Thread(target=self._run, name=f"take {name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; at most the message in its hands is still handled."""
        self._stop.set()
        self._guard.trigger()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def destroy(self) -> None:
        """Take the subscription from the graph, once the thread has ended."""
        self._node.destroy_subscription(self._subscription)

    def publishers(self) -> int:
        """How many publishers this subscription is matched with."""
        return int(self._subscription.get_publisher_count())

    def statistics(self) -> dict[str, int | str]:
        """Messages taken, and how often handling one raised."""
        return {
            "messages": self._messages,
            "failures": self._failures,
            "last_failure": self._last_failure,
        }

    def _run(self) -> None:
        context = self._node.context
        take = self._subscription.handle.take_message
        with self._subscription.handle, self._guard.handle, context.handle:
            wait_set = _rclpy.WaitSet(1, 1, 0, 0, 0, 0, context.handle)
            while not self._stop.is_set():
                wait_set.clear_entities()
                wait_set.add_subscription(self._subscription.handle)
                wait_set.add_guard_condition(self._guard.handle)
                wait_set.wait(-1)
                # Several messages per wake-up are usual in mode `batched`; a wait costs more.
                while not self._stop.is_set() and (taken := take(self._type, False)) is not None:
                    self._messages += 1
                    try:
                        self._handle(taken[0])
                    except Exception as error:
                        self._failures += 1
                        self._last_failure = f"{type(error).__name__}: {error}"


class SpinThread:
    """Spins one node with its own executor in its own thread.

    What a callback raises is printed and counted, and the others go on: a node whose services no
    longer answer would look like one that is not reached.
    """

    def __init__(self, node: Node) -> None:
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._end: Future[None] = Future()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=node.get_name(), daemon=True)
        self._thread.start()
        self._clock = WallClockWatch(self._executor.wake)

    def close(self) -> None:
        """Stop and wait for the callback that runs now."""
        self._clock.close()
        self._end.set_result(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def statistics(self) -> dict[str, int]:
        """How often a callback raised."""
        return {"failures": self._failures}

    def _run(self) -> None:
        while not self._end.done():
            try:
                self._executor.spin_until_future_complete(self._end)
                break  # the context may have ended, too
            except Exception:
                self._failures += 1
                traceback.print_exc()
        # In this thread: rclpy's shutdown takes away what a running callback still uses.
        self._executor.shutdown()


class Participant(ABC):
    """One participant for calls and results: its two nodes and their threads.

    Whoever derives from it makes the topics and services, and begins `take` and `spin`.

    Args:
        domain: ROS domain number, None for the environment's.
        name: Prefix of the nodes' names.
        transports: As `quiet_node` takes them.
    """

    take: TakeThread
    spin: SpinThread

    def __init__(self, domain: int | None, name: str, transports: str = "") -> None:
        self.context = own_context(domain)
        self.data = quiet_node(f"{name}_data", self.context, transports)
        self.control = quiet_node(f"{name}_control", self.context, transports)
        keep_private()

    def leave(self) -> None:
        """Stop the threads and leave the graph."""
        self.take.close()
        self.spin.close()
        leave(self.context, self.data, self.control)

    def abandon(self) -> None:
        """Stop the threads and take the topics and services from the graph, no more."""
        self.take.close()
        self.spin.close()
        self.take.destroy()
        self._destroy()
        abandon(self.context, self.data, self.control)

    @abstractmethod
    def _destroy(self) -> None:
        """Take what is not `take`'s from the graph."""


class _Ends(Participant):
    """One participant with the server's topics and services on it."""

    def __init__(
        self,
        domain: int | None,
        robot: str,
        name: str,
        received: Callable[[Any], None],
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

    def leave(self) -> None:
        """Stop the threads and leave the graph, once the robots have what was said last."""
        wait_delivered(self.results, self.sessions)
        super().leave()

    def _destroy(self) -> None:
        self.data.destroy_publisher(self.results)
        self.control.destroy_publisher(self.sessions)
        self.control.destroy_service(self.open)
        self.control.destroy_service(self.close)


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
        out = CallResult()
        out.session = id_array(message.session)
        out.sequence = message.sequence
        out.batches_ack = message.batches_ack
        out.executed_call = message.executed_call
        if message.missing:
            out.missing = array.array("Q", message.missing)
        out.seal = message.seal
        out.flags = message.flags
        set_bytes(out, "data", message.data)
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

    def judge(self, apart: bool, log: Callable[[str], None]) -> None:
        """Make the participant anew where a recorder is seen that does not reach this server.

        Sessions go on: what was lost with the old participant is sent again.

        Args:
            apart: Whether one says so now; ask again and again, from one thread.
            log: Takes a line when it is made anew.
        """
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

    def _received(self, m: Any) -> None:
        self._on_calls(
            CallsMessage(
                m.session.tobytes(), m.sequence, m.results_ack, m.flags, memoryview(m.data), m.seal
            )
        )

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
