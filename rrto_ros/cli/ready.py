"""Sees to it that the nodes that were started here meet: starts anew what is not heard."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rrto_ros.bringup.meeting import ALONE_S, Meeting
from rrto_ros.bringup.supervisor import Supervisor
from rrto_ros.wire.port import RECORDER, SERVER

if TYPE_CHECKING:
    from rrto_ros.ros.client import RobotClient

ELSEWHERE_S = 10.0
"""How long our recorder may take to reach a server that was not started here."""
TIMEOUT_S = 60.0


def get_ready(
    client: RobotClient,
    supervisors: Sequence[Supervisor],
    names: Sequence[str],
    say: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    *,
    alone_s: float = ALONE_S,
) -> None:
    """Wait until the recorder reaches a server; of ours, start anew what is not heard.

    Args:
        client: Follows the robot.
        supervisors: Of the processes that were started here.
        names: Theirs, of those that shall run.
        say: Takes a line for the user.
        stopped: Whether the user wants no more of it.
        alone_s: How long one of ours may be up without the other, at least.

    Raises:
        UnavailableError: A process ended, it took too long, or `stopped`.
    """
    meeting = Meeting(time.monotonic(), alone_s if SERVER in names else ELSEWHERE_S)

    def look() -> str:
        trouble = next(filter(None, (each.failed() for each in supervisors)), "")
        if trouble or stopped():
            return trouble or "stopped"
        heard = [client.status(kind, meeting.started) is not None for kind in (RECORDER, SERVER)]
        late = meeting.late(time.monotonic(), *heard)
        again = [kind for kind, is_late in zip((RECORDER, SERVER), late, strict=True) if is_late]
        again = [name for name in again if name in names]
        if again:
            say(f"{' and '.join(again)} not heard of in time: starting anew")
            for name in again:
                any(each.restart(name) for each in supervisors)
        return ""

    client.wait_ready(TIMEOUT_S, look)
