"""When a session runs on the robot, by choice or for want of an edge: owns that judgement.

Away from the edge: where no edge answers for `fallback_after_ms`, the session goes on at the place
on the robot (`place.py`), brought to its state by the journal, as at any server. The place is
asked a little earlier, so that a worker is there by then.

And back: once an edge has answered steadily (`edge_watch.py`), the session is ordered to move, as
by `rrto move`: with a checkpoint, at a moment of rest. How long is steady grows while the edge is
lost again soon after, so that a link that comes and goes does not carry the session to and fro.
It does not wait for the robot's device to answer: with kernels to compile that can take a minute.

In mode `local` nothing of that is asked: a session opens here, or is ordered here, and stays.

In mode `partition` a session opens here and at an edge. What has lost that edge goes on here, and
is ordered to be partitioned again once an edge is steady; where that cannot be had, it goes to the
edge as a whole, and is asked for again from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rrto_ros.api.info import DeviceInfo
from rrto_ros.errors import UnavailableError
from rrto_ros.robot.places.edge_watch import EdgeWatch
from rrto_ros.robot.places.place import Place
from rrto_ros.robot.places.rescue import Rescue
from rrto_ros.robot.places.servers import Choice, Search
from rrto_ros.robot.status import SessionConfig, SessionSnapshot
from rrto_ros.wire.opening import Opened, open_session
from rrto_ros.wire.port import OpenRequest, RobotPort

LEAD_S = 0.75
"""So long before it is time the place is asked: its worker and its device take that to start."""
STEADY_S = 3.0
"""So long an edge must have answered before a session goes back."""
MOST_STEADY_S = 60.0
SOON_S = 60.0
"""Who loses the edge again within this time waits twice as long the next time."""
AGAIN_S = 2.0
"""Between two questions to a place that cannot be had."""
MOST_AGAIN_S = 60.0
OWN = "this robot's own device"
BOTH = "this robot's own device and an edge"


class Order(Protocol):
    """As `Migration.order`."""

    def __call__(
        self,
        wanted: Callable[[bytes], bool],
        reason: str,
        hasty: bool = False,
        rescue: Callable[[Callable[[], None]], Rescue] | None = None,
    ) -> None: ...


class Fallback:
    """One session's way to the robot's own device and back.

    Not thread-safe: the session's thread owns it.

    Args:
        config: The session's settings.
        port: The way to servers out there.
        awake: Has the session's thread look about (any thread).
        order: Has the session move.
    """

    def __init__(
        self, config: SessionConfig, port: RobotPort, awake: Callable[[], None], order: Order
    ) -> None:
        self._config = config
        self._port = port
        self._awake = awake
        self._order = order
        self._place: Place | None = config.place
        self._falls_back = config.place is not None and config.fallback == "local"
        self._asked: tuple[OpenRequest, DeviceInfo] | None = None
        self._rescue: Rescue | None = None
        self._watch: EdgeWatch | None = None
        self._here_since = 0.0
        self._returned_at = 0.0
        self._steady_s = STEADY_S
        self._ordered = False
        self._here_at = 0.0
        self._falls = self._returns = 0
        self._objection = ""
        self._parts_at = 0.0
        self._parts_again_s = AGAIN_S
        self._whole = False
        self.fits = False
        """Whether the session was opened as one that can be partitioned: in mode partition."""
        self.partitioned = False
        """Whether the session runs partly on the robot and partly at an edge."""

    # ---- opening

    @property
    def patience_s(self) -> float:
        """How long a program that starts waits for an edge's first answer; 0: as ever."""
        return self._config.fallback_after_s if self._falls_back else 0.0

    def start_partitioned(self, request: OpenRequest) -> Opened:
        """Open a session on the robot and at an edge; may take seconds.

        Args:
            request: As an edge would be asked.

        Raises:
            UnavailableError: There is no such place, or one of the two cannot be had.
        """
        self.fits = True
        if self._place is None:
            raise UnavailableError(f"mode is partition, and there is no {OWN}")
        asks = replace(request, server=self._place.server)
        opened = open_session(self._place.partition(), asks, None, self._config.connect_timeout_s)
        if not opened.answer.accepted:
            raise UnavailableError(f"mode is partition: {opened.answer.reason}")
        self.partitioned = True
        return opened

    def start(self, request: OpenRequest, why: UnavailableError | None) -> Opened:
        """Open a session on the robot; may take seconds.

        Args:
            request: As an edge was asked, or would be.
            why: What came of that; None in mode `local`.

        Raises:
            UnavailableError: There is no such place, or it cannot be had; says both reasons.
        """
        if self._place is None or not (self._falls_back or why is None):
            raise why or UnavailableError(f"mode is local, and there is no {OWN}")
        kind = self._config.fallback_device or request.device or "cpu"
        asks = replace(request, device=kind, server=self._place.server)
        port = self._place.port(kind, None)
        opened = open_session(port, asks, None, self._config.connect_timeout_s)
        if not opened.answer.accepted:
            before = "mode is local" if why is None else f"{why}; and"
            raise UnavailableError(f"{before} on {OWN}: {opened.answer.reason}")
        because = (
            "mode is local" if why is None else f"no edge answered within {self.patience_s:g} s"
        )
        self._place.say(
            f"session of {request.program} (pid {request.pid}) opens on this robot's {kind} "
            f"device: {because}"
        )
        return opened

    def begin(self, request: OpenRequest, info: DeviceInfo, server: bytes, now: float) -> None:
        """The session was opened.

        Args:
            request: With this.
            info: The device that its program knows.
            server: Where.
            now: Monotonic seconds.
        """
        self._asked = request, info
        if self._place is None:
            return
        if server == self._place.server:
            self._came(now)
        else:
            self._place.seen(info)

    # ---- what it says

    @property
    def here(self) -> bool:
        """Whether the session is on the robot."""
        return bool(self._here_since)

    @property
    def rests(self) -> bool:
        """Whether the session is not on the robot, nor about to be."""
        return not self._here_since and self._rescue is None

    def here_s(self, now: float) -> float:
        """For how long, in seconds."""
        return now - self._here_since if self._here_since else 0.0

    @property
    def objection(self) -> str:
        """Why the session could not go on on the robot; empty if nobody said so."""
        return self._objection

    def due(self, heard_at: float) -> float | None:
        """When there is something to do beside what wakes the session anyway, monotonic."""
        if not self._falls_back or self._here_since:
            return None
        at = heard_at + self._config.fallback_after_s
        return at if self._rescue is not None else at - LEAD_S

    def look(
        self,
        now: float,
        heard_at: float,
        lost: bool,
        doubted: bool,
        ordered: bool,
        local: bool,
        to_part: bool = False,
    ) -> tuple[bytes, Opened] | None:
        """Go on on the robot, or see to the way back; call it again and again.

        Args:
            now: Monotonic seconds.
            heard_at: When the server of now was heard last.
            lost: Whether that server is lost for good.
            doubted: Whether the session may go elsewhere, and its server is lost or in doubt.
            ordered: Whether the session is under way to another server by order.
            local: Whether the mode is.
            to_part: Whether the session is to be partitioned, and is not.

        Returns:
            The session that was opened on the robot, if it is time to go on there.
        """
        place, asked = self._place, self._asked
        if place is None or asked is None:
            return None
        if (self._here_since or local) and not lost:
            self._drop("the session is where it is wanted, or goes there by order")
            if not local:
                self._look_back(now, asked, ordered, to_part)
            elif self._here_since:
                self._unwatch()
            elif not ordered and now >= self._here_at:
                self._here_at = now + AGAIN_S
                self._order_here("mode is local", self._search)
            return None
        if to_part and not (lost or doubted or ordered) and now >= self._parts_at:
            # What cannot be had now is asked for less and less often.
            self._parts_at = now + self._parts_again_s
            self._parts_again_s = min(2 * self._parts_again_s, MOST_AGAIN_S)
            self._order_here("mode is partition", self._both)
        due = now if local else heard_at + self._config.fallback_after_s
        if not (doubted and (local or self._falls_back)) or now < due - LEAD_S:
            self._drop("the edge is heard again")
            return None
        if self._rescue is None:
            self._rescue = self._search(self._awake)
        if now < due:
            return None
        taken = self._rescue.take()
        if taken is not None:
            self._rescue = None
        elif (objection := self._rescue.objection) != self._objection:
            self._objection = objection
            request = asked[0]
            place.say(
                f"session of {request.program} (pid {request.pid}) waits for an edge and cannot "
                f"go on on this robot: {objection}"
            )
        return taken

    def moved(self, session: bytes, server: bytes, now: float) -> None:
        """The session has gone on elsewhere.

        Args:
            session: Its id there.
            server: Where.
            now: Monotonic seconds.
        """
        self.partitioned = self._whole = False
        if self._place is None:
            return
        self._drop("the session goes on elsewhere")
        if self._place.parts(session):
            self.partitioned = True
            self._unwatch()
            self._parts_again_s = AGAIN_S
            self._returned_at, self._here_since = now, self._here_since or now
            self._returns += 1
        elif server == self._place.server:
            self._came(now)
        elif self._here_since:
            self._unwatch()
            self._here_since, self._returned_at = 0.0, now
            self._returns += 1

    def cancel(self, reason: str) -> None:
        """The session ends, or is lost."""
        self._drop(reason)
        self._unwatch()

    def statistics(self) -> dict[str, int | float | str]:
        """How often the session went to the robot and back, and what stands in the way."""
        out: dict[str, int | float | str] = {
            "falls": self._falls,
            "returns": self._returns,
            "steady_s": self._steady_s,
            "objection": self.objection,
        }
        if (watch := self._watch) is not None:
            out.update({f"edge_{name}": value for name, value in watch.statistics().items()})
        return out

    def _order_here(self, why: str, rescue: Callable[[Callable[[], None]], Rescue]) -> None:
        """Have the session move to the place on the robot, as `rescue` asks for it."""
        assert self._place is not None
        own = self._place.server
        self._order(lambda server: server == own, why, True, rescue)

    def _search(self, found: Callable[[], None]) -> Rescue:
        """Ask the place for room, again and again."""
        assert self._place is not None
        assert self._asked is not None
        _, info = self._asked
        port = self._place.port(self._config.fallback_device or info.kind, info)
        return self._asks(port, OWN, found)

    def _both(self, found: Callable[[], None]) -> Rescue:
        """Ask the place for room there and at an edge."""
        assert self._place is not None
        return self._asks(self._place.partition(), BOTH, found)

    def _asks(self, port: RobotPort, name: str, found: Callable[[], None]) -> Rescue:
        assert self._place is not None
        assert self._asked is not None
        request, info = self._asked
        request = replace(request, server=self._place.server)
        return Rescue(port, request, info, None, found, Search(Choice()), name, AGAIN_S)

    def _came(self, now: float) -> None:
        soon = self._returned_at and now - self._returned_at < SOON_S
        self._steady_s = min(2 * self._steady_s, MOST_STEADY_S) if soon else STEADY_S
        self._unwatch()
        self._here_since = now
        self._falls += 1
        self._objection = ""

    def _look_back(
        self, now: float, asked: tuple[OpenRequest, DeviceInfo], ordered: bool, to_part: bool
    ) -> None:
        place = self._place
        if place is None or ordered:
            return
        if self._ordered:
            # It was not carried out: the edge did not open the session after all.
            self._ordered = False
            # The next time without the part here, if that was asked for.
            self._whole = to_part and not self._whole
            self._steady_s = min(2 * self._steady_s, MOST_STEADY_S)
            self._unwatch()
        if self._watch is None:
            request, info = asked
            request = replace(request, device=info.kind, arena_base=info.arena_base)
            self._watch = EdgeWatch(
                self._port, request, self._config.credentials, self._config.choice, self._awake
            )
        if self._watch.steady_s(now) >= self._steady_s:
            here = place.server
            self._ordered = True
            why = "an edge answers again"
            if to_part and not self._whole:
                self._order_here(why, self._both)
            else:
                self._order(lambda server: server != here, why, True)

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        self._ordered = False
        if watch is not None:
            watch.cancel()

    def _drop(self, reason: str) -> None:
        rescue, self._rescue = self._rescue, None
        if rescue is not None:
            rescue.cancel(reason)


@dataclass(frozen=True)
class Here:
    """A session that is on the robot.

    Attributes:
        snapshot: What it did so far.
        since_s: For how long it has been there.
    """

    snapshot: SessionSnapshot
    since_s: float


def in_words(sessions: Sequence[Here]) -> str:
    """What people are told of sessions on the robot; empty if there is none."""
    if not sessions:
        return ""
    longest = max(sessions, key=lambda one: one.since_s)
    devices = " and ".join(sorted({one.snapshot.device for one in sessions}))
    many = len(sessions) != 1
    text = (
        f"{len(sessions)} session{'s' if many else ''} run{'' if many else 's'} on this robot's "
        f"{devices} device since {longest.since_s:.0f} s"
    )
    # The slowest says what this costs.
    slowest = max(sessions, key=lambda one: one.snapshot.median_inference_ms).snapshot
    if slowest.median_inference_ms:
        text += f": {slowest.median_inference_ms:.3g} ms per inference"
        if slowest.edge_inference_ms:
            text += f", {slowest.edge_inference_ms:.3g} ms at the edge"
    return text
