"""Records the call topics of a robot, as they are on the wire: owns the subscriptions and order.

Messages are kept as serialised bytes; nothing is decoded but the few bytes that say to which
session a message belongs. A thread of the caller's writer takes them from a queue, so that a slow
disk delays no subscription.
"""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.serialization import deserialize_message

from rrto_msgs.msg import CallBatch, CallResult, SessionEvent
from rrto_ros.transport.port import topic
from rrto_ros.transport.ros_context import own_context, quiet_node
from rrto_ros.transport.ros_port import SpinThread, announcement_qos, call_qos

CALL_TOPICS: tuple[tuple[str, str, Any], ...] = (
    ("sessions", "rrto_msgs/msg/SessionEvent", SessionEvent),
    ("call_batches", "rrto_msgs/msg/CallBatch", CallBatch),
    ("call_results", "rrto_msgs/msg/CallResult", CallResult),
)
"""(topic below /<robot>/rrto, type name, type) of everything that a bag holds."""

QUEUE_DEPTH = 4096
_SESSION_SEQUENCE = struct.Struct("<4x16sQ")
"""CDR header, then the first two fields of CallBatch and CallResult."""

Write = Callable[[str, int, bytes], None]
"""Takes (topic name without prefix, receive time in ns, serialised message)."""


class CallRecorder:
    """Takes the messages of sessions that open while it runs.

    Args:
        robot: Robot name.
        domain: ROS domain number.
        write: Called for each message, in the recorder's own thread.
        skip: Ids (hexadecimal) of sessions that began before; their messages are left out.
    """

    def __init__(self, robot: str, domain: int, write: Write, skip: frozenset[str]) -> None:
        self._write = write
        self._skip = skip
        self._changed = threading.Condition()
        self._active: set[str] = set()
        self._pending: dict[str, tuple[str, int, bytes]] = {}
        self._closed: set[str] = set()
        self._written = 0
        self._skipped = 0
        self._failure = ""
        self._queue: queue.SimpleQueue[tuple[str, int, bytes] | None] = queue.SimpleQueue()
        self._context = own_context(domain)
        self._node = quiet_node("rrto_bag_record", self._context)
        # One executor thread for all topics keeps their order of arrival.
        for name, _, kind in CALL_TOPICS:
            qos = announcement_qos() if kind is SessionEvent else call_qos(QUEUE_DEPTH)
            self._node.create_subscription(
                kind,
                topic(robot, name),
                lambda data, name=name: self._take(name, data),
                qos,
                raw=True,
            )
        self._thread = threading.Thread(target=self._run, name="bag writer", daemon=True)
        self._thread.start()
        self._spin = SpinThread(self._node)

    def wait_matched(self, timeout_s: float) -> bool:
        """Wait until the call topics have publishers that this node knows."""
        end = time.monotonic() + timeout_s
        names = [s.topic_name for s in self._node.subscriptions]
        while any(self._node.count_publishers(name) == 0 for name in names):
            left = end - time.monotonic()
            if left <= 0:
                return False
            # Matching has no event on rclpy's raw subscriptions; the graph is asked.
            threading.Event().wait(min(0.02, left))
        return True

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait until every recorded session is closed. False if the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: self._active <= self._closed, timeout_s)

    @property
    def failure(self) -> str:
        """Why nothing is recorded any more; empty while all is well."""
        return self._failure

    def close(self) -> None:
        """Stop the subscriptions, write what is queued."""
        self._spin.close()
        self._node.destroy_node()
        self._context.try_shutdown()
        self._queue.put(None)
        self._thread.join()

    def statistics(self) -> dict[str, int]:
        """Messages written and left out, sessions recorded, and those of them that closed."""
        return {
            "written": self._written,
            "skipped": self._skipped,
            "sessions": len(self._active),
            "closed": len(self._active & self._closed),
        }

    def _take(self, name: str, data: bytes) -> None:
        item = (name, time.time_ns(), bytes(data))
        if name == "sessions":
            self._take_event(item)
            return
        if len(data) < _SESSION_SEQUENCE.size:
            return
        session = _SESSION_SEQUENCE.unpack_from(data)[0].hex()
        if not self._wanted(session):
            return
        if session not in self._active:
            with self._changed:
                self._active.add(session)
            opened = self._pending.pop(session, None)
            if opened is not None:
                self._queue.put(opened)
        self._queue.put(item)

    def _take_event(self, item: tuple[str, int, bytes]) -> None:
        # Announcements of sessions that are long over come too: one counts when it makes calls.
        event = deserialize_message(item[2], SessionEvent)
        session = event.session.tobytes().hex()
        if not self._wanted(session):
            return
        if session in self._active:
            self._queue.put(item)
        elif event.event == SessionEvent.OPENED:
            self._pending[session] = item
        else:
            self._pending.pop(session, None)
        if event.event == SessionEvent.CLOSED:
            with self._changed:
                self._closed.add(session)
                self._changed.notify_all()

    def _wanted(self, session: str) -> bool:
        if session in self._skip:
            self._skipped += 1
            return False
        return True

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure:
                continue
            try:
                self._write(*item)
                self._written += 1
            except Exception as error:
                self._failure = f"{type(error).__name__}: {error}"
