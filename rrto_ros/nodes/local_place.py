"""The robot's own device as one more server of the recorder: owns its tables of sessions.

A table (`edge/table.py`) is what an `offload_server` is made of, so a session here has what it has
there: a worker process of its own, confined by the same code, that executes its calls. The table
itself lives in the recorder. It has little to do (to put messages in order, and hand batches to a
worker), nothing of it executes a program's code, and a call finds its way without one more process
to pass. Had it a process of its own, that would have to be started, watched and ended, would take
a second to be there, and could stay behind when the recorder is killed; a worker ends by itself
when the process that started it does. Nothing is imported or started before a session is asked
for.

A device here shows programs what the session's device at the edge shows, where that changes
nothing that is computed: of device `cpu` its compute capability, its memory and how many
multiprocessors it has, which is how many cores the edge gave it. Kernels run on as many threads as
this machine has cores all the same; results do not depend on it. What cannot be made equal (a GPU
of another kind) is compared by who wants to go on here, and refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrto_ros.api.info import DeviceInfo
from rrto_ros.api.parameters import SERVER
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.nodes.known_devices import KnownDevices
from rrto_ros.wire.port import Believes, CallsMessage, OpenAnswer, OpenRequest, ResultsMessage

if TYPE_CHECKING:
    from rrto_ros.edge.gate import Gate
    from rrto_ros.edge.table import SessionTable

LAUNCH_TIMEOUT_S = 300.0
"""Ten times what a server gives a kernel: this device is slower, and a session is to end for no
reason that it would not have ended for at the edge."""
LEAST_FREE_BYTES = 256 << 20
"""With less memory free a worker would be ended, and its session with it, which can wait
instead."""
_MULTIPROCESSORS = 16
"""CUdevice_attribute: how many there are."""


class LocalPlace:
    """The place on the robot (`robot.places.Place`).

    Args:
        deliver: Takes results of its sessions (any thread, messages of one session in order).
        log: Takes lines for the log (any thread).
        known: The edge's devices; None to remember them for as long as this lives.
    """

    def __init__(
        self,
        deliver: Callable[[ResultsMessage], None],
        log: Callable[[str], None],
        known: KnownDevices | None = None,
    ) -> None:
        self._deliver = deliver
        self._log = log
        self._lock = threading.Lock()
        self._gate: Gate | None = None
        self._tables: dict[tuple[str, DeviceSettings], SessionTable] = {}
        self._owner: dict[bytes, SessionTable] = {}
        self._known = known if known is not None else KnownDevices("", log)
        self._closed = False
        self._opened = self._refused = self._failures = 0
        self._last_failure = ""

    @property
    def server(self) -> bytes:
        """Its id as a server: made of a random number, which nobody outside can know."""
        return self.gate.server

    @property
    def gate(self) -> Gate:
        """Who may open a session: whoever has this object."""
        with self._lock:
            return self._gate_of()

    def port(self, kind: str, like: DeviceInfo | None) -> _Port:
        """The way to devices of a kind (`robot.places.Place`)."""
        return _Port(self, kind, like)

    def seen(self, info: DeviceInfo) -> None:
        """An edge has opened a session on this device; programs that start here see the same."""
        self._known.put(info)

    def say(self, text: str) -> None:
        """Write a line into the recorder's log."""
        self._log(text)

    def has(self, session: bytes) -> bool:
        """Whether a session was opened here and not closed by its robot."""
        return session in self._owner

    def receive(self, message: CallsMessage) -> None:
        """Take a message of a session that is here."""
        table = self._owner.get(message.session)
        if table is not None:
            table.receive(message)

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:
        """Close a session; does not wait."""
        table = self._owner.pop(session, None)
        if table is not None:
            table.close_session(session, reason, proof)

    def open(self, kind: str, like: DeviceInfo | None, request: OpenRequest) -> OpenAnswer:
        """Open a session; waits for its worker and its device.

        Args:
            kind: Of the device.
            like: The device to show; None: as the edge's was last, or this machine's own.
            request: What is asked.
        """
        if request.device and kind != request.device:
            return self._refusal(
                f"fallback_device is {kind!r} and the session's device is {request.device!r}, on "
                "which results are others; leave fallback_device empty"
            )
        if (free := _available_bytes()) < LEAST_FREE_BYTES:
            return self._refusal(
                f"{free >> 20} MiB of memory are free here, at least {LEAST_FREE_BYTES >> 20} are "
                "wanted; end other programs"
            )
        like = like or self._known.get(kind)
        if like is not None and not request.arena_base:
            request = replace(request, arena_base=like.arena_base)
        try:
            table = self._table(kind, like, request.limit_bytes)
            self._owner[request.session] = table
            answer = table.open(request)
        except RrtoError as error:
            answer = OpenAnswer(False, str(error))
        if answer is None:
            answer = OpenAnswer(False, "the request is for another server")
        if not answer.accepted:
            self._owner.pop(request.session, None)
        if answer.reason:
            return self._refusal(answer.reason)
        self._opened += answer.accepted
        return answer

    def close(self, reason: str = "the recorder closes its own device") -> None:
        """End all sessions and their workers; waits for it."""
        with self._lock:
            self._closed = True
            tables = list(self._tables.values())
            self._tables.clear()
        for table in tables:
            table.close(reason)
        self._owner.clear()

    def statistics(self) -> dict[str, Any]:
        """Sessions here now and so far, refusals, and workers started."""
        with self._lock:
            tables = [table.statistics() for table in self._tables.values()]
        return {
            "sessions": sum(table["sessions"] for table in tables),
            "opened": self._opened,
            "refused": self._refused,
            "workers_started": sum(table["pool"]["started"] for table in tables),
            "failures": self._failures,
            "last_failure": self._last_failure,
        }

    def _refusal(self, reason: str) -> OpenAnswer:
        self._refused += 1
        return OpenAnswer(False, reason)

    def _gate_of(self) -> Gate:
        """Who may open a session: whoever has this object."""
        if self._gate is None:
            from rrto_ros.nodes.local_table import InProcessGate

            self._gate = InProcessGate()
        return self._gate

    def _table(self, kind: str, like: DeviceInfo | None, limit_bytes: int) -> SessionTable:
        """The table for devices like this one; there is one per device that programs know."""
        device = DeviceSettings(
            limit_bytes=limit_bytes or int(SERVER["limit_bytes"].default),
            launch_timeout_s=LAUNCH_TIMEOUT_S,
        )
        if like is not None:
            device = replace(device, limit_bytes=like.total_bytes)
        if like is not None and kind != "gpu":
            device = replace(device, compute_capability=like.compute_capability)
        if like is not None and kind == "cpu":
            device = replace(device, multiprocessors=like.attributes.get(_MULTIPROCESSORS, 0))
        with self._lock:
            if self._closed:
                raise UnavailableError("the recorder shuts down")
            table = self._tables.get((kind, device))
            if table is None:
                table = self._tables[kind, device] = self._make(kind, device)
            return table

    def _make(self, kind: str, device: DeviceSettings) -> SessionTable:
        from rrto_ros.nodes.local_table import make_table

        return make_table(kind, device, self._gate_of(), self._publish, self._line)

    def _line(self, text: str) -> None:
        self._log(f"on this robot: {text}")

    def _publish(self, message: ResultsMessage) -> None:
        try:
            self._deliver(message)
        except Exception as error:
            # As in the thread that takes messages of the network: counted, and the message is
            # lost. The worker's thread goes on.
            self._failures += 1
            self._last_failure = f"{type(error).__name__}: {error}"


def _available_bytes() -> int:
    """Memory that this machine can still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return LEAST_FREE_BYTES


class _Port:
    """A `RobotPort` to the place, for devices of one kind that look like one device."""

    def __init__(self, place: LocalPlace, kind: str, like: DeviceInfo | None) -> None:
        self._place = place
        self._kind = kind
        self._like = like

    def publish_calls(self, message: CallsMessage) -> None:
        self._place.receive(message)

    def open_session(
        self,
        request: OpenRequest,
        timeout_s: float,  # noqa: ARG002  # a port has it; there is one server, and it answers
        believes: Believes | None = None,  # noqa: ARG002
        patience_s: float = 0.0,  # noqa: ARG002
    ) -> OpenAnswer:
        return self._place.open(self._kind, self._like, request)

    def close_session(self, session: bytes, reason: str, proof: bytes = b"") -> None:
        self._place.close_session(session, reason, proof)
