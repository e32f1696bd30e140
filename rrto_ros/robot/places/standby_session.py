"""A session that stands by at another server: owns what is sent to bring it to a checkpoint.

It gets what a resumed session would get first, and then the wish for a checkpoint of its own: a
server that answers with nothing new has exactly the memory that the robot knows, and is ready. All
that is sent in small pieces, and only while the program's own link is idle; so a call waits for no
more than a few of them. What answers differently than it should is an error, and is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.server_link import ServerLink
from rrto_ros.robot.state.journal import Journal
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.format import RESULT_BLOB_WANTED, RESULT_STATE, Buffer
from rrto_ros.wire.opening import Opened
from rrto_ros.wire.port import FLAG_CLOSED, CallsMessage, ResultsMessage
from rrto_ros.wire.result_codec import ResultRecord, iter_results
from rrto_ros.wire.state import PieceKind, read_pieces

PIECE_BYTES = 64 << 10
"""Of one message."""
ON_THE_WAY_BYTES = 256 << 10
"""At most: so long a call of the program can be held up by what is in front of it on the link."""
BUSY_S = 0.02
"""How often it is looked whether the program's link is idle."""
_PROOF = 1
"""Number of the checkpoint that shows that it is ready."""

Content = Callable[[int], bytes | None]
"""Gives the content of an upload, by its call."""


class StandbySession:
    """One session that stands by.

    The session's lock guards it, but for `leaving`, which is its thread's.

    Args:
        config: The session's settings.
        session: Id of the one that stands by.
        opened: What its opening came to.
        journal: Whose checkpoint it is brought to.
        content: For a server that asks.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        config: SessionConfig,
        session: bytes,
        opened: Opened,
        journal: Journal,
        content: Content,
        now: float,
    ) -> None:
        self.link = ServerLink(
            config, session, opened, now, message_bytes=PIECE_BYTES, window_bytes=ON_THE_WAY_BYTES
        )
        self.holds = journal.completed
        """Of the journal's checkpoints the one that it is brought to."""
        self.error = ""
        """Why it is of no use; empty while it may be."""
        self.ready_at = 0.0
        """When it had all of the checkpoint, monotonic; 0: not yet."""
        self._silence_s = config.server_timeout_s
        self._journal = journal
        self._content = content
        self._restoring = journal.restoring()
        self._proves = False
        self._asked: set[int] = set()
        self._wanted: deque[int] = deque()

    @property
    def current(self) -> bool:
        """Whether it is brought to the last checkpoint that there is."""
        return self.holds == self._journal.completed

    def due(self, now: float, planned: float, idle: bool) -> list[CallsMessage]:
        """What to publish now.

        Args:
            now: Monotonic seconds.
            planned: When the session wanted to look at the time at the latest.
            idle: Whether the program's own link carries nothing.
        """
        link = self.link
        link.live.woke(now, planned)
        self.error = self.error or link.lost(now, 0, pending=False)
        if self.error:
            return []
        if idle:
            self._fill()
        return link.due(now, calls=idle)

    def wakes_at(self, now: float, idle: bool) -> float:
        """When to ask `due` again at the latest, monotonic."""
        link = self.link
        due = [link.wakes_at(calls=False), link.live.deadline()]
        if not idle and not self._proven_or_asked:
            due.append(now + BUSY_S)
        elif (again_at := link.sender.deadline()) is not None:
            due.append(max(again_at, now + (0.0 if idle else BUSY_S)))
        return min(due)

    def received(self, message: ResultsMessage, now: float) -> bool:
        """Take a message of its server; returns whether the session's thread has to act."""
        link = self.link
        was_silent = now - link.heard_at > self._silence_s / 10
        believed = link.believed(message)
        if believed is None:
            return False
        if believed.flags & FLAG_CLOSED:
            self.error = self.error or "its server has closed it"
            return True
        try:
            for batch in link.received(believed, now):
                self._results(batch, now)
            link.heard(believed, now)
        except ProtocolError as error:
            self.error = self.error or link.receiver.broken or str(error)
        filled = not self._proven_or_asked and link.sender.room
        return bool(self.error or self._wanted or link.sender.urgent or filled or was_silent)

    def statistics(self) -> dict[str, int | float | str]:
        """What was sent to it, and how it stands."""
        traffic = self.link.traffic()
        return {
            "bytes": traffic["bytes"],
            "resent": traffic["resent"],
            "current": int(self.current),
            "ready": int(bool(self.ready_at)),
            "unproven": traffic["unproven"],
            "error": self.error,
        }

    @property
    def _proven_or_asked(self) -> bool:
        return self._proves and self.link.sender.idle

    def _fill(self) -> None:
        """Queue the next piece, if nothing waits to leave."""
        while self._wanted:
            self._bring(self._wanted.popleft())
        if self.link.full or self.link.sender.queued_bytes or self._proves:
            return
        # What the journal has had a newer checkpoint since is of no use any more.
        batch = next(self._restoring, None) if self.current else None
        if batch is not None:
            self.link.push([batch], packs=True)
        elif self.current:
            self._proves = True
            self.link.push([pack_call("checkpoint", 0, number=_PROOF)], packs=True)

    def _bring(self, call: int) -> None:
        content = self._content(call)
        if content is None or call in self._asked:
            self.error = self.error or f"its server wants a blob of call {call}, which has none"
            return
        self._asked.add(call)
        self.link.push([pack_call("blob_data", call, payload=content)], packs=True)

    def _results(self, batch: Buffer, now: float) -> None:
        for result in iter_results(memoryview(batch).cast("B")):
            if result.flags & RESULT_BLOB_WANTED:
                self._wanted.append(result.index)
            elif result.flags & RESULT_STATE:
                self._state(result, now)
            elif result.sticky or not self._journal.agrees(result):
                said = bytes(result.payload).decode(errors="replace") if result.sticky else ""
                self.error = self.error or (
                    f"call #{result.index} gives another result there: {said or result.status}"
                )

    def _state(self, result: ResultRecord, now: float) -> None:
        """Take a piece of the checkpoint that shows what it has."""
        if result.status:
            self.error = bytes(result.payload).decode(errors="replace") or "it has no checkpoints"
        elif not len(result.payload):
            self.ready_at = now
        elif any(piece.kind is not PieceKind.LIVE for piece in read_pieces(result.payload)):
            self.error = "memory there is not what the checkpoint holds"
