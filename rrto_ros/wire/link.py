"""The reliable message link: owns numbering, windows, acknowledgement, resending, reassembly.

Sans-IO: no ROS, no clock, no thread. Time comes in as seconds of any monotonic clock. One
`MessageSender` and one `MessageReceiver` serve each direction of a session; calls and results use
the same two classes. docs/wire_format.md, "Messages", describes what they put on the wire.

    sender.push(batch)
    for message in sender.due(now): publish(message)      # new, lost or late ones
    sender.acknowledged(ack, missing, now)                # from the other side
    batches = receiver.receive(sequence, more, data, now) # complete, in order, each once
    if receiver.ack_due(now): publish receiver.ack, receiver.missing()

Neither class is thread-safe; a session guards its pair with its own lock.

Over 400 lines: sender and receiver are the two halves of one protocol and are read together.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import Buffer

MAX_MESSAGE_BYTES = 1 << 20
RECEIVE_WINDOW = 1024
MAX_MISSING = 64
FASTEST_OF = 64
"""Round trips among which the shortest is found."""
MAX_BATCH_BYTES = 256 << 20
WINDOW_BYTES = 32 << 20
"""Bytes on their way at most. With what waits at both ends it bounds a session's memory."""

FIRST_WINDOW_BYTES = 4 << 20
LEAST_WINDOW_BYTES = 256 << 10
QUEUE_S = 0.5
"""On a slow link no more is on its way than passes in this time: what comes later, signs of life
among it, waits no longer than that."""
_GROW_BELOW_S = QUEUE_S / 2
MEASURES_BYTES = 4 << 10
"""Who sends a message of so many bytes says when it leaves (`left`)."""
_RATE_OF_BYTES = 64 << 10
"""With so much on its way, the time that it takes says what the link can do."""
_RATE_FADES = 0.95
_LEAST_OF_S = 60.0
"""Seconds among which the round trip without a queue is found."""
_PARTS_OF_WINDOW = 4
_SLOW_BYTES_PER_S = 2.5e6
"""A link of this rate has not lost what is still passing."""
_SOON_PASSED_BYTES = 64 << 10
SILENT_RTO_S = 1.0
"""Longest pause between two attempts on a link that answered faster before: whoever comes back
within a session's timeout is to be noticed in time."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message to publish.

    Attributes:
        sequence: Number in its direction of its session, from 1.
        more: Whether the batch goes on in the next message.
        data: At most `max_message_bytes` of records; nobody changes them.
    """

    sequence: int
    more: bool
    data: Buffer


class _Sent:
    """A message that was sent and is not acknowledged yet."""

    __slots__ = ("first_at", "flight", "flying", "message", "resent", "sent_at", "size")

    def __init__(self, message: Message, now: float, flight: int) -> None:
        self.message = message
        self.sent_at = self.first_at = now
        self.flight = flight
        self.resent = False
        # As it is on the way, if that is known, and all that is with it there.
        self.size = self.flying = 0


class MessageSender:
    """Cuts batches into numbered messages and keeps each until it is acknowledged.

    Args:
        max_message_bytes: Upper bound of one message's data.
        window_messages: At most this many unacknowledged messages; at most the receiver's 1,024.
        window_bytes: At most this many unacknowledged bytes (one message is always allowed);
            fewer on a link that takes long for them.
        rto_s: First retransmission time in seconds, until a round trip was measured.
        min_rto_s: Lower bound; must exceed the receiver's acknowledgement delay.
        max_rto_s: Upper bound of the retransmission time, backoff included.
    """

    def __init__(
        self,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        window_messages: int = 256,
        window_bytes: int = WINDOW_BYTES,
        rto_s: float = 0.25,
        min_rto_s: float = 0.1,
        max_rto_s: float = 2.0,
    ) -> None:
        if max_message_bytes < 1 or not 1 <= window_messages <= RECEIVE_WINDOW:
            raise ValueError(
                f"max_message_bytes {max_message_bytes} must be positive and window_messages "
                f"{window_messages} within 1..{RECEIVE_WINDOW}"
            )
        self.max_message_bytes = max_message_bytes
        self._window_messages = window_messages
        self._most_bytes = window_bytes
        self._window_bytes = min(FIRST_WINDOW_BYTES, window_bytes)
        self._window_at = 0.0
        self._least_s = self._least_before_s = math.inf
        self._least_at = -math.inf
        self._min_rto_s = min_rto_s
        self._max_rto_s = max_rto_s
        self._rto_s = rto_s
        self._slow = False
        self._srtt_s = 0.0
        self._fastest_s = self._fastest_before_s = 0.0
        self._samples = 0
        self._rttvar_s = 0.0
        self._bytes_per_s = 0.0
        self._backoff = 1
        self._next = 1
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._sent_bytes = self._flying = 0
        self._told = False
        self._ack = 0
        self._timer: float | None = None
        self._recover = 0
        self._urgent: list[int] = []
        self._batches = 0
        self._messages = 0
        self.bytes = 0
        """Of messages that were given out, each counted once."""
        self._resent = 0
        self._refused = 0

    @property
    def newest(self) -> int:
        """Sequence of the newest data message that was given out, 0 if none was."""
        return self._next - 1 - len(self._queue)

    @property
    def room(self) -> bool:
        """Whether another batch would leave at once; when not, the producer should pause."""
        return not self._queue and (not self._sent or self._open())

    @property
    def idle(self) -> bool:
        """Whether everything pushed was sent and acknowledged."""
        return not self._queue and not self._sent

    @property
    def queued_bytes(self) -> int:
        """Bytes that were pushed and have not been given out."""
        return self._queued_bytes

    @property
    def fastest_s(self) -> float:
        """The shortest round trip that was measured lately, seconds; 0 before the first."""
        return min(self._fastest_s, self._fastest_before_s)

    @property
    def bytes_per_s(self) -> float:
        """What the link has been seen to take lately, at least; 0 while nothing long was sent."""
        return self._bytes_per_s

    @property
    def last(self) -> int:
        """Sequence of the last message that was queued, 0 if none was."""
        return self._next - 1

    @property
    def urgent(self) -> bool:
        """Whether a message was named missing and waits for `due`."""
        return bool(self._urgent)

    def widen(self, max_message_bytes: int, window_bytes: int) -> None:
        """Allow larger messages, and more on their way, from now on."""
        self.max_message_bytes = max_message_bytes
        self._most_bytes = window_bytes
        self._window_bytes = max(self._window_bytes, min(FIRST_WINDOW_BYTES, window_bytes))

    def push(self, batch: Buffer, *, given: bool = False) -> None:
        """Queue one batch of whole records, not empty.

        Args:
            batch: The records, whose memory the caller may use again.
            given: The caller leaves them to the sender and never changes them again, so that
                they are not copied (a small piece of a large buffer is, or it would keep all).

        Raises:
            ValueError: The batch is empty.
        """
        size = len(batch)
        if size == 0:
            raise ValueError("an empty batch cannot be sent")
        self._batches += 1
        limit = self.max_message_bytes
        if self._window_bytes < limit * _PARTS_OF_WINDOW and self._slow:
            limit = min(limit, self._window_bytes // _PARTS_OF_WINDOW)
        if not given or keeps_more(batch):
            batch = bytes(batch)
        if size <= limit:
            self._queue.append(Message(self._next, False, batch))
            self._next += 1
        else:
            view = memoryview(batch)
            for start in range(0, size, limit):
                last = start + limit >= size
                self._queue.append(Message(self._next, not last, view[start : start + limit]))
                self._next += 1
        self._queued_bytes += size

    def due(self, now: float) -> list[Message]:
        """Return the messages to send now: named missing or late ones first, then new ones."""
        out: list[Message] = []
        if self._timer is not None and now >= self._timer and self._sent:
            self._expire(now)
        if self._urgent:
            for sequence in self._urgent:
                kept = self._sent.get(sequence)
                if kept is not None:
                    kept.resent = True
                    kept.sent_at = now
                    out.append(kept.message)
            self._urgent.clear()
            self._resent += len(out)
        while self._queue and self._open():
            message = self._queue.popleft()
            size = len(message.data)
            self._queued_bytes -= size
            self._sent_bytes += size
            self._sent[message.sequence] = _Sent(message, now, self._sent_bytes)
            self._messages += 1
            self.bytes += size
            out.append(message)
        if out and self._timer is None:
            self._timer = now + self._patience_s
        return out

    def left(self, sequence: int, size: int, now: float) -> None:
        """A message that `due` gave leaves now, as so many bytes.

        Who codes messages says so: the link is measured by what it carries, and from when.
        """
        kept = self._sent.get(sequence)
        if kept is None or kept.resent:
            return
        self._told = True
        self._flying += size - kept.size
        kept.size, kept.flying = size, self._flying
        kept.first_at = kept.sent_at = now

    def check(self, ack: int) -> None:
        """Refuse an acknowledgement that nobody can give, before anything of its message is used.

        Raises:
            ProtocolError: It is of a message that was never sent.
        """
        if not 0 <= ack <= self.newest:
            self._refused += 1
            raise ProtocolError(
                f"acknowledgement refused: acknowledges message {ack}, the newest sent is "
                f"{self.newest}"
            )

    def acknowledged(self, ack: int, missing: Iterable[int], now: float) -> bool:
        """Take an acknowledgement: everything up to `ack` arrived, `missing` did not.

        What is named missing and was never sent is passed over and counted: somebody else may have
        told the other side that there is such a message.

        Returns:
            Whether anything new was acknowledged or has to be sent (then call `due`).

        Raises:
            ProtocolError: It is of a message that was never sent; nothing of it was taken.
        """
        self.check(ack)
        advanced = ack > self._ack
        if advanced:
            sample: float | None = None
            while self._sent:
                sequence = next(iter(self._sent))
                if sequence > ack:
                    break
                kept = self._sent.pop(sequence)
                self._sent_bytes -= len(kept.message.data)
                self._flying -= kept.size
                # Karn: the answer to a message that was sent twice says nothing about the time.
                sample = None if kept.resent else now - kept.sent_at
                self._fit(kept, now)
            self._ack = ack
            self._backoff = 1
            if sample is not None:
                self._measure(sample)
            self._timer = now + self._patience_s if self._sent else None
            if self._sent and ack < self._recover:
                self._name(next(iter(self._sent)), now, 0.0)
        newest = self.newest
        for sequence in missing:
            if not 1 <= sequence <= newest:
                self._refused += 1
                continue
            # A message that is still under way is named again with every acknowledgement.
            self._name(sequence, now, self._srtt_s)
        return advanced or bool(self._urgent)

    def deadline(self) -> float | None:
        """When to call `due` again if nothing else happens, None for never."""
        return self._timer

    def statistics(self) -> dict[str, int | float]:
        """Counters since the start and the present window and timing (seconds)."""
        return {
            "batches": self._batches,
            "messages": self._messages,
            "bytes": self.bytes,
            "resent": self._resent,
            "refused": self._refused,
            "queued_messages": len(self._queue),
            "queued_bytes": self._queued_bytes,
            "unacknowledged_messages": len(self._sent),
            "unacknowledged_bytes": self._sent_bytes,
            "window_bytes": self._window_bytes,
            "round_trip_s": self._srtt_s,
            "retransmission_s": self._rto_s * self._backoff,
            "bytes_per_s": self._bytes_per_s,
        }

    def _open(self) -> bool:
        if not self._sent:
            return True
        head = len(self._queue[0].data) if self._queue else 0
        return (
            len(self._sent) < self._window_messages
            and self._sent_bytes + head <= self._window_bytes
        )

    @property
    def _patience_s(self) -> float:
        """How long to wait for an acknowledgement before sending again."""
        passing_s = max(self._sent_bytes - _SOON_PASSED_BYTES, 0) / _SLOW_BYTES_PER_S
        pause_s = min(self._rto_s * self._backoff, max(SILENT_RTO_S, self._rto_s))
        return min(pause_s + passing_s, self._max_rto_s)

    def _fit(self, kept: _Sent, now: float) -> None:
        """Fit the window to how long an acknowledged message was on its way.

        If it was sent twice it may have taken less; a window that is too small grows again.
        """
        took = now - kept.first_at
        flight = kept.flying if self._told else kept.flight
        if flight >= _RATE_OF_BYTES and not kept.resent:
            # Of the time, what an empty message takes too is not the bytes'. Where there was none,
            # that is not known.
            passing_s = max(took - self.fastest_s, took / 2, 1e-6)
            self._bytes_per_s = max(flight / passing_s, _RATE_FADES * self._bytes_per_s)
        if now - self._least_at > _LEAST_OF_S:
            self._least_before_s, self._least_s, self._least_at = self._least_s, took, now
        self._least_s = min(self._least_s, took)
        queued = took - min(self._least_s, self._least_before_s, QUEUE_S)
        if queued < _GROW_BELOW_S:
            if self._window_bytes < self._most_bytes:
                grown = self._window_bytes + len(kept.message.data)
                self._window_bytes = min(grown, self._most_bytes)
        elif took > QUEUE_S and kept.first_at >= self._window_at:
            self._slow = True
            fitting = int(kept.flight / took * QUEUE_S)
            least = min(LEAST_WINDOW_BYTES, self._most_bytes)
            self._window_bytes = max(min(fitting, self._window_bytes), least)
            self._window_at = now

    def _name(self, sequence: int, now: float, quiet_s: float) -> None:
        kept = self._sent.get(sequence)
        if kept is None or sequence in self._urgent:
            return
        if not kept.resent or now - kept.sent_at >= quiet_s:
            self._urgent.append(sequence)

    def _expire(self, now: float) -> None:
        """Resend the oldest; what was in flight with it follows as acknowledgements come."""
        self._backoff = min(self._backoff * 2, 64)
        self._rto_s = min(self._rto_s, self._max_rto_s)
        self._recover = self.newest
        oldest = next(iter(self._sent))
        if oldest not in self._urgent:
            self._urgent.append(oldest)
        self._timer = now + self._patience_s

    def _measure(self, sample: float) -> None:
        if not self._samples % FASTEST_OF:
            self._fastest_before_s, self._fastest_s = self._fastest_s or sample, sample
        self._samples += 1
        self._fastest_s = min(self._fastest_s, sample)
        if self._srtt_s == 0.0:
            self._srtt_s = sample
            self._rttvar_s = sample / 2
        else:
            self._rttvar_s += (abs(sample - self._srtt_s) - self._rttvar_s) / 4
            self._srtt_s += (sample - self._srtt_s) / 8
        rto = self._srtt_s + max(4 * self._rttvar_s, 0.01)
        self._rto_s = min(max(rto, self._min_rto_s), self._max_rto_s)


def keeps_more(batch: Buffer) -> bool:
    """Whether it is a piece of a buffer that would stay in memory for it, mostly for nothing."""
    return isinstance(batch, memoryview) and memoryview(batch.obj).nbytes > 2 * batch.nbytes


class MessageReceiver:
    """Gives out every batch of one direction of one session once, whole and in order.

    Args:
        max_message_bytes: A message with more data is refused.
        max_batch_bytes: A batch that grows beyond this is refused, and the stream with it.
        window: Messages this far ahead of the next one are kept; others are refused.
        max_ahead_bytes: Bytes kept of messages that are ahead; beyond it they are dropped (and
            sent again by the other side).
        ack_delay_s: How long an acknowledgement may wait for data that carries it.
        ack_messages: After this many messages the acknowledgement does not wait.
    """

    def __init__(
        self,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        window: int = RECEIVE_WINDOW,
        max_ahead_bytes: int = 2 * WINDOW_BYTES,
        ack_delay_s: float = 0.02,
        ack_messages: int = 16,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_batch_bytes = max_batch_bytes
        self._window = window
        self._max_ahead_bytes = max_ahead_bytes
        self._ack_delay_s = ack_delay_s
        self._ack_messages = ack_messages
        self._next = 1
        self._newest = 0
        self._ahead: dict[int, tuple[bool, Buffer]] = {}
        self._ahead_bytes = 0
        self._parts: list[Buffer] = []
        self._parts_bytes = 0
        self._broken = ""
        self._owed = 0
        self._ack_at: float | None = None
        self._messages = 0
        self.bytes = 0
        """Of messages that were taken."""
        self._batches = 0
        self._duplicates = 0
        self._reordered = 0
        self._dropped = 0
        self._refusals: Counter[str] = Counter()
        self._last_refusal = ""

    @property
    def ack(self) -> int:
        """Every message up to this one has arrived."""
        return self._next - 1

    @property
    def whole(self) -> bool:
        """Whether everything is here that is known to have been sent, to the end of a batch."""
        return self._newest < self._next and not self._parts

    @property
    def refused(self) -> int:
        """How many messages were refused."""
        return self._refusals.total()

    def receive(self, sequence: int, more: bool, data: Buffer, now: float) -> list[Buffer]:
        """Take one data message; return the batches that it completes, in order.

        `data` is kept until its batch is complete and must not change meanwhile.

        Raises:
            ProtocolError: The message is refused (counted; the stream goes on), or the stream
                cannot go on (`broken` names why and every later message is refused).
        """
        size = len(data)
        if self._broken:
            raise self._refuse("broken", self._broken)
        if sequence < 1:
            raise self._refuse("sequence", f"message number {sequence}, they start at 1")
        if size == 0:
            raise self._refuse("empty", f"message {sequence} carries no data")
        if size > self._max_message_bytes:
            raise self._refuse(
                "oversized",
                f"message {sequence} has {size} bytes, at most {self._max_message_bytes} agreed",
            )
        if sequence >= self._next + self._window:
            raise self._refuse(
                "window", f"message {sequence} is beyond {self._next} + {self._window}"
            )
        self._newest = max(self._newest, sequence)
        if sequence < self._next or sequence in self._ahead:
            # The other side did not hear that it arrived: say so at once.
            self._duplicates += 1
            self._ack_at = now
            return []
        self._messages += 1
        self.bytes += size
        if sequence > self._next:
            if self._ahead_bytes + size > self._max_ahead_bytes:
                self._dropped += 1
            else:
                self._ahead[sequence] = (more, data)
                self._ahead_bytes += size
                self._reordered += 1
            self._ack_at = now
            return []
        out: list[Buffer] = []
        self._accept(more, data, out)
        while self._ahead and (kept := self._ahead.pop(self._next, None)) is not None:
            self._ahead_bytes -= len(kept[1])
            self._accept(kept[0], kept[1], out)
        self._owed += 1
        if self._ack_at is None:
            self._ack_at = now + self._ack_delay_s
        if self._owed >= self._ack_messages:
            self._ack_at = now
        return out

    def announced(self, newest: int, now: float) -> None:
        """Take the newest sequence that an ACK_ONLY message names, so that a lost tail shows.

        Raises:
            ProtocolError: It lies beyond the window.
        """
        if newest >= self._next + self._window:
            raise self._refuse("window", f"announces {newest}, beyond {self._next} + window")
        if newest > self._newest:
            self._newest = newest
        if newest >= self._next:
            self._ack_at = now

    def missing(self) -> list[int]:
        """At most 64 sequences that are known to be missing, oldest first."""
        if self._newest < self._next:
            return []
        out: list[int] = []
        for sequence in range(self._next, self._newest + 1):
            if sequence not in self._ahead:
                out.append(sequence)
                if len(out) == MAX_MISSING:
                    break
        return out

    def ack_due(self, now: float) -> bool:
        """Whether an acknowledgement must be sent now although no data carries it."""
        return self._ack_at is not None and now >= self._ack_at

    def ack_deadline(self) -> float | None:
        """When an acknowledgement falls due, None if none is owed."""
        return self._ack_at

    def ack_sent(self) -> None:
        """Note that `ack` (and `missing`) just went out, alone or with data."""
        self._ack_at = None
        self._owed = 0

    @property
    def broken(self) -> str:
        """Why the stream cannot go on, empty while it can."""
        return self._broken

    def statistics(self) -> dict[str, int | float | str]:
        """Counters since the start; refusals also by name (`refused_oversized`, ...)."""
        out: dict[str, int | float | str] = {
            "messages": self._messages,
            "bytes": self.bytes,
            "batches": self._batches,
            "duplicates": self._duplicates,
            "reordered": self._reordered,
            "dropped": self._dropped,
            "refused": self.refused,
            "last_refusal": self._last_refusal,
            "ahead_messages": len(self._ahead),
            "ahead_bytes": self._ahead_bytes,
        }
        out.update({f"refused_{name}": count for name, count in self._refusals.items()})
        return out

    def _accept(self, more: bool, data: Buffer, out: list[Buffer]) -> None:
        self._next += 1
        if not more and not self._parts:
            self._batches += 1
            out.append(data)
            return
        self._parts.append(data)
        self._parts_bytes += len(data)
        if self._parts_bytes > self._max_batch_bytes:
            self._broken = (
                f"a batch grew beyond {self._max_batch_bytes} bytes at message {self._next - 1}"
            )
            self._parts.clear()
            self._ahead.clear()
            self._ahead_bytes = 0
            raise self._refuse("batch", self._broken)
        if not more:
            self._batches += 1
            out.append(b"".join(self._parts))
            self._parts.clear()
            self._parts_bytes = 0

    def _refuse(self, name: str, text: str) -> ProtocolError:
        self._refusals[name] += 1
        self._last_refusal = text
        return ProtocolError(f"message refused: {text}")
