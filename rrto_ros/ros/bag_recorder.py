"""Records the call topics of a robot, as they are on the wire: owns the subscriptions and order.

Messages are kept as serialised bytes; nothing is decoded but the few bytes that say which message
of which session it is (`bag_check` finds the gaps). A thread of the caller's writer takes them
from a queue, so that a slow disk delays no subscription.
"""

from __future__ import annotations

import functools
import os
import queue
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from rclpy.serialization import deserialize_message

from rrto_msgs.msg import CallBatch, CallResult, SessionEvent
from rrto_ros.ros.bag_check import SessionCheck
from rrto_ros.ros.context import abandon, leave, own_context, quiet_node
from rrto_ros.ros.participant import SpinThread, announcement_qos, call_qos
from rrto_ros.wire.port import topic

CALL_TOPICS: tuple[tuple[str, str, Any], ...] = (
    ("sessions", "rrto_msgs/msg/SessionEvent", SessionEvent),
    ("call_batches", "rrto_msgs/msg/CallBatch", CallBatch),
    ("call_results", "rrto_msgs/msg/CallResult", CallResult),
)
"""(topic below /<robot>/rrto, type name, type) of everything that a bag holds."""

QUEUE_DEPTH = 4096
FLUSH_S = 1.0
"""What a recorder that is killed loses at most."""
_HEAD = struct.Struct("<4x16sQQ")
"""CDR header, then the first three fields of CallBatch and CallResult: session, sequence, and up
to which message of the other direction everything has arrived."""
_SMALL = 1024
"""A call message of more bytes carries data for sure; of a smaller one the flags are looked at."""

Write = Callable[[str, int, bytes], None]
"""Takes (topic name without prefix, receive time in ns, serialised message)."""


class CallRecorder:
    """Takes the messages of sessions that open after `begin`.

    Args:
        robot: Robot name.
        domain: ROS domain number.
        write: Called for each message, in the recorder's own thread.
        flush: Called there at most `FLUSH_S` after a message: what was written is to be safe from
            the end of this process.
        transports: Of the calls' participants, as their status has them.
        keys: Gives the keys of a session (its id hexadecimal), None if it has none to give.
        write_keys: Takes a session's id and keys and the time in ns, in the recorder's own thread.

    Attributes:
        name: Full name of the subscribing node, for the lists of those who publish.
    """

    def __init__(
        self,
        robot: str,
        domain: int,
        write: Write,
        flush: Callable[[], None],
        transports: str = "",
        keys: Callable[[str], bytes | None] = lambda _: None,
        write_keys: Callable[[bytes, bytes, int], None] = lambda *_: None,
    ) -> None:
        self._write = write
        self._keys = keys
        self._write_keys = write_keys
        self._without_keys = 0
        self._flush = flush
        self._changed = threading.Condition()
        self._skip: set[str] = set()
        self._begun = False
        self._checks: dict[str, SessionCheck] = {}
        self._pending: dict[str, tuple[tuple[str, int, bytes], str]] = {}
        self._written = 0
        self._skipped = 0
        self._failure = ""
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._context = own_context(domain)
        node = f"rrto_bag_record_{os.getpid()}_{secrets.token_hex(4)}"
        self.name = f"/{node}"
        self._node = quiet_node(node, self._context, transports)
        # One executor thread for all topics keeps their order of arrival.
        self._subscriptions = [
            self._node.create_subscription(
                kind,
                topic(robot, name),
                lambda data, name=name: self._take(name, data),
                announcement_qos() if kind is SessionEvent else call_qos(QUEUE_DEPTH),
                raw=True,
            )
            for name, _, kind in CALL_TOPICS
        ]
        self._thread = threading.Thread(target=self._run, name="bag writer", daemon=True)
        self._thread.start()
        self._spin = SpinThread(self._node)

    def begin(self, old: Iterable[str]) -> None:
        """Record the sessions that open from now on.

        Both ends must know this node by now; what was heard of before has begun too early.

        Args:
            old: Ids (hexadecimal) of sessions that the recorder_replayer has now.
        """
        with self._changed:
            self._skip |= {*old, *self._checks}
            self._checks.clear()
            self._begun = True

    def wait_complete(self, timeout_s: float) -> bool:
        """Wait until every recorded session is closed and whole. False if the time is over."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(one.closed and not one.faults for one in self._checks.values()),
                timeout_s,
            )

    @property
    def failure(self) -> str:
        """Why nothing is recorded any more; empty while all is well."""
        return self._failure

    def faults(self) -> list[str]:
        """What the recording lacks, a line per session; empty if nothing."""
        with self._changed:
            return [
                f"session {session[:8]} {check.program}: {'; '.join(check.faults)}"
                for session, check in self._checks.items()
                if check.faults
            ]

    def close(self) -> None:
        """Stop the subscriptions, write what is queued."""
        self._stop()
        leave(self._context, self._node)

    def abandon(self) -> None:
        """Take the subscriptions from the graph, of a recorder that the nodes do not discover."""
        self._stop()
        abandon(self._context, {self._node: self._subscriptions})

    def statistics(self) -> dict[str, int]:
        """Messages written and left out; sessions recorded, closed, and sealed without keys."""
        with self._changed:
            return {
                "written": self._written,
                "skipped": self._skipped,
                "sessions": len(self._checks),
                "closed": sum(one.closed for one in self._checks.values()),
                "without_keys": self._without_keys,
            }

    def _stop(self) -> None:
        self._spin.close()
        self._queue.put(None)
        self._thread.join()

    def _take(self, name: str, data: bytes) -> None:
        item = (name, time.time_ns(), bytes(data))
        if name == "sessions":
            self._take_event(item)
            return
        if len(data) < _HEAD.size:
            return
        raw, sequence, acknowledged = _HEAD.unpack_from(data)
        session = raw.hex()
        kind, only_ack = (
            (CallBatch, CallBatch.ACK_ONLY)
            if name == "call_batches"
            else (CallResult, CallResult.ACK_ONLY)
        )
        carries = len(data) > _SMALL or not deserialize_message(item[2], kind).flags & only_ack
        with self._changed:
            if self._begun and session in self._skip:
                self._skipped += 1
                return
            check = self._checks.get(session)
            if check is None:
                check = self._checks[session] = SessionCheck()
                event, program = self._pending.pop(session, (None, ""))
                if event is not None:
                    check.opened, check.program = True, program
                    self._put(event)
                if self._begun and deserialize_message(item[2], kind).seal:
                    self._put_keys(raw, item[1])
            this, other = (
                (check.calls, check.results)
                if name == "call_batches"
                else (check.results, check.calls)
            )
            if carries:
                this.seen(sequence)
            else:
                this.exists(sequence)
            other.exists(acknowledged)
            self._put(item)
            self._changed.notify_all()

    def _take_event(self, item: tuple[str, int, bytes]) -> None:
        # Announcements of sessions that are long over come too: one counts when it makes calls.
        event = deserialize_message(item[2], SessionEvent)
        session = event.session.tobytes().hex()
        with self._changed:
            if self._begun and session in self._skip:
                self._skipped += 1
                return
            check = self._checks.get(session)
            if event.event == SessionEvent.CLOSED:
                self._pending.pop(session, None)
            elif check is None:
                self._pending[session] = (item, event.program)
            if check is not None:
                if event.event == SessionEvent.CLOSED:
                    check.closed = True
                else:
                    check.opened, check.program = True, event.program
                self._put(item)
            self._changed.notify_all()

    def _put(self, item: tuple[str, int, bytes]) -> None:
        if self._begun:
            self._queue.put(functools.partial(self._write, *item))

    def _put_keys(self, session: bytes, time_ns: int) -> None:
        # The recorder_replayer gives them before the session's first message leaves.
        keys = self._keys(session.hex())
        if keys is None:
            self._without_keys += 1
        else:
            self._queue.put(functools.partial(self._write_keys, session, keys, time_ns))

    def _run(self) -> None:
        flush_at: float | None = None
        while True:
            wait = None if flush_at is None else max(0.0, flush_at - time.monotonic())
            try:
                item = self._queue.get(timeout=wait)
            except queue.Empty:
                self._guarded(self._flush)
                flush_at = None
                continue
            if item is None:
                return
            if flush_at is None:
                flush_at = time.monotonic() + FLUSH_S
            if self._guarded(item):
                self._written += 1
            if time.monotonic() >= flush_at:
                self._guarded(self._flush)
                flush_at = None

    def _guarded(self, action: Callable[[], None]) -> bool:
        if self._failure:
            return False
        try:
            action()
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
        return not self._failure
