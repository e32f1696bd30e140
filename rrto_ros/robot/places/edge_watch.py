"""Whether an edge answers, and for how long it has: owns the thread that asks.

DDS takes seconds to notice that a link was cut, and says nothing of whether a server would open a
session. So the edge is asked the first question of an opening, which leaves nothing behind there,
again and again; the answer is believed as it is when a session opens.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.robot.places.servers import Choice
from rrto_ros.wire.opening import GetCredentials, objection
from rrto_ros.wire.port import OpenRequest, RobotPort

EVERY_S = 0.25
"""Between an answer and the next question."""
ANSWER_S = 0.5
"""An answer that takes longer is none. Both together are what a silence may last before a session
is in doubt; so one that would have put it in doubt does not pass unnoticed."""
REFUSED_S = 5.0
"""Between a refusal and the next question: the edge writes it into its log."""


class EdgeWatch:
    """Asks the edge again and again, for one session.

    Args:
        port: The way to servers.
        request: How the session would be opened.
        credentials: The user's keys; None for `authentication: off`.
        choice: Which servers count.
        answered: Called after each answer that is no refusal, in the thread that asks.
    """

    def __init__(
        self,
        port: RobotPort,
        request: OpenRequest,
        credentials: GetCredentials | None,
        choice: Choice,
        answered: Callable[[], None],
    ) -> None:
        self._choice = choice
        self._port = port
        self._request = request
        self._credentials = credentials
        self._answered = answered
        self._since = 0.0
        self._reason = "not asked yet"
        self._asked = self._silent = 0
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="edge-watch", daemon=True).start()

    def steady_s(self, now: float) -> float:
        """For how long every question was answered, in seconds; 0 if the last one was not."""
        since = self._since
        return max(now - since, 0.0) if since else 0.0

    @property
    def reason(self) -> str:
        """Why the last question was not answered as is wanted; empty if it was."""
        return self._reason

    def cancel(self) -> None:
        """Ask no more; does not wait for the thread."""
        self._stopped.set()

    def statistics(self) -> dict[str, int | str]:
        """Questions, how many met silence, and what the last answer objected to."""
        return {"asked": self._asked, "silent": self._silent, "reason": self._reason}

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopped.wait(pause_s):
            pause_s = self._ask()

    def _counts(self, server: bytes) -> bool:
        return self._choice.rank(server) is not None

    def _ask(self) -> float:
        """Ask once; returns how long to wait before the next time."""
        self._asked += 1
        request = replace(self._request, session=uuid.uuid4().bytes)
        pause_s = EVERY_S
        try:
            reason = objection(self._port, request, self._credentials, ANSWER_S, self._counts)
            pause_s = REFUSED_S if reason else EVERY_S
        except UnavailableError as error:
            self._silent += 1
            reason = str(error)
        except RrtoError as error:
            reason, pause_s = str(error), REFUSED_S
        self._reason = reason
        if reason:
            self._since = 0.0
        else:
            self._since = self._since or time.monotonic()
            self._answered()
        return pause_s
