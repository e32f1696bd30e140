"""`rrto run`: runs any program interposed, and starts what it needs where nothing answers."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrto_ros.api.runtime_tables import VALIDITY_VARIABLE
from rrto_ros.bringup.environment import find_program, interposed_environment
from rrto_ros.bringup.options import Options
from rrto_ros.bringup.processes import recorder, server
from rrto_ros.bringup.stand_ins import with_stand_ins
from rrto_ros.bringup.supervisor import Supervisor
from rrto_ros.cli.ambient import users_environment
from rrto_ros.cli.ready import get_ready
from rrto_ros.cli.replay_options import flags
from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.runtime_files import held, serves, socket_lock, socket_path
from rrto_ros.termination import told_of
from rrto_ros.wire.port import RECORDER, SERVER

if TYPE_CHECKING:
    from rrto_ros.ros.client import RobotClient

DISCOVERY_S = 0.3
"""How long a server on another machine may take to be discovered before one is started here.
Announcements and their answers take a few round trips of the network; whether there is one is
looked at again when ours is ready."""
KNOWN_S = 3.0
"""How long the status of a server may take that is there."""
RECORDER_S = 10.0
LOOK_S = 0.1
STATUS_RATE_HZ = 10.0
"""Of a recorder that is started here: its last status is waited for when the program has ended."""
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


def check_recorder(status: dict[str, Any], wanted: Wanted, robot: str) -> None:
    """Refuse options that a recorder that runs already would not follow.

    Raises:
        ConfigError: There are some; the text says what to do.
    """
    if wanted.mode not in (None, status["mode"]):
        raise ConfigError(
            f"mode {wanted.mode!r} is wanted, and the running recorder_replayer is in mode "
            f"{status['mode']!r}; change it for all its programs with `rrto mode "
            f"{wanted.mode}`, or give another --robot name to start one of your own"
        )
    if wanted.replay:
        raise ConfigError(
            f"{flags(wanted.replay)} would change nothing: they are for a recorder_replayer that "
            "`rrto run` starts, and one runs already. Set its parameters (`ros2 param set "
            f"/{robot}/recorder_replayer {wanted.replay[0]} ...`, for programs that start "
            "afterwards), or give another --robot name"
        )


def check_server(status: dict[str, Any], wanted: Wanted) -> None:
    """Refuse options that a server that runs already would not follow.

    Raises:
        ConfigError: There are some; the text says what to do.
    """
    if wanted.device not in (None, "auto", status["device"]):
        raise ConfigError(
            f"device {wanted.device!r} is wanted, and the running offload_server computes on "
            f"{status['device']!r}; give another --robot name to start one of your own"
        )
    if wanted.limit_bytes is not None:
        raise ConfigError(
            "--limit holds only for a server that `rrto run` starts, and one runs already; set "
            "its parameter limit_bytes, or give another --robot name"
        )


@contextlib.contextmanager
def robot_up(options: Options, wanted: Wanted) -> Iterator[RobotClient]:
    """A robot whose recorder is active and reaches a server, while the block lasts.

    What is missing on this machine starts at once, and ROS is imported here meanwhile. A server
    may be on another machine: one of our own imports what it needs and waits for the answer.

    Raises:
        ConfigError: What runs already is not what the user wants.
        UnavailableError: A recorder runs but says nothing, or a process ended.
    """
    domain = options.domain_number()
    listens = held(socket_lock(socket_path(options.robot, domain)))
    served = serves(options.robot, domain)
    own = dataclasses.replace(server(options), held=True)
    processes = [] if listens or served else [own]
    if not listens:
        processes.append(recorder(options, {"status_rate_hz": STATUS_RATE_HZ}))
    supervisor = Supervisor(processes, _line, users_environment())
    later = Supervisor([own], _line, users_environment())
    with contextlib.ExitStack() as stack:
        # The programs are over then, and with them their sessions.
        stack.callback(supervisor.stop, together=True)
        stack.callback(later.stop)
        supervisor.start()
        from rrto_ros.ros.client import RobotClient

        client = stack.enter_context(RobotClient(options.robot, domain))
        reached = False
        if listens:
            status = _recorder_status(client, socket_path(options.robot, domain))
            check_recorder(status, wanted, options.robot)
            reached = status["server_state"] == "connected"
        found = _running_server(client, sure=served or reached)
        if found is not None:
            check_server(found, wanted)
        missing = found is None and not served and not reached
        if missing and listens:
            later.start()
        names = [own.name] if missing else []
        names += [process.name for process in processes if process.name != own.name]
        if names:
            note(f"starting {' and '.join(names)}")
        for each in (supervisor, later):
            each.release(own.name, go=missing)
        get_ready(client, (supervisor, later), names, note)
        if missing and client.announced(SERVER) > 1:
            # Discovered too late. Two would answer for each other's sessions: ours goes.
            note("another offload_server was found; ending the one started here")
            for each in (supervisor, later):
                each.end(own.name)
            found = _running_server(client, sure=True, since=time.monotonic())
            if found is not None:
                check_server(found, wanted)
        yield client


def device_of(client: RobotClient, options: Options) -> str:
    """The kind of device that the robot's server computes on; `options` names that of our own."""
    if options.device == "auto":
        client.wait(lambda: client.status(SERVER) is not None, KNOWN_S)
    status = client.status(SERVER)
    return str(status["device"]) if status else options.device


def _recorder_status(client: RobotClient, path: Path) -> dict[str, Any]:
    """What the recorder that holds the socket says."""
    if not client.wait(lambda: client.status(RECORDER) is not None, RECORDER_S):
        raise UnavailableError(
            f"a recorder_replayer holds {path} but said nothing in ROS domain {client.domain} "
            f"within {RECORDER_S:g} s; look at its log"
        )
    return client.status(RECORDER) or {}


def _running_server(
    client: RobotClient, *, sure: bool, since: float = 0.0
) -> dict[str, Any] | None:
    """What the server that runs says, None if none is found in time.

    Args:
        client: Follows the robot, from just now.
        sure: It is known that one runs.
        since: Only what it said after this time (monotonic clock).
    """
    end = time.monotonic() + (KNOWN_S if sure else DISCOVERY_S)
    while not client.wait(lambda: client.status(SERVER, since) is not None, LOOK_S):
        # One that DDS knows is waited for: its status comes twice per second.
        if time.monotonic() >= end and (sure or not client.announced(SERVER)):
            return None
        if time.monotonic() >= end + KNOWN_S:
            return None
    return client.status(SERVER, since)


def _line(name: str, line: str) -> None:
    from rrto_ros.cli.console import process_line

    process_line(name, line)


def note(text: str) -> None:
    """One line of progress; rich is imported when the nodes have started."""
    from rrto_ros.cli.console import note as show

    show(text)


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

    started = threading.Event()

    def forward(number: int) -> None:
        started.wait()
        # The terminal has sent Ctrl-C to the program as well.
        if children and not (number == signal.SIGINT and from_terminal):
            children[0].send_signal(number)

    try:
        with told_of(_FORWARDED, forward):
            try:
                children.append(
                    subprocess.Popen(command, executable=program, env=dict(environment))
                )
            finally:
                started.set()
            code = children[0].wait()
    except OSError as error:
        raise ConfigError(f"cannot start {command[0]!r}: {error.strerror}") from error
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
    if options.cuda_runtime:  # for this program, whichever recorder serves it
        environment[VALIDITY_VARIABLE] = "1"
    find_program(command[0], environment)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(robot_up(options, wanted))
        environment = with_stand_ins(environment, device_of(client, options))
        if bag is not None:
            from rrto_ros.cli.bags import recording

            stack.enter_context(recording(client, bag))
        start = time.monotonic()
        code = run_child(command, environment)
        seconds = time.monotonic() - start
        from rrto_ros.cli.summary import report
        from rrto_ros.ros.reports import collect_reports

        sessions, complete = collect_reports(client, label)
    return report(command, code, seconds, sessions, complete)
