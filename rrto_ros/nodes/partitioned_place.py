"""Sessions whose calls run partly here and partly at an edge: owns their table.

To a recorder's session such a table is one more server, on the robot (`robot/places/place.py`).
Each of its sessions is made of two: one at an edge, opened as the recorder opens a program's, and
one on the robot's own device (`local_place.py`), which shows the program the same device.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rrto_ros.api.info import DeviceInfo
from rrto_ros.edge.clock import SessionClock
from rrto_ros.edge.gate import Admission
from rrto_ros.edge.host import HostLimits, SessionHost
from rrto_ros.edge.worker_process import WorkerDeath
from rrto_ros.errors import ProtocolError, RrtoError, UnavailableError
from rrto_ros.execution.messages import Results
from rrto_ros.nodes.local_place import LocalPlace
from rrto_ros.nodes.local_table import SILENCE_S
from rrto_ros.nodes.partitioned_worker import PartitionedWorker
from rrto_ros.robot.partition.end_session import EndSession
from rrto_ros.robot.partition.planner import Aim
from rrto_ros.robot.places.servers import open_somewhere
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.opening import Opened, close_session, open_session
from rrto_ros.wire.port import (
    ANY_SERVER,
    Believes,
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    RobotPort,
)

_PLANNED = ("plans", "understood", "calls_at_robot", "calls_at_edge", "changes")
_EXECUTED = ("work_robot", "work_edge", "transfers", "brought_bytes")
_PRECISION = ("coarse_inferences", "coarse_bytes", "saved_bytes", "samples", "raised")
_EXCHANGED = ("sent_bytes", "received_bytes")


class PartitionedPlace:
    """The table.

    Args:
        local: The robot's own device.
        deliver: Takes results of its sessions (any thread, messages of one session in order).
        log: Takes lines for the log (any thread).
    """

    def __init__(
        self,
        local: LocalPlace,
        deliver: Callable[[ResultsMessage], None],
        log: Callable[[str], None],
    ) -> None:
        self._local = local
        self._deliver = deliver
        self._log = log
        self._gate = local.gate
        self._lock = threading.Lock()
        self._hosts: dict[bytes, SessionHost] = {}
        self._ends: dict[bytes, EndSession] = {}
        self._edges: RobotPort | None = None
        self._config: Callable[[], SessionConfig] = SessionConfig
        self._aim: Callable[[], Aim] = Aim
        self._clock: SessionClock | None = None
        self._opened = self._refused = 0
        self._closed = False

    @property
    def server(self) -> bytes:
        """Its id as a server."""
        return self._local.server

    def connect(
        self, edges: RobotPort, config: Callable[[], SessionConfig], aim: Callable[[], Aim]
    ) -> None:
        """Sessions at edges are opened by this way from now on.

        Args:
            edges: The way to servers.
            config: Gives the settings of sessions that are opened.
            aim: Gives what their placements are chosen for.
        """
        self._edges, self._config, self._aim = edges, config, aim

    def takes(self, message: ResultsMessage) -> bool:
        """Take a message of results if it is for a part of a session here."""
        end = self._ends.get(message.session)
        if end is None:
            return False
        end.on_results(message)
        return True

    def has(self, session: bytes) -> bool:
        """Whether a session is open here."""
        return session in self._hosts

    def receive(self, message: CallsMessage) -> None:
        """Take a message of a session that is here."""
        host = self._hosts.get(message.session)
        if host is None:
            return
        try:
            host.receive(message)
        except ProtocolError as error:
            self._log(f"session {message.session.hex()[:8]}: {error}")

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:  # noqa: ARG002
        """Close a session; does not wait."""
        with self._lock:
            host = self._hosts.pop(session, None)
        if host is not None:
            threading.Thread(target=self._end, args=(host, reason), daemon=True).start()

    def open_session(
        self,
        request: OpenRequest,
        timeout_s: float,
        believes: Believes | None = None,  # noqa: ARG002  # a port has it
        patience_s: float = 0.0,  # noqa: ARG002
    ) -> OpenAnswer:
        """Open a session at an edge and here (`RobotPort.open_session`)."""
        admission = self._gate.admit(request, "")
        if isinstance(admission, OpenAnswer):
            return admission
        try:
            return self._open(request, admission, timeout_s)
        except RrtoError as error:
            self._refused += 1
            return OpenAnswer(False, str(error), server=self.server)

    def publish_calls(self, message: CallsMessage) -> None:
        """As a `RobotPort`."""
        self.receive(message)

    def close(self, reason: str = "the recorder shuts down") -> None:
        """End all sessions; waits for it."""
        with self._lock:
            self._closed = True
            hosts = list(self._hosts.values())
            self._hosts.clear()
        if self._clock is not None:
            self._clock.close()
        for host in hosts:
            self._end(host, reason)

    def statistics(self) -> dict[str, Any]:
        """Sessions here now and so far, refusals; of those here where their calls run."""
        with self._lock:
            hosts = list(self._hosts.values())
        totals: Counter[str] = Counter()
        why = exact = ""
        bits, worst = 0, 0.0
        for host in hosts:
            said = host.worker.statistics()
            planner, executor = said["planner"], said["executor"]
            why = why or str(planner["last_refusal"])
            totals.update({name: planner[name] for name in _PLANNED})
            totals.update({name: executor[name] for name in _EXECUTED})
            totals.update({name: said[name] for name in _EXCHANGED})
            if precision := said["precision"]:
                totals.update({f"precision_{name}": precision[name] for name in _PRECISION})
                bits = int(precision["bits"])
                worst = max(worst, float(precision["worst_error"]))
                exact = exact or str(precision["exact_because"])
        return {
            "sessions": len(hosts),
            "opened": self._opened,
            "refused": self._refused,
            **{name: totals[name] for name in (*_PLANNED, *_EXECUTED, *_EXCHANGED)},
            "last_refusal": why,
            **{f"precision_{name}": totals[f"precision_{name}"] for name in _PRECISION},
            "precision_bits": bits,
            "precision_worst_error": worst,
            "precision_exact_because": exact,
        }

    def _open(self, request: OpenRequest, admission: Admission, timeout_s: float) -> OpenAnswer:
        edges, config = self._edges, self._config()
        if edges is None or self._closed:
            raise UnavailableError("the recorder is not active")
        asks = replace(request, session=uuid.uuid4().bytes, server=ANY_SERVER)
        far = open_somewhere(edges, asks, config.credentials, timeout_s, config.choice)
        info = _info(far, "the edge")
        if far.seal is not None:
            config.disclose(asks.session, far.seal.keys.pack())
        self._local.seen(info)
        own = replace(
            asks, session=uuid.uuid4().bytes, device=info.kind, arena_base=info.arena_base,
            server=self.server,
        )  # fmt: skip
        port = self._local.port(info.kind, info)
        try:
            near = open_session(port, own, None, timeout_s)
            if (shown := _info(near, "this robot's own device")).arena_base != info.arena_base:
                raise UnavailableError(
                    f"memory begins at 0x{shown.arena_base:x} on this robot and at "
                    f"0x{info.arena_base:x} at the edge: one session cannot have both"
                )
        except RrtoError:
            close_session(edges, far, asks.session, "it cannot be had on the robot, too")
            raise
        return self._join(request, admission, info, config, (port, own.session, near),
                          (edges, asks.session, far))  # fmt: skip

    def _join(
        self,
        request: OpenRequest,
        admission: Admission,
        info: DeviceInfo,
        config: SessionConfig,
        *parts: tuple[RobotPort, bytes, Opened],
    ) -> OpenAnswer:
        hosts: list[SessionHost] = []
        ready = threading.Event()

        def make(
            place: int,
            took: Callable[[bytes, int], None],
            lost: Callable[[str], None],
            full: Callable[[], bool],
        ) -> EndSession:
            port, session, opened = parts[place]
            end = EndSession(config, port, session, opened, took, lost, full)
            self._ends[session] = end
            return end

        def on_results(results: Results) -> None:
            ready.wait()
            hosts[0].on_results(results)

        def on_death(death: WorkerDeath) -> None:
            ready.wait()
            self._log(f"session {request.session.hex()[:8]}: {death.text}")
            hosts[0].on_death(death)

        def on_loss(why: str) -> None:
            ready.wait()
            self._over(hosts[0], why)

        worker = PartitionedWorker(
            info.compute_capability, self._aim(), make, on_results,
            lambda text: hosts[0].on_malformed(text), on_death, on_loss,
        )  # fmt: skip
        if self._clock is None:
            self._clock = SessionClock(self._open_hosts, self._over, lambda _: None)
        host = SessionHost(
            request, info, worker, self._deliver, HostLimits(timeout_s=SILENCE_S),
            self._clock.wake, admission,
        )  # fmt: skip
        hosts.append(host)
        with self._lock:
            self._hosts[request.session] = host
        self._opened += 1
        ready.set()
        self._clock.wake(host.deadline)
        self._log(
            f"session {request.session.hex()[:8]} of {request.program} (pid {request.pid}) is "
            f"partitioned between an edge's {info.kind} device and this robot's"
        )
        return OpenAnswer(True, "", info, HostLimits().max_message_bytes, frozenset(), self.server)

    def _open_hosts(self) -> list[SessionHost]:
        with self._lock:
            return list(self._hosts.values())

    def _over(self, host: SessionHost, reason: str) -> None:
        self.close_session(host.session, reason)

    def _end(self, host: SessionHost, reason: str) -> None:
        worker = host.worker
        assert isinstance(worker, PartitionedWorker)
        self._log(f"session {host.session.hex()[:8]} ran {worker.in_words()}; closed: {reason}")
        host.close(reason)
        for end in worker.ends:
            self._ends.pop(end.session, None)


def _info(opened: Opened, where: str) -> DeviceInfo:
    answer = opened.answer
    if not answer.accepted or answer.info is None:
        raise UnavailableError(
            f"{where} refused the session: {answer.reason or 'no reason given'}"
        )
    return answer.info
