"""The robot's end of `port` over DDS: owns its data nodes, and whether a server answers.

Discovery has two directions for each topic and service, and that one of them is there says nothing
of the others. So the port asks the server a question until it is answered, and only then says that
a server is seen. What stands in the way of an answer for good is cured here, too: Fast DDS 3.2.3
keeps the TCP channel of a participant that was killed, and one that gets its port number later is
taken for it and never reached. A participant made anew has another port.

Over 400 lines: who is seen, asked and reached is one state of two threads, under one lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rrto_msgs.msg import CallBatch, CallResult
from rrto_msgs.srv import CloseSession, OpenSession
from rrto_ros.api.info import DeviceInfo
from rrto_ros.errors import UnavailableError
from rrto_ros.ros.cdr import calls_out, results_message
from rrto_ros.ros.context import Endpoint, data_transports
from rrto_ros.ros.message_bytes import byte_array, id_array
from rrto_ros.ros.participant import (
    CLOSE_ANSWER_S,
    Participant,
    SpinThread,
    TakeThread,
    call_qos,
    listeners,
    wait_delivered,
)
from rrto_ros.ros.renewal import Renewal
from rrto_ros.ros.server_port import NO_SESSION
from rrto_ros.wire.port import (
    Believes,
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    topic,
)

OPEN_REPEAT_S = 0.5
"""How long a request for a session waits for its answer before it is sent again."""
ASK_S, ASK_MOST_S = 0.1, 1.0
"""How long the question whether a server is there waits for its answer before it is sent again:
at first, and at most."""
APART_S = 1.2
"""How long a server that others see may not be reached before the participant is made anew."""
OTHERS_S = 12.0
"""How long one of several servers may not be reached before that: sessions run meanwhile, and the
server's own participant is made anew first (`server_port.APART_S`, and twice that)."""
MOST_ANSWERS = 64
DOUBT_S = 6.0
"""How long a server that does not answer a request for a session, nor the question, stays reached;
opening a session takes a second or two in which it answers nothing else."""
_LOOK_S, _LOOK_CONNECTED_S = 0.02, 0.25
_U32 = 0xFFFFFFFF


class _Ends(Participant):
    """One participant with the robot's topics and services on it."""

    def __init__(
        self,
        domain: int | None,
        robot: str,
        name: str,
        received: Callable[[bytes], None],
        transports: str,
    ) -> None:
        self.transports = transports
        super().__init__(domain, name, transports)
        self.calls = self.data.create_publisher(
            CallBatch, topic(robot, "call_batches"), call_qos()
        )
        self.open = self.control.create_client(OpenSession, topic(robot, "open_session"))
        self.close = self.control.create_client(CloseSession, topic(robot, "close_session"))
        self.take = TakeThread(
            self.data, CallResult, topic(robot, "call_results"), call_qos(), received
        )
        self.spin = SpinThread(self.control)
        closing = CloseSession.Request()
        closing.session = id_array(NO_SESSION)
        closing.reason = "is a server there?"
        opening = OpenSession.Request()
        opening.session = id_array(NO_SESSION)
        # Both leave everything as it is.
        self.questions = {"close": (self.close, closing), "open": (self.open, opening)}
        self.asked: list[tuple[Any, Any]] = []
        self.ask_at = 0.0
        self.ask_wait_s = ASK_S
        self.answers: set[str] = set()
        self.doubted_since = 0.0
        self.measuring: Any = None

    def found(self) -> bool:
        """Whether DDS knows a server's services and topics, as seen from here."""
        return bool(
            self.open.service_is_ready()
            and self.close.service_is_ready()
            and self.calls.get_subscription_count()
            and self.take.publishers()
        )

    @property
    def answered(self) -> bool:
        """Whether a server has answered on both services."""
        return len(self.answers) == len(self.questions)

    def _endpoints(self) -> tuple[list[Endpoint], list[Endpoint]]:
        return [self.calls], [self.open, self.close]


class RosRobotPort:
    """The robot's side: publishes calls, takes results, asks for sessions.

    Args:
        domain: ROS domain number, None for the environment's; the port has an own context.
        robot: Robot name, the topics' prefix.
        on_results: Called for every results message, in the port's take thread.
        name: Prefix of the data nodes' names.
        on_change: Called when a server is reached or lost, in the port's own thread.
        elsewhere: How many servers are seen on another participant, where there is one to ask.
        theirs: The transports of that server's data, as its status has them; empty if unknown.
        log: Takes a line when the participant is made anew.
    """

    def __init__(
        self,
        domain: int | None,
        robot: str,
        on_results: Callable[[ResultsMessage], None],
        name: str = "recorder_replayer",
        on_change: Callable[[], None] = lambda: None,
        elsewhere: Callable[[], int] = lambda: 0,
        theirs: Callable[[], str] = lambda: "",
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.robot = robot
        self._domain = domain
        self._name = name
        self._on_results = on_results
        self._on_change = on_change
        self._elsewhere = elsewhere
        self._theirs = theirs
        self._log = log
        self._lock = threading.Lock()
        self._published = 0
        self._answers = threading.Condition()
        self._unanswered = 0
        self._connected = False
        self._renewal = Renewal(APART_S)
        self._others = Renewal(OTHERS_S)
        self._ends = self._make(data_transports())
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._look, name="server-watch", daemon=True)
        self._watch.start()

    def publish_calls(self, message: CallsMessage) -> None:
        """Publish one message (any thread)."""
        out = calls_out(message)
        with self._lock:
            self._published += 1
            self._ends.calls.publish(out)

    def open_session(
        self,
        request: OpenRequest,
        timeout_s: float,
        believes: Believes | None = None,
        patience_s: float = 0.0,
    ) -> OpenAnswer:
        """Ask for a session (any thread but the port's own); `RobotPort` says how.

        Raises:
            UnavailableError: No server answered within the time.
        """
        service = topic(self.robot, "open_session")
        missing = UnavailableError(
            f"no offload server answered on {service} within {timeout_s:g} s; start one with "
            f"`ros2 launch rrto_ros offload.launch.py` or `rrto up` for robot {self.robot!r}"
        )
        message = OpenSession.Request()
        message.session = id_array(request.session)
        message.protocol_version = request.protocol_version
        message.table_hash = id_array(request.table_hash)
        message.robot = request.robot
        message.program = request.program
        message.label = request.label
        message.pid = request.pid & _U32
        message.device = request.device
        message.arena_base = request.arena_base
        message.limit_bytes = request.limit_bytes
        message.server = id_array(request.server)
        message.hello = byte_array(request.hello)
        message.proof = byte_array(request.proof)
        end = time.monotonic() + timeout_s
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        asked: list[tuple[_Ends, Any]] = []
        stranger: OpenAnswer | None = None
        try:
            while True:
                with self._answers:
                    left = end - time.monotonic()
                    if not self._answers.wait_for(lambda: self._connected, max(left, 0.0)):
                        if stranger is not None:
                            return stranger
                        raise missing
                # A server that was killed stays known for a while, and what went to it alone is
                # lost; the one that took its place answers a later request.
                with self._lock:
                    ends = self._ends
                    future = ends.open.call_async(message)
                # A future has one result, and the first answer may be a stranger's. So it never
                # is done, and all that come for it are seen.
                future.set_result = answers.put
                asked.append((ends, future))
                end = max(end, time.monotonic() + 0.1)
                repeat = time.monotonic() + OPEN_REPEAT_S
                try:
                    while True:
                        wait_s = max(min(repeat, end) - time.monotonic(), 0.0)
                        answer = _open_answer(answers.get(timeout=wait_s))
                        ends.doubted_since = 0.0
                        if believes is None or believes(answer):
                            return answer
                        if stranger is None:
                            end = min(end, time.monotonic() + patience_s)
                        stranger = answer
                except queue.Empty:
                    if stranger is None:
                        # What answered may have been a server that is gone.
                        ends.doubted_since = ends.doubted_since or time.monotonic()
                    if time.monotonic() >= end:
                        if stranger is not None:
                            return stranger
                        raise missing from None
        finally:
            for ends, future in asked:
                ends.open.remove_pending_request(future)

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:
        """Ask the server to close a session, without waiting for the answer (any thread)."""
        message = CloseSession.Request()
        message.session = id_array(session)
        message.reason = reason
        message.proof = byte_array(proof)
        with self._lock:
            close = self._ends.close
            if not close.service_is_ready():
                return
            with self._answers:
                self._unanswered += 1
            close.call_async(message).add_done_callback(self._answered)

    def measure(self, took: Callable[[bytes, float], None]) -> None:
        """Ask all servers whether they are there, and time their answers (one thread).

        Args:
            took: Told the id of each that answers, and after how many seconds; in the thread of
                the control node.
        """
        with self._lock:
            ends = self._ends
        if (before := ends.measuring) is not None:
            ends.open.remove_pending_request(before)
        seen: set[bytes] = set()
        asked_at = time.monotonic()

        def answered(answer: Any) -> None:
            server = answer.server.tobytes()
            if server not in seen and len(seen) < MOST_ANSWERS:
                seen.add(server)
                took(server, time.monotonic() - asked_at)

        _, message = ends.questions["open"]
        # As in `open_session`: it never is done, so that every answer is seen.
        ends.measuring = future = ends.open.call_async(message)
        future.set_result = answered

    def listeners(self) -> list[str]:
        """Nodes that get the call messages (see `ros_port.listeners`)."""
        with self._lock:
            return listeners(self._ends.data, self._ends.calls.topic_name)

    def server_seen(self) -> bool:
        """Whether an offload server for this robot answers, and DDS still knows it."""
        return self._connected

    @property
    def transports(self) -> str:
        """Of the topics' participant, as FASTDDS_BUILTIN_TRANSPORTS has them."""
        return self._ends.transports

    def statistics(self) -> dict[str, int | str]:
        """Messages published and taken; how often the participant was made anew."""
        return {
            "published": self._published,
            "renewed": self._renewal.renewed,
            **self._ends.take.statistics(),
        }

    def close(self) -> None:
        """Stop the threads and leave the graph, once the server has heard of closed sessions."""
        self._stop.set()
        self._watch.join(timeout=5.0)
        with self._answers:
            self._answers.wait_for(lambda: self._unanswered == 0, CLOSE_ANSWER_S)
        wait_delivered(self._ends.calls)
        self._ends.leave()

    def _make(self, transports: str) -> _Ends:
        return _Ends(self._domain, self.robot, self._name, self._received, transports)

    def _answered(self, _: Any) -> None:
        with self._answers:
            self._unanswered -= 1
            self._answers.notify_all()

    # ---- whether a server is there (the watching thread)

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_CONNECTED_S if self._connected else _LOOK_S):
            ends = self._ends
            if not ends.found():
                ends.answers.clear()
                ends.ask_at, ends.ask_wait_s, ends.doubted_since = 0.0, ASK_S, 0.0
            elif ends.doubted_since and time.monotonic() - ends.doubted_since > DOUBT_S:
                ends.answers.clear()
                ends.doubted_since = 0.0
            elif (not ends.answered or ends.doubted_since) and time.monotonic() >= ends.ask_at:
                self._ask(ends)
            if ends.answered != self._connected:
                with self._answers:
                    self._connected = ends.answered
                    self._answers.notify_all()
                try:
                    self._on_change()
                except Exception as error:  # a status that cannot be published ends no search
                    self._log(f"telling of a server failed: {type(error).__name__}: {error}")
            self._judge()

    def _ask(self, ends: _Ends) -> None:
        for name, (client, message) in ends.questions.items():
            future = client.call_async(message)
            ends.asked.append((client, future))
            future.add_done_callback(partial(self._told, ends, name))
        ends.ask_at = time.monotonic() + ends.ask_wait_s
        ends.ask_wait_s = min(2 * ends.ask_wait_s, ASK_MOST_S)

    def _told(self, ends: _Ends, name: str, _: Any) -> None:
        """The server has answered (the control node's thread)."""
        ends.answers.add(name)
        if not ends.answered:
            return
        ends.doubted_since = 0.0
        for client, future in ends.asked:
            client.remove_pending_request(future)
        ends.asked.clear()

    def _judge(self) -> None:
        """Make the participant anew where a server that others see is not reached."""
        seen, reached = self._elsewhere(), self._ends.take.publishers()
        apart = not self._connected and seen > 0
        few = self._connected and reached < seen
        theirs = self._theirs() or self._ends.transports
        if apart and theirs != self._ends.transports:
            self._log(
                f"the offload server's calls and results travel over {theirs}: taken here too"
            )
            self._renewal.began()
            self._renew(theirs)
        elif waited_s := self._renewal.due(apart, self._connected):
            self._log(
                f"an offload server is seen but was not reached for {waited_s:g} s; the "
                "participant for calls and results is made anew"
            )
            self._renew(theirs)
        elif waited_s := self._others.due(few, seen > 0 and not few):
            self._log(
                f"{seen} offload servers are seen but only {reached} were reached for "
                f"{waited_s:g} s; the participant for calls and results is made anew"
            )
            self._renew(theirs)

    def _renew(self, transports: str) -> None:
        self._renewal.renew(partial(self._make, transports), self._swap, self._log)

    def _swap(self, made: _Ends) -> _Ends:
        with self._lock:
            old, self._ends = self._ends, made
        return old

    def _received(self, data: bytes) -> None:
        self._on_results(results_message(data))


def _open_answer(m: Any) -> OpenAnswer:
    server, challenge, proof = m.server.tobytes(), m.challenge.tobytes(), m.proof.tobytes()
    if not m.accepted:
        return OpenAnswer(
            False, m.reason, max_message_bytes=m.max_message_bytes, server=server,
            challenge=challenge, proof=proof,
        )  # fmt: skip
    info = DeviceInfo(
        m.device,
        m.device_name,
        m.device_uuid.tobytes(),
        (m.compute_major, m.compute_minor),
        m.driver_version,
        m.total_bytes,
        m.arena_base,
        m.arena_bytes,
        dict(zip(m.attribute_ids, m.attribute_values, strict=False)),
    )
    blobs = m.known_blobs.tobytes()
    known = frozenset(blobs[at : at + 32] for at in range(0, len(blobs) - 31, 32))
    return OpenAnswer(True, m.reason, info, m.max_message_bytes, known, server, challenge, proof)
