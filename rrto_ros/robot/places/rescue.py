"""The search for a server that takes over a session: owns the thread that asks, and its answer.

It asks again and again until a server accepts whose device is the one that the program was told
of, or nobody wants to know any more. What was opened and is not taken is closed again.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace

from rrto_ros.api.info import DeviceInfo
from rrto_ros.errors import RrtoError
from rrto_ros.robot.places.servers import Search
from rrto_ros.wire.opening import UNWANTED, GetCredentials, Opened, close_session, open_session
from rrto_ros.wire.port import OpenRequest, RobotPort
from rrto_ros.wire.versions import with_own_version

ASK_S = 5.0
"""How long one attempt waits for its answers; the port repeats what it asks meanwhile."""
PAUSE_S = 0.1
"""Between a refusal and the next question."""
EDGE = "the offload server"


class Rescue:
    """Looks for a server for one session.

    Args:
        port: The way to servers.
        request: How the session was opened.
        info: The device that the program knows.
        credentials: The user's keys; None for `authentication: off`.
        found: Called once, in the thread that asks, when a server has accepted.
        search: Which server may take the session.
        name: What is asked, for people.
        pause_s: Between a refusal and the next question.
    """

    def __init__(
        self,
        port: RobotPort,
        request: OpenRequest,
        info: DeviceInfo,
        credentials: GetCredentials | None,
        found: Callable[[], None],
        search: Search,
        name: str = EDGE,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._search = search
        self._name = name
        self._pause_s = pause_s
        self._port = port
        self._request = replace(request, device=info.kind, arena_base=info.arena_base)
        self._info = info
        self._credentials = credentials
        self._found = found
        self._lock = threading.Lock()
        self._taken: tuple[bytes, Opened] | None = None
        self._stopped = threading.Event()
        self._reason = f"{name} has not answered yet"
        self._answered = False
        self._asked = 0
        self._thread = threading.Thread(target=self._run, name="session-rescue", daemon=True)
        self._thread.start()

    @property
    def reason(self) -> str:
        """Why there is no server yet."""
        return self._reason

    @property
    def objection(self) -> str:
        """What the last question came to; empty before the first answer, or silence."""
        return self._reason if self._answered else ""

    @property
    def found(self) -> bool:
        """Whether there is a session to take."""
        return self._taken is not None

    def take(self) -> tuple[bytes, Opened] | None:
        """The session that was opened, which is the caller's from then on; None for none yet.

        Returns:
            Its id, and what its opening came to.
        """
        with self._lock:
            taken, self._taken = self._taken, None
            if taken is not None:
                self._stopped.set()
            return taken

    def cancel(self, reason: str) -> None:
        """Nobody needs a server any more; does not wait for the thread."""
        self._stopped.set()
        with self._lock:
            taken, self._taken = self._taken, None
        if taken is not None:
            close_session(self._port, taken[1], taken[0], reason)

    def statistics(self) -> dict[str, int | str]:
        """Questions asked, and why there is no server yet."""
        return {"asked": self._asked, "reason": self._reason}

    def _run(self) -> None:
        while not self._stopped.is_set():
            request = replace(self._request, session=uuid.uuid4().bytes)
            self._asked += 1
            try:
                opened = open_session(self._port, request, self._credentials, ASK_S, self._search)
            except RrtoError as error:
                self._reason, self._answered = str(error), True
                self._stopped.wait(self._pause_s)
                continue
            answer = opened.answer
            if answer is UNWANTED:
                self._reason = self._search.explain()
            elif not answer.accepted or answer.info is None:
                self._search.refused(answer.server)
                why = with_own_version(answer.reason)
                self._reason = f"{self._name} refused the session: {why}"
            elif difference := _difference(self._info, answer.info):
                self._reason = f"{self._name}'s device is another one: {difference}"
                self._search.refused(answer.server)
                close_session(self._port, opened, request.session, self._reason)
            else:
                self._offer(request.session, opened)
                return
            self._answered = True
            self._stopped.wait(self._pause_s)

    def _offer(self, session: bytes, opened: Opened) -> None:
        with self._lock:
            wanted = not self._stopped.is_set()
            if wanted:
                self._taken = session, opened
        if wanted:
            self._found()
        else:
            close_session(self._port, opened, session, "the session goes on where it was")


def _difference(known: DeviceInfo, other: DeviceInfo) -> str:
    """What of a device a program could notice; empty if nothing.

    The name and the UUID tell two devices of one kind apart and change nothing that is computed.
    """
    both = f" ({other.name}; the session has {known.name})"
    for name in ("kind", "compute_capability", "driver_version", "arena_base"):
        mine, theirs = getattr(known, name), getattr(other, name)
        if mine != theirs:
            return f"{name} {theirs!r}, the session has {mine!r}{both}"
    for number in sorted({*known.attributes, *other.attributes}):
        one, another = known.attributes.get(number), other.attributes.get(number)
        if one != another:
            return f"attribute {number} is {another}, the session has {one}{both}"
    if other.arena_bytes < known.arena_bytes:
        return f"{other.arena_bytes} bytes of addresses, the session has {known.arena_bytes}{both}"
    return ""
