"""`rrto run`: runs any program interposed, and starts what it needs where nothing answers."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrto_ros.bringup.environment import find_program, interposed_environment
from rrto_ros.bringup.options import Options
from rrto_ros.bringup.processes import Process, recorder, server
from rrto_ros.bringup.supervisor import Supervisor
from rrto_ros.cli.ambient import users_environment
from rrto_ros.cli.console import note, process_line
from rrto_ros.cli.replay_options import flags
from rrto_ros.cli.sessions import collect_reports
from rrto_ros.cli.summary import report
from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.transport.ring_socket import socket_path
from rrto_ros.transport.ros_client import RECORDER, SERVER, RobotClient

DISCOVERY_S = 3.0
RECORDER_S = 10.0
READY_TIMEOUT_S = 60.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Wanted:
    """What the user said explicitly; None where nothing was said.

    Attributes:
        mode: Mode of the sessions.
        device: Device of the server.
        limit_bytes: Device memory of a session.
        replay: Names of the options of mode `replay` that were given.
    """

    mode: str | None = None
    device: str | None = None
    limit_bytes: int | None = None
    replay: tuple[str, ...] = ()


def recorder_listens(robot: str, domain: int) -> bool:
    """Whether a recorder of this user holds the robot's socket on this machine."""
    lock = Path(f"{socket_path(robot, domain)}.lock")
    try:
        with lock.open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def missing_processes(client: RobotClient, options: Options, wanted: Wanted) -> list[Process]:
    """What has to be started so that programs can run.

    Raises:
        ConfigError: What runs already is not what the user wants.
        UnavailableError: A recorder holds the socket, but is not in this ROS domain.
    """
    listens = recorder_listens(options.robot, client.domain)
    if listens:
        # It knows its server, so that a server that is only slow to be discovered is not doubled.
        client.wait(lambda: client.status(RECORDER) is not None, RECORDER_S)
    client.wait(lambda: client.status(SERVER) is not None, DISCOVERY_S)
    running_recorder, running_server = client.status(RECORDER), client.status(SERVER)
    knows_server = running_recorder is not None and running_recorder["server_state"] == "connected"
    if listens and running_recorder is None:
        raise UnavailableError(
            f"a recorder_replayer holds {socket_path(options.robot, client.domain)} but is not "
            f"seen in ROS domain {client.domain}; look at its log"
        )
    if listens and running_recorder and wanted.mode not in (None, running_recorder["mode"]):
        raise ConfigError(
            f"mode {wanted.mode!r} is wanted, and the running recorder_replayer is in mode "
            f"{running_recorder['mode']!r}; change it for all its programs with `rrto mode "
            f"{wanted.mode}`, or give another --robot name to start one of your own"
        )
    if listens and wanted.replay:
        raise ConfigError(
            f"{flags(wanted.replay)} would change nothing: they are for a recorder_replayer that "
            "`rrto run` starts, and one runs already. Set its parameters (`ros2 param set "
            f"/{options.robot}/recorder_replayer {wanted.replay[0]} ...`, for programs that start "
            "afterwards), or give another --robot name"
        )
    if running_server and wanted.device not in (None, "auto", running_server["device"]):
        raise ConfigError(
            f"device {wanted.device!r} is wanted, and the running offload_server computes on "
            f"{running_server['device']!r}; give another --robot name to start one of your own"
        )
    if running_server and wanted.limit_bytes is not None:
        raise ConfigError(
            "--limit holds only for a server that `rrto run` starts, and one runs already; set "
            "its parameter limit_bytes, or give another --robot name"
        )
    out = []
    if running_server is None and not (listens and knows_server):
        out.append(server(options))
    if not listens:
        out.append(recorder(options))
    return out


@contextlib.contextmanager
def robot_up(client: RobotClient, options: Options, wanted: Wanted) -> Iterator[Supervisor]:
    """A robot whose recorder is active and has a server, while the block lasts."""
    processes = missing_processes(client, options, wanted)
    supervisor = Supervisor(processes, process_line, users_environment())
    if processes:
        note(f"starting {' and '.join(p.name for p in processes)}")
    try:
        supervisor.start()
        client.wait_ready(READY_TIMEOUT_S, supervisor.failed)
        yield supervisor
    finally:
        supervisor.stop()


def run_child(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a program in the foreground, with the signals that come meanwhile.

    Returns:
        Its exit code; 128 + number if a signal ended it.

    Raises:
        ConfigError: It cannot be started.
    """
    program = find_program(command[0], environment)
    children: list[subprocess.Popen[bytes]] = []
    from_terminal = sys.stdin is not None and sys.stdin.isatty()

    def forward(number: int, _: Any) -> None:
        # The terminal has sent Ctrl-C to the program as well.
        if children and not (number == signal.SIGINT and from_terminal):
            children[0].send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        children.append(subprocess.Popen(command, executable=program, env=dict(environment)))
        code = children[0].wait()
    except OSError as error:
        raise ConfigError(f"cannot start {command[0]!r}: {error.strerror}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def run_interposed(
    command: list[str], options: Options, wanted: Wanted, bag: Path | None = None
) -> dict[str, Any]:
    """Run a program interposed, from start to the collected reports.

    Args:
        command: Program and arguments.
        options: What to start if nothing answers.
        wanted: What the user insists on.
        bag: Where to record the driver calls, if at all.

    Returns:
        `summary.report`'s value.

    Raises:
        RrtoError: The program could not be started or the robot could not be made ready.
    """
    label = options.label or str(uuid.uuid4())
    # Whatever is wrong with the command is said before anything starts.
    environment = interposed_environment(users_environment(), options.robot, label, foreign=True)
    environment.update(options.environment())
    find_program(command[0], environment)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(RobotClient(options.robot, options.domain_number()))
        stack.enter_context(robot_up(client, options, wanted))
        if bag is not None:
            from rrto_ros.cli.bags import recording

            stack.enter_context(recording(client, bag))
        start = time.monotonic()
        code = run_child(command, environment)
        seconds = time.monotonic() - start
        sessions, complete = collect_reports(client, label)
    return report(command, code, seconds, sessions, complete)
