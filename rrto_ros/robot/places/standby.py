"""The session that stands by for another at a second server: owns where it is, and when anew.

Once a checkpoint of a session is complete, another server is asked for room, and brought to it in
the background (`standby_session.py`). If the session's own server is lost, it goes on there with
the calls since. A newer checkpoint makes what stands by stale: it is closed and made anew, rarely
enough that the link and the other server have mostly other things to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from rrto_ros.api.info import DeviceInfo
from rrto_ros.robot.places.migration import SUSPECT_S
from rrto_ros.robot.places.rescue import Rescue
from rrto_ros.robot.places.servers import RUNNING, Search
from rrto_ros.robot.places.standby_session import Content, StandbySession
from rrto_ros.robot.state.journal import Journal
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.opening import close_session
from rrto_ros.wire.port import ANY_SERVER, CallsMessage, OpenRequest, ResultsMessage, RobotPort

PERIOD_S = 10.0
"""A session is made to stand by no more often than this."""
RARELY = 10
"""Nor sooner than so many times what it took the last time."""
REFUSED_S = 5.0
"""Between a refusal and the next question: servers write refusals into their log."""
LOOK_S = 0.25
"""How often it is looked whether something is to be done."""

Routed = Callable[[bytes, bytes], None]
"""Told of ids of sessions that stand by: one that is gone, one that is there; b"" for none."""


class Standby:
    """What stands by for one session.

    Not thread-safe: the session's thread owns it. What is said to be guarded is so by its lock.

    Args:
        config: The session's settings.
        port: The way to servers.
        journal: Of the session.
        content: Gives uploads that a server asks for.
        awake: Has the session's thread look about (any thread).
        routed: Where messages of the session that stands by have to go.
    """

    def __init__(
        self,
        config: SessionConfig,
        port: RobotPort,
        journal: Journal,
        content: Content,
        awake: Callable[[], None],
        routed: Routed,
    ) -> None:
        self._config = config
        self._port = port
        self._journal = journal
        self._content = content
        self._awake = awake
        self._routed = routed
        self.on = config.standby > 0 and config.resume == "exact"
        """Whether anything is to stand by at all."""
        self._asked: tuple[OpenRequest, DeviceInfo] | None = None
        self._session: StandbySession | None = None
        self._rescue: Rescue | None = None
        self._here = self._last = b""
        self._look_at = self._began_at = self._took_s = 0.0
        self._made = self._adopted = self._dropped = self._bytes = 0
        self._reason = ""

    # ---- the session's thread

    def begin(self, request: OpenRequest, info: DeviceInfo) -> None:
        """The session was opened.

        Args:
            request: With this.
            info: The device that its program knows.
        """
        self._asked = request, info

    def look(self, now: float, here: bytes, possible: bool, doubted: bool) -> None:
        """See to what stands by; call it again and again.

        Args:
            now: Monotonic seconds.
            here: Id of the session's server.
            possible: Whether something is to stand by: the session can be resumed, is at a
                server, and is not about to leave it by order.
            doubted: Whether its server is lost or in doubt, and nothing that stands by was
                adopted.
        """
        if not self.on or (possible and not doubted and now < self._look_at):
            return
        if not (possible or self._session is not None or self._rescue is not None):
            return
        self._look_at, self._here = now + LOOK_S, here
        possible = possible and self._journal.completed > 0
        if (made := self._session) is not None:
            if made.ready_at and not self._took_s:
                self._took_s = made.ready_at - self._began_at
            if why := self._useless(made, now, possible, doubted):
                self._drop(why)
        others = self._others() if possible and not doubted else set()
        if self._session is not None or not others:
            self._cancel("nothing is to stand by now")
        elif self._rescue is not None:
            self._take(now)
        elif now >= self._next_at and self._asked is not None:
            search = Search(self._config.choice, self._wanted)
            self._rescue = Rescue(
                self._port, *self._asked, self._config.credentials, self._found, search,
                pause_s=REFUSED_S,
            )  # fmt: skip

    def rests(self, now: float) -> bool:
        """Whether `look` has nothing to see to as long as the server is heard."""
        return not self.on or now < self._look_at

    def leaving(self, messages: list[CallsMessage]) -> Iterable[CallsMessage]:
        """What `due` gave, as it leaves."""
        made = self._session
        return made.link.leaving(messages) if made is not None and messages else ()

    def cancel(self, reason: str) -> None:
        """The session ends, or is lost."""
        self.on = False
        self._cancel(reason)
        self._drop(reason)

    # ---- guarded

    def adopt(self, now: float) -> StandbySession | None:
        """What the session can go on with at once, which is the caller's from then on."""
        made = self._session
        if made is None or not made.ready_at or made.error or not made.current:
            return None
        if now - made.link.heard_at >= SUSPECT_S:
            return None
        self._session = None
        self._adopted += 1
        return made

    def due(self, now: float, planned: float, idle: bool) -> list[CallsMessage]:
        """What to publish now; as `StandbySession.due`."""
        return self._session.due(now, planned, idle) if self._session is not None else []

    def wakes_at(self, now: float, idle: bool) -> float:
        """When there is something to do at the latest; infinite: nothing for now."""
        if not self.on or not self._journal.completed:
            return math.inf
        at = max(self._look_at, now + LOOK_S / 5)
        return at if self._session is None else min(at, self._session.wakes_at(now, idle))

    def received(self, message: ResultsMessage, now: float) -> bool:
        """Take a message of results; returns whether the session's thread has to act."""
        made = self._session
        if made is None or made.link.session != message.session:
            return False
        return made.received(message, now)

    # ---- what it says

    @property
    def there(self) -> bool:
        """Whether anything stands by, ready or not."""
        return self._session is not None

    @property
    def server(self) -> bytes:
        """Id of the server at which a session stands ready; empty for none."""
        made = self._session
        return made.link.server if made is not None and made.ready_at and not made.error else b""

    def statistics(self) -> dict[str, int | float | str]:
        """How often something was made to stand by, adopted, and given up, and why last."""
        out: dict[str, int | float | str] = {
            "made": self._made,
            "adopted": self._adopted,
            "dropped": self._dropped,
            "took_s": round(self._took_s, 4),
            "earlier_bytes": self._bytes,
            "reason": self._rescue.objection if self._rescue is not None else self._reason,
        }
        if (made := self._session) is not None:
            out.update({f"session_{name}": value for name, value in made.statistics().items()})
        return out

    def _found(self) -> None:
        self._look_at = 0.0
        self._awake()

    @property
    def _next_at(self) -> float:
        """When a session may be made to stand by again, monotonic."""
        return self._began_at and self._began_at + max(PERIOD_S, RARELY * self._took_s)

    def _others(self) -> set[bytes]:
        """Servers at which something could stand by."""
        choice = self._config.choice
        return {
            one.id
            for one in choice.servers.present()
            if one.state == RUNNING
            and one.id not in (self._here, ANY_SERVER)
            and choice.rank(one.id) is not None
        }

    def _wanted(self, server: bytes) -> bool:
        """Whether a server will do (the thread that asks): the last one has the blobs already."""
        others = self._others()
        return server == self._last if self._last in others else server in others

    def _useless(self, made: StandbySession, now: float, possible: bool, doubted: bool) -> str:
        """Why what stands by is to be given up; empty if it is not."""
        if made.error:
            return made.error
        if not possible:
            return "nothing is to stand by now"
        if made.link.server not in self._others():
            return "its server leaves, or has the session itself"
        if not made.current and (doubted or now >= self._next_at):
            return "there is a newer checkpoint"
        # Where the session is to be opened anew, this one may be what takes its room.
        return "it was not ready" if doubted and not made.ready_at else ""

    def _take(self, now: float) -> None:
        taken = self._rescue.take() if self._rescue is not None else None
        if taken is None:
            return
        self._rescue = None
        session, opened = taken
        if opened.seal is not None:
            self._config.disclose(session, opened.seal.keys.pack())
        self._began_at, self._took_s = now, 0.0
        self._last = opened.answer.server
        self._routed(b"", session)
        self._session = StandbySession(
            self._config, session, opened, self._journal, self._content, now
        )
        self._made += 1

    def _drop(self, reason: str) -> None:
        made, self._session = self._session, None
        if made is None:
            return
        self._reason = reason
        self._dropped += 1
        link = made.link
        self._bytes += link.traffic()["bytes"]
        if made.error:
            self._last = b""
        self._routed(link.session, b"")
        close_session(self._port, link.opened, link.session, reason)

    def _cancel(self, reason: str) -> None:
        rescue, self._rescue = self._rescue, None
        if rescue is not None:
            self._reason = rescue.objection or reason
            rescue.cancel(reason)
