"""Where a session runs: owns the way from its server to the next one.

Four ways lead there, in this order: a session that stands by elsewhere (`standby.py`), another
server because this one is lost or to be left (`migration.py`), the robot's own device where no
edge answers or by choice, and back from it (`fallback.py`). Each judges for itself; here they are
asked in turn, and told what came of the others.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from rrto_ros.api.info import DeviceInfo
from rrto_ros.robot.places.fallback import BOTH, OWN, Fallback
from rrto_ros.robot.places.migration import MOMENT_S, SUSPECT_S, Migration
from rrto_ros.robot.places.servers import Wanted
from rrto_ros.robot.places.standby import Routed, Standby
from rrto_ros.robot.places.standby_session import Content, StandbySession
from rrto_ros.robot.state.journal import Journal
from rrto_ros.robot.status import SessionConfig, prefixed
from rrto_ros.wire.opening import Opened
from rrto_ros.wire.port import OpenRequest, RobotPort


@dataclass(frozen=True, slots=True)
class Situation:
    """What a session knows of its server at a moment.

    Attributes:
        now: Monotonic seconds.
        heard_at: When the server was heard last.
        lost: Whether it is lost for good.
        quiet: Whether nothing is under way, and the program waits for nothing.
        movable: Whether the session could go on elsewhere.
        local: Whether it is to be on the robot's own device, and nowhere else.
        to_part: Whether it is to be partitioned, and is not.
    """

    now: float
    heard_at: float
    lost: bool
    quiet: bool
    movable: bool
    local: bool
    to_part: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """Where a session goes on.

    Attributes:
        session: Its id there.
        opened: What its opening came to.
        stood_by: What has its last checkpoint already; None where nothing does.
    """

    session: bytes
    opened: Opened
    stood_by: StandbySession | None = None


class Whereabouts:
    """One session's places.

    Not thread-safe but for `order` and `ordered`: the session's thread owns it.

    Args:
        config: The session's settings.
        port: The way to servers out there.
        journal: What another server is brought to the session's state with.
        content: Gives uploads that a server asks for.
        awake: Has the session's thread look about (any thread).
        routed: Where messages of a session that stands by have to go.
        lock: The session's, which guards what stands by.
    """

    def __init__(
        self,
        config: SessionConfig,
        port: RobotPort,
        journal: Journal,
        content: Content,
        awake: Callable[[], None],
        routed: Routed,
        lock: threading.Lock,
    ) -> None:
        self._config = config
        self._lock = lock
        self._server = b""
        self._device = ""
        self.edge_ms = 0.0
        """What an inference took at the edge that it left for the robot, milliseconds."""
        self.last_move = ""
        """How it went to the robot's own device, or came back, last; empty for other moves."""
        self.migration = Migration(config, port, journal, awake)
        self.fallback = Fallback(config, port, awake, self.migration.order)
        self.standby = Standby(config, port, journal, content, awake, routed)

    def begin(self, request: OpenRequest, info: DeviceInfo, server: bytes, now: float) -> None:
        """The session was opened.

        Args:
            request: With this.
            info: The device that its program knows.
            server: Where.
            now: Monotonic seconds.
        """
        self._server, self._device = server, info.kind
        self.migration.begin(request, info)
        self.fallback.begin(request, info, server, now)
        self.standby.begin(request, info)

    def order(self, wanted: Wanted, reason: str) -> None:
        """Go on elsewhere soon (any thread); as `Migration.order`."""
        self.migration.order(wanted, reason)

    def rests(self, now: float, heard_at: float) -> bool:
        """Whether `look` would find nothing to do, as it mostly does."""
        heard = now - heard_at < SUSPECT_S
        return heard and self.migration.rests and self.fallback.rests and self.standby.rests(now)

    def may_adopt(self, at: Situation) -> bool:
        """Whether `look` is about to ask what stands by: a checkpoint that came counts then."""
        return self.standby.there and at.movable and self._doubts(at)

    def look(self, at: Situation) -> Move | None:
        """Judge the server, and see to what may follow it; call it again and again.

        Returns:
            Where the session is to go on, now.
        """
        migration, fallback, doubted = self.migration, self.fallback, self._doubts(at)
        if self.may_adopt(at):
            with self._lock:
                made = self.standby.adopt(at.now)
            if made is not None:
                migration.adopted(made.link.opened)
                return Move(made.link.session, made.link.opened, made)
        stays = at.movable and not (fallback.here or migration.ordered or at.local)
        self.standby.look(at.now, self._server, stays, doubted)
        migration.look(at.now, at.movable, doubted and not at.local)
        taken = migration.take(at.now, at.quiet) or fallback.look(
            at.now, at.heard_at, at.lost, at.movable and doubted, migration.ordered, at.local,
            at.to_part,
        )  # fmt: skip
        return Move(*taken) if taken is not None else None

    def moved(
        self,
        move: Move,
        now: float,
        *,
        silence: bool,
        outage_s: float,
        local: bool,
        inference_ms: float,
    ) -> None:
        """The session goes on there, with all of its journal.

        Args:
            move: Where.
            now: Monotonic seconds.
            silence: Whether the server that it left was merely not heard.
            outage_s: For how long that server was not heard.
            local: Whether the mode is.
            inference_ms: What an inference took there, 0 if that is not known.
        """
        # Of a partitioned session a part was at an edge.
        parted = self.fallback.partitioned
        was_here_s = 0.0 if parted else self.fallback.here_s(now)
        self._server = move.opened.answer.server
        self.fallback.moved(move.session, self._server, now)
        here = self.fallback.here
        self.migration.moved(now, silence=silence and here)
        self.last_move = ""
        if self.fallback.partitioned:
            after = f" after {was_here_s:.1f} s on this robot" if was_here_s else ""
            self.last_move = f"is partitioned again as {{}}{after}"
        elif here and not was_here_s:
            self.edge_ms = inference_ms or self.edge_ms
            because = "mode is local" if local else f"no edge answered for {outage_s:.1f} s"
            self.last_move = f"goes on on this robot's {self._device} device as {{}}: {because}"
        elif parted:
            self.last_move = "is as a whole at an edge as {}"
        elif was_here_s and not here:
            self.last_move = f"is back at an edge as {{}} after {was_here_s:.1f} s on this robot"

    def cancel(self, reason: str) -> None:
        """The session ends, or is lost."""
        for part in (self.migration, self.fallback, self.standby):
            part.cancel(reason)

    # ---- what it says

    @property
    def name(self) -> str:
        """Of the place where the session is, for people."""
        if self.fallback.partitioned:
            return BOTH
        return OWN if self.fallback.here else self._config.choice.servers.name_of(self._server)

    @property
    def standby_name(self) -> str:
        """Of the server where a session stands by; empty for none."""
        return self._config.choice.servers.name_of(self.standby.server)

    @property
    def server(self) -> bytes:
        """Id of the server where the session is; empty before it was opened."""
        return self._server

    @property
    def phase(self) -> str:
        """Of a session that is not lost."""
        return self.migration.phase

    @property
    def ordered(self) -> bool:
        """Whether the session is to move and has not yet (any thread)."""
        return self.migration.ordered

    def objections(self, why: str) -> str:
        """Why the session is lost for good, and why no other place will do.

        Args:
            why: What its server is lost for.
        """
        migration = self.migration
        if migration.searches:
            why = f"{why}; resuming failed: {migration.reason}"
        elif migration.objection:
            why = f"{why}; it cannot go on at another: {migration.objection}"
        if objection := self.fallback.objection:
            why = f"{why}; on this robot: {objection}"
        return why

    def wakes_at(self, now: float, heard_at: float, movable: bool) -> float:
        """When to `look` again at the latest, monotonic; infinite: nothing is due for now."""
        at = heard_at + SUSPECT_S if movable and not self.migration.searches else math.inf
        if self.migration.settles:
            at = min(at, now + MOMENT_S)
        falls_at = self.fallback.due(heard_at)
        return min(at, falls_at) if falls_at is not None and falls_at > now else at

    def statistics(self) -> dict[str, int | float | str]:
        """Counters of the ways, prefixed by way."""
        return prefixed(
            migration=self.migration.statistics(),
            fallback=self.fallback.statistics(),
            standby=self.standby.statistics(),
        )

    def _doubts(self, at: Situation) -> bool:
        # What is silent on the robot is slow; when to leave it is not decided by that.
        silent = at.now - at.heard_at >= SUSPECT_S and not self.fallback.here
        return at.lost or silent
