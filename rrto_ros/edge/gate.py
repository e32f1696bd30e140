"""Who may open a session on a server: owns the server's part of the agreement on keys.

Nothing is kept for a hello: the server's key for it is derived from the hello and a secret that
changes every minute, so that a flood of hellos costs time and no memory. What opened a session is
remembered as long as its secret, so that it opens none a second time. No ROS.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.wire.closing import closed_by_server, closed_by_session
from rrto_ros.wire.handshake import (
    ID_BYTES,
    KEYS,
    LOCAL,
    NO_KEY,
    UNSEALED,
    Agreement,
    Challenge,
    Credentials,
    Hello,
    agree,
    answer_digest,
    key_id,
    request_digest,
)
from rrto_ros.wire.keys_text import key_text
from rrto_ros.wire.port import ANY_SERVER, OpenAnswer, OpenRequest
from rrto_ros.wire.seal import EdgeSeal, proof
from rrto_ros.wire.server_id import server_id

SECRET_S = 60.0
"""So long a secret makes keys for hellos; its predecessor is taken as well."""
MOST_OPENED = 1 << 16


@dataclass(frozen=True)
class Peer:
    """Whose session it is: what limits and logs go by.

    Attributes:
        kind: "off" (nobody knows), "local" (this machine and user) or "key".
        key: Id of the key (`key_id`), empty without one.
        name: Of the key on this server.
    """

    kind: str = "off"
    key: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"key {self.name} ({self.key})" if self.key else f"authentication {self.kind}"


@dataclass(frozen=True)
class Admission:
    """Leave to open a session.

    Attributes:
        peer: Whose.
        public: The peer's public key, empty without one.
        seal: Of the session's messages, None if they are not sealed.
        closed: What CLOSED carries for it.
    """

    peer: Peer
    public: bytes
    seal: EdgeSeal | None
    closed: bytes

    def share(self, request: OpenRequest) -> str:
        """By what the session's share of the server goes: the key, or without one the name."""
        return self.peer.key or request.robot

    def proven(self, answer: OpenAnswer) -> OpenAnswer:
        """The answer with the proof that this server gives it."""
        if self.seal is None:
            return answer
        shown = proof(self.seal.keys.control, b"rrto answer", answer_digest(answer))
        return replace(answer, proof=shown)


class Gate:
    """The server's part of every opening.

    Args:
        credentials: Reads the user's keys as they are now; None for `authentication: off`.
        place: What tells this server's id from those of the user's others: robot and domain.
        name: What people call it; robots see from its id whether it has it.
    """

    def __init__(
        self, credentials: Callable[[], Credentials] | None, place: str = "", name: str = ""
    ) -> None:
        self._credentials = credentials
        mine = credentials() if credentials is not None else None
        own = mine.local if mine is not None and mine.local is not None else b""
        base = own or secrets.token_bytes(32)
        self.server = server_id(base + place.encode(), name)
        self._run = secrets.token_bytes(ID_BYTES)
        self._lock = threading.Lock()
        self._secrets = [(time.monotonic(), secrets.token_bytes(32))]
        self._opened: OrderedDict[bytes, float] = OrderedDict()
        self._counts: Counter[str] = Counter()

    @property
    def mode(self) -> str:
        """Who may open: "off" (anybody), "local" (this machine and user) or "keys" (trusted)."""
        if self._credentials is None:
            return "off"
        try:
            return "keys" if self._credentials().trusted else "local"
        except ConfigError:
            return "keys"

    def others(self, request: OpenRequest) -> bool:
        """Whether a request is for another server."""
        return request.server not in (ANY_SERVER, self.server)

    def admit(self, request: OpenRequest, unfit: str) -> Admission | OpenAnswer:
        """Take a request for a session.

        Args:
            request: For this server, not answered before.
            unfit: Why it will be refused whoever asks; empty if it will not.

        Returns:
            Leave to open it, or what to answer instead; its reason is empty if only a proof is
            wanted.
        """
        if self._credentials is None:
            if request.hello == UNSEALED and not unfit:
                return OpenAnswer(False, server=self.server, challenge=UNSEALED)
            if unfit or request.hello:
                reason = unfit or (
                    "this server has authentication off and the robot has it on; set the "
                    "parameter `authentication` to the same on both"
                )
                return OpenAnswer(False, reason, server=self.server)
            return Admission(Peer(), b"", None, self.server + self._run)
        try:
            mine = self._credentials()
            if request.hello in (b"", UNSEALED):
                raise ProtocolError(
                    "the robot has authentication off and this server has it on; set the "
                    "parameter `authentication` to the same on both"
                )
            hello = Hello.unpack(request.hello)
            if request.proof:
                return self._proven(request, hello, mine)
            self._counts["challenges"] += 1
            unfit = unfit or self._stranger(hello, mine)
            now = self._present()[0]
            challenge, agreed = self._challenge(request, hello, mine, now, unfit)
            shown = agreed.server_proof(mine.identity)
        except (ConfigError, ProtocolError) as error:
            self._counts["refused"] += 1
            return OpenAnswer(False, unfit or str(error), server=self.server)
        self._counts["refused"] += bool(unfit)
        said = replace(challenge, proof=shown).pack()
        return OpenAnswer(False, unfit, server=self.server, challenge=said)

    def trusts(self, admission: Admission) -> bool:
        """Whether a session that was opened with this leave may go on."""
        if not admission.public or self._credentials is None:
            return True
        try:
            return bool(self._credentials().name_of(admission.public))
        except ConfigError:
            return False

    def closed(self, session: bytes) -> bytes:
        """What CLOSED carries for a session that this server does not know."""
        identity, local = None, None
        if self._credentials is not None:
            try:
                mine = self._credentials()
            except ConfigError:
                return self.server + self._run
            identity, local = (mine.identity, None) if mine.trusted else (None, mine.local)
        return closed_by_server(session, self.server, self._run, identity, local)

    def statistics(self) -> dict[str, int]:
        """Challenges given, proofs taken, requests refused."""
        with self._lock:
            return {"remembered": len(self._opened), **self._counts}

    def _stranger(self, hello: Hello, mine: Credentials) -> str:
        """Why a robot may not open a session; empty if it may, with the proof."""
        if not mine.trusted or mine.name_of(hello.identity):
            return ""
        if hello.identity == NO_KEY:
            return (
                "this server opens sessions for keys that it trusts, and the robot has none; on "
                "the robot run `rrto keys new`, on the edge the `rrto keys trust ...` that it "
                "prints"
            )
        return (
            f"the robot's key {key_id(hello.identity)} is not trusted by this server; on the edge "
            f"run: rrto keys trust {key_text(hello.identity)} --name ROBOT"
        )

    def _proven(self, request: OpenRequest, hello: Hello, mine: Credentials) -> Admission:
        for secret in self._present():
            challenge, agreed = self._challenge(request, hello, mine, secret, "")
            if agreed.proves_robot(request.proof, hello.identity):
                break
        else:
            raise ProtocolError(
                "the proof is not the robot's, or is too old: it does not have the key that it "
                "shows"
                if mine.trusted
                else "the proof is not of this machine and user, or is too old"
            )
        if reason := self._stranger(hello, mine):
            raise ProtocolError(reason)
        with self._lock:
            now = time.monotonic()
            while self._opened and next(iter(self._opened.values())) < now - 2 * SECRET_S:
                self._opened.popitem(last=False)
            if agreed.transcript in self._opened or len(self._opened) >= MOST_OPENED:
                raise ProtocolError("this proof has opened a session before")
            self._opened[agreed.transcript] = now
            self._counts["proven"] += 1
        keys = agreed.keys
        closed = closed_by_session(request.session, self.server, self._run, keys.control)
        if challenge.kind == LOCAL:
            return Admission(Peer("local"), b"", EdgeSeal(keys), closed)
        name = mine.name_of(hello.identity)
        peer = Peer("key", key_id(hello.identity), name)
        return Admission(peer, hello.identity, EdgeSeal(keys), closed)

    def _challenge(
        self, request: OpenRequest, hello: Hello, mine: Credentials, secret: bytes, reason: str
    ) -> tuple[Challenge, Agreement]:
        private = X25519PrivateKey.from_private_bytes(
            proof(secret, b"rrto key for a hello", request_digest(request))
        )
        kind = KEYS if mine.trusted else LOCAL
        challenge = Challenge(
            kind, self._run, private.public_key().public_bytes_raw(), mine.public
        )
        agreed = agree(private, hello, challenge, request, self.server, reason, mine.local)
        return challenge, agreed

    def _present(self) -> list[bytes]:
        """The secrets that hold now, the newest first."""
        with self._lock:
            now = time.monotonic()
            made, _ = self._secrets[0]
            if now - made > SECRET_S:
                self._secrets = [(now, secrets.token_bytes(32)), self._secrets[0]]
            # Not for longer than what it opened is remembered.
            return [secret for made, secret in self._secrets if now - made < 2 * SECRET_S]
