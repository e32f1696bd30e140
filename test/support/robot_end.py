"""A robot's end of sessions for tests of the server: a reliable link, without a program or ROS."""

import threading
import time

from rrto_ros.wire.link import MessageReceiver, MessageSender
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_CLOSED,
    FLAG_MORE,
    FLAG_PROBE,
    CallsMessage,
)
from rrto_ros.wire.result_codec import iter_results


class RobotEnd:
    """Sends batches of one session and collects the results.

    Args:
        session: 16 bytes.
        send: Takes each `CallsMessage`.
        max_message_bytes: Larger batches are cut.
    """

    def __init__(self, session, send, max_message_bytes=1 << 20):
        self.session = session
        self._send = send
        self.sender = MessageSender(max_message_bytes=max_message_bytes, min_rto_s=0.05, rto_s=0.1)
        self.receiver = MessageReceiver()
        self.records = []
        self.messages = []
        self.closed = False
        self._changed = threading.Condition(threading.RLock())

    def receive(self, message):
        """Take a `ResultsMessage`; others' are passed over."""
        if message.session != self.session:
            return
        with self._changed:
            now = time.monotonic()
            self.messages.append(message)
            self.closed = self.closed or bool(message.flags & FLAG_CLOSED)
            if not message.flags & FLAG_CLOSED:
                self.sender.acknowledged(message.batches_ack, message.missing, now)
                if message.flags & FLAG_ACK_ONLY:
                    self.receiver.announced(message.sequence, now)
                else:
                    more = bool(message.flags & FLAG_MORE)
                    for batch in self.receiver.receive(message.sequence, more, message.data, now):
                        self.records += [
                            (r.index, r.status, r.flags, bytes(r.payload))
                            for r in iter_results(bytes(batch))
                        ]
            self._changed.notify_all()

    def push(self, batch):
        """Send a batch."""
        with self._changed:
            self.sender.push(batch)
            due = self.sender.due(time.monotonic())
        self._out(due)

    def probe(self):
        """Send a sign of life that asks for one."""
        self._send(
            CallsMessage(
                self.session, self.sender.newest, self.receiver.ack,
                FLAG_ACK_ONLY | FLAG_PROBE, b"",
            )
        )  # fmt: skip

    def _out(self, due):
        for m in due:
            flags = FLAG_MORE if m.more else 0
            self._send(CallsMessage(self.session, m.sequence, self.receiver.ack, flags, m.data))

    def wait(self, accepts, timeout_s=20.0, what="results"):
        """Wait until `accepts(self)`, sending again what was lost; returns what it returned."""
        end = time.monotonic() + timeout_s
        heartbeat = 0.0
        while True:
            with self._changed:
                if found := accepts(self):
                    return found
                now = time.monotonic()
                assert now < end, f"no {what} within {timeout_s} s: {self.records[-5:]}"
                self._changed.wait(0.05)
                due = self.sender.due(time.monotonic())
            self._out(due)
            if now - heartbeat > 0.1:
                heartbeat = now
                self.probe()

    def answer(self, index, timeout_s=20.0):
        """The result record of call `index`, once it is there."""
        return self.wait(
            lambda end: next((r for r in end.records if r[0] == index), None),
            timeout_s,
            f"answer to call #{index}",
        )

    def settled(self):
        """Wait until everything was acknowledged."""
        self.wait(lambda end: end.sender.idle, what="acknowledgement")
