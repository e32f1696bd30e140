"""The robot's side of opening a session: owns the two requests and whom the robot believes.

Over any `RobotPort`. Every server of a robot's name, and every participant, may answer a request.
What comes from one that does not prove itself is passed by, whoever is first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.wire.closing import ServerOfSession
from rrto_ros.wire.handshake import (
    KEYS,
    LOCAL,
    UNSEALED,
    Agreement,
    Challenge,
    Credentials,
    Hello,
    agree,
    answer_digest,
    key_id,
)
from rrto_ros.wire.keys_text import key_text
from rrto_ros.wire.port import (
    FLAG_CLOSED,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    RobotPort,
)
from rrto_ros.wire.seal import RobotSeal, own_cipher, proves

STRANGERS_S = 3.0
"""So long after the first answer to a hello that is not believed others are waited for; then the
reason is told. While it opens another session a server may be silent for two."""
ANEW_S = 0.5
"""So long after the first answer to a proof that is not the server's own, one that is is waited
for before the server is asked whether it was started anew meanwhile."""

UNWANTED = OpenAnswer(False, "only servers answered that are not wanted")
"""What an opening comes to where no other server has answered."""

GetCredentials = Callable[[], Credentials]
"""Reads the user's keys as they are now."""


@dataclass(frozen=True)
class Opened:
    """What an opening came to.

    Attributes:
        answer: The server's, or why it is not believed.
        seal: Of the session's messages, None if they are not sealed.
        server: Who may say that the session is closed.
        passed_by: Answers to the hello that were not believed.
    """

    answer: OpenAnswer
    seal: RobotSeal | None = None
    server: ServerOfSession = field(default_factory=ServerOfSession)
    passed_by: int = 0


def open_session(
    port: RobotPort,
    request: OpenRequest,
    credentials: GetCredentials | None,
    timeout_s: float,
    wanted: Callable[[bytes], bool] | None = None,
    answer_s: float = 0.0,
) -> Opened:
    """Open a session, with sealed messages if there are credentials.

    Args:
        port: The way to the server.
        request: Without a hello and a proof.
        credentials: None for `authentication: off`.
        timeout_s: For all of it.
        wanted: Whether the server of an id may open it; None: any may.
        answer_s: How long the first answer is waited for, if not for all of the time. Making a
            session takes longer than to say that one is there.

    Raises:
        UnavailableError: No server answered within the time.
        ConfigError: The user's keys cannot be used.
    """
    end = time.monotonic() + timeout_s
    answer_s = min(answer_s or timeout_s, timeout_s)

    def is_wanted(answer: OpenAnswer) -> bool:
        return wanted is None or wanted(answer.server)

    if credentials is None:
        # Every server of the robot's name hears a request; the one whose answer comes first opens.
        asks = replace(request, hello=UNSEALED)
        answer = port.open_session(asks, answer_s, is_wanted, STRANGERS_S)
        if not is_wanted(answer):
            return Opened(UNWANTED, passed_by=1)
        if answer.challenge == UNSEALED:
            asks = replace(request, server=answer.server)
            answer = port.open_session(asks, max(end - time.monotonic(), 0.1))
        return Opened(answer, None, ServerOfSession(answer.server))
    mine = credentials()
    private = X25519PrivateKey.generate()
    hello = Hello(own_cipher(), private.public_key().public_bytes_raw(), mine.public)
    asks = replace(request, hello=hello.pack())
    passed_by = 0

    def agreed_with(answer: OpenAnswer) -> _Agreed:
        return _believed_challenge(answer, private, hello, mine, asks)

    def takes(answer: OpenAnswer) -> bool:
        nonlocal passed_by
        if not is_wanted(answer):
            return False
        try:
            agreed_with(answer)
        except ProtocolError:
            passed_by += 1
            return False
        return True

    def left() -> float:
        return max(end - time.monotonic(), 0.1)

    first = port.open_session(asks, answer_s, takes, STRANGERS_S)
    while True:
        if not is_wanted(first):
            return Opened(UNWANTED, passed_by=passed_by)
        try:
            challenge, agreed = agreed_with(first)
        except ProtocolError as error:
            return Opened(OpenAnswer(False, str(error)), passed_by=passed_by)
        if first.reason:
            refusal = OpenAnswer(False, first.reason, server=first.server)
            return Opened(refusal, passed_by=passed_by)

        def proven(answer: OpenAnswer, agreed: Agreement = agreed) -> bool:
            control = agreed.keys.control
            return proves(answer.proof, control, b"rrto answer", answer_digest(answer))

        shows = replace(asks, server=first.server, proof=agreed.robot_proof(mine.identity))
        second = port.open_session(shows, left(), proven, ANEW_S)
        if proven(second):
            break
        # A stranger's answer; or the server was started anew and knows of no challenge.
        if left() > ANEW_S:
            again = _asked_again(port, replace(asks, server=first.server), takes, left())
            if again is not None and (again.reason or _run_of(again) != challenge.run):
                first = again
                continue
            second = port.open_session(shows, left(), proven, left())
            if proven(second):
                break
        why = f"the server's last answer is not proven to be its own: {second.reason}"
        return Opened(OpenAnswer(False, why), passed_by=passed_by)
    server = ServerOfSession(
        first.server, challenge.run, challenge.kind, challenge.identity, mine.local or b"",
        agreed.keys.control,
    )  # fmt: skip
    return Opened(second, RobotSeal(agreed.keys), server, passed_by)


def objection(
    port: RobotPort,
    request: OpenRequest,
    credentials: GetCredentials | None,
    timeout_s: float,
    wanted: Callable[[bytes], bool] | None = None,
) -> str:
    """What keeps a session from being opened, as far as a first answer says it; nothing is opened.

    Args:
        port: The way to servers.
        request: Without a hello and a proof.
        credentials: None for `authentication: off`.
        timeout_s: How long an answer is waited for.
        wanted: Whether the server of an id is asked; None: any is.

    Returns:
        Empty if a server answers that the robot believes and that would open it, room granted.

    Raises:
        UnavailableError: No server answered within the time.
        ConfigError: The user's keys cannot be used.
    """

    def is_wanted(answer: OpenAnswer) -> bool:
        return wanted is None or wanted(answer.server)

    if credentials is None:
        asks = replace(request, hello=UNSEALED)
        answer = port.open_session(asks, timeout_s, is_wanted, timeout_s)
        if not is_wanted(answer):
            return UNWANTED.reason
        ready = answer.challenge == UNSEALED and not answer.reason
        return "" if ready else answer.reason or "it proves something, and authentication is off"
    mine = credentials()
    private = X25519PrivateKey.generate()
    hello = Hello(own_cipher(), private.public_key().public_bytes_raw(), mine.public)
    asks = replace(request, hello=hello.pack())

    def takes(answer: OpenAnswer) -> bool:
        if not is_wanted(answer):
            return False
        try:
            _believed_challenge(answer, private, hello, mine, asks)
        except ProtocolError:
            return False
        return True

    answer = port.open_session(asks, timeout_s, takes, timeout_s)
    if not is_wanted(answer):
        return UNWANTED.reason
    try:
        _believed_challenge(answer, private, hello, mine, asks)
    except ProtocolError as error:
        return str(error)
    return answer.reason


def _asked_again(
    port: RobotPort, asks: OpenRequest, takes: Callable[[OpenAnswer], bool], timeout_s: float
) -> OpenAnswer | None:
    """The challenge that a server gives now, None if none of its own comes soon."""
    try:
        answer = port.open_session(asks, min(STRANGERS_S, timeout_s), takes, STRANGERS_S)
    except UnavailableError:
        return None
    return answer if takes(answer) else None


def _run_of(answer: OpenAnswer) -> bytes:
    """Which start of its server a challenge that is believed is of."""
    return Challenge.unpack(answer.challenge).run


def close_session(port: RobotPort, opened: Opened, session: bytes, reason: str) -> None:
    """Ask the server to close a session, with the proof that it wants."""
    if opened.seal is None:
        port.close_session(session, reason)
    else:
        port.close_session(session, reason, opened.seal.close_proof(session, reason))


def believed(opened: Opened, session: bytes, message: ResultsMessage, most: int) -> ResultsMessage:
    """A message of results as the session's server made it, opened if it was sealed.

    Args:
        opened: The session's opening.
        session: Its id.
        message: As it came.
        most: Bytes of data, at most.

    Raises:
        ProtocolError: It is not of the server that has the session.
    """
    if message.flags & FLAG_CLOSED:
        if not opened.server.closed(session, bytes(message.data)):
            raise ProtocolError("CLOSED is not of the server that has the session")
        return message
    if opened.seal is not None:
        return opened.seal.results(message, most)
    if message.seal:
        raise ProtocolError("the message is sealed, and this session's messages are not")
    return message


_Agreed = tuple[Challenge, Agreement]


def _believed_challenge(
    answer: OpenAnswer,
    private: X25519PrivateKey,
    hello: Hello,
    mine: Credentials,
    asks: OpenRequest,
) -> _Agreed:
    """What follows from an answer to a hello, of a server that the robot believes.

    Raises:
        ProtocolError: It is not of one; the text is for the user.
    """
    if not answer.challenge:
        raise ProtocolError(answer.reason or "the server proves nothing")
    try:
        challenge = Challenge.unpack(answer.challenge)
        agreed = agree(private, hello, challenge, asks, answer.server, answer.reason, mine.local)
    except ProtocolError:
        if mine.local is None and answer.challenge[1:2] == bytes([LOCAL]):
            raise ProtocolError(_from_elsewhere(mine)) from None
        raise
    _believe(agreed, challenge, answer, mine)
    return challenge, agreed


def _believe(
    agreed: Agreement, challenge: Challenge, answer: OpenAnswer, mine: Credentials
) -> None:
    """See whether the server is one that the robot trusts.

    Raises:
        ProtocolError: It is not; the text says what to do.
    """
    if challenge.kind == KEYS and not mine.name_of(challenge.identity):
        theirs = key_text(challenge.identity)
        says = f" (it says: {answer.reason})" if answer.reason else ""
        raise ProtocolError(
            f"the server's key {key_id(challenge.identity)} is not trusted here{says}; if it is "
            f"the edge's, run on the robot: rrto keys trust {theirs} --name EDGE"
        )
    if agreed.proves_server(challenge.proof, challenge.identity):
        return
    if challenge.kind == LOCAL:
        raise ProtocolError(_from_elsewhere(mine))
    raise ProtocolError(
        f"the server does not have the key {key_id(challenge.identity)} that it shows"
    )


def _from_elsewhere(mine: Credentials) -> str:
    shown = (
        f"rrto keys trust {key_text(mine.public)} --name ROBOT"
        if mine.identity
        else "rrto keys trust KEY --name ROBOT (KEY: what `rrto keys new` on the robot prints)"
    )
    return (
        "the server trusts no key, so it serves its own machine and user only, which this "
        f"recorder is not on; run on the edge: {shown}; and on the robot what that prints; or set "
        "authentication to off on both, where nobody else reaches their network"
    )
