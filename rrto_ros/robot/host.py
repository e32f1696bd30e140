"""All sessions of one recorder: owns the listening thread, the session threads and the routing.

No ROS: the port is given. A program that comes while the recorder is not active, or when enough
sessions are open, is answered with the reason; it is never left waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from rrto_ros.api.results import CUresult
from rrto_ros.disk_store import opened
from rrto_ros.errors import ProtocolError
from rrto_ros.heap import give_back
from rrto_ros.robot.atomics import atomics
from rrto_ros.robot.plan_store import PlanStore
from rrto_ros.robot.ring_socket import RingListener, no_room, read_hello, send_welcome
from rrto_ros.robot.session import RobotSession
from rrto_ros.robot.status import SessionConfig, SessionSnapshot, check_mode
from rrto_ros.wire.descriptions import Welcome
from rrto_ros.wire.port import ResultsMessage, RobotPort

CLOSE_TIMEOUT_S = 5.0
MAX_PENDING = 64
_RESUMED = "is resumed as {} after {:.1f} s without a server"


class RobotHost:
    """Accepts programs and runs a session for each.

    Args:
        path: Of the Unix socket.
        config: Settings of the sessions that come; `set_mode` changes those that are open too.
        max_sessions: Programs served at once.
        on_closed: Called with the final snapshot of each session, in its thread.
        log: Takes lines for the log (any thread).

    Raises:
        ConfigError: The socket's path or folder cannot be used.
        UnavailableError: Another recorder listens there, or there is no C compiler.
    """

    def __init__(
        self,
        path: Path,
        config: SessionConfig,
        max_sessions: int,
        on_closed: Callable[[SessionSnapshot], None],
        log: Callable[[str], None],
    ) -> None:
        self._config = config
        self._max_sessions = max_sessions
        self._on_closed = on_closed
        self._log = log
        self._port: RobotPort | None = None
        self._lock = threading.Lock()
        self._sessions: dict[bytes, RobotSession] = {}
        self._standbys: dict[bytes, RobotSession] = {}
        self._threads: set[threading.Thread] = set()
        self._closing = ""
        self._accepted = 0
        self._refused = 0
        self._last_refusal = ""
        self._strays = 0
        self._resumed = 0
        self._link_refused = 0
        self._recent: deque[SessionSnapshot] = deque(maxlen=16)
        self._plans: PlanStore | None = None
        self._open_plans(config)
        # Built here if need be, so that a machine without a compiler says so before any program.
        atomics()
        self._listener = RingListener(path)
        self._thread = threading.Thread(target=self._listen, name="ring-listener", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """Of the listening socket."""
        return self._listener.path

    @property
    def active(self) -> bool:
        """Whether programs are accepted."""
        return self._port is not None

    @property
    def sessions(self) -> list[RobotSession]:
        """The open sessions."""
        with self._lock:
            return list(self._sessions.values())

    def activate(self, port: RobotPort) -> None:
        """Accept programs from now on, with sessions over `port`."""
        self._port = port

    def deactivate(self) -> None:
        """Accept no more programs; open sessions go on."""
        self._port = None

    def reconfigure(self, config: SessionConfig) -> None:
        """Use other settings for the sessions that come."""
        before, self._config = self._config, config
        if (before.plan_cache_bytes, before.plan_cache_directory) != (
            config.plan_cache_bytes,
            config.plan_cache_directory,
        ):
            self._open_plans(config)

    def set_mode(self, mode: str) -> None:
        """Change the mode of every session, open or to come.

        Raises:
            ConfigError: The mode cannot be run.
        """
        check_mode(mode)
        self._config = dataclasses.replace(self._config, mode=mode)
        for session in self.sessions:
            session.set_mode(mode)

    def on_results(self, message: ResultsMessage) -> None:
        """Route results to their session (the port's take thread)."""
        session = self._sessions.get(message.session) or self._standbys.get(message.session)
        if session is None:
            # Usual for a moment after a session's end.
            self._strays += 1
            return
        session.on_results(message)

    def stop_sessions(self, reason: str) -> None:
        """End all sessions and wait for them, five seconds at most."""
        for session in self.sessions:
            session.stop(reason)
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=CLOSE_TIMEOUT_S)

    def close(self, reason: str = "recorder_replayer shuts down") -> None:
        """End all sessions, stop listening, remove the socket."""
        self._closing = reason
        self.deactivate()
        self._listener.stop()
        self._thread.join(timeout=CLOSE_TIMEOUT_S)
        self.stop_sessions(reason)
        self._listener.close()

    @property
    def refused(self) -> tuple[int, str]:
        """How many programs and messages were refused, and the last one's reason."""
        count, last = self._refused + self._link_refused, self._last_refusal
        for session in self.sessions:
            snapshot = session.snapshot()
            count += snapshot.messages_refused
            last = snapshot.last_refusal or last
        return count, last

    def statistics(self) -> dict[str, int | str]:
        """Counters since the start; `plans_` of the plans on disk."""
        plans = self._plans.statistics() if self._plans is not None else {}
        return {
            "sessions": len(self._sessions),
            "accepted": self._accepted,
            "refused": self._refused,
            "resumed": self._resumed,
            "last_refusal": self._last_refusal,
            "stray_results": self._strays,
            "turned_away": self._listener.turned_away,
            **{f"plans_{key}": value for key, value in plans.items()},
        }

    def _open_plans(self, config: SessionConfig) -> None:
        """Without a place on disk programs learn their plans anew; that is no reason to refuse."""
        self._plans = opened(
            PlanStore, "plans", config.plan_cache_directory, config.plan_cache_bytes, self._log
        )

    def _listen(self) -> None:
        while (connection := self._listener.accept()) is not None:
            with self._lock:
                full = len(self._threads) >= MAX_PENDING + self._max_sessions
            if full:
                connection.close()
                self._refuse("too many programs connect at once")
                continue
            thread = threading.Thread(
                target=self._run, args=(connection,), name="ring-session", daemon=True
            )
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            session = self._greet(connection)
            if session is not None:
                self._serve(session)
        except Exception as error:
            self._log(f"session thread failed: {type(error).__name__}: {error}")
            connection.close()
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _greet(self, connection: socket.socket) -> RobotSession | None:
        """Read HELLO and decide; None if the program was refused."""
        try:
            hello = read_hello(connection)
        except ProtocolError as error:
            return self._send_away(connection, str(error))
        with self._lock:
            port, count = self._port, len(self._sessions)
            if port is not None and count < self._max_sessions and not self._closing:
                try:
                    session = RobotSession(
                        connection, hello, self._config, port, self._plans, self._renamed,
                        self._routed,
                    )  # fmt: skip
                except OSError as error:
                    return self._send_away(connection, no_room(error))
                self._sessions[session.id] = session
                self._accepted += 1
                return session
        if port is None:
            state = "shuts down" if self._closing else "is not active"
            return self._send_away(
                connection,
                f"recorder_replayer for robot {self._config.robot!r} {state}; activate it with "
                f"`ros2 lifecycle set /{self._config.robot}/recorder_replayer activate`",
            )
        return self._send_away(
            connection, f"{count} sessions are open, the most allowed (max_sessions)"
        )

    def _serve(self, session: RobotSession) -> None:
        hello = session.hello
        self._log(f"session {session.id.hex()[:8]} of {hello.program} (pid {hello.pid}) opens")
        final: SessionSnapshot | None = None
        try:
            final = session.run()
        finally:
            with self._lock:
                self._sessions.pop(session.id, None)
                if final is not None:
                    self._recent.append(final)
                    self._link_refused += final.messages_refused
                    self._last_refusal = final.last_refusal or self._last_refusal
        give_back()
        note = f": {final.error}" if final.error else ""
        self._log(f"session {session.id.hex()[:8]} {final.phase}{note}")
        self._on_closed(final)

    def _renamed(self, session: RobotSession, before: bytes, outage_s: float) -> None:
        """A session goes on at another server, or the same one restarted, under another id."""
        with self._lock:
            self._sessions.pop(before, None)
            self._standbys.pop(session.id, None)
            self._sessions[session.id] = session
            self._resumed += 1
        self._log(
            f"session {before.hex()[:8]} of {session.hello.program} (pid {session.hello.pid}) "
            + (session.last_move or _RESUMED).format(session.id.hex()[:8], outage_s)
        )

    def _routed(self, session: RobotSession, gone: bytes, came: bytes) -> None:
        """A session has another that stands by for it, or none any more."""
        with self._lock:
            self._standbys.pop(gone, None)
            if came:
                self._standbys[came] = session

    def _send_away(self, connection: socket.socket, text: str) -> RobotSession | None:
        self._refuse(text)
        with contextlib.suppress(OSError):
            send_welcome(connection, Welcome(int(CUresult.SYSTEM_NOT_READY), text))
        connection.close()
        return None

    def _refuse(self, text: str) -> None:
        self._refused += 1
        self._last_refusal = text
        self._log(f"program refused: {text}")
