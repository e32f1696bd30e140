"""The node on the robot: takes the driver calls of interposed programs and has them executed.

A lifecycle node. Owns the ROS side only (parameters, transitions, status, diagnostics); sessions
are in `rrto_ros.robot.host`. What each transition does and refuses:

    configure    checks the parameters, makes the socket and the data topics. Refused (the node
                 stays unconfigured, the log says why) if a parameter cannot be used, the socket's
                 folder is not the user's own, or another recorder of this robot runs.
    activate     accepts programs. Before, they are answered with SYSTEM_NOT_READY and the reason.
    deactivate   accepts no more programs. Refused while a session is open, unless the parameter
                 `force_deactivate` is set: then sessions end and their programs' calls return
                 DEVICE_UNAVAILABLE.
    cleanup      closes the socket and the topics; parameters are read anew by `configure`.
    shutdown     from any state; ends open sessions. SIGINT and SIGTERM do the same and end the
                 process.
    an error     in a transition ends sessions, closes everything and leads to unconfigured.

Over 400 lines: a node is one class to rclpy, and all of it is one call each into other modules.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import rclpy
import rclpy.logging
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from rrto_msgs.msg import SessionStatus, Status
from rrto_msgs.srv import MoveSessions
from rrto_ros.api._generated.exports import CLASSES, EXPORTS
from rrto_ros.api.choices import LOCAL
from rrto_ros.api.parameters import RECORDER, SESSIONS
from rrto_ros.errors import ConfigError, RrtoError
from rrto_ros.nodes.known_devices import KnownDevices
from rrto_ros.nodes.local_place import LocalPlace
from rrto_ros.nodes.recorder_parameters import aim_of, power_of, session_config
from rrto_ros.nodes.robot_places import RobotPlaces
from rrto_ros.nodes.session_messages import session_message
from rrto_ros.robot.host import RobotHost
from rrto_ros.robot.places.balance import MEASURE_S, Balance
from rrto_ros.robot.places.fallback import Here, in_words
from rrto_ros.robot.places.orders import Orders
from rrto_ros.robot.places.place import PlacedPort, from_outside
from rrto_ros.robot.places.servers import Servers
from rrto_ros.robot.session import RobotSession
from rrto_ros.robot.status import SessionSnapshot
from rrto_ros.ros.context import (
    end,
    every,
    find_log_folder,
    graph_transports,
    leave,
    make_files_private,
    use_profile,
)
from rrto_ros.ros.parameters import declare
from rrto_ros.ros.participant import SpinThread, announcement_qos
from rrto_ros.ros.robot_port import RosRobotPort
from rrto_ros.ros.shared_memory import start_clean
from rrto_ros.ros.watchdog import Watchdog
from rrto_ros.runtime_files import socket_path
from rrto_ros.termination import Termination
from rrto_ros.text import printable
from rrto_ros.wire.port import SERVER, ResultsMessage, topic

DIAGNOSTICS_PERIOD_S = 1.0
_SWITCH_INTERVAL_S = 0.0005
_SUPPORTED = frozenset(CLASSES)
_OK = TransitionCallbackReturn.SUCCESS
_REFUSED = TransitionCallbackReturn.FAILURE


class RecorderReplayer(LifecycleNode):  # type: ignore[misc]  # rclpy has no types
    """Serves the programs of one robot.

    Raises:
        ConfigError: A parameter cannot be used.
    """

    def __init__(self, **options: Any) -> None:
        with graph_transports():
            super().__init__("recorder_replayer", **options)
        robot = str(declare(self, RECORDER.values(), check=False)["robot"])
        self._robot = robot
        self._host: RobotHost | None = None
        self._port: RosRobotPort | None = None
        self._servers = Servers()
        self._orders = Orders(self._open_sessions, self._servers)
        self._place: RobotPlaces | None = None
        self._balance = Balance(self._servers, self._orders.send)
        self._server_seen = False
        self._server_transports = ""
        self._lifecycle_state = "unconfigured"
        # rclpy has no public way to read the state without a service call to oneself.
        self._lock = threading.Lock()
        self._status = self.create_publisher(Status, topic(robot, "status"), QoSProfile(depth=10))
        # Servers that start later and elsewhere; what they say is needed until they are reached.
        self.create_subscription(
            Status,
            topic(robot, "status"),
            self._take_status,
            QoSProfile(depth=4, reliability=ReliabilityPolicy.BEST_EFFORT),
        )
        self._reports = self.create_publisher(
            SessionStatus, topic(robot, "reports"), announcement_qos()
        )
        self._diagnostics = self.create_publisher(
            DiagnosticArray, "/diagnostics", QoSProfile(depth=10)
        )
        self.create_service(MoveSessions, topic(robot, "move_sessions"), self._move_sessions)
        rate = float(self.get_parameter("status_rate_hz").value)
        every(self, 1.0 / rate, self.publish_status)
        every(self, MEASURE_S, self._rebalance)
        every(self, DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)
        self.add_on_set_parameters_callback(self._check_change)
        self.add_post_set_parameters_callback(self._apply_change)

    # ---- transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters; make the socket and the topics."""
        try:
            known = KnownDevices(self._robot, self._log_info)
            local = LocalPlace(self._deliver, self._log_info, known)
            place = RobotPlaces(local, self._deliver, self._log_info)
            power_of(self)
            config = session_config(self, self._servers, place=place)
            sessions = int(self.get_parameter("max_sessions").value)
            path = socket_path(self._robot, self.context.get_domain_id())
            host = RobotHost(path, config, sessions, self._report, self._log_info)
        except (RrtoError, OSError) as error:
            self.get_logger().error(f"not configured: {error}")
            return _REFUSED
        self._host, self._place = host, place
        domain = self.context.get_domain_id()
        on_results = from_outside(place, host.on_results)
        self._port = RosRobotPort(
            domain, self._robot, on_results, self.get_name(), self.publish_status,
            self._servers_announced, lambda: self._server_transports, self._log_info,
        )  # fmt: skip
        place.connect(
            self._port,
            lambda: session_config(self, self._servers, place=place),
            lambda: aim_of(self),
        )
        super().on_configure(state)
        self._entered("inactive")
        return _OK

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Accept programs."""
        if self._host is None or self._port is None or self._place is None:
            return TransitionCallbackReturn.ERROR
        self._host.activate(PlacedPort(self._port, self._place))
        if self.get_parameter("authentication").value == "off":
            self.get_logger().warning(
                "authentication is off: anybody in this ROS domain can read the sessions and "
                "write into them (docs/security.md)"
            )
        super().on_activate(state)
        self._entered("active")
        mode = self.get_parameter("mode").value
        self.get_logger().info(
            f"active in mode {mode}: programs of robot {self._robot!r} find it at "
            f"{self._host.path}"
        )
        return _OK

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Accept no more programs, if none has a session."""
        if self._host is None:
            return TransitionCallbackReturn.ERROR
        port, place = self._port, self._place
        self._host.deactivate()
        sessions = self._host.sessions
        if sessions and not self.get_parameter("force_deactivate").value:
            names = ", ".join(f"{s.hello.program} (pid {s.hello.pid})" for s in sessions)
            self.get_logger().error(
                f"not deactivated: {len(sessions)} sessions are open ({names}); end the programs, "
                "or set force_deactivate to true"
            )
            if port is not None and place is not None:
                self._host.activate(PlacedPort(port, place))
            return _REFUSED
        self._host.stop_sessions("recorder_replayer was deactivated")
        super().on_deactivate(state)
        self._entered("inactive")
        return _OK

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the socket and the topics."""
        self._release("recorder_replayer was cleaned up")
        super().on_cleanup(state)
        self._entered("unconfigured")
        return _OK

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End sessions and close everything."""
        self._release("recorder_replayer was shut down")
        super().on_shutdown(state)
        self._entered("finalized")
        return _OK

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End sessions, close everything and be unconfigured again."""
        self._release("recorder_replayer failed in a transition")
        super().on_error(state)
        self._entered("unconfigured")
        return _OK

    def start(self) -> None:
        """Configure and activate, as `autostart` wants it; before the node is spun.

        Raises:
            ConfigError: A transition was refused; the log says why.
        """
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != _OK:
                raise ConfigError("autostart failed; the message before this one says why")

    def close(self) -> None:
        """End sessions, close everything, publish the last status."""
        self._release("recorder_replayer shuts down")
        self._lifecycle_state = "finalized"
        self.publish_status()

    def statistics(self) -> dict[str, Any]:
        """Counters of the sessions and of the port."""
        host, port, place = self._host, self._port, self._place
        own = place.statistics() if place is not None else {}
        return {
            **(host.statistics() if host is not None else {}),
            **self._servers.statistics(),
            **self._orders.statistics(),
            **{f"place_{name}": value for name, value in own.items()},
            **self._balance.statistics(),
            **({"port": port.statistics()} if port is not None else {}),
        }

    def _entered(self, state: str) -> None:
        self._lifecycle_state = state
        self.publish_status()

    def _release(self, reason: str) -> None:
        host, port, place = self._host, self._port, self._place
        self._host = self._port = self._place = None
        if host is not None:
            host.close(reason)
        if place is not None:
            place.close(reason)
        if port is not None:
            port.close()

    # ---- parameters

    def _check_change(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            changed = {p.name: p.value for p in parameters}
            session_config(self, self._servers, changed)
            power_of(self, changed)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_change(self, parameters: list[Parameter]) -> None:
        host = self._host
        if host is None:
            return
        names = {p.name for p in parameters}
        if "mode" in names or any(RECORDER[n].changes == SESSIONS for n in names & {*RECORDER}):
            config = session_config(self, self._servers, place=self._place)
            host.reconfigure(config)
            if "mode" in names:
                host.set_mode(config.mode)
                self.get_logger().info(f"mode is {config.mode}")

    # ---- what others see (the sessions' threads and the timers)

    def _deliver(self, message: ResultsMessage) -> None:
        """Results of places on the robot."""
        host, place = self._host, self._place
        if host is not None and not (place is not None and place.takes(message)):
            host.on_results(message)

    def _log_info(self, text: str) -> None:
        self.get_logger().info(printable(text))

    def _report(self, snapshot: SessionSnapshot) -> None:
        message = session_message(snapshot, EXPORTS, _SUPPORTED)
        with self._lock:
            self._reports.publish(message)

    def _servers_announced(self) -> int:
        """How many servers' status is on the user's transports, which the data's are not."""
        found = self.get_publishers_info_by_topic(topic(self._robot, "status"))
        return sum(one.node_name == SERVER for one in found)

    def _take_status(self, status: Status) -> None:
        if status.kind == SERVER:
            self._server_transports = status.transports
            self._servers.heard(status.server_id.tobytes(), status.server_name, status.state)
            self._orders.drain()

    def _open_sessions(self) -> list[RobotSession]:
        host = self._host
        return host.sessions if host is not None else []

    def _rebalance(self) -> None:
        """Have sessions go where their results come sooner, if that is wanted."""
        port = self._port
        if port is None or not self.get_parameter("rebalance").value:
            return
        self._balance.judge(self._open_sessions())
        port.measure(self._balance.measured)

    def _move_sessions(self, request: Any, response: Any) -> Any:
        done = self._orders.move(request.session.tobytes(), request.server)
        response.accepted, response.reason = done.sessions > 0, done.reason
        response.sessions = done.sessions
        return response

    def _server_state(self) -> str:
        port = self._port
        if port is not None and port.server_seen():
            self._server_seen = True
            return "connected"
        return "lost" if self._server_seen else "unknown"

    def publish_status(self) -> None:
        """Publish the status now."""
        host = self._host
        out = Status()
        out.stamp = self.get_clock().now().to_msg()
        out.node = self.get_fully_qualified_name()
        out.kind = "recorder_replayer"
        out.state = self._lifecycle_state
        out.mode = str(self.get_parameter("mode").value)
        out.device = str(self.get_parameter("device").value)
        out.server_state = self._server_state()
        port = self._port
        out.listeners = port.listeners() if port is not None else []
        out.transports = port.transports if port is not None else ""
        out.authentication = str(self.get_parameter("authentication").value)
        if host is not None:
            out.messages_refused, out.last_refusal = host.refused
            out.sessions = [
                session_message(session.snapshot(), EXPORTS, _SUPPORTED)
                for session in host.sessions
            ]
        with self._lock:
            self._status.publish(out)

    def _publish_diagnostics(self) -> None:
        host = self._host
        server = self._server_state()
        sessions = host.sessions if host is not None else []
        snapshots = [s.snapshot() for s in sessions]
        here = [Here(s.snapshot(), s.here_s) for s in sessions if s.here_s]
        failed = [s for s in snapshots if s.error]
        out = DiagnosticStatus()
        out.name = f"{self.get_name()}: sessions"
        out.hardware_id = self._robot
        out.level = DiagnosticStatus.OK
        out.message = f"{self._lifecycle_state}, {len(snapshots)} sessions, server {server}"
        if self.get_parameter("authentication").value == "off":
            out.message += ", authentication is off"
        local = self.get_parameter("mode").value == LOCAL
        if self._lifecycle_state == "active" and server != "connected" and not local:
            out.level = DiagnosticStatus.WARN
            out.message = f"no offload server on {topic(self._robot, 'open_session')} ({server})"
        if here:
            out.level = DiagnosticStatus.OK if local else DiagnosticStatus.WARN
            out.message = in_words(here)
        if failed:
            out.level = DiagnosticStatus.ERROR
            first = failed[0]
            out.message = (
                f"{len(failed)} of {len(snapshots)} sessions failed; {first.program} "
                f"(pid {first.pid}): {first.error}"
            )
        values = {
            key: value for key, value in self.statistics().items() if not isinstance(value, dict)
        }
        out.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [out]
        self._diagnostics.publish(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        arguments: Command line without the program's name; None takes it from sys.argv.

    Returns:
        Exit code: 0 stopped, 1 failed, 2 a parameter cannot be used or autostart failed.
    """
    use_profile()
    make_files_private()
    start_clean()
    find_log_folder()
    # Programs and the server are told of a shutdown, so the context must outlive the signal.
    rclpy.init(
        args=None if arguments is None else [sys.argv[0], *arguments],
        signal_handler_options=SignalHandlerOptions.NO,
    )
    # The thread that brings a result takes over from a busy one within this time.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # A second signal does not cut the shutdown short either.
    with Termination() as termination, Watchdog("recorder_replayer", log=_warn):
        return end(_run(termination))


def _warn(text: str) -> None:
    rclpy.logging.get_logger("recorder_replayer").warning(text)


def _run(termination: Termination) -> int:
    code = 0
    node: RecorderReplayer | None = None
    spin: SpinThread | None = None
    try:
        node = RecorderReplayer()
        if node.get_parameter("autostart").value:
            node.start()
        spin = SpinThread(node)
        termination.wait()
    except (RrtoError, ParameterException) as error:
        rclpy.logging.get_logger("recorder_replayer").fatal(str(error))
        code = 2
    except Exception as error:
        rclpy.logging.get_logger("recorder_replayer").fatal(f"{type(error).__name__}: {error}")
        code = 1
    finally:
        if node is not None:
            node.close()
        if spin is not None:
            spin.close()
        if node is not None:
            leave(node.context, node)
        rclpy.try_shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main())
