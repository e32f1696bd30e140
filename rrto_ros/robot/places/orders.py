"""Orders to sessions to go on at another server: owns what is ordered, and how often.

They come from people (`rrto move`) and from servers that are being stopped. Anybody in the ROS
domain can send either, so a session takes one order in a while; and whoever sends them moves it
between servers that the robot trusts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from rrto_ros.robot.places.servers import DRAINING, RUNNING, Server, Servers
from rrto_ros.robot.session import RobotSession
from rrto_ros.text import printable
from rrto_ros.wire.port import ANY_SERVER
from rrto_ros.wire.server_id import is_named

PERIOD_S = 2.0
"""A session is ordered to move so often at most; the same order again means the one before."""
MOST_TOLD = 16


@dataclass(frozen=True)
class Ordered:
    """What came of an order.

    Attributes:
        sessions: How many were told.
        reason: Why not all, or none; what there is instead.
    """

    sessions: int
    reason: str = ""


class Orders:
    """Orders to one recorder's sessions; every method may be called by any thread.

    Args:
        sessions: Those that are open.
        servers: Those that are heard of.
    """

    def __init__(self, sessions: Callable[[], list[RobotSession]], servers: Servers) -> None:
        self._sessions = sessions
        self._servers = servers
        self._lock = threading.Lock()
        self._last: WeakKeyDictionary[RobotSession, tuple[float, str]] = WeakKeyDictionary()
        self._ordered = 0
        self._drained = 0
        self._too_often = 0

    def move(self, session: bytes, name: str) -> Ordered:
        """Have sessions go on at another server.

        Args:
            session: Id; all 0 for every session.
            name: Of the server; empty for any but the one that a session is on.
        """
        opened = [one for one in self._sessions() if one.server not in (b"", ANY_SERVER)]
        chosen = [one for one in opened if session in (ANY_SERVER, one.id)]
        if not chosen:
            if not opened:
                return Ordered(0, "no session is open")
            return Ordered(0, f"no session {session.hex()} is open; there are {_listed(opened)}")
        present = self._servers.present()
        if name and not any(one.name == name for one in present):
            return Ordered(0, f"no server {printable(name, 60)!r} is heard of; {_named(present)}")
        told, why = 0, ""
        for one in chosen:
            objection = self._objection(one, name, present)
            if not objection and self._take(one, name, "rrto move"):
                told += 1
            else:
                why = objection or (
                    f"session {one.id.hex()[:8]} was ordered elsewhere less than {PERIOD_S:g} s "
                    "ago; try again"
                )
        return Ordered(told, why)

    def drain(self) -> None:
        """Have sessions leave servers that are being stopped, where others are there."""
        present = self._servers.present()
        draining = {one.id for one in present if one.state == DRAINING}
        if not draining:
            return
        for session in self._sessions():
            if session.server not in draining or session.ordered:
                continue
            if any(one.state == RUNNING and _allows(session, one) for one in present) and (
                self._take(session, "", "its server is being stopped")
            ):
                self._drained += 1

    def send(self, session: RobotSession, server: bytes, reason: str) -> bool:
        """Have one session go on at one server.

        Args:
            session: Any.
            server: Id of the server.
            reason: For logs.

        Returns:
            Whether the order was taken.
        """
        return self._take(session, "", reason, server)

    def statistics(self) -> dict[str, int]:
        """Orders given, for which reason, and those that came too soon after another."""
        return {
            "moves_ordered": self._ordered,
            "moves_drained": self._drained,
            "moves_too_often": self._too_often,
        }

    def _objection(self, session: RobotSession, name: str, present: Iterable[Server]) -> str:
        short = f"session {session.id.hex()[:8]}"
        if session.stays_local:
            return f"{short} stays on this robot: mode is local; set another with `rrto mode`"
        here = self._servers.name_of(session.server)
        if name and is_named(session.server, name):
            return f"{short} is at {name} already"
        others = [one for one in present if one.id != session.server]
        if name:
            others = [one for one in others if one.name == name]
        fit = [one for one in others if _allows(session, one)]
        if fit:
            return ""
        if others:
            allowed = ", ".join(session.choice.names)
            return f"the parameter `servers` has {short} run at {allowed} only"
        return f"{short} is at {here}, and no other server of this robot is heard of"

    def _take(self, session: RobotSession, name: str, reason: str, server: bytes = b"") -> bool:
        """Order a move, unless the session had another order just now."""
        now, what = time.monotonic(), f"{name}\n{server.hex()}\n{reason}"
        with self._lock:
            at, before = self._last.get(session, (0.0, ""))
            if at and now - at < PERIOD_S:
                self._too_often += before != what
                # Whoever got no answer asks again.
                return before == what
            self._last[session] = now, what
            self._ordered += 1
        here = session.server
        if server:
            session.move(lambda one: one == server, reason)
        elif name:
            session.move(lambda one: is_named(one, name), reason)
        else:
            session.move(lambda one: one != here, reason)
        return True


def _allows(session: RobotSession, server: Server) -> bool:
    return session.choice.rank(server.id) is not None


def _listed(sessions: list[RobotSession]) -> str:
    shown = [f"{one.id.hex()} (pid {one.hello.pid})" for one in sessions[:MOST_TOLD]]
    return ", ".join(shown) + (", ..." if len(sessions) > MOST_TOLD else "")


def _named(servers: Iterable[Server]) -> str:
    names = ", ".join(printable(one.name) for one in servers)
    return f"there are {names}" if names else "none is"
