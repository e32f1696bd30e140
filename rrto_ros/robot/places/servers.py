"""Which servers there are, and which of them a session may run on.

Owns what servers say of themselves (`Servers`), the user's list of them (`Choice`), and one search
for a server (`Search`). A name counts where it fits the id (`wire/server_id.py`), which the server
proves when a session opens; so what strangers say leads no session astray.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rrto_ros.errors import UnavailableError
from rrto_ros.text import printable
from rrto_ros.wire.opening import UNWANTED, GetCredentials, Opened, open_session
from rrto_ros.wire.port import ANY_SERVER, OpenAnswer, OpenRequest, RobotPort
from rrto_ros.wire.server_id import is_named

PRESENT_S = 5.0
"""A server says what it is twice per second, and is there for so long after it was heard."""
PREFER_S = 0.5
"""How much longer a server is waited for than one that comes after it in the list."""
OTHERS_S = 2.0
"""How long another server is waited for when one has refused a session."""
PAUSE_S = 0.1
MOST_SERVERS = 64
MOST_NAME = 60
DRAINING, RUNNING = "draining", "running"

Wanted = Callable[[bytes], bool]
"""Whether a session may go on at the server of this id."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server, as it was heard of last.

    Attributes:
        id: Of the server.
        name: Its own.
        state: As its status has it.
        at: When, monotonic seconds.
    """

    id: bytes
    name: str
    state: str
    at: float


class Servers:
    """What was heard of servers; every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[bytes, Server] = {}
        self._refused = 0

    def heard(self, server: bytes, name: str, state: str) -> bool:
        """A server's status came.

        Returns:
            Whether it can be one: the name fits the id.
        """
        if len(name) > MOST_NAME or server == ANY_SERVER or not is_named(server, name):
            self._refused += 1
            return False
        with self._lock:
            self._heard.pop(server, None)
            self._heard[server] = Server(server, name, state, time.monotonic())
            if len(self._heard) > MOST_SERVERS:
                del self._heard[next(iter(self._heard))]
        return True

    def present(self) -> list[Server]:
        """Those that are there now, whether they drain or not."""
        now = time.monotonic()
        with self._lock:
            found = [one for one in self._heard.values() if now - one.at < PRESENT_S]
        return sorted((one for one in found if one.state in (RUNNING, DRAINING)), key=_by_name)

    def name_of(self, server: bytes) -> str:
        """What people call a server; without a name the first digits of its id, empty for none."""
        if not server or server == ANY_SERVER:
            return ""
        with self._lock:
            found = self._heard.get(server)
        return printable(found.name) if found is not None and found.name else server.hex()[:8]

    def statistics(self) -> dict[str, int]:
        """Servers heard of, and statuses whose name did not fit."""
        return {"servers": len(self._heard), "servers_refused": self._refused}


def _by_name(server: Server) -> tuple[str, bytes]:
    return server.name, server.id


@dataclass(frozen=True)
class Choice:
    """Where sessions may run.

    Attributes:
        names: Of servers, the best first; empty for any.
        servers: Those that are heard of.
    """

    names: tuple[str, ...] = ()
    servers: Servers = field(default_factory=Servers)

    def rank(self, server: bytes) -> int | None:
        """A server's place in the list; None if it is not in it."""
        if not self.names:
            return 0
        return next((i for i, name in enumerate(self.names) if is_named(server, name)), None)


def choice_of(text: str, servers: Servers) -> Choice:
    """The choice that the parameter `servers` means."""
    names = [name.strip() for name in text.split(",")]
    return Choice(tuple(dict.fromkeys(name for name in names if name)), servers)


class Search:
    """One search: calling it says whether a server will do now.

    Args:
        choice: The user's.
        wanted: What else a server has to be; None: nothing.
    """

    def __init__(self, choice: Choice, wanted: Wanted | None = None) -> None:
        self._choice = choice
        self._wanted = wanted
        self._began = 0.0
        self._refused: dict[bytes, float] = {}
        self._passed: set[bytes] = set()

    def __call__(self, server: bytes) -> bool:
        """Whether the server of an id will do now; later another answer may be right."""
        good = self._fits(server)
        if not good and len(self._passed) < MOST_SERVERS:
            self._passed.add(server)
        return good

    def refused(self, server: bytes) -> bool:
        """A server has refused the session: it will not do for a while, if there are others.

        Returns:
            Whether there are.
        """
        now = time.monotonic()
        if server == ANY_SERVER:
            return False
        self._refused[server] = now + OTHERS_S
        for one in self._choice.servers.present():
            if self._possible(one.id) and now >= self._refused.get(one.id, 0.0):
                return True
        self._refused.clear()
        return False

    def explain(self) -> str:
        """Why no server has done so far, where some have answered."""
        names = ", ".join(sorted(map(self._choice.servers.name_of, self._passed)))
        text = f"servers answered that are not wanted: {names or 'of no id'}"
        if self._choice.names:
            text += f"; `servers` allows {', '.join(self._choice.names)}"
        return text

    def _possible(self, server: bytes) -> bool:
        if self._choice.rank(server) is None:
            return False
        return self._wanted is None or self._wanted(server)

    def _fits(self, server: bytes) -> bool:
        if not self._possible(server):
            return False
        now = time.monotonic()
        if now < self._refused.get(server, 0.0):
            return False
        # What is preferred is waited for from the first answer on: before, nobody is there.
        self._began = self._began or now
        return now >= self._began + PREFER_S * (self._choice.rank(server) or 0)


def open_somewhere(
    port: RobotPort,
    request: OpenRequest,
    credentials: GetCredentials | None,
    timeout_s: float,
    choice: Choice,
    answer_s: float = 0.0,
) -> Opened:
    """Open a session at the best server that takes it.

    Args:
        port: The way to servers.
        request: As `open_session` takes it.
        credentials: None for `authentication: off`.
        timeout_s: For all of it.
        choice: Where it may run.
        answer_s: As `open_session` takes it.

    Returns:
        What came of it; where several have refused, the last one's reason.

    Raises:
        UnavailableError: No server answered within the time.
        ConfigError: The user's keys cannot be used.
    """
    end = time.monotonic() + timeout_s
    search = Search(choice)
    last: Opened | None = None
    # As it was given: the time that is told is the user's.
    left = timeout_s
    while True:
        try:
            opened = open_session(port, request, credentials, left, search, answer_s)
        except UnavailableError:
            if last is None:
                raise
            return last
        if opened.answer.accepted:
            return opened
        if opened.answer is not UNWANTED:
            if not search.refused(opened.answer.server):
                return opened
            last, end = opened, min(end, time.monotonic() + OTHERS_S)
        elif time.monotonic() >= end:
            return last or Opened(OpenAnswer(False, search.explain()), passed_by=opened.passed_by)
        time.sleep(PAUSE_S)
        left = end - time.monotonic()
