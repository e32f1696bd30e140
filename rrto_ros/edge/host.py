"""The server's end of one session: owns the order of its messages and the life of its worker.

Calls come in as messages (any thread), are put in order and handed to the worker; what the worker
answers is cut into messages and published from the worker's reader thread. `tick` keeps time:
acknowledgements, resending, a sign of life four times per second, and the end of a session from
whose recorder nothing is heard. No ROS: messages go out through a callback.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rrto_ros.api.info import DeviceInfo
from rrto_ros.edge.gate import Admission, Peer
from rrto_ros.edge.refusals import refuse_calls
from rrto_ros.edge.told import closed_message
from rrto_ros.edge.worker_process import WorkerDeath
from rrto_ros.errors import ProtocolError
from rrto_ros.execution.messages import Results
from rrto_ros.text import printable
from rrto_ros.wire.compressor import Compressor
from rrto_ros.wire.format import RESULT_STICKY, Buffer
from rrto_ros.wire.link import (
    MAX_MESSAGE_BYTES,
    MEASURES_BYTES,
    WINDOW_BYTES,
    Message,
    MessageReceiver,
    MessageSender,
)  # fmt: skip
from rrto_ros.wire.packing import unpacked
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_BUSY,
    FLAG_FULL,
    FLAG_MORE,
    FLAG_PACKED,
    FLAG_PROBE,
    FLAG_TAKES_PACKED,
    CallsMessage,
    OpenRequest,
    ResultsMessage,
)
from rrto_ros.wire.result_codec import pack_result

KEEPALIVE_S = 0.25
STOOD_STILL_S = 1.0
"""Who looks at the time so much later than it wanted to was stopped: the recorder's signs of life
are in a queue."""
MAX_UNEXECUTED_BYTES = 32 << 20
MOST_UNASKED_BYTES = 256 << 20
"""What a robot may still send after it was asked for no more: far more than is on its way."""


@dataclass(frozen=True)
class HostLimits:
    """What one session may hold and how long it may be silent.

    Attributes:
        max_message_bytes: Largest message taken or sent.
        timeout_s: The session closes when nothing came for so long, in seconds.
        unexecuted_bytes: Beyond it the robot is asked to hold its calls back.
        unsent_bytes: With more results on their way none are taken from the worker, which waits.
    """

    max_message_bytes: int = MAX_MESSAGE_BYTES
    timeout_s: float = 10.0
    unexecuted_bytes: int = MAX_UNEXECUTED_BYTES
    unsent_bytes: int = WINDOW_BYTES


class Worker(Protocol):
    """What executes a session: a process (`WorkerProcess`), or what stands for one."""

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds."""
        ...

    def send(self, batch: Buffer) -> None:
        """Hand over a batch; never waits."""
        ...

    def end(self, reason: str) -> None:
        """End it because of something it did."""
        ...

    def close(self, patience_s: float = 2.0) -> None:
        """End it."""
        ...

    def statistics(self) -> Mapping[str, Any]:
        """Its counters."""
        ...


class SessionHost:
    """One open session.

    Args:
        request: What the robot asked for.
        info: The session's device.
        worker: What executes it; what it says is to be given to `on_results`, `on_malformed` and
            `on_death`.
        publish: Sends one message; called by several threads, one at a time per session.
        limits: Bounds.
        wake: Told that `deadline` may have come closer.
        admission: Whose session it is, and the seal of its messages; None for nobody's, unsealed.
        owes: Whether that peer is to hold back now.
        admits: Whether so many bytes more may be taken from it now; counts them.
    """

    def __init__(
        self,
        request: OpenRequest,
        info: DeviceInfo,
        worker: Worker,
        publish: Callable[[ResultsMessage], None],
        limits: HostLimits,
        wake: Callable[[float], None] = lambda _: None,
        admission: Admission | None = None,
        owes: Callable[[float], bool] = lambda _: False,
        admits: Callable[[int, float], bool] = lambda *_: True,
    ) -> None:
        self.asked = request
        # What people will read; the limits are for what was sent.
        shown, label = printable(request.program), printable(request.label)
        self.request = replace(request, program=shown, label=label)
        self.admission = admission or Admission(Peer(), b"", None, b"")
        self.peer = self.admission.share(request)
        self._owes = owes
        self._admits = admits
        self.info = info
        self._worker = worker
        self._publish = publish
        self._limits = limits
        self._wake = wake
        self._lock = threading.RLock()
        self._receiver = MessageReceiver(max_message_bytes=limits.max_message_bytes)
        self._sender = MessageSender(
            max_message_bytes=limits.max_message_bytes, window_bytes=limits.unsent_bytes
        )
        # Results wait in the worker's socket, and with them the worker, until there is room.
        self._results_room = threading.Condition(self._lock)
        self._robot_full = self._robot_takes_packed = False
        self._said_full = False
        self._compressor = Compressor()
        # What the worker has not finished: answered from here if it dies.
        self._unexecuted: deque[Buffer] = deque()
        self._unexecuted_bytes = 0
        self._batches_done = 0
        self._executed = 0
        self._last_reply = 0
        self._dead: WorkerDeath | None = None
        self._malformed = ""
        self._closed = ""
        now = time.monotonic()
        self._opened_at = now
        self._heard_at = now
        self._said_at = now
        self._deadline = now + KEEPALIVE_S
        self._deferred = 0
        self._stalls = 0
        self._refused = 0
        self._last_refusal = ""

    @property
    def session(self) -> bytes:
        """The session's id, 16 bytes."""
        return self.request.session

    @property
    def worker(self) -> Worker:
        """What executes the session."""
        return self._worker

    @property
    def closed(self) -> str:
        """Why the session is closed, empty while it is open."""
        return self._closed

    @property
    def error(self) -> str:
        """What ended the worker, empty while it lives."""
        return self._dead.text if self._dead is not None else ""

    @property
    def busy(self) -> bool:
        """Whether the worker has something to execute."""
        return bool(self._unexecuted) and self._dead is None

    @property
    def deadline(self) -> float:
        """When `tick` has something to do, in seconds of the monotonic clock."""
        return self._deadline

    def receive(self, message: CallsMessage) -> None:
        """Take one message of this session.

        Raises:
            ProtocolError: It is refused (and counted); the session goes on if it can.
        """
        with self._lock:
            if self._closed:
                self._say_closed()
                return
            now = time.monotonic()
            try:
                message = self._opened(message)
            except ProtocolError as error:
                # Anybody can send it, so it is no sign of life and is not answered.
                self._refused += 1
                self._last_refusal = str(error)
                raise
            # Only what the robot has proven to be its own counts against it.
            if not self._admits(len(message.data), now):
                return
            self._heard_at = now
            self._robot_full = bool(message.flags & FLAG_FULL)
            self._robot_takes_packed = bool(message.flags & FLAG_TAKES_PACKED)
            try:
                self._sender.acknowledged(message.results_ack, (), now)
                if message.flags & FLAG_ACK_ONLY:
                    self._receiver.announced(message.sequence, now)
                elif self._unexecuted_bytes > self._limits.unexecuted_bytes + MOST_UNASKED_BYTES:
                    self._deferred += 1
                else:
                    more = bool(message.flags & FLAG_MORE)
                    data = message.data
                    if message.flags & FLAG_PACKED:
                        data = unpacked(data, self._limits.max_message_bytes)
                    for batch in self._receiver.receive(message.sequence, more, data, now):
                        self._feed(batch)
            except ProtocolError as error:
                self._refused += 1
                self._last_refusal = str(error)
                raise
            finally:
                probed = message.flags & FLAG_ACK_ONLY and message.flags & FLAG_PROBE
                self._pump(now, answer=bool(probed))
                self._results_room.notify()

    def on_results(self, results: Results) -> None:
        """Take results from the worker (its reader thread); waits until there is room for them.

        Meanwhile the worker's socket fills up and the worker waits in its turn, with nothing
        executed further, so that what it copies to the host later is what is there then.
        """
        with self._lock:
            self._executed = results.executed_call
            self._last_reply = results.last_reply
            while self._batches_done < results.batches_done and self._unexecuted:
                self._unexecuted_bytes -= len(self._unexecuted.popleft())
                self._batches_done += 1
            data = results.records
            if len(data) and not self._may_send:
                self._stalls += 1
                # What was executed may have made room for calls.
                self._pump(time.monotonic())
                self._results_room.wait_for(lambda: self._closed or self._may_send)
            if self._closed:
                return
            if len(data):
                self._sender.push(data)
            self._pump(time.monotonic())

    def on_malformed(self, text: str) -> None:
        """A batch was no call log: the session is to be closed."""
        self._malformed = text

    def on_death(self, death: WorkerDeath) -> None:
        """Answer for a worker that died: a sticky error, then everything that waits."""
        with self._lock:
            self._dead = death
            index = death.executing.index or self._executed
            self._sender.push(pack_result(index, death.status, death.text.encode(), RESULT_STICKY))
            for batch in self._unexecuted:
                self._refuse(batch, after=self._last_reply, but=death.executing.index)
            self._unexecuted.clear()
            self._unexecuted_bytes = 0
            if not self._closed:
                self._pump(time.monotonic())

    def tick(self, now: float) -> str:
        """Do what is due; return why the session has to be closed, empty if not."""
        with self._lock:
            if self._closed:
                return ""
            if now - self._deadline > STOOD_STILL_S:
                self._heard_at = min(self._heard_at + now - self._deadline, now)
            silent = now - self._heard_at
            if silent > self._limits.timeout_s:
                return f"nothing was heard from the recorder for {silent:.1f} s"
            if self._receiver.broken:
                return f"the stream of calls broke: {self._receiver.broken}"
            if self._malformed:
                # Who wrote it took the place of a message: its calls would be waited for in vain.
                return f"the stream of calls broke: {self._malformed}"
            self._pump(now)
            return ""

    def close(self, reason: str) -> None:
        """Tell the robot, end the worker, free everything; may take two seconds."""
        with self._lock:
            if self._closed:
                return
            self._closed = reason or "closed"
            # A worker in the middle of a kernel need not finish it: nobody wants the result.
            patience_s = 0.0 if self.busy else 2.0
            self._unexecuted.clear()
            self._unexecuted_bytes = 0
            self._say_closed()
            self._results_room.notify()
        self._worker.close(patience_s)

    def statistics(self) -> dict[str, Any]:
        """Counters of both directions, the worker's report, ages in seconds."""
        with self._lock:
            now = time.monotonic()
            return {
                "duration_s": now - self._opened_at,
                "silent_s": now - self._heard_at,
                "executed_call": self._executed,
                "busy": self.busy,
                "unexecuted_bytes": self._unexecuted_bytes,
                "deferred": self._deferred,
                "result_stalls": self._stalls,
                "refused": self._refused,
                "last_refusal": self._last_refusal,
                "error": self.error,
                "peer": str(self.admission.peer),
                "seal": seal.statistics() if (seal := self.admission.seal) is not None else {},
                "received": self._receiver.statistics(),
                "sent": self._sender.statistics(),
                "compressed": self._compressor.statistics(),
                "worker": self._worker.statistics(),
            }

    def _opened(self, message: CallsMessage) -> CallsMessage:
        if (seal := self.admission.seal) is not None:
            return seal.calls(message, self._limits.max_message_bytes)
        if message.seal:
            raise ProtocolError("the message is sealed, and this session's messages are not")
        return message

    @property
    def _may_send(self) -> bool:
        """Whether results can be taken from the worker."""
        return self._sender.room and not self._robot_full

    def _full(self, now: float) -> bool:
        """Whether the robot shall hold its calls back; less room is wanted to let it go on."""
        if self._owes(now):
            return True
        held = self._unexecuted_bytes + self._sender.queued_bytes
        return held > self._limits.unexecuted_bytes >> self._said_full

    def _feed(self, batch: Buffer) -> None:
        if self._dead is not None:
            self._refuse(batch)
            return
        self._unexecuted.append(batch)
        self._unexecuted_bytes += len(batch)
        self._worker.send(batch)

    def _refuse(self, batch: Buffer, after: int = 0, but: int = 0) -> None:
        if self._dead is None:
            return
        answers = refuse_calls(batch, self._dead.status, self._dead.text, after=after, but=but)
        if answers:
            self._sender.push(answers)

    def _pump(self, now: float, *, answer: bool = False) -> None:
        """Send what is due (or at least a sign of life); the lock is held."""
        if self._closed:
            return
        sender, receiver = self._sender, self._receiver
        full, answer = self._full(now), answer or now - self._said_at >= KEEPALIVE_S
        if due := sender.due(now):
            for message in due:
                self._say(message, now, full)
        elif answer or full is not self._said_full or receiver.ack_due(now):
            self._say(None, now, full)
        others = (sender.deadline(), receiver.ack_deadline())
        due_at = [at for at in others if at is not None]
        self._deadline = min([self._said_at + KEEPALIVE_S, *due_at])
        self._wake(self._deadline)

    def _say(self, message: Message | None, now: float, full: bool) -> None:
        self._said_full = full
        flags = (FLAG_BUSY if self.busy else 0) | (FLAG_FULL if full else 0)
        data: Buffer = b""
        if message is None:
            sequence = self._sender.newest
            flags |= FLAG_ACK_ONLY
        else:
            sequence, data = message.sequence, message.data
            flags |= FLAG_MORE if message.more else 0
            rate = self._sender.bytes_per_s if self._robot_takes_packed else 0.0
            if (packed := self._compressor.pack(data, rate, sequence, message.more)) is not None:
                flags, data = flags | FLAG_PACKED, packed
        out = ResultsMessage(
            self.session,
            sequence,
            self._receiver.ack,
            self._executed,
            tuple(self._receiver.missing()),
            flags,
            data,
        )
        if len(data) >= MEASURES_BYTES:
            self._sender.left(sequence, len(data), time.monotonic())
        seal = self.admission.seal
        self._publish(out if seal is None else seal.results(out))
        self._receiver.ack_sent()
        self._said_at = now

    def _say_closed(self) -> None:
        self._publish(closed_message(self.session, self.admission.closed))
