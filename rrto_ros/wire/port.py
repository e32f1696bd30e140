"""What the two ends say to each other, as plain values: owns the requests, answers and messages.

No ROS here, so that sessions can be run and tested over anything; `ros_port` carries these values
over DDS. A session id is 16 bytes chosen by the robot.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from rrto_ros.api.info import DeviceInfo
from rrto_ros.errors import ConfigError
from rrto_ros.wire.format import PROTOCOL_VERSION, TABLE_HASH, Buffer
from rrto_ros.wire.link import MAX_MESSAGE_BYTES

FLAG_MORE = 1
"""The batch goes on in the next message."""
FLAG_ACK_ONLY = 2
"""No data; the sequence is that of the newest data message."""
FLAG_PROBE = 4
"""Calls only: answer at once with a message, whatever there is to say."""
FLAG_BUSY = 4
"""Results only: the session's worker is executing."""
FLAG_CLOSED = 8
"""Results only: the session is not open on this server (any more)."""
FLAG_FULL = 16
"""Who says this has no room: the other end goes on with what it has queued, and takes nothing more
(from the program, from the worker) until a message comes without it."""
FLAG_PACKED = 32
"""The data is packed (`wire/packing.py`, `wire/coding.py`)."""
FLAG_TAKES_PACKED = 64
"""Calls only: results may come packed."""

ANY_SERVER = bytes(16)
"""A request for whichever server is there; no server has this id."""

_ROBOT = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")
RECORDER = "recorder_replayer"
SERVER = "offload_server"
"""Names of the two nodes; the kind that their status says."""
MAX_ROBOT = 60
"""Longest robot name: with the socket's folder before it it fits into a Unix socket's address."""
HIGHEST_DOMAIN = 232


def topic(robot: str, name: str) -> str:
    """The full name of one of this package's topics or services for a robot.

    Raises:
        ConfigError: `robot` cannot be part of a ROS name, or is too long.
    """
    if len(robot) > MAX_ROBOT:
        raise ConfigError(
            f"robot name {robot[:16] + '...'!r} has {len(robot)} characters, want {MAX_ROBOT} at "
            "most; give a shorter one (--robot or RRTO_ROBOT)"
        )
    if not _ROBOT.fullmatch(robot):
        raise ConfigError(
            f"robot name {robot!r} cannot be part of a topic name: letters, digits and _ in "
            "parts separated by /, each beginning with a letter"
        )
    return f"/{robot}/rrto/{name}"


def domain_number(text: str | None) -> int:
    """The ROS domain that a value of ROS_DOMAIN_ID means; unset or empty is 0.

    Raises:
        ConfigError: It is no number from 0 to `HIGHEST_DOMAIN`.
    """
    try:
        number = int(text or "0")
    except ValueError:
        number = -1
    if not 0 <= number <= HIGHEST_DOMAIN:
        raise ConfigError(f"ROS_DOMAIN_ID is {text!r}, want a number, 0 to {HIGHEST_DOMAIN}")
    return number


@dataclass(frozen=True, slots=True)
class CallsMessage:
    """One message of a session's calls, robot to server (rrto_msgs/CallBatch)."""

    session: bytes
    sequence: int
    results_ack: int
    flags: int
    data: Buffer
    seal: int = 0


@dataclass(frozen=True, slots=True)
class ResultsMessage:
    """One message of a session's results, server to robot (rrto_msgs/CallResult)."""

    session: bytes
    sequence: int
    batches_ack: int
    executed_call: int
    missing: tuple[int, ...]
    flags: int
    data: Buffer
    seal: int = 0


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Open a session (rrto_msgs/OpenSession); the fields are explained in the .srv file."""

    session: bytes
    robot: str
    program: str
    label: str
    pid: int
    device: str = ""
    arena_base: int = 0
    limit_bytes: int = 0
    protocol_version: int = PROTOCOL_VERSION
    table_hash: bytes = TABLE_HASH
    server: bytes = ANY_SERVER
    hello: bytes = b""
    proof: bytes = b""


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """How the server answers; `info` is there if and only if it accepted.

    `challenge` is its part of an agreement on keys (`wire/handshake.py`), which a request without
    a proof is answered with; `proof` shows who answered a request with one.
    """

    accepted: bool
    reason: str = ""
    info: DeviceInfo | None = None
    max_message_bytes: int = MAX_MESSAGE_BYTES
    known_blobs: frozenset[bytes] = field(default_factory=frozenset)
    server: bytes = ANY_SERVER
    challenge: bytes = b""
    proof: bytes = b""


@dataclass(frozen=True, slots=True)
class SessionAnnouncement:
    """A session opened or closed (rrto_msgs/SessionEvent)."""

    session: bytes
    opened: bool
    robot: str
    program: str
    pid: int
    device: str = ""
    arena_base: int = 0
    arena_bytes: int = 0
    reason: str = ""


Believes = Callable[[OpenAnswer], bool]


class RobotPort(Protocol):
    """What a robot-side session needs of the network. Every method may be called by any thread."""

    def publish_calls(self, message: CallsMessage) -> None: ...

    def open_session(
        self,
        request: OpenRequest,
        timeout_s: float,
        believes: Believes | None = None,
        patience_s: float = 0.0,
    ) -> OpenAnswer:
        """Ask the server to open a session.

        Args:
            request: What is asked.
            timeout_s: How long an answer is waited for.
            believes: Whether an answer is the one; others may come, of strangers. None: any is.
            patience_s: So long after the first answer that is not, one that is is waited for.

        Returns:
            The first answer that is believed, else the last that is not.

        Raises:
            UnavailableError: No server answered within the time.
        """
        ...

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:
        """Ask the server to close a session; does not wait for the answer.

        Args:
            session: Its id.
            reason: For the log.
            proof: That the session's robot asks, where its messages are sealed.
        """
        ...
