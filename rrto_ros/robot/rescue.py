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
from rrto_ros.wire.opening import GetCredentials, Opened, close_session, open_session
from rrto_ros.wire.port import OpenRequest, RobotPort

ASK_S = 5.0
"""How long one attempt waits for its answers; the port repeats what it asks meanwhile."""
PAUSE_S = 0.1
"""Between a refusal and the next question."""


class Rescue:
    """Looks for a server for one session.

    Args:
        port: The way to servers.
        request: How the session was opened.
        info: The device that the program knows.
        credentials: The user's keys; None for `authentication: off`.
        found: Called once, in the thread that asks, when a server has accepted.
    """

    def __init__(
        self,
        port: RobotPort,
        request: OpenRequest,
        info: DeviceInfo,
        credentials: GetCredentials | None,
        found: Callable[[], None],
    ) -> None:
        self._port = port
        self._request = replace(request, arena_base=info.arena_base)
        self._info = info
        self._credentials = credentials
        self._found = found
        self._lock = threading.Lock()
        self._taken: tuple[bytes, Opened] | None = None
        self._stopped = threading.Event()
        self._reason = "no offload server answered"
        self._asked = 0
        self._thread = threading.Thread(target=self._run, name="session-rescue", daemon=True)
        self._thread.start()

    @property
    def reason(self) -> str:
        """Why there is no server yet."""
        return self._reason

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
                opened = open_session(self._port, request, self._credentials, ASK_S)
            except RrtoError as error:
                self._reason = str(error)
                self._stopped.wait(PAUSE_S)
                continue
            answer = opened.answer
            if not answer.accepted or answer.info is None:
                self._reason = f"the offload server refused the session: {answer.reason}"
            elif difference := _difference(self._info, answer.info):
                self._reason = f"the offload server's device is another one: {difference}"
                close_session(self._port, opened, request.session, self._reason)
            else:
                self._offer(request.session, opened)
                return
            self._stopped.wait(PAUSE_S)

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
    for name in ("kind", "compute_capability", "driver_version", "arena_base", "attributes"):
        mine, theirs = getattr(known, name), getattr(other, name)
        if mine != theirs:
            return f"{name} {theirs!r}, the session has {mine!r}"
    if other.arena_bytes < known.arena_bytes:
        return f"{other.arena_bytes} bytes of addresses, the session has {known.arena_bytes}"
    return ""
