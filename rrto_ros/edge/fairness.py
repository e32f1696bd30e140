"""What one peer may take of a server: owns the shares of sessions, messages and bytes.

A peer is who a session belongs to: the key that opened it, or where there is none the robot that
the request names (`gate.Admission.share`). A name is no proof.

Who sends faster than its share is first asked to hold back, by the FULL of its sessions' messages,
which costs a robot that obeys nothing but time. Of who goes on all the same messages are dropped;
the link sends them again. So a robot that floods slows itself down, and others do not notice.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

BURST_S = 1.0
"""So much of its rate a peer may save up, and so much it may owe before messages are dropped."""
MOST_PEERS = 4096
"""Shares that are kept of peers that went; the oldest are forgotten."""


@dataclass(frozen=True)
class PeerLimits:
    """What one peer may have at once, or per second; 0 does not limit.

    Attributes:
        sessions: Open at once; 0: three quarters of the server's.
        messages_per_s: Messages of calls, signs of life too.
        bytes_per_s: Of their data.
    """

    sessions: int = 0
    messages_per_s: int = 8000
    bytes_per_s: int = 2 << 30


class _Account:
    """What one peer may still send now: below zero it is asked to hold back."""

    __slots__ = ("at", "data", "messages")

    def __init__(self, messages: float, data: float, now: float) -> None:
        self.at = now
        self.messages = messages
        self.data = data

    @property
    def owes(self) -> bool:
        """Whether it is below zero."""
        return self.messages < 0 or self.data < 0


class Fairness:
    """The shares of a server's peers; any thread.

    Args:
        limits: Of each.
        max_sessions: Of all together.
    """

    def __init__(self, limits: PeerLimits, max_sessions: int) -> None:
        # Somebody else finds a place, but of a server that has one only.
        share = min(-(-3 * max_sessions // 4), max(max_sessions - 1, 1))
        self.sessions = limits.sessions or share
        self._messages_per_s, self._bytes_per_s = limits.messages_per_s, limits.bytes_per_s
        # What is not limited is never used up.
        self._most_messages = self._messages_per_s * BURST_S or math.inf
        self._most_data = self._bytes_per_s * BURST_S or math.inf
        self._accounts: dict[str, _Account] = {}
        self._lock = threading.Lock()
        self._dropped: Counter[str] = Counter()
        self._slowed = 0

    def objection(self, peer: str, theirs: Iterable[str]) -> str:
        """Why a peer gets no further session; empty if it does.

        Args:
            peer: Who asks.
            theirs: The peer of each session that is open or opening.
        """
        count = sum(one == peer for one in theirs)
        if count < self.sessions:
            return ""
        return (
            f"{count} sessions of {peer!r} are open, the most that one robot may have "
            "(max_sessions_per_robot)"
        )

    def admit(self, peer: str, size: int, now: float) -> bool:
        """Count a message; False: its peer owes so much that it is dropped.

        Args:
            peer: Who sent it.
            size: Bytes of its data.
            now: Monotonic seconds.
        """
        with self._lock:
            account = self._account(peer, now)
            if account.messages <= -self._most_messages or account.data <= -self._most_data:
                self._dropped[peer] += 1
                return False
            owed = account.owes
            account.messages -= 1
            account.data -= size
            self._slowed += account.owes and not owed
            return True

    def owes(self, peer: str, now: float) -> bool:
        """Whether a peer has sent more than its share and is to hold back."""
        account = self._accounts.get(peer)
        # A level falls with messages only, so that most need not be brought up to date.
        if account is None or not account.owes:
            return False
        with self._lock:
            return self._account(peer, now).owes

    def statistics(self) -> dict[str, int]:
        """Peers known, how often one was asked to hold back, messages dropped."""
        return {
            "peers": len(self._accounts),
            "slowed": self._slowed,
            "dropped": self._dropped.total(),
        }

    def dropped(self, peer: str) -> int:
        """How many messages of a peer were dropped."""
        return self._dropped[peer]

    def _account(self, peer: str, now: float) -> _Account:
        """A peer's account as it is now; the lock is held."""
        account = self._accounts.get(peer)
        if account is None:
            if len(self._accounts) >= MOST_PEERS:
                gone = next(iter(self._accounts))
                del self._accounts[gone]
                self._dropped.pop(gone, None)
            account = _Account(self._most_messages, self._most_data, now)
            self._accounts[peer] = account
        passed = max(now - account.at, 0.0)
        account.at = now
        account.messages = min(
            account.messages + self._messages_per_s * passed, self._most_messages
        )
        account.data = min(account.data + self._bytes_per_s * passed, self._most_data)
        return account
