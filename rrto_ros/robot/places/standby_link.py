"""A session that stands by at another server: owns what is sent to bring it to a checkpoint.

It gets what a resumed session would get first, and then the wish for a checkpoint of its own: a
server that answers with nothing new has exactly the memory that the robot knows, and is ready. All
that is sent in small pieces, and only while the program's own link is idle; so a call waits for no
more than a few of them. What answers differently than it should is an error, and is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.liveness import Liveness
from rrto_ros.robot.state.journal import Journal
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.format import RESULT_BLOB_WANTED, RESULT_STATE, Buffer
from rrto_ros.wire.link import MessageReceiver, MessageSender
from rrto_ros.wire.opening import Opened, believed
from rrto_ros.wire.packing import Packer
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_BUSY,
    FLAG_CLOSED,
    FLAG_FULL,
    FLAG_MORE,
    FLAG_PACKED,
    FLAG_PROBE,
    CallsMessage,
    ResultsMessage,
)
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


class StandbyLink:
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
        self.session = session
        self.opened = opened
        self.holds = journal.completed
        """Of the journal's checkpoints the one that it is brought to."""
        self.error = ""
        """Why it is of no use; empty while it may be."""
        self.ready_at = 0.0
        """When it had all of the checkpoint, monotonic; 0: not yet."""
        self._most_bytes = opened.answer.max_message_bytes
        self.sender = MessageSender(
            max_message_bytes=min(config.max_message_bytes, self._most_bytes, PIECE_BYTES),
            window_messages=config.window,
            window_bytes=min(config.window_bytes, ON_THE_WAY_BYTES),
        )
        self.receiver = MessageReceiver(max_message_bytes=self._most_bytes)
        self._config = config
        self._journal = journal
        self._content = content
        self._restoring = journal.restoring()
        self._proves = False
        self._asked: set[int] = set()
        self._wanted: deque[int] = deque()
        self._full = False
        self._packer = Packer()
        self._packed_to = 0
        self._live = Liveness(config.server_timeout_s, now)
        self._spoke = now
        self._unproven = 0

    @property
    def server(self) -> bytes:
        """Id of its server."""
        return self.opened.answer.server

    @property
    def heard_at(self) -> float:
        """When its server was heard last, monotonic."""
        return self._live.heard_at

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
        self._live.woke(now, planned)
        self.error = self.error or self._live.lost(now, 0, settled=True)
        if self.error:
            return []
        ack = self.receiver.ack
        out: list[CallsMessage] = []
        if idle:
            self._fill()
            out = [
                CallsMessage(self.session, m.sequence, ack, FLAG_MORE if m.more else 0, m.data)
                for m in self.sender.due(now)
            ]
        silent = now >= self._live.probe_at(self._spoke)
        if not out and (silent or self.receiver.ack_due(now)):
            flags = FLAG_ACK_ONLY | (FLAG_PROBE if silent else 0)
            out = [CallsMessage(self.session, self.sender.newest, ack, flags, b"")]
        if out:
            self._spoke = now
            self.receiver.ack_sent()
        return out

    def wakes_at(self, now: float, idle: bool) -> float:
        """When to ask `due` again at the latest, monotonic."""
        due = [self._live.probe_at(self._spoke), self._live.deadline()]
        if (ack_at := self.receiver.ack_deadline()) is not None:
            due.append(ack_at)
        if not idle and not self._proven_or_asked:
            due.append(now + BUSY_S)
        elif (again_at := self.sender.deadline()) is not None:
            due.append(max(again_at, now + (0.0 if idle else BUSY_S)))
        return min(due)

    def leaving(self, messages: list[CallsMessage]) -> list[CallsMessage]:
        """What `due` gave, packed and sealed."""
        seal = self.opened.seal
        packed = [self._packed(message) for message in messages]
        return packed if seal is None else [seal.calls(message) for message in packed]

    def received(self, message: ResultsMessage, now: float) -> bool:
        """Take a message of its server; returns whether the session's thread has to act."""
        if message.flags & FLAG_CLOSED and self.opened.server.is_other(bytes(message.data)):
            return False
        try:
            message = believed(self.opened, self.session, message, self._most_bytes)
        except ProtocolError:
            self._unproven += 1
            return False
        was_silent = now - self._live.heard_at > self._config.server_timeout_s / 10
        if message.flags & FLAG_CLOSED:
            self.error = self.error or "its server has closed it"
            return True
        try:
            self._take(message, now)
        except ProtocolError as error:
            self.error = self.error or self.receiver.broken or str(error)
        filled = not self._proven_or_asked and self.sender.room
        return bool(self.error or self._wanted or self.sender.urgent or filled or was_silent)

    def statistics(self) -> dict[str, int | float | str]:
        """What was sent to it, and how it stands."""
        sent = self.sender.statistics()
        return {
            "bytes": int(sent["bytes"]) - self._packer.saved_bytes,
            "resent": int(sent["resent"]),
            "current": int(self.current),
            "ready": int(bool(self.ready_at)),
            "unproven": self._unproven,
            "error": self.error,
        }

    @property
    def _proven_or_asked(self) -> bool:
        return self._proves and self.sender.idle

    def _fill(self) -> None:
        """Queue the next piece, if nothing waits to leave."""
        while self._wanted:
            self._bring(self._wanted.popleft())
        if self._full or self.sender.queued_bytes or self._proves:
            return
        # What the journal has had a newer checkpoint since is of no use any more.
        batch = next(self._restoring, None) if self.current else None
        if batch is not None:
            self.sender.push(batch, given=True)
        elif self.current:
            self._proves = True
            self.sender.push(pack_call("checkpoint", 0, number=_PROOF), given=True)

    def _bring(self, call: int) -> None:
        content = self._content(call)
        if content is None or call in self._asked:
            self.error = self.error or f"its server wants a blob of call {call}, which has none"
            return
        self._asked.add(call)
        self.sender.push(pack_call("blob_data", call, payload=content), given=True)

    def _packed(self, message: CallsMessage) -> CallsMessage:
        if message.flags & FLAG_ACK_ONLY:
            return message
        again = message.sequence <= self._packed_to
        self._packed_to = max(self._packed_to, message.sequence)
        data = self._packer.pack(message.data, self.sender.bytes_per_s, again=again)
        if data is None:
            return message
        return replace(message, flags=message.flags | FLAG_PACKED, data=data)

    def _take(self, message: ResultsMessage, now: float) -> None:
        self.sender.check(message.batches_ack)
        if message.flags & FLAG_ACK_ONLY:
            self.receiver.announced(message.sequence, now)
        else:
            more = bool(message.flags & FLAG_MORE)
            for batch in self.receiver.receive(message.sequence, more, message.data, now):
                self._results(batch, now)
        self._full = bool(message.flags & FLAG_FULL)
        busy = message.flags & (FLAG_BUSY | FLAG_FULL) != 0
        self._live.heard(now, busy, (message.batches_ack, 0, self.receiver.ack))
        self.sender.acknowledged(message.batches_ack, message.missing, now)

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
