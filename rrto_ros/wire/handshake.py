"""How two ends agree on a session's keys: owns what is said, what is signed, and what is derived.

docs/wire_format.md, "Agreement on keys". Three messages, as in SIGMA: the robot says hello with a
new X25519 key; the server answers with one of its own, its id and a proof; the robot's second
request brings its proof, and only that opens the session. All that both ends said goes into one
digest, the transcript. A proof is a MAC under a key that only the two ends can derive, and in kind
`KEYS` an Ed25519 signature of the transcript. In kind `LOCAL` a secret that only one user of one
machine can read goes into the derivation in the signatures' place.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.port import OpenAnswer, OpenRequest
from rrto_ros.wire.seal import CIPHERS, KEY_BYTES, PROOF_BYTES, SessionKeys, proof, proves

FORM = 1
LOCAL, KEYS = 1, 2
"""Kinds: the same user on the same machine; keys that each end trusts."""
UNSEALED = b"\0"
"""Hello and challenge where authentication is off: they only say which server it is."""
ID_BYTES, SIGNATURE_BYTES = 16, 64
NO_KEY = bytes(KEY_BYTES)
_HELLO = struct.Struct("<BB32s32s")
_CHALLENGE = struct.Struct("<BB16s32s32s")
PROOF_SIZES = {LOCAL: PROOF_BYTES, KEYS: PROOF_BYTES + SIGNATURE_BYTES}


@dataclass(frozen=True, repr=False)
class Credentials:
    """What a user of a machine can show and whom it trusts; never printed.

    Attributes:
        identity: Its own key, None if it has none.
        trusted: Public keys that are trusted (32 bytes) and their names, not its own.
        local: A secret that only this user on this machine can read, None if there is none.
    """

    identity: Ed25519PrivateKey | None = None
    trusted: Mapping[bytes, str] = field(default_factory=dict)
    local: bytes | None = None

    @property
    def public(self) -> bytes:
        """The public key of the identity; `NO_KEY` without one."""
        return self.identity.public_key().public_bytes_raw() if self.identity else NO_KEY

    def name_of(self, public: bytes) -> str:
        """The name of a key that is trusted, "own" for one's own; empty if it is not trusted."""
        if public == NO_KEY:
            return ""
        return "own" if public == self.public else self.trusted.get(public, "")


def key_id(public: bytes) -> str:
    """What a public key is called in logs and limits: 16 hexadecimal digits."""
    return sha256(b"rrto key " + public).hexdigest()[:16]


@dataclass(frozen=True)
class Hello:
    """The robot's part: `OpenRequest.hello`."""

    cipher: int
    ephemeral: bytes
    identity: bytes

    def pack(self) -> bytes:
        """As it travels."""
        return _HELLO.pack(FORM, self.cipher, self.ephemeral, self.identity)

    @staticmethod
    def unpack(data: bytes) -> Hello:
        """What `pack` made.

        Raises:
            ProtocolError: It is of another version, or no hello.
        """
        _check_form(data, "the robot", "this server")
        if len(data) != _HELLO.size or data[1] not in CIPHERS:
            raise ProtocolError(f"{len(data)} bytes are no hello, want {_HELLO.size}")
        _, cipher, ephemeral, identity = _HELLO.unpack(data)
        return Hello(cipher, ephemeral, identity)


@dataclass(frozen=True)
class Challenge:
    """The server's part: `OpenAnswer.challenge`, which the proof ends.

    Attributes:
        kind: `LOCAL` or `KEYS`.
        run: Of the server's process: another one knows no session of this.
        ephemeral, identity: Public keys; without an identity `NO_KEY`.
        proof: That the server made it.
    """

    kind: int
    run: bytes
    ephemeral: bytes
    identity: bytes
    proof: bytes = b""

    def pack(self) -> bytes:
        """As it travels."""
        said = _CHALLENGE.pack(FORM, self.kind, self.run, self.ephemeral, self.identity)
        return said + self.proof

    @staticmethod
    def unpack(data: bytes) -> Challenge:
        """What `pack` made.

        Raises:
            ProtocolError: It is of another version, or no challenge.
        """
        _check_form(data, "the server", "this robot")
        size = PROOF_SIZES.get(data[1], 0) if len(data) > 1 else 0
        if not size or len(data) != _CHALLENGE.size + size:
            raise ProtocolError(f"{len(data)} bytes are no challenge")
        _, kind, run, ephemeral, identity = _CHALLENGE.unpack_from(data)
        return Challenge(kind, run, ephemeral, identity, data[_CHALLENGE.size :])


@dataclass(frozen=True, repr=False)
class Agreement:
    """What both ends have when both have said their part."""

    kind: int
    transcript: bytes
    keys: SessionKeys
    of_server: bytes
    of_robot: bytes

    def server_proof(self, identity: Ed25519PrivateKey | None) -> bytes:
        """What shows the robot who the server is."""
        return self._proof(b"rrto server", self.of_server, identity)

    def robot_proof(self, identity: Ed25519PrivateKey | None) -> bytes:
        """What shows the server who the robot is."""
        return self._proof(b"rrto robot", self.of_robot, identity)

    def proves_server(self, given: bytes, identity: bytes) -> bool:
        """Whether the server made `given`, with this identity."""
        return self._proves(b"rrto server", self.of_server, given, identity)

    def proves_robot(self, given: bytes, identity: bytes) -> bool:
        """Whether the robot made `given`, with this identity."""
        return self._proves(b"rrto robot", self.of_robot, given, identity)

    def _proof(self, who: bytes, key: bytes, identity: Ed25519PrivateKey | None) -> bytes:
        shown = proof(key, who, self.transcript)
        if self.kind == KEYS and identity is not None:
            shown += identity.sign(who + b"\0" + self.transcript)
        return shown

    def _proves(self, who: bytes, key: bytes, given: bytes, identity: bytes) -> bool:
        if len(given) != PROOF_SIZES[self.kind]:
            return False
        if not proves(given[:PROOF_BYTES], key, who, self.transcript):
            return False
        signature = given[PROOF_BYTES:]
        return self.kind == LOCAL or signed(identity, signature, who + b"\0" + self.transcript)


def _check_form(data: bytes, theirs: str, ours: str) -> None:
    if not data or data[0] != FORM:
        raise ProtocolError(
            f"{theirs} agrees on keys in form {data[0] if data else 'none'}, {ours} in form "
            f"{FORM}; install the same rrto_ros on both"
        )


def signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of a public key signed a message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def request_digest(request: OpenRequest) -> bytes:
    """Of all that a request wants, without the proof.

    The robot's name is left out: it names topics, and a relay may serve another name's.
    """
    r = request
    return _digest(
        b"rrto request", r.session, r.program, r.label, r.pid & 0xFFFFFFFF, r.device,
        r.arena_base, r.limit_bytes, r.protocol_version, r.table_hash, r.hello,
    )  # fmt: skip


def answer_digest(answer: OpenAnswer) -> bytes:
    """Of all that an answer says, without challenge and proof."""
    out: list[bytes | str | int] = [
        answer.accepted,
        answer.reason,
        answer.max_message_bytes,
        answer.server,
    ]
    out += sorted(answer.known_blobs)
    if (info := answer.info) is not None:
        out += [
            info.kind, info.name, info.uuid, *info.compute_capability, info.driver_version,
            info.total_bytes, info.arena_base, info.arena_bytes,
        ]  # fmt: skip
        out += [word for pair in sorted(info.attributes.items()) for word in pair]
    return _digest(b"rrto answer", *out)


def agree(
    private: X25519PrivateKey,
    hello: Hello,
    challenge: Challenge,
    request: OpenRequest,
    server: bytes,
    reason: str,
    local: bytes | None,
) -> Agreement:
    """What follows from all that was said.

    Args:
        private: One's own new key; the other end's public one is in what it said.
        hello: The robot's part.
        challenge: The server's part; its proof is not looked at.
        request: The request that brought the hello.
        server: The server's id.
        reason: Why the server will refuse, empty if it will not.
        local: The machine's secret, for kind `LOCAL`.

    Raises:
        ProtocolError: The other end's key is none, or there is no secret.
    """
    said = replace(challenge, proof=b"").pack()
    transcript = _digest(b"rrto open", request_digest(request), server, said, reason)
    own = private.public_key().public_bytes_raw()
    other = challenge.ephemeral if own == hello.ephemeral else hello.ephemeral
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise ProtocolError("the other end's X25519 key is none") from None
    if challenge.kind == LOCAL:
        if local is None:
            raise ProtocolError("there is no secret of this machine and user")
        shared += local
    words = HKDF(SHA256(), 5 * KEY_BYTES, transcript, b"rrto session 1").derive(shared)
    calls, results, control, of_server, of_robot = (
        words[at : at + KEY_BYTES] for at in range(0, len(words), KEY_BYTES)
    )
    keys = SessionKeys(calls, results, control, hello.cipher)
    return Agreement(challenge.kind, transcript, keys, of_server, of_robot)


def _digest(what: bytes, *values: bytes | str | int | bool) -> bytes:
    """SHA-256 of values in one form that no other values have."""
    out = sha256(what + b"\0")
    for value in values:
        if isinstance(value, str):
            data = b"s" + value.encode(errors="surrogatepass")
        elif isinstance(value, int):
            data = b"i" + str(int(value)).encode()
        else:
            data = b"b" + value
        out.update(len(data).to_bytes(8, "little"))
        out.update(data)
    return out.digest()
