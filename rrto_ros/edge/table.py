"""All sessions of one server: owns who may open, which session a message is for, and the clock.

Whatever is refused (a foreign session, a message out of bounds, a wrong table of operations) is
counted, named in `last_refusal`, and logged at most once per second. No ROS here.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from rrto_ros.api.info import DeviceInfo
from rrto_ros.confinement import OFF, memory_limit
from rrto_ros.confinement import check as check_confinement
from rrto_ros.devices.kernel_store import KERNELS, kernel_store
from rrto_ros.devices.registry import check_available
from rrto_ros.disk_store import DiskStore, opened
from rrto_ros.edge.clock import SessionClock
from rrto_ros.edge.fairness import Fairness
from rrto_ros.edge.gate import Admission, Gate
from rrto_ros.edge.host import SessionHost
from rrto_ros.edge.settings import ServerSettings, confinement, unfit
from rrto_ros.edge.stores import Stores
from rrto_ros.edge.told import NotOpen, Refused, closed_message
from rrto_ros.edge.worker_pool import WorkerPool
from rrto_ros.edge.worker_process import WorkerDeath
from rrto_ros.errors import ProtocolError, RrtoError
from rrto_ros.execution.messages import Open
from rrto_ros.heap import give_back
from rrto_ros.wire.blob_store import FOLDER, BlobStore
from rrto_ros.wire.codec import blob_tag
from rrto_ros.wire.port import (
    ANY_SERVER,
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    SessionAnnouncement,
)
from rrto_ros.zstd import codec

KNOWN_BLOBS = 4096
_STOPPED = "the server shuts down"


class SessionTable:
    """The sessions of one server.

    Args:
        settings: What it offers.
        publish: Sends one message of results (any thread).
        announce: Says that a session opened or closed (any thread).
        log: Takes lines for the log (any thread).
        gate: Who may open a session; None for anybody.

    Attributes:
        has_company: Whether the robot has other servers, whose messages are heard here, too.

    Raises:
        ConfigError: A setting cannot be used.
        UnavailableError: The device cannot be had on this machine.
    """

    def __init__(
        self,
        settings: ServerSettings,
        publish: Callable[[ResultsMessage], None],
        announce: Callable[[SessionAnnouncement], None],
        log: Callable[[str], None],
        gate: Gate | None = None,
    ) -> None:
        codec()  # robots pack what they send
        if not settings.factory:
            check_available(settings.device)
        check_confinement(settings.confinement)
        self._settings = settings
        self._publish = publish
        self._announce = announce
        self._log = log
        self._gate = gate or Gate(None)
        self._blobs = opened(
            BlobStore, FOLDER, settings.blob_directory, settings.blob_bytes, log, strict=True
        )
        self._kernels = self._kernel_store()
        self._hosts: dict[bytes, SessionHost] = {}
        self._opening: Counter[str] = Counter()
        self._fairness = Fairness(settings.peers, settings.max_sessions)
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._draining = False
        self.has_company = False
        self._foreign = 0
        self._refused = Refused(log)
        self._not_open = NotOpen(self._say_closed)
        self._unproven_closes = 0
        self._opened = 0
        self._ended = 0
        self._pool = WorkerPool(
            settings.spare_workers, settings.device, settings.factory, log,
            confinement=confinement(settings, log),
        )  # fmt: skip
        self._closers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="close-session")
        self._stopped = threading.Event()
        self._clock = SessionClock(lambda: self.hosts, self._close, self._measure)

    def _kernel_store(self) -> DiskStore | None:
        """Where compiled kernels are kept, for devices that compile."""
        settings, device = self._settings, self._settings.device_settings
        if settings.device != "cpu" or settings.factory:
            return None
        return opened(kernel_store, KERNELS, device.cache_directory, device.cache_bytes, self._log)

    def open(self, request: OpenRequest) -> OpenAnswer | None:
        """Answer a request for a session; making its device may take a second.

        Returns:
            None for a request that is another server's to answer, and for one that any server
            may answer, while this one drains.
        """
        if self._gate.others(request):
            return None
        if self._draining and request.server == ANY_SERVER:
            # Whoever asks for any server shall get one that stays.
            return None
        present = self._hosts.get(request.session)
        if present is not None and present.asked == request:
            # Sent again because its answer was late or lost.
            return self._accepted(present)
        objection = _STOPPED if self._draining else unfit(self._settings, request)
        admission = self._gate.admit(request, objection)
        if isinstance(admission, OpenAnswer):
            if admission.reason:
                self._refused.note(f"session not opened: {admission.reason}")
            return admission
        peer = admission.share(request)
        reason = objection or self._no_room(request, peer)
        if reason:
            self._refused.note(f"session not opened: {reason}")
            return admission.proven(OpenAnswer(False, reason, server=self._gate.server))
        try:
            host = self._open(request, admission)
        except RrtoError as error:
            self._refused.note(f"session not opened: {error}")
            return admission.proven(OpenAnswer(False, str(error), server=self._gate.server))
        finally:
            with self._lock:
                self._opening[peer] -= 1
                self._opening += Counter()
        if self._stopped.is_set():
            # It was opened while `close` went through those that were open.
            self._close(host, _STOPPED)
            return admission.proven(OpenAnswer(False, _STOPPED, server=self._gate.server))
        info = host.info
        request = host.request
        self._announce(_announcement(request, info, opened=True))
        self._log(
            f"session {request.session.hex()[:8]} of {request.program or 'a program'} "
            f"(pid {request.pid}, {admission.peer}) opened on {info.name}"
        )
        return self._accepted(host)

    def _accepted(self, host: SessionHost) -> OpenAnswer:
        known: frozenset[bytes] = frozenset()
        if self._blobs is not None and self._settings.announce_blobs:
            known = frozenset(map(blob_tag, self._blobs.newest(KNOWN_BLOBS)))
        limit = self._settings.limits.max_message_bytes
        answer = OpenAnswer(True, "", host.info, limit, known, self._gate.server)
        return host.admission.proven(answer)

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> tuple[bool, str]:
        """Close a session because its robot asks; returns at once.

        Args:
            session: Its id.
            reason: For the log.
            proof: That the robot asks, where the session's messages are sealed.

        Returns:
            Whether it was open and is closed, and why not.
        """
        host = self._hosts.get(session)
        if host is None:
            return False, f"session {session.hex()[:8]} is not open on this server"
        seal = host.admission.seal
        if seal is not None and not seal.proves_close(proof, session, reason):
            self._unproven_closes += 1
            text = f"session {session.hex()[:8]} not closed: it was not its robot that asked"
            self._refused.note(text)
            return False, text
        self._close(host, reason or "the recorder closed it")
        return True, ""

    def _close(self, host: SessionHost, reason: str) -> None:
        with self._lock:
            if self._hosts.get(host.session) is not host:
                return
            del self._hosts[host.session]
            self._left.notify_all()
            self._ended += 1
            self._not_open.over(host.session, host.admission.closed)
        try:
            self._closers.submit(self._end, host, reason)
        except RuntimeError:  # the pool is shut down
            self._end(host, reason)

    def receive(self, message: CallsMessage) -> None:
        """Route one message of calls to its session; what is refused is counted and named."""
        host = self._hosts.get(message.session)
        if host is None:
            if self.has_company:
                self._foreign += 1
            else:
                self._refused.note(
                    f"message {message.sequence} for session {message.session.hex()[:8]}, "
                    "which is not open here"
                )
            self._not_open.asked(message.session)
            return
        try:
            host.receive(message)
        except ProtocolError as error:
            self._refused.note(f"session {message.session.hex()[:8]}: {error}")

    @property
    def hosts(self) -> list[SessionHost]:
        """The open sessions."""
        with self._lock:
            return list(self._hosts.values())

    @property
    def authentication(self) -> str:
        """Who may open a session: "off" (anybody), "local" or "keys" (see `Gate.mode`)."""
        return self._gate.mode

    @property
    def server(self) -> bytes:
        """This server's id."""
        return self._gate.server

    def drain(self, timeout_s: float) -> bool:
        """Open no session any more, and wait until those that are open have left.

        Args:
            timeout_s: How long at most.

        Returns:
            Whether all have.
        """
        self._draining = True
        with self._left:
            return self._left.wait_for(lambda: not self._hosts, timeout_s)

    def end_untrusted(self) -> None:
        """Close the sessions of keys that are trusted no longer."""
        for host in self.hosts:
            if not self._gate.trusts(host.admission):
                self._close(host, f"its {host.admission.peer} is no longer trusted")

    @property
    def refused(self) -> tuple[int, str]:
        """How many messages and requests were refused, and the last one's reason."""
        return self._refused.count, self._refused.last

    def close(self, reason: str = _STOPPED) -> None:
        """Close every session and end every worker; waits for it."""
        self._stopped.set()
        self._clock.close()
        for host in self.hosts:
            self._close(host, reason)
        self._pool.close()
        self._closers.shutdown(wait=True)

    def statistics(self) -> dict[str, Any]:
        """Counters of the server, its pool and its blob store."""
        return {
            "sessions": len(self._hosts),
            "opened": self._opened,
            "closed": self._ended,
            "refused": self._refused.count,
            "last_refusal": self._refused.last,
            "confinement": self._pool.confined,
            "authentication": self._gate.mode,
            "unproven_closes": self._unproven_closes,
            "foreign_messages": self._foreign,
            "gate": self._gate.statistics(),
            "pool": self._pool.statistics(),
            "blobs": self._blobs.statistics() if self._blobs is not None else {},
            "kernels": self._kernels.statistics() if self._kernels is not None else {},
            "peers": self._fairness.statistics(),
        }

    def _no_room(self, request: OpenRequest, peer: str) -> str:
        """Why there is no place for a session; if there is (empty), it is taken in `_opening`."""
        settings = self._settings
        with self._lock:
            if request.session in self._hosts:
                return f"session {request.session.hex()[:8]} is already open"
            open_ = [*(host.peer for host in self._hosts.values()), *self._opening.elements()]
            if len(open_) >= settings.max_sessions:
                return f"{settings.max_sessions} sessions are open (max_sessions)"
            if objection := self._fairness.objection(peer, open_):
                return objection
            self._opening[peer] += 1
        return ""

    def _open(self, request: OpenRequest, admission: Admission) -> SessionHost:
        peer = admission.share(request)
        settings = self._settings
        common = settings.device_settings
        device = replace(
            common,
            limit_bytes=request.limit_bytes or common.limit_bytes,
            arena_base=request.arena_base,
            # Kept here; a worker has no way to files.
            cache_directory=None,
            cache_bytes=0,
        )
        wanted = Open(settings.device, device)
        blobs = self._blobs.store if self._blobs is not None else None
        # Kernels that one key's sessions had compiled are no other's.
        stores = Stores(self._kernels, blobs, origin=admission.peer.key.encode())
        worker = self._pool.take()
        # The worker has nothing to say before the host gives it a batch.
        hosts: list[SessionHost] = []
        info = worker.open(
            wanted,
            lambda results: hosts[0].on_results(results),
            lambda text: hosts[0].on_malformed(text),
            stores=stores,
        )
        host = SessionHost(
            request, info, worker, self._publish, settings.limits, self._clock.wake, admission,
            lambda now: self._fairness.owes(peer, now),
            lambda size, now: self._fairness.admit(peer, size, now),
        )  # fmt: skip
        hosts.append(host)
        with self._lock:
            self._hosts[request.session] = host
            self._not_open.opened(request.session)
            self._opened += 1
        # Only now is there somebody to tell; a worker that has ended meanwhile says so at once.
        worker.watch(lambda death: self._died(host, death))
        self._clock.wake(host.deadline)
        return host

    def _died(self, host: SessionHost, death: WorkerDeath) -> None:
        self._log(f"session {host.session.hex()[:8]}: {death.text}")
        host.on_death(death)

    def _end(self, host: SessionHost, reason: str) -> None:
        host.close(reason)
        give_back()
        self._announce(_announcement(host.request, host.info, opened=False, reason=reason))
        self._log(f"session {host.session.hex()[:8]} closed: {reason}")

    def _say_closed(self, session: bytes, proof: bytes | None) -> None:
        self._publish(closed_message(session, proof or self._gate.closed(session)))

    def _measure(self, host: SessionHost) -> None:
        """End a worker that holds more memory than a session can have a use for."""
        settings = self._settings
        if settings.confinement == OFF or settings.device == "gpu" or host.error:
            return
        most = memory_limit(host.info.total_bytes)
        if (held := host.worker.resident_bytes) > most:
            host.worker.end(f"it held {held >> 20} MiB, at most {most >> 20} are allowed")


def _announcement(
    request: OpenRequest, info: DeviceInfo, *, opened: bool, reason: str = ""
) -> SessionAnnouncement:
    return SessionAnnouncement(
        request.session,
        opened,
        request.robot,
        request.program,
        request.pid,
        info.kind,
        info.arena_base,
        info.arena_bytes,
        reason,
    )
