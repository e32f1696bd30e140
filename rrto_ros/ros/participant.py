"""What the ends of `port` over DDS are made of: owns a participant, its nodes and its threads.

A node that carries calls or results is kept apart from the node with the parameters: the wait
for the one hot topic then looks at two entities and nothing else. It is waited for with a wait
set and `take` in a thread of its own; services and clients live in a second node with an executor
in a second thread. They share a context, and with it one DDS participant (`ros/context.py`).
"""

from __future__ import annotations

import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future

from rrto_ros.ros.context import (
    Endpoint,
    abandon,
    keep_private,
    leave,
    own_context,
    quiet_node,
)
from rrto_ros.ros.wall_clock import WallClockWatch

CALL_DEPTH = 256
ANNOUNCEMENT_DEPTH = 64
CLOSE_ANSWER_S = 1.0
"""How long a port that is closed waits for answers, and then for acknowledgements."""


def call_qos(depth: int = CALL_DEPTH) -> QoSProfile:
    """Calls and results: reliable, the newest `depth` messages kept for late acknowledgement."""
    return _reliable(depth, DurabilityPolicy.VOLATILE)


def announcement_qos(depth: int = ANNOUNCEMENT_DEPTH) -> QoSProfile:
    """Sessions, plans and reports: reliable, and late subscribers get the newest `depth`."""
    return _reliable(depth, DurabilityPolicy.TRANSIENT_LOCAL)


def _reliable(depth: int, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=durability,
    )


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
        handle: Called with each message as it was on the way, in this thread. It must not raise:
            what it raises is counted and the message is lost.
    """

    def __init__(
        self,
        node: Node,
        message_type: Any,
        name: str,
        qos: QoSProfile,
        handle: Callable[[bytes], None],
    ) -> None:
        self._node = node
        self._type = message_type
        self._handle = handle
        self._stop = threading.Event()
        self._messages = 0
        self._failures = 0
        self._last_failure = ""
        self.subscription = node.create_subscription(message_type, name, lambda _: None, qos)
        self._guard = node.create_guard_condition(lambda: None)
        self._thread = threading.Thread(target=self._run, name=f"take {name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; at most the message in its hands is still handled."""
        self._stop.set()
        self._guard.trigger()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def publishers(self) -> int:
        """How many publishers this subscription is matched with."""
        return int(self.subscription.get_publisher_count())

    def statistics(self) -> dict[str, int | str]:
        """Messages taken, and how often handling one raised."""
        return {
            "messages": self._messages,
            "failures": self._failures,
            "last_failure": self._last_failure,
        }

    def _run(self) -> None:
        context = self._node.context
        take = self.subscription.handle.take_message
        with self.subscription.handle, self._guard.handle, context.handle:
            wait_set = _rclpy.WaitSet(1, 1, 0, 0, 0, 0, context.handle)
            while not self._stop.is_set():
                wait_set.clear_entities()
                wait_set.add_subscription(self.subscription.handle)
                wait_set.add_guard_condition(self._guard.handle)
                wait_set.wait(-1)
                # Several messages per wake-up are usual in mode `batched`; a wait costs more.
                while not self._stop.is_set() and (taken := take(self._type, True)) is not None:
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
        """Stop the threads and have the topics and services leave the graph, no more."""
        self.take.close()
        self.spin.close()
        data, control = self._endpoints()
        abandon(self.context, {self.data: [self.take.subscription, *data], self.control: control})

    @abstractmethod
    def _endpoints(self) -> tuple[list[Endpoint], list[Endpoint]]:
        """Those of the data node, but for `take`'s, and those of the control node."""
