"""When a session goes on at another server: owns that judgement, the search, and orders to move.

A server that is lost or in doubt is one reason to look for another; an order is one more (`rrto
move`, a server that is being stopped). Then the session stays where it is until the other server
is found, a checkpoint covers the calls so far, and the program waits for nothing: so little is
executed twice, and the program notices a pause. To move sooner would be as exact.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rrto_ros.api.info import DeviceInfo
from rrto_ros.robot.places.rescue import Rescue
from rrto_ros.robot.places.servers import Search, Wanted
from rrto_ros.robot.state.journal import Journal
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.opening import Opened
from rrto_ros.wire.port import OpenRequest, RobotPort

SUSPECT_S = 0.75
"""A server says something every quarter of a second: after so much silence another is looked for,
while this one may still be heard."""
MOST_FRUITLESS = 3
"""A session is not made again more often than this without a new result, unless it finds a server
again that it left: that one was out of reach, and not ended by the calls."""
REMEMBERED = 8
"""Servers that it was on."""
SEARCH_S = 10.0
"""How long a server is looked for that an order wants."""
SETTLE_S = 3.0
"""How long a move that was ordered waits for its checkpoint and for a moment without waiting
calls, once the server is found."""
MOMENT_S = 0.02
"""How often it is looked for such a moment, beside when the program calls."""


@dataclass(frozen=True, slots=True)
class Order:
    """A move that somebody wants.

    Attributes:
        wanted: Where to.
        reason: For logs and status.
        until: When the search is given up, monotonic seconds.
        hasty: Whether it waits for nothing for long, even if nothing was answered since the last
            move: where the session is, an answer may take much longer than a move.
        rescue: Begins the search, given what to call when a server has accepted; None to ask
            servers out there.
    """

    wanted: Wanted
    reason: str
    until: float
    hasty: bool = False
    rescue: Callable[[Callable[[], None]], Rescue] | None = None


class Migration:
    """One session's way to other servers.

    Not thread-safe but for `order`: the session's thread owns it.

    Args:
        config: The session's settings.
        port: The way to servers.
        journal: What another server is brought to the session's state with.
        found: Called once for each search, in its own thread, when a server has accepted.
    """

    def __init__(
        self, config: SessionConfig, port: RobotPort, journal: Journal, found: Callable[[], None]
    ) -> None:
        self._config = config
        self._port = port
        self._journal = journal
        self._found = found
        self._lock = threading.Lock()
        self._asked: tuple[OpenRequest, DeviceInfo] | None = None
        self._rescue: Rescue | None = None
        self._order: Order | None = None
        self._ordered: Order | None = None
        self._found_at = 0.0
        self._checkpointed = False
        self._hopeless = ""
        self._newest = self._fruitless = 0
        self._moved_after = -1
        self._switched_at = self._pause_s = 0.0
        self._catches_up = 0
        self._been: deque[tuple[bytes, bytes]] = deque(maxlen=REMEMBERED)
        self._survived = False
        self._orders = self._orders_failed = 0
        self._last_failure = ""

    # ---- what it is told

    def begin(self, request: OpenRequest, info: DeviceInfo) -> None:
        """The session was opened.

        Args:
            request: With this.
            info: The device that its program knows.
        """
        self._asked = request, info

    def order(
        self,
        wanted: Wanted,
        reason: str,
        hasty: bool = False,
        rescue: Callable[[Callable[[], None]], Rescue] | None = None,
    ) -> None:
        """Go on elsewhere soon (any thread); an earlier order that was not carried out is void.

        The arguments are those of `Order`.
        """
        with self._lock:
            self._order = Order(wanted, reason, time.monotonic() + SEARCH_S, hasty, rescue)
            self._orders += 1

    def give_up(self) -> None:
        """Another server cannot help: what it would be sent cannot be trusted."""
        self._hopeless = "what another server would be sent is not the program's state"

    def moved(self, now: float, *, silence: bool = False) -> None:
        """The session has gone on elsewhere with all of its journal.

        Args:
            now: Monotonic seconds.
            silence: It left a server that was merely not heard.
        """
        self._switched_at, self._catches_up = now, self._journal.newest
        if self._ordered is None and not silence:
            # A server that is lost again and again by the same calls will not get over them.
            newest = self._journal.newest
            anew = newest > self._newest or self._survived
            self._fruitless = 0 if anew else self._fruitless + 1
            self._newest = newest
            if self._fruitless >= MOST_FRUITLESS and not self._hopeless:
                self._hopeless = f"it went on at {MOST_FRUITLESS} servers without a new result"
        self._ordered = None
        self._moved_after = self._journal.newest

    def executed(self, call: int, now: float) -> None:
        """The server has executed all calls up to this one."""
        if self._switched_at and call >= self._catches_up:
            self._pause_s, self._switched_at = now - self._switched_at, 0.0

    # ---- what it says

    @property
    def possible(self) -> bool:
        """Whether another server can be brought to the session's state."""
        return self._journal.whole and not self._hopeless

    @property
    def objection(self) -> str:
        """Why another server cannot be; empty if one can, or none is wanted."""
        return self._hopeless or self._journal.overflowed

    @property
    def phase(self) -> str:
        """Of a session that is not lost."""
        if self._rescue is None:
            return "open"
        return "moving" if self._ordered is not None else "resuming"

    @property
    def ordered(self) -> bool:
        """Whether there is an order that is not carried out yet (any thread)."""
        with self._lock:
            return self._order is not None or self._ordered is not None

    @property
    def rests(self) -> bool:
        """Whether there is no order, and nobody is looked for."""
        return self._order is None and self._ordered is None and self._rescue is None

    @property
    def failed(self) -> tuple[int, str]:
        """How many orders were not carried out, and why the last of them was not."""
        return self._orders_failed, self._last_failure

    @property
    def searches(self) -> bool:
        """Whether a server is looked for."""
        return self._rescue is not None

    @property
    def settles(self) -> bool:
        """Whether a move waits for its moment."""
        return bool(self._found_at)

    @property
    def reason(self) -> str:
        """Why no server was found yet; empty if none is looked for."""
        return self._rescue.reason if self._rescue is not None else ""

    @property
    def wants_checkpoint(self) -> bool:
        """Whether a move waits for a checkpoint that nobody has asked for."""
        return bool(self._found_at) and not self._checkpointed and self._journal.can_checkpoint

    def checkpoint_asked(self) -> None:
        """There is one on its way now, for whatever reason."""
        self._checkpointed = bool(self._found_at)

    def look(self, now: float, possible: bool, doubted: bool) -> None:
        """Begin to look for a server, or stop; call it again and again.

        Args:
            now: Monotonic seconds.
            possible: Whether the session can go on elsewhere at all.
            doubted: Whether its server is lost or in doubt.
        """
        with self._lock:
            order, self._order = self._order, None
        if order is not None:
            self._cancel("the session is to go elsewhere")
            self._ordered = order
            if not possible:
                self._refused("the session cannot be moved")
        if self._ordered is not None and doubted:
            # Wherever it can go on, now.
            self._refused("its server was lost meanwhile")
            self._cancel("the session goes on wherever it can")
        if self._ordered is not None and not self._found_at and now >= self._ordered.until:
            self._refused(self.reason)
            self._cancel("no server was found in time")
        wanted = possible and (doubted or self._ordered is not None)
        if not wanted:
            self._cancel("the session goes on where it was")
        elif self._rescue is None and self._ordered is not None and self._ordered.rescue:
            self._rescue = self._ordered.rescue(self._found)
        elif self._rescue is None and self._asked is not None:
            wanted_one = self._ordered.wanted if self._ordered is not None else None
            search = Search(self._config.choice, wanted_one)
            self._rescue = Rescue(
                self._port, *self._asked, self._config.credentials, self._found, search
            )

    def take(self, now: float, quiet: bool) -> tuple[bytes, Opened] | None:
        """The session that was opened elsewhere, if it is time to go on there.

        Args:
            now: Monotonic seconds.
            quiet: Whether the program waits for nothing.

        Returns:
            Its id, and what its opening came to.
        """
        rescue = self._rescue
        if rescue is None or not rescue.found:
            return None
        if self._ordered is not None:
            self._found_at = self._found_at or now
            covered = not (self.wants_checkpoint or self._journal.outstanding)
            # Who is moved again before anything was answered gets nowhere.
            moves = self._ordered.hasty or self._journal.newest > self._moved_after
            late = moves and now >= self._found_at + SETTLE_S
            if not (late or (quiet and covered)):
                return None
        taken = rescue.take()
        self._rescue = None
        if taken is not None:
            self._goes_to(taken[1])
        self._found_at, self._checkpointed = 0.0, False
        return taken

    def adopted(self, opened: Opened) -> None:
        """The session goes on, now, with one that stood by."""
        if self._ordered is not None:
            self._refused("its server was lost meanwhile")
        self._cancel("the session goes on with one that stood by")
        self._goes_to(opened)

    def cancel(self, reason: str) -> None:
        """The session ends, or is lost."""
        self._cancel(reason)

    def statistics(self) -> dict[str, int | float | str]:
        """Orders to move, and why the last one that failed did; what executing again cost."""
        return {
            "orders": self._orders,
            "orders_failed": self._orders_failed,
            "last_failure": self._last_failure,
            "last_pause_s": self._pause_s,
        }

    def _goes_to(self, opened: Opened) -> None:
        process = opened.server.server, opened.server.run
        self._survived = process in self._been
        self._been.append(process)

    def _refused(self, why: str) -> None:
        self._ordered = None
        self._orders_failed += 1
        self._last_failure = why

    def _cancel(self, reason: str) -> None:
        rescue, self._rescue = self._rescue, None
        self._found_at, self._checkpointed = 0.0, False
        if rescue is not None:
            rescue.cancel(reason)
