"""From a server's results to what a program gets; the other way than `outgoing.py`.

Owns which results go into the reply ring, which blobs the server asked for, and how long the
program waited for its answers. After a move results come again: the program gets none twice.
"""

from __future__ import annotations

import statistics
from collections import deque

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.outgoing import Outgoing
from rrto_ros.robot.reply_writer import ReplyWriter
from rrto_ros.robot.state.journal import Journal
from rrto_ros.wire.format import (
    RESULT_BLOB_WANTED,
    RESULT_CONTAINED,
    RESULT_PROFILE,
    RESULT_STATE,
    Buffer,
)
from rrto_ros.wire.result_codec import ResultRecord, iter_results

WAIT_SAMPLES, LEAST_WAITS = 512, 16


class Incoming:
    """One session's results on their way in. The session's lock guards it.

    Args:
        out: What the program called, and who waits for it.
        journal: Of the session.
        replies: Where results go.
    """

    def __init__(self, out: Outgoing, journal: Journal, replies: ReplyWriter) -> None:
        self._out = out
        self._journal = journal
        self._replies = replies
        self._waited: deque[float] = deque(maxlen=WAIT_SAMPLES)
        self._moved = False
        self.error = ""
        """What the program's context failed with; empty while it has not."""
        self.blobs_wanted: deque[int] = deque()
        """Calls whose content the server has not, in the order that it asked."""

    @property
    def wait_s(self) -> float:
        """What the program's waits take at this server, their median; 0 before there is one."""
        return statistics.median(self._waited) if self._waited else 0.0

    @property
    def waits(self) -> int:
        """How many waits `wait_s` is of."""
        return len(self._waited)

    def deliver(self, batch: Buffer, now: float) -> None:
        """Give the results of one batch to the program.

        Raises:
            ProtocolError: They cannot be used; the stream was in order, so this is no accident of
                the network.
        """
        view = memoryview(batch).cast("B")
        records: list[Buffer] = []
        answers: list[ResultRecord] = []
        offset = 0
        for result in iter_results(view):
            if result.flags & RESULT_PROFILE:
                raise ProtocolError(f"a part of profile {result.index}, which nobody asked for")
            told = result.flags & (RESULT_STATE | RESULT_CONTAINED)
            again = self._moved and not told
            known, rest = self._journal.repeated(result) if again else (False, b"")
            if result.flags & RESULT_BLOB_WANTED:
                self.blobs_wanted.append(result.index)
            elif result.flags & RESULT_STATE:
                self._journal.piece(result)
            elif result.flags & RESULT_CONTAINED:
                self._journal.contains(result)
            elif known:
                if rest:
                    records.append(rest)
            elif record := self._out.due(result, view[offset : offset + result.size]):
                records.append(record)
                answers.append(result)
                since = self._out.answered(result.index, now)
                if since is not None:
                    self._waited.append(now - since)
            offset += result.size
            if result.sticky and not self.error:
                self.error = bytes(result.payload).decode(errors="replace")
        if offset != len(view):
            raise ProtocolError("padding between results")
        self._replies.write(records)
        # Only now: the program need not wait for it.
        for result in answers:
            self._journal.answered(result)

    def moved(self) -> None:
        """The session goes on at another server, which answers all calls since its checkpoint."""
        self._moved = True
        self.blobs_wanted.clear()
        self._waited.clear()
