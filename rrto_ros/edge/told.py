"""What a server tells of what it does not take: owns how often that is said."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from rrto_ros.wire.port import FLAG_ACK_ONLY, FLAG_CLOSED, ResultsMessage

LOG_PERIOD_S = 1.0
CLOSED_PER_S = 100
"""So often per second it is said that a session is not open here: each time costs a signature."""
MOST_CLOSED = 1024
"""Sessions that are over of which it can still be proven."""


class Refused:
    """Counts what is refused, and tells the log of it once per second.

    Args:
        log: Takes a line (any thread).

    Attributes:
        count: How much was.
        last: The last one's reason.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self.count = 0
        self.last = ""
        self._logged_at = 0.0
        self._unlogged = 0

    def note(self, text: str) -> None:
        """Something is refused, for this reason."""
        self.count += 1
        self.last = text
        now = time.monotonic()
        if now - self._logged_at < LOG_PERIOD_S:
            self._unlogged += 1
            return
        more = f" (and {self._unlogged} more since the last line)" if self._unlogged else ""
        self._logged_at, self._unlogged = now, 0
        self._log(f"refused: {text}{more}")


class NotOpen:
    """Tells who sends to a session that is not open here, once per second and session.

    The caller's lock holds for `over` and `opened`.

    Args:
        tell: Told a session's id, and the proof that it was closed or nothing.
    """

    def __init__(self, tell: Callable[[bytes, bytes | None], None]) -> None:
        self._tell = tell
        self._told: dict[bytes, float] = {}
        self._told_at = 0.0
        self._told_then = 0
        self._over: OrderedDict[bytes, bytes] = OrderedDict()

    def over(self, session: bytes, proof: bytes) -> None:
        """A session is over; the proof is kept for a while."""
        self._over[session] = proof
        if len(self._over) > MOST_CLOSED:
            self._over.popitem(last=False)

    def opened(self, session: bytes) -> None:
        """A session is open, again or for the first time."""
        self._told.pop(session, None)
        self._over.pop(session, None)

    def asked(self, session: bytes) -> None:
        """Somebody sends to this session."""
        now = time.monotonic()
        if now - self._told.get(session, -LOG_PERIOD_S) < LOG_PERIOD_S:
            return
        if len(self._told) > 1024:
            self._told.clear()
        if now - self._told_at >= 1.0:
            self._told_at, self._told_then = now, 0
        self._told_then += 1
        if self._told_then > CLOSED_PER_S:
            return
        self._told[session] = now
        self._tell(session, self._over.get(session))


def closed_message(session: bytes, proof: bytes = b"") -> ResultsMessage:
    """What tells a robot that a session is not open here.

    Args:
        session: Its id.
        proof: Who says so (`wire/closing.py`).
    """
    return ResultsMessage(session, 0, 0, 0, (), FLAG_ACK_ONLY | FLAG_CLOSED, proof)
