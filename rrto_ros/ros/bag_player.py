"""Plays a recorded session into a server, and compares what comes back byte for byte."""

from __future__ import annotations

import queue
import time
import uuid
from dataclasses import dataclass

from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.ros.bag_file import RecordedSession
from rrto_ros.wire.format import (
    RESULT_BLOB_WANTED,
    RESULT_PRINTED,
    RESULT_ROLLED_BACK,
    RESULT_SPECULATIVE,
    Buffer,
)
from rrto_ros.wire.link import Message, MessageReceiver, MessageSender
from rrto_ros.wire.opening import (
    GetCredentials,
    Opened,
    believed,
    close_session,
    open_session,
)
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_CLOSED,
    FLAG_FULL,
    FLAG_MORE,
    FLAG_PROBE,
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    RobotPort,
)
from rrto_ros.wire.result_codec import ResultRecord, iter_results

OPEN_TIMEOUT_S = 30.0
SILENCE_S = 30.0
PROBE_S = 1.0
_NO_ANSWER = RESULT_BLOB_WANTED | RESULT_ROLLED_BACK | RESULT_PRINTED


@dataclass(frozen=True)
class Outcome:
    """How one session's replay went.

    Attributes:
        session: Id of the recorded session.
        program: Its program.
        equal: Whether all recorded results came again, byte for byte.
        results: Result records compared.
        bytes_compared: Bytes of them.
        timings: Answers that are measured times: only their status was compared.
        difference: The first difference; empty if equal.
    """

    session: str
    program: str
    equal: bool
    results: int
    bytes_compared: int
    timings: int
    difference: str


class Answers:
    """What the calls of a session were answered, whenever that was.

    A server may answer calls before they are made (parameter run_ahead), as it sees fit: what is
    compared is the answer that a call gets in the end.

    Args:
        answered: Calls that are answered.
    """

    def __init__(self, answered: set[int]) -> None:
        self._answered = answered
        self._records: dict[tuple[int, bool], ResultRecord] = {}

    @property
    def indices(self) -> set[int]:
        """Calls of which an answer is there."""
        return {index for index, _ in self._records}

    def take(self, stream: bytes) -> None:
        """Take whole result records.

        Raises:
            ProtocolError: They do not fit the format.
        """
        for record in iter_results(stream):
            pushed = record.flags & RESULT_SPECULATIVE
            if record.flags & _NO_ANSWER or (pushed and record.status):
                continue
            key = (record.index, record.sticky)
            # One that came unasked may be of a call that was then not made.
            if record.sticky or (record.index in self._answered and not pushed):
                self._records[key] = record
            elif record.index in self._answered:
                self._records.setdefault(key, record)

    def records(self) -> list[ResultRecord]:
        """In the order of the calls."""
        return [self._records[key] for key in sorted(self._records)]

    def record(self, other: ResultRecord) -> ResultRecord | None:
        """The one for the same call as another."""
        return self._records.get((other.index, other.sticky))


class SessionPlayer:
    """One replay. `on_results` is given to the port; `play` does the work in the caller's thread.

    Args:
        recorded: What to play.
        device: Device wanted; empty for the recorded one.
        credentials: Reads the user's keys; None for a server with `authentication: off`.
    """

    def __init__(
        self,
        recorded: RecordedSession,
        device: str = "",
        credentials: GetCredentials | None = None,
    ) -> None:
        self._recorded = recorded
        self._expected = Answers(recorded.answered)
        self._expected.take(recorded.results)
        self._device = device or recorded.device
        self._id = uuid.uuid4().bytes
        self._inbox: queue.SimpleQueue[ResultsMessage] = queue.SimpleQueue()
        self._sender = MessageSender()
        self._receiver = MessageReceiver()
        self._got = Answers(recorded.answered)
        self._server_full = False
        self._credentials = credentials
        self._opened = Opened(OpenAnswer(False))
        self._passed_by = 0

    def on_results(self, message: ResultsMessage) -> None:
        """Take a message (the port's thread)."""
        if message.session == self._id:
            self._inbox.put(message)

    def play(self, port: RobotPort, robot: str) -> Outcome:
        """Open a session at the recorded address, send the calls, compare the results.

        Raises:
            UnavailableError: No server, it refuses, or it cannot use the recorded address.
            ProtocolError: The server's messages break the format.
        """
        recorded = self._recorded
        request = OpenRequest(
            self._id, robot, recorded.program, "bag", recorded.pid, self._device,
            arena_base=recorded.arena_base,
        )  # fmt: skip
        self._opened = open_session(port, request, self._credentials, OPEN_TIMEOUT_S)
        answer = self._opened.answer
        if not answer.accepted or answer.info is None:
            raise UnavailableError(f"the server refused the session: {answer.reason}")
        try:
            if answer.info.arena_base != recorded.arena_base:
                raise UnavailableError(
                    f"the recorded session had its memory at 0x{recorded.arena_base:x}, the "
                    f"server can give 0x{answer.info.arena_base:x}; addresses would be wrong"
                )
            self._sender = MessageSender(max_message_bytes=answer.max_message_bytes)
            self._receiver = MessageReceiver(max_message_bytes=answer.max_message_bytes)
            self._exchange(port)
        finally:
            close_session(port, self._opened, self._id, "the bag was played")
        return self._compare()

    def _exchange(self, port: RobotPort) -> None:
        waiting = iter(self._recorded.batches)
        batch = next(waiting, None)
        heard = spoke = time.monotonic()
        wanted, most = self._expected.indices, self._opened.answer.max_message_bytes
        while True:
            now = time.monotonic()
            while batch is not None and self._sender.room and not self._server_full:
                self._sender.push(batch)
                out = self._sender.due(now)
                self._publish(port, out)
                spoke = now
                batch = next(waiting, None)
            self._publish(port, self._sender.due(now))
            if batch is None and self._sender.idle and wanted <= self._got.indices:
                return
            probe = now - spoke >= PROBE_S
            if probe or self._receiver.ack_due(now):
                flags = FLAG_ACK_ONLY | (FLAG_PROBE if probe else 0)
                self._say(port, self._sender.newest, flags, b"")
                spoke = now
            if now - heard > SILENCE_S:
                raise UnavailableError(
                    f"the server was silent for {SILENCE_S:g} s after "
                    f"{len(self._got.indices)} of {len(wanted)} results"
                )
            due = [spoke + PROBE_S, self._sender.deadline(), self._receiver.ack_deadline()]
            timeout = max(0.0, min(d for d in due if d is not None) - now)
            try:
                message = self._inbox.get(timeout=max(timeout, 0.001))
            except queue.Empty:
                continue
            try:
                message = believed(self._opened, self._id, message, most)
            except ProtocolError:
                # Anybody can send it.
                self._passed_by += 1
                continue
            heard = time.monotonic()
            self._take(message, heard)

    def _publish(self, port: RobotPort, messages: list[Message]) -> None:
        for message in messages:
            self._say(port, message.sequence, FLAG_MORE if message.more else 0, message.data)

    def _say(self, port: RobotPort, sequence: int, flags: int, data: Buffer) -> None:
        message = CallsMessage(self._id, sequence, self._receiver.ack, flags, data)
        seal = self._opened.seal
        port.publish_calls(message if seal is None else seal.calls(message))
        self._receiver.ack_sent()

    def _take(self, message: ResultsMessage, now: float) -> None:
        if message.flags & FLAG_CLOSED:
            raise UnavailableError("the server closed the session before its end")
        self._server_full = bool(message.flags & FLAG_FULL)
        if message.flags & FLAG_ACK_ONLY:
            self._receiver.announced(message.sequence, now)
        else:
            more = bool(message.flags & FLAG_MORE)
            for batch in self._receiver.receive(message.sequence, more, message.data, now):
                self._got.take(bytes(batch))
        self._sender.acknowledged(message.batches_ack, message.missing, now)

    def _compare(self) -> Outcome:
        recorded = self._recorded
        same, size, timings, difference = 0, 0, 0, ""
        for one in self._expected.records():
            other = self._got.record(one)
            if other is None:
                difference = f"call {one.index}: no result came"
                break
            timed = one.index in recorded.timings
            difference = compare_records(one, other, timed=timed)
            if difference:
                break
            same += 1
            size += one.size
            timings += timed
        return Outcome(
            recorded.session, recorded.program, not difference, same, size, timings, difference
        )


def compare_records(recorded: ResultRecord, got: ResultRecord, *, timed: bool) -> str:
    """How two result records differ; empty if they do not.

    Args:
        recorded: From the bag.
        got: From the server.
        timed: The answer is a measured time: only its size is compared.
    """
    if recorded.status != got.status or recorded.sticky != got.sticky:
        return (
            f"call {recorded.index}: status {got.status} (flags {got.flags}), recorded "
            f"{recorded.status} (flags {recorded.flags})"
        )
    before, after = bytes(recorded.payload), bytes(got.payload)
    if len(before) != len(after):
        return f"call {recorded.index}: {len(after)} bytes of data, recorded {len(before)}"
    if before != after and not timed:
        at = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        count = sum(a != b for a, b in zip(before, after, strict=True))
        return (
            f"call {recorded.index}: {count} of {len(before)} bytes differ, the first at {at} "
            f"(0x{after[at]:02x}, recorded 0x{before[at]:02x})"
        )
    return ""
