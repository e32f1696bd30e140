"""Sealed messages of one session: owns ciphers, numbers against replay, rekeying and proofs.

docs/wire_format.md, "Sealed messages". Each direction has a key and numbers its messages from 1,
a message that is sent again included: so every sealed message is accepted once, and one that the
link sends again is another message. What the header says is authenticated with the data. A key
seals `REKEY_MESSAGES` messages; the next one is derived from it. No ROS, no clock, no thread: a
session guards its seal with its own lock.
"""

from __future__ import annotations

import hmac
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import Buffer
from rrto_ros.wire.port import CallsMessage, ResultsMessage

AES_256_GCM, CHACHA20_POLY1305 = 1, 2
CIPHERS: dict[int, Callable[[bytes], Any]] = {
    AES_256_GCM: AESGCM,
    CHACHA20_POLY1305: ChaCha20Poly1305,
}
KEY_BYTES, TAG_BYTES, PROOF_BYTES = 32, 16, 32
REKEY_MESSAGES = 1 << 16
"""So many messages a key seals: 64 GiB at the usual bound of a message."""
WINDOW = 4096
"""A message that is so far behind the newest is refused; the link sends it again."""
MOST_KEYS = 16
"""Keys in whose time every message may be lost."""
_SEEN = (1 << WINDOW) - 1
_NONCE = struct.Struct("<4xQ")
_CALLS = struct.Struct("<B16sQQB")
_RESULTS = struct.Struct("<B16sQQQB")
_LARGEST = (1 << 64) - 1


@dataclass(frozen=True, repr=False)
class SessionKeys:
    """What both ends of a session derive when it opens; never printed.

    Attributes:
        calls: Key of the first messages from the robot.
        results: Key of the first messages from the server.
        control: Of proofs: of closing, and of the answer to the opening.
        cipher: One of `CIPHERS`.
    """

    calls: bytes
    results: bytes
    control: bytes
    cipher: int

    def pack(self) -> bytes:
        """As kept in a bag."""
        return bytes([self.cipher]) + self.calls + self.results + self.control

    @staticmethod
    def unpack(data: bytes) -> SessionKeys:
        """What `pack` made.

        Raises:
            ProtocolError: It was not made by it.
        """
        if len(data) != 1 + 3 * KEY_BYTES or data[0] not in CIPHERS:
            raise ProtocolError(f"{len(data)} bytes are no keys of a session")
        parts = [data[at : at + KEY_BYTES] for at in range(1, len(data), KEY_BYTES)]
        return SessionKeys(parts[0], parts[1], parts[2], data[0])


@lru_cache(maxsize=1)
def own_cipher() -> int:
    """The cipher that is fast on this processor: AES where it has instructions for it."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        words = {"aes"}
    return AES_256_GCM if "aes" in words else CHACHA20_POLY1305


def proof(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """A MAC that shows that who made it has the key; parts have their lengths before them."""
    digest = hmac.new(key, purpose + b"\0", sha256)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def proves(given: Buffer, key: bytes, purpose: bytes, *parts: bytes) -> bool:
    """Whether `given` is the proof that `proof` makes of the same."""
    return hmac.compare_digest(bytes(given), proof(key, purpose, *parts))


def _next_key(key: bytes) -> bytes:
    return proof(key, b"rrto next key")


class Sealer:
    """Seals one direction's messages."""

    def __init__(self, key: bytes, cipher: int) -> None:
        self._key = key
        self._make = CIPHERS[cipher]
        self._cipher = self._make(key)
        self._number = 0
        self._rekeyed = 0

    def seal(self, data: Buffer, header: bytes) -> tuple[int, bytes]:
        """The number and the sealed data of the next message.

        Args:
            data: What is to be sealed; may be empty.
            header: What is authenticated beside it.
        """
        self._number += 1
        number = self._number
        if number // REKEY_MESSAGES != self._rekeyed:
            self._key = _next_key(self._key)
            self._cipher = self._make(self._key)
            self._rekeyed += 1
        sealed: bytes = self._cipher.encrypt(_NONCE.pack(number), data, header)
        return number, sealed

    def statistics(self) -> dict[str, int]:
        """Messages sealed, keys used up."""
        return {"sealed": self._number, "rekeyed": self._rekeyed}


class Opener:
    """Opens one direction's messages, each once, in any order within the window."""

    def __init__(self, key: bytes, cipher: int) -> None:
        self._make = CIPHERS[cipher]
        # By age (number // REKEY_MESSAGES), from the one before the newest on.
        self._keys = {0: key}
        self._ciphers = {0: self._make(key)}
        self._age = 0
        self._newest = 0
        self._seen = 0
        self._opened = 0
        self._refusals: Counter[str] = Counter()

    def open(self, number: int, data: Buffer, header: bytes, most: int) -> bytes:
        """The data of one message.

        Args:
            number: Of the message, 0 if it is not sealed.
            data: Sealed.
            header: What was authenticated beside it.
            most: Bytes of data, at most.

        Raises:
            ProtocolError: It was not sealed by the other end, was changed, or came before.
        """
        if number == 0:
            raise self._refuse("unsealed", "it is not sealed, and this session's messages are")
        behind = self._newest - number
        if behind >= WINDOW:
            raise self._refuse("late", f"number {number} is too far behind {self._newest}")
        if behind >= 0 and self._seen >> behind & 1:
            raise self._refuse("replayed", f"number {number} came before")
        if not TAG_BYTES <= len(data) <= most + TAG_BYTES:
            raise self._refuse("size", f"{len(data)} sealed bytes, want {most} and a tag at most")
        age = number // REKEY_MESSAGES
        cipher = self._ciphers.get(age) or self._following(age)
        try:
            opened: bytes = cipher.decrypt(_NONCE.pack(number), data, header)
        except InvalidTag:
            raise self._refuse(
                "forged", f"number {number} was not sealed by the session's other end, or changed"
            ) from None
        if behind < 0:
            self._seen = (self._seen << -behind | 1) & _SEEN if -behind < WINDOW else 1
            self._newest = number
            if age > self._age:
                self._age = age
                for old in [one for one in self._keys if one < age - 1]:
                    del self._keys[old], self._ciphers[old]
        else:
            self._seen |= 1 << behind
        self._opened += 1
        return opened

    def statistics(self) -> dict[str, int]:
        """Messages opened and refused, by reason."""
        refused = {f"refused_{name}": count for name, count in self._refusals.items()}
        return {"opened": self._opened, **refused}

    def _following(self, age: int) -> Any:
        # Further ahead is nobody whose messages were lost; deriving keys for it would be work.
        if not self._age < age <= self._age + MOST_KEYS:
            raise self._refuse("far", f"its key is {age - self._age} keys away")
        last = max(self._keys)
        while last < age:
            self._keys[last + 1] = _next_key(self._keys[last])
            last += 1
            self._ciphers[last] = self._make(self._keys[last])
        return self._ciphers[age]

    def _refuse(self, name: str, text: str) -> ProtocolError:
        self._refusals[name] += 1
        return ProtocolError(f"sealed message refused ({name}): {text}")


def calls_header(message: CallsMessage) -> bytes:
    """What is authenticated of a message of calls beside its data."""
    m = message
    return _CALLS.pack(1, m.session, m.sequence & _LARGEST, m.results_ack & _LARGEST, m.flags)


def results_header(message: ResultsMessage) -> bytes:
    """What is authenticated of a message of results beside its data."""
    m = message
    fixed = _RESULTS.pack(
        2, m.session, m.sequence & _LARGEST, m.batches_ack & _LARGEST, m.executed_call & _LARGEST,
        m.flags,
    )  # fmt: skip
    return fixed + struct.pack(f"<{len(m.missing)}Q", *m.missing)


class RobotSeal:
    """The robot's end of a session's sealing."""

    def __init__(self, keys: SessionKeys) -> None:
        self.keys = keys
        self._sealer = Sealer(keys.calls, keys.cipher)
        self._opener = Opener(keys.results, keys.cipher)

    def calls(self, message: CallsMessage) -> CallsMessage:
        """A message of calls as it leaves."""
        m = message
        number, data = self._sealer.seal(m.data, calls_header(m))
        return CallsMessage(m.session, m.sequence, m.results_ack, m.flags, data, number)

    def results(self, message: ResultsMessage, most: int) -> ResultsMessage:
        """A message of results as the server made it.

        Raises:
            ProtocolError: It is not the server's, or came before.
        """
        m = message
        data = self._opener.open(m.seal, m.data, results_header(m), most)
        return ResultsMessage(
            m.session, m.sequence, m.batches_ack, m.executed_call, m.missing, m.flags, data
        )

    def close_proof(self, session: bytes, reason: str) -> bytes:
        """Shows the server that the session's robot wants it closed."""
        return proof(self.keys.control, b"close", session, reason.encode())

    def statistics(self) -> dict[str, int]:
        """Counters of both directions."""
        return {**self._sealer.statistics(), **self._opener.statistics()}


class EdgeSeal:
    """The server's end of a session's sealing."""

    def __init__(self, keys: SessionKeys) -> None:
        self.keys = keys
        self._sealer = Sealer(keys.results, keys.cipher)
        self._opener = Opener(keys.calls, keys.cipher)

    def results(self, message: ResultsMessage) -> ResultsMessage:
        """A message of results as it leaves."""
        m = message
        number, data = self._sealer.seal(m.data, results_header(m))
        return ResultsMessage(
            m.session, m.sequence, m.batches_ack, m.executed_call, m.missing, m.flags, data, number
        )

    def calls(self, message: CallsMessage, most: int) -> CallsMessage:
        """A message of calls as the robot made it.

        Raises:
            ProtocolError: It is not the robot's, or came before.
        """
        m = message
        data = self._opener.open(m.seal, m.data, calls_header(m), most)
        return CallsMessage(m.session, m.sequence, m.results_ack, m.flags, data)

    def proves_close(self, given: bytes, session: bytes, reason: str) -> bool:
        """Whether the session's robot asked to close it."""
        return proves(given, self.keys.control, b"close", session, reason.encode())

    def statistics(self) -> dict[str, int]:
        """Counters of both directions."""
        return {**self._sealer.statistics(), **self._opener.statistics()}
