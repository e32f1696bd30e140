"""A session at one place that another session is made of: owns its link, and keeps it alive.

What the recorder says to a server for a program (`robot/session.py`) is said here for a part of
one: a batch leaves when it is given, results are handed on in order, and a thread answers, probes
and sends again. A place that is lost is told once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.server_link import ServerLink
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.format import Buffer
from rrto_ros.wire.link import MEASURES_BYTES
from rrto_ros.wire.opening import Opened, close_session
from rrto_ros.wire.port import FLAG_CLOSED, ResultsMessage, RobotPort

Took = Callable[[bytes, int], None]
"""Told of results (b"" for none), and of the last call that was executed."""


class EndSession:
    """One place's (`session.PlaceEnd`). Every method may be called by any thread.

    Args:
        config: Settings of the program's session.
        port: The way to the place.
        session: Its id there.
        opened: What its opening came to.
        took: Takes results, in order (the thread that brings messages).
        lost: Told once why no results will come any more.
        full: Whether the place is to send no more results for now.
    """

    def __init__(
        self,
        config: SessionConfig,
        port: RobotPort,
        session: bytes,
        opened: Opened,
        took: Took,
        lost: Callable[[str], None],
        full: Callable[[], bool] = lambda: False,
    ) -> None:
        self.session = session
        self._port = port
        self._opened = opened
        self._took = took
        self._tell_lost = lost
        self._full = full
        self._lock = threading.Condition()
        # What leaves is numbered and sealed in one order, whoever sends it.
        self._leaving = threading.Lock()
        self._link = ServerLink(config, session, opened, time.monotonic())
        self._lost = ""
        self._over = False
        self._executed = self._said_executed = 0
        self._thread = threading.Thread(target=self._run, name="place", daemon=True)
        self._thread.start()

    @property
    def bytes_per_s(self) -> float:
        """Rate of the way there, as measured; 0 as long as it is not known."""
        return self._link.sender.bytes_per_s

    @property
    def round_trip_s(self) -> float:
        """What an exchange takes at least, in seconds; 0 as long as it is not known."""
        return self._link.sender.fastest_s

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent there, and received."""
        with self._lock:
            return self._link.exchanged

    def execute(self, batch: Buffer) -> None:
        """Have whole records executed; waits while the place has too much to do."""
        with self._lock:
            self._lock.wait_for(lambda: self._over or self._lost or self._has_room)
            if self._over or self._lost:
                return
            self._link.push([batch])
        self._send()

    def on_results(self, message: ResultsMessage) -> None:
        """Take a message of the place."""
        now = time.monotonic()
        batches: list[Buffer] = []
        with self._lock:
            if self._over or self._lost:
                return
            link = self._link
            believed = link.believed(message)
            if believed is None:
                return
            if believed.flags & FLAG_CLOSED:
                self._lose("the server has closed the session")
                return
            try:
                batches = link.received(believed, now)
                link.heard(believed, now)
            except ProtocolError as error:
                link.refuse(error)
                if link.receiver.broken:
                    self._lose(link.receiver.broken)
                return
            self._said_executed = max(self._said_executed, believed.executed_call)
            # A message may come before those with the answers of what it says was executed.
            executed = self._said_executed if link.receiver.whole else self._executed
            told, self._executed = executed > self._executed, executed
            self._lock.notify_all()
        for batch in batches:
            self._took(bytes(batch), executed)
        if told and not batches:
            self._took(b"", executed)

    def close(self, reason: str) -> None:
        """Close the session there; does not wait for it."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self._lock.notify_all()
        close_session(self._port, self._opened, self.session, reason)

    def statistics(self) -> dict[str, int | float | str]:
        """Counters of the link."""
        with self._lock:
            return self._link.statistics()

    @property
    def _has_room(self) -> bool:
        return self._link.sender.room and not self._link.full

    def _lose(self, why: str) -> None:
        """The lock is held."""
        self._lost = why
        self._lock.notify_all()

    def _send(self) -> None:
        with self._leaving:
            with self._lock:
                now = time.monotonic()
                over = self._over or self._lost
                due = [] if over else self._link.due(now, full=self._full())
            for message in self._link.leaving(due):
                if len(message.data) >= MEASURES_BYTES:
                    with self._lock:
                        size = len(message.data)
                        self._link.sender.left(message.sequence, size, time.monotonic())
                self._port.publish_calls(message)

    def _run(self) -> None:
        planned = 0.0
        while True:
            with self._lock:
                now = time.monotonic()
                link = self._link
                if planned:
                    link.live.woke(now, planned)
                if not self._lost and (why := link.lost(now, 0, pending=False)):
                    self._lose(why)
                if self._over:
                    return
                why = self._lost
            if why:
                self._tell_lost(why)
                return
            self._send()
            with self._lock:
                planned = min(link.wakes_at(), link.live.deadline())
                self._lock.wait(max(0.001, planned - time.monotonic()))
