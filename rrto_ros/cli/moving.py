"""`rrto move`: has sessions go on at another server, and watches until they do."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rrto_ros.cli.console import out
from rrto_ros.cli.state import STATUS_TIMEOUT_S
from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.ros.client import RECORDER, RobotClient
from rrto_ros.text import printable

Plain = dict[str, Any]
NEXT_WAIT_S = 1.0
"""How long a moved program's next wait is waited for, which tells how long the pause was."""


@dataclass
class Watched:
    """One session on its way; a moved session has another id, so it goes by its process.

    Attributes:
        first: Its status when the move was ordered.
        before: The newest one from where it was.
        after: The first one from elsewhere.
        done: What is to be said of it; empty as long as it is on its way.
        failed: Whether that is bad news.
    """

    first: Plain
    before: Plain = field(default_factory=dict)
    after: Plain = field(default_factory=dict)
    after_at: float = 0.0
    done: str = ""
    failed: bool = False

    def __post_init__(self) -> None:
        self.before = self.first

    @property
    def title(self) -> str:
        """How it is called in what is said."""
        return f"{printable(self.first['program'])} (pid {self.first['pid']})"

    def look(self, sessions: list[Plain], now: float) -> None:
        """Take the recorder's newest status."""
        if self.done:
            return
        mine = [s for s in sessions if _process(s) == _process(self.first)]
        if not mine:
            self.done = f"{self.title} ended"
            return
        s = mine[0]
        if s["resumed"] == self.first["resumed"]:
            self.before = s
            if s["moves_failed"] > self.first["moves_failed"] or s["error"]:
                why = s["error"] or s["move_error"] or "no reason is known"
                self.done = f"{self.title} stays at {s['server']}: {printable(why)}"
                self.failed = True
            return
        if not self.after:
            self.after, self.after_at = s, now
        waits = s["round_trips"] > self.after["round_trips"]
        if waits or now - self.after_at >= NEXT_WAIT_S:
            self.done = (
                f"{self.title} went from {self.first['server']} to {s['server']}; it waited "
                f"{self._pause_ms(s):.0f} ms for that"
            )

    def _pause_ms(self, now: Plain) -> float:
        """By how much its waits since the status before the move were longer than usual."""
        waited_ms = (now["wait_s"] - self.before["wait_s"]) * 1e3
        trips = now["round_trips"] - self.before["round_trips"]
        return float(max(waited_ms - trips * self.before["median_wait_ms"], 0.0))


def move(client: RobotClient, session: str, to: str, timeout_s: float) -> bool:
    """Order moves, and say what comes of each.

    Args:
        client: Follows the robot.
        session: Process id, or the first digits of a session's id; empty for every session.
        to: Name of the server; empty for any other.
        timeout_s: How long the sessions are watched.

    Returns:
        Whether all have moved.

    Raises:
        ConfigError: There is no such session.
        UnavailableError: There is no recorder, or it orders no move.
    """
    if not client.wait(lambda: client.status(RECORDER) is not None, STATUS_TIMEOUT_S):
        raise UnavailableError(
            f"no recorder_replayer of robot {client.robot!r} was seen in ROS domain "
            f"{client.domain} within {STATUS_TIMEOUT_S:g} s; start one with `rrto up`, or check "
            "--robot and --domain"
        )
    chosen = choose(_sessions(client), session)
    told, reason = client.move(chosen[0]["session"] if session else "", to)
    if not told:
        raise UnavailableError(f"no session is moved: {reason}")
    if reason:
        out.print(reason, markup=False, highlight=False)
    # Of several, those that are there already are not told.
    watched = [Watched(s) for s in chosen if not to or s["server"] != to]
    try:
        _watch(client, watched, timeout_s)
    except KeyboardInterrupt:
        left = ", ".join(one.title for one in watched if not one.done)
        out.print(f"the order stands for {left}; `rrto status` shows what comes of it",
                  markup=False, highlight=False)  # fmt: skip
        raise
    for one in watched:
        if not one.done:
            one.failed = True
            out.print(
                f"{one.title} has not moved within {timeout_s:g} s; the order stands, and `rrto "
                "status` shows what comes of it",
                markup=False, highlight=False,
            )  # fmt: skip
    return not any(one.failed for one in watched) and not (reason and told < len(watched))


def choose(sessions: list[Plain], which: str) -> list[Plain]:
    """The sessions that are meant.

    Raises:
        ConfigError: None is, or several are; the text lists what there is.
    """
    if not sessions:
        raise ConfigError("no session is open; start a program with `rrto run`")
    if not which:
        return sessions
    found = [s for s in sessions if str(s["pid"]) == which] or [
        s for s in sessions if s["session"].startswith(which.lower())
    ]
    if len(found) == 1:
        return found
    listed = "; ".join(
        f"{s['session'][:8]} (pid {s['pid']}, {printable(s['program'])}, at {s['server'] or '?'})"
        for s in sessions
    )
    what = f"{len(found)} sessions begin with" if found else "no session is"
    raise ConfigError(
        f"{what} {which!r}, want a process id or the first digits of a session's id; there are "
        f"{listed}"
    )


def _watch(client: RobotClient, watched: list[Watched], timeout_s: float) -> None:
    """Look at each status until all is said, or the time is over."""
    end = time.monotonic() + timeout_s
    told: set[int] = set()

    def look() -> bool:
        sessions, now = _sessions(client), time.monotonic()
        for one in watched:
            one.look(sessions, now)
        return any(one.done and id(one) not in told for one in watched)

    while any(not one.done for one in watched) and (left := end - time.monotonic()) > 0:
        client.wait(look, left)
        for one in watched:
            if one.done and id(one) not in told:
                told.add(id(one))
                out.print(one.done, markup=False, highlight=False)


def _sessions(client: RobotClient) -> list[Plain]:
    status = client.status(RECORDER)
    found = status["sessions"] if status is not None else []
    return [s for s in found if s["phase"] not in ("opening", "closed", "lost")]


def _process(s: Plain) -> tuple[int, str]:
    return s["pid"], s["program"]
