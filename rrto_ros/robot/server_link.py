"""One session's link to one server: owns what is said to it and heard of it.

Messages of calls leave in order, with acknowledgements and signs of life, packed where that pays
and sealed where the session is; messages of results are taken from the server that has the
session only, and in order. The server is judged by its silence, and by standing still. A program's
session speaks through one of these, and so does each that stands by for it; a move is to go on
with another one. Sans-IO, as `wire.link`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.liveness import Liveness
from rrto_ros.robot.status import SessionConfig, prefixed
from rrto_ros.wire.compressor import Compressor
from rrto_ros.wire.format import Buffer
from rrto_ros.wire.handshake import LOCAL
from rrto_ros.wire.link import MessageReceiver, MessageSender
from rrto_ros.wire.opening import Opened, believed
from rrto_ros.wire.packing import Packer, unpacked
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_BUSY,
    FLAG_CLOSED,
    FLAG_FULL,
    FLAG_MORE,
    FLAG_PACKED,
    FLAG_PROBE,
    FLAG_TAKES_PACKED,
    CallsMessage,
    ResultsMessage,
)


class ServerLink:
    """The robot's end of one session's link.

    The session's lock guards it, but for `leaving`, which is its thread's.

    Args:
        config: The session's settings.
        session: The session's id at that server.
        opened: What its opening came to.
        now: Monotonic seconds.
        message_bytes: Bound of one message, if a smaller one than the two ends have.
        window_bytes: Bound of what is on the way, if a smaller one than the settings'.
    """

    def __init__(
        self,
        config: SessionConfig,
        session: bytes,
        opened: Opened,
        now: float,
        *,
        message_bytes: int | None = None,
        window_bytes: int | None = None,
    ) -> None:
        self.session = session
        self.opened = opened
        self.full = False
        """Whether the server asked for no more calls."""
        self.ahead = False
        """Whether more is here than the server has sent: then nothing that it says is believed."""
        self.last_refusal = ""
        """Why a message was not taken last."""
        self._config = config
        self._most_bytes = opened.answer.max_message_bytes
        most = min(config.max_message_bytes, self._most_bytes)
        self.sender = MessageSender(
            max_message_bytes=most if message_bytes is None else min(most, message_bytes),
            window_messages=config.window,
            window_bytes=min(config.window_bytes, window_bytes or config.window_bytes),
        )
        self.receiver = MessageReceiver(max_message_bytes=self._most_bytes)
        self._packer = Packer()
        compresses = config.upload_compression == "auto" and self._far
        self._compressor = Compressor() if compresses else None
        self._flags = FLAG_TAKES_PACKED if compresses else 0
        self._packs_to = self._packed_to = 0
        self.live = Liveness(config.server_timeout_s, now)
        """What the server is judged by."""
        self._spoke = now
        self._said_full = False
        self._not_received = 0
        self._unproven = self._foreign = self._refused = 0
        self._before: Counter[str] = Counter()

    @property
    def server(self) -> bytes:
        """Id of the server."""
        return self.opened.answer.server

    @property
    def heard_at(self) -> float:
        """When the server was heard last, monotonic, but for time in which all stood still."""
        return self.live.heard_at

    def follows(self, before: ServerLink) -> None:
        """The program's session goes on here: count on, and send as much at once as it may."""
        self._before = before.traffic()
        self.last_refusal = self.last_refusal or before.last_refusal
        most = min(self._config.max_message_bytes, self._most_bytes)
        self.sender.widen(most, self._config.window_bytes)

    # ---- what is said

    def push(self, batches: Iterable[Buffer], *, packs: bool = False) -> None:
        """Queue batches, which are the link's from then on.

        Args:
            batches: Of whole records.
            packs: Whether they bring what the server lacks, and leave as Zstandard makes them.
                What else they bring is inputs of inferences, and the compressor's.
        """
        for batch in batches:
            self.sender.push(batch, given=True)
        if packs:
            self.packs()

    def packs(self) -> None:
        """What was queued so far brings what the server lacks."""
        self._packs_to = self.sender.last

    def due(self, now: float, *, calls: bool = True, full: bool = False) -> list[CallsMessage]:
        """What is to leave now: calls, or else a sign of life if one is due.

        Args:
            now: Monotonic seconds.
            calls: Whether calls may.
            full: Whether the server is to send no more results.
        """
        flags = self._flags | (FLAG_FULL if full else 0)
        out = []
        if calls and (messages := self.sender.due(now)):
            ack = self.receiver.ack
            out = [
                CallsMessage(self.session, m.sequence, ack, flags | FLAG_MORE * m.more, m.data)
                for m in messages
            ]
        else:
            silent = now >= self.live.probe_at(self._spoke)
            if not (silent or full is not self._said_full or self.receiver.ack_due(now)):
                return out
            flags |= FLAG_ACK_ONLY | (FLAG_PROBE if silent else 0)
            ack = self.receiver.ack
            out = [CallsMessage(self.session, self.sender.newest, ack, flags, b"")]
        self._said_full = full
        self._spoke = now
        self.receiver.ack_sent()
        return out

    def says_full(self, full: bool) -> bool:
        """Whether the server knows whether it may send results."""
        return full is self._said_full

    def wakes_at(self, *, calls: bool = True) -> float:
        """When something is to be said at the latest, monotonic; `calls` as in `due`."""
        out = self.live.probe_at(self._spoke)
        ack_at = self.receiver.ack_deadline()
        if ack_at is not None and ack_at < out:
            out = ack_at
        again_at = self.sender.deadline() if calls else None
        return again_at if again_at is not None and again_at < out else out

    def leaving(self, messages: Iterable[CallsMessage]) -> Iterator[CallsMessage]:
        """What `due` gave, as it leaves: packed and sealed, each when it is its turn."""
        rate, seal = self.sender.bytes_per_s, self.opened.seal
        for message in messages:
            packed = self._packed(message, rate)
            yield packed if seal is None else seal.calls(packed)

    # ---- what is heard

    def believed(self, message: ResultsMessage) -> ResultsMessage | None:
        """A message as the session's server made it; None, counted, if another has made it."""
        if message.flags & FLAG_CLOSED and self.opened.server.is_other(bytes(message.data)):
            # Each server hears all calls, and says of which sessions it knows nothing.
            self._foreign += 1
            return None
        try:
            return believed(self.opened, self.session, message, self._most_bytes)
        except ProtocolError as error:
            # Anybody can send it, so it is no sign of life.
            self._unproven += 1
            self.refuse(error)
            return None

    def received(self, message: ResultsMessage, now: float) -> list[Buffer]:
        """The batches of results that a message completes.

        Raises:
            ProtocolError: It does not fit what was said before.
        """
        # Before anything of it is used: data that was delivered cannot be taken back, and the
        # message whose place it took would never be.
        self.sender.check(message.batches_ack)
        if message.flags & FLAG_ACK_ONLY:
            self.receiver.announced(message.sequence, now)
            self.ahead = message.sequence < self.receiver.ack
            return []
        more, data, receiver = bool(message.flags & FLAG_MORE), message.data, self.receiver
        if not message.flags & FLAG_PACKED:
            return receiver.receive(message.sequence, more, data, now)
        before, whole = receiver.bytes, unpacked(data, self._most_bytes)
        out = receiver.receive(message.sequence, more, whole, now)
        if receiver.bytes > before:
            self._not_received += len(whole) - len(data)
        return out

    def heard(self, message: ResultsMessage, now: float, *, waits: bool = False) -> None:
        """What a message that was received says of the server.

        Args:
            message: It.
            now: Monotonic seconds.
            waits: Whether the server waits for the program to take results.
        """
        self.full = bool(message.flags & FLAG_FULL)
        busy = waits or message.flags & (FLAG_BUSY | FLAG_FULL) != 0
        position = (message.batches_ack, message.executed_call, self.receiver.ack)
        self.live.heard(now, busy, position)
        self.sender.acknowledged(message.batches_ack, message.missing, now)

    def refuse(self, error: ProtocolError) -> None:
        """Count something that came and cannot be used."""
        self._refused += 1
        self.last_refusal = str(error)

    # ---- what the server is judged by

    def lost(self, now: float, call: int, *, pending: bool, silence_s: float = 0.0) -> str:
        """Why the server is lost; empty if it is not.

        Args:
            now: Monotonic seconds.
            call: One for which the program waits, 0 for none.
            pending: Whether there is something that has not even left.
            silence_s: Silence that is too long, if another than the settings say.
        """
        if not self.live.doubts(now, call, silence_s):
            return ""
        settled = self.ahead or (self.sender.idle and not pending and not self.receiver.missing())
        return self.live.lost(now, call, settled, silence_s)

    # ---- counters

    @property
    def exchanged(self) -> tuple[int, int]:
        """Bytes sent and received, of all servers of the session."""
        sent, before = self.sender.bytes - self._saved_bytes, self._before
        received = self.receiver.bytes - self._not_received
        return sent + before["bytes"], received + before["received_bytes"]

    def traffic(self) -> Counter[str]:
        """What went to and came from the servers of the session so far."""
        sent, received = self.sender.statistics(), self.receiver.statistics()
        out = Counter({name: int(sent[name]) for name in ("batches", "messages", "resent")})
        out["bytes"] = int(sent["bytes"]) - self._saved_bytes
        out["received_messages"] = int(received["messages"])
        out["received_bytes"] = self.receiver.bytes - self._not_received
        out.update(refused=self._refused, unproven=self._unproven, foreign=self._foreign)
        return out + self._before

    def statistics(self) -> dict[str, int | float | str]:
        """Counters of the link's parts, prefixed by part; what was not taken, of all servers."""
        seal, compressor = self.opened.seal, self._compressor
        out = prefixed(
            server=self.live.statistics(),
            sender=self.sender.statistics(),
            receiver=self.receiver.statistics(),
            packed=self._packer.statistics(),
            compressed=compressor.statistics() if compressor is not None else {},
            seal=seal.statistics() if seal is not None else {},
        )
        traffic = self.traffic()
        out["unproven_results"] = traffic["unproven"]
        out["closed_by_others"] = traffic["foreign"]
        return out

    @property
    def _far(self) -> bool:
        """Whether a network may be in between; where none is, slow messages say nothing of one."""
        config, server = self._config, self.opened.server
        own = config.place is not None and self.server == config.place.server
        return not own and (config.apart or server.kind != LOCAL)

    @property
    def _saved_bytes(self) -> int:
        saved = self._packer.saved_bytes
        return saved + (self._compressor.saved_bytes if self._compressor is not None else 0)

    def _packed(self, message: CallsMessage, bytes_per_s: float) -> CallsMessage:
        sequence, data = message.sequence, None
        if message.flags & FLAG_ACK_ONLY:
            return message
        if sequence <= self._packs_to:
            again = sequence <= self._packed_to
            self._packed_to = max(self._packed_to, sequence)
            data = self._packer.pack(message.data, bytes_per_s, again=again)
        elif self._compressor is not None:
            more = bool(message.flags & FLAG_MORE)
            data = self._compressor.pack(message.data, bytes_per_s, sequence, more)
        if data is None:
            return message
        return replace(message, flags=message.flags | FLAG_PACKED, data=data)
