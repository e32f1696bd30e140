"""The node on the edge: runs every session's driver calls on this machine's device.

Owns the ROS side only (parameters, services, status, diagnostics, shutdown); sessions are in
`rrto_ros.edge.table`. Calls and results travel through `RosServerPort`, whose data
thread never waits for the opening of a session, which has a thread of its own.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import rclpy
import rclpy.logging
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from rrto_msgs.msg import SessionStatus, Status
from rrto_ros.bringup.held import await_release
from rrto_ros.edge.gate import Gate
from rrto_ros.edge.host import SessionHost
from rrto_ros.edge.table import SessionTable
from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.nodes.server_parameters import declare_names, declare_settings
from rrto_ros.ros.context import (
    data_transports,
    every,
    find_log_folder,
    graph_transports,
    leave,
    make_files_private,
    use_profile,
)
from rrto_ros.ros.message_bytes import id_array
from rrto_ros.ros.participant import SpinThread
from rrto_ros.ros.server_port import RosServerPort
from rrto_ros.ros.shared_memory import start_clean
from rrto_ros.ros.watchdog import Watchdog
from rrto_ros.runtime_files import hold, server_lock
from rrto_ros.termination import Termination
from rrto_ros.text import printable
from rrto_ros.wire.credentials import of_server
from rrto_ros.wire.port import (
    RECORDER,
    CallsMessage,
    OpenAnswer,
    OpenRequest,
    ResultsMessage,
    SessionAnnouncement,
    topic,
)

STATUS_PERIOD_S = 0.5
STATUS_FRESH_S = 12.0
"""How long what a recorder's status says holds; the slowest comes every 10 s."""
COMPANY_S = 5.0
"""How long another server is there after its status, which comes every `STATUS_PERIOD_S`."""
RUNNING, DRAINING, STOPPED = "running", "draining", "stopped"
"""What the status says of a server."""
DIAGNOSTICS_PERIOD_S = 1.0
_SWITCH_INTERVAL_S = 0.0005


class OffloadServer(Node):  # type: ignore[misc]  # rclpy has no types
    """Serves the sessions of one robot.

    Raises:
        ConfigError: A parameter cannot be used.
        UnavailableError: The device cannot be had on this machine.
    """

    def __init__(self, **options: Any) -> None:
        with graph_transports():
            super().__init__("offload_server", **options)
        self._robot, self._name = declare_names(self)
        path = server_lock(self._robot, self.context.get_domain_id(), self._name)
        lock = hold(path)
        if lock is None:
            raise UnavailableError(
                f"another offload_server of this user that is called {self._name!r} serves robot "
                f"{self._robot!r} in this ROS domain (it holds {path}); stop it, or give this one "
                "another server_name, or another robot name"
            )
        self._lock = lock
        settings, self._authentication, self._drain_s = declare_settings(self)
        self._state = RUNNING
        self._company_at = -math.inf
        self._company_name = ""
        self._device = settings.device
        self._seen_at = -math.inf
        self._reached = False
        status_topic = topic(self._robot, "status")
        # The port needs the table and the table the port; nothing arrives before both are there.
        self._port: RosServerPort | None = None
        self._table = SessionTable(
            settings, self._publish, self._announce, self._line, self._gate()
        )
        try:
            self._port = RosServerPort(
                self.context.get_domain_id(),
                self._robot,
                self._calls,
                self._open,
                self._close,
                self.get_name(),
                self._table.server,
            )
            self._status = self.create_publisher(Status, status_topic, QoSProfile(depth=10))
            self.create_subscription(
                Status,
                status_topic,
                self._take_status,
                QoSProfile(depth=4, reliability=ReliabilityPolicy.BEST_EFFORT),
            )
            self._diagnostics = self.create_publisher(
                DiagnosticArray, "/diagnostics", QoSProfile(depth=10)
            )
            every(self, STATUS_PERIOD_S, self._publish_status)
            every(self, DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)
        except BaseException:
            self._table.close()
            raise
        self._spin = SpinThread(self)
        self.get_logger().info(
            f"{self._name} is ready on {topic(self._robot, 'open_session')}: "
            f"device {settings.device}, "
            f"{settings.max_sessions} sessions of "
            f"{settings.device_settings.limit_bytes >> 20} MiB"
        )

    def _gate(self) -> Gate:
        """Who may open a session, as `authentication` and the user's keys say."""
        # Servers of one user on one machine share the secret that their ids are made of.
        place = server_lock(self._robot, self.context.get_domain_id(), self._name).name
        if self._authentication == "off":
            self.get_logger().warning(
                "authentication is off: anybody in this ROS domain can open sessions, read them "
                "and write into them (docs/security.md)"
            )
            return Gate(None, place, self._name)
        return Gate(of_server, place, self._name)

    def statistics(self) -> dict[str, Any]:
        """Counters of the sessions' table and of the port."""
        port = self._port.statistics() if self._port is not None else {}
        return {**self._table.statistics(), "port": port}

    def drain(self) -> None:
        """Tell the robots that this server stops; let sessions go on elsewhere, if they can."""
        self._state = DRAINING
        if not (self._table.hosts and self._drain_s and self._has_company):
            return
        self._publish_status()
        self._line(
            f"{self._name} is told to stop: its sessions have {self._drain_s:g} s to go on at "
            "another server"
        )
        if not self._table.drain(self._drain_s):
            self._line(f"{len(self._table.hosts)} sessions are still here, and are closed")

    def close(self) -> None:
        """Close every session (their robots are told), end the workers, leave the graph."""
        self._state = STOPPED
        self._table.close()
        self._publish_status()
        self._spin.close()
        if self._port is not None:
            self._port.close()
        os.close(self._lock)
        leave(self.context, self)

    # Called by the port's and the table's threads.

    def _calls(self, message: CallsMessage) -> None:
        self._table.receive(message)

    def _open(self, request: OpenRequest) -> OpenAnswer | None:
        return self._table.open(request)

    def _close(self, session: bytes, reason: str, proof: bytes) -> tuple[bool, str]:
        return self._table.close_session(session, reason, proof)

    def _line(self, text: str) -> None:
        self.get_logger().info(printable(text))

    def _publish(self, message: ResultsMessage) -> None:
        if self._port is not None:
            self._port.publish_results(message)

    def _announce(self, event: SessionAnnouncement) -> None:
        if self._port is not None:
            self._port.announce(event)

    # Timers of this node.

    def _take_status(self, status: Status) -> None:
        if status.kind == RECORDER:
            # One that is not configured has no participant that could be reached.
            seen = status.state in ("inactive", "active")
            self._seen_at = time.monotonic() if seen else -math.inf
            self._reached = status.server_state == "connected"
        elif status.server_id.tobytes() != self._table.server:
            gone = status.state == STOPPED
            self._company_at = -math.inf if gone else time.monotonic()
            self._company_name = printable(status.server_name, 60)

    @property
    def _has_company(self) -> bool:
        """Whether the robot has another server, as far as is heard."""
        return time.monotonic() - self._company_at < COMPANY_S

    def _publish_status(self) -> None:
        self._table.end_untrusted()
        company = self._has_company
        if company and not self._table.has_company:
            self._line(f"the robot has another server: {self._company_name or 'without a name'}")
        self._table.has_company = company
        if self._port is not None:
            seen = time.monotonic() - self._seen_at < STATUS_FRESH_S
            self._port.judge(seen, self._reached, self._line)
        refused, reason = self._table.refused
        out = Status()
        out.stamp = self.get_clock().now().to_msg()
        out.node = self.get_fully_qualified_name()
        out.kind = "offload_server"
        out.state = self._state
        out.device = self._device
        out.server_state = "connected"
        out.listeners = self._port.listeners() if self._port is not None else []
        out.transports = data_transports()
        out.authentication = self._table.authentication
        out.server_name = self._name
        out.server_id = id_array(self._table.server)
        out.messages_refused = refused
        out.last_refusal = reason
        out.sessions = [_session_status(host) for host in self._table.hosts]
        self._status.publish(out)

    def _publish_diagnostics(self) -> None:
        statistics = self._table.statistics()
        hosts = self._table.hosts
        failed = [host for host in hosts if host.error]
        out = DiagnosticStatus()
        out.name = f"{self.get_name()}: sessions"
        out.hardware_id = f"{self._robot} {self._device} {self._name}"
        out.level = DiagnosticStatus.OK
        out.message = f"{len(hosts)} sessions on device {self._device}"
        if self._authentication == "off":
            out.message += "; authentication is off"
        if failed:
            out.level = DiagnosticStatus.WARN
            out.message = f"{len(failed)} of {len(hosts)} sessions failed: {failed[0].error}"
        pairs = {
            **{key: value for key, value in statistics.items() if not isinstance(value, dict)},
            **{f"gate {key}": value for key, value in statistics["gate"].items()},
            **{f"workers {key}": value for key, value in statistics["pool"].items()},
            **{f"blobs {key}": value for key, value in statistics["blobs"].items()},
            **{f"kernels {key}": value for key, value in statistics["kernels"].items()},
        }
        out.values = [KeyValue(key=key, value=str(value)) for key, value in pairs.items()]
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [out, *(self._device_diagnostics(host) for host in hosts)]
        self._diagnostics.publish(message)

    def _device_diagnostics(self, host: SessionHost) -> DiagnosticStatus:
        """What a session's device last reported: memory, device time, the GPU's own sensors."""
        short = host.session.hex()[:8]
        reported = host.statistics()["worker"].get("device", {})
        out = DiagnosticStatus()
        out.name = f"{self.get_name()}: device of session {short}"
        out.hardware_id = host.info.name
        out.level = DiagnosticStatus.ERROR if host.error else DiagnosticStatus.OK
        out.message = host.error or f"{host.request.program or 'a program'} on {host.info.name}"
        out.values = [KeyValue(key=key, value=str(value)) for key, value in reported.items()]
        return out


def _session_status(host: SessionHost) -> SessionStatus:
    """What the server knows of a session; calls by class are counted on the robot."""
    statistics = host.statistics()
    received, sent = statistics["received"], statistics["sent"]
    out = SessionStatus()
    out.session = id_array(host.session)
    out.label = host.request.label
    out.program = host.request.program
    out.pid = host.request.pid
    out.device = host.info.kind
    out.phase = "lost" if host.error else "recording"
    out.error = host.error
    out.duration_s = float(statistics["duration_s"])
    out.batches = received["batches"]
    out.messages_sent = sent["messages"]
    out.messages_received = received["messages"]
    out.messages_resent = sent["resent"]
    out.messages_refused = statistics["refused"]
    out.bytes_sent = sent["bytes"]
    out.bytes_received = received["bytes"]
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        arguments: Command line without the program's name; None takes it from sys.argv.

    Returns:
        Exit code: 0 stopped, 1 failed, 2 a parameter or device cannot be used.
    """
    if not await_release():
        return 0
    use_profile()
    make_files_private()
    start_clean()
    find_log_folder()
    # Sessions are told of a shutdown over ROS, so the context must outlive the signal.
    rclpy.init(
        args=None if arguments is None else [sys.argv[0], *arguments],
        signal_handler_options=SignalHandlerOptions.NO,
    )
    # A result's thread takes over from a busy one within this time.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # A second signal does not cut the shutdown short either.
    with Termination() as termination, Watchdog("offload_server", log=_warn):
        return _run(termination)


def _warn(text: str) -> None:
    rclpy.logging.get_logger("offload_server").warning(text)


def _run(termination: Termination) -> int:
    code = 0
    server: OffloadServer | None = None
    try:
        server = OffloadServer()
        termination.wait()
        server.drain()
    except (RrtoError, ParameterException) as error:
        rclpy.logging.get_logger("offload_server").fatal(str(error))
        code = 2
    except Exception as error:
        rclpy.logging.get_logger("offload_server").fatal(f"{type(error).__name__}: {error}")
        code = 1
    finally:
        if server is not None:
            server.close()
        rclpy.try_shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main())
