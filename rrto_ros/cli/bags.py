"""`rrto bag record|play|info`, and the recording of `rrto run --bag`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from rrto_ros.bringup.options import Options
from rrto_ros.bringup.processes import server
from rrto_ros.bringup.supervisor import Supervisor
from rrto_ros.cli.ambient import users_environment
from rrto_ros.cli.console import note, out, print_json, process_line
from rrto_ros.cli.state import STATUS_TIMEOUT_S
from rrto_ros.cli.summary import human_bytes
from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.ros.bag_file import BagWriter, RecordedSession, keys_file, read_bag
from rrto_ros.ros.bag_player import Outcome, SessionPlayer
from rrto_ros.ros.bag_recorder import CallRecorder
from rrto_ros.ros.client import RECORDER, SERVER, RobotClient
from rrto_ros.session_keys import taken, wanted_keys
from rrto_ros.termination import Termination
from rrto_ros.wire.credentials import of_robot
from rrto_ros.wire.port import ResultsMessage

CLOSE_TIMEOUT_S = 10.0
KNOWN_TIMEOUT_S = 15.0
"""How long both ends have to discover a recording; DDS takes up to 9 s now and then."""
KNOWN_ATTEMPTS_S = (6.0, 9.0, KNOWN_TIMEOUT_S)
"""The same, of a recording that is made anew where they do not: Fast DDS hides a participant from
another for good now and then (once in some hundred recordings on a busy machine)."""


@contextlib.contextmanager
def _whole_uploads(client: RobotClient) -> Iterator[None]:
    """The recorder sends every upload whole while the block lasts."""
    before = client.get_parameter("blob_references")
    if before is not False:
        reason = client.set_parameter("blob_references", False)
        if reason:
            raise ConfigError(f"recorder_replayer refuses blob_references false: {reason}")
    try:
        yield
    finally:
        if before is True:
            with contextlib.suppress(UnavailableError):
                client.set_parameter("blob_references", True)


@contextlib.contextmanager
def recording(
    client: RobotClient, folder: Path, *, sealed: bool = False
) -> Iterator[CallRecorder]:
    """Record the sessions that begin while the block lasts, to their end.

    Args:
        client: Of the robot.
        folder: Of the bag.
        sealed: Keep the sessions' keys beside the bag instead of in it.

    Raises:
        ConfigError: The folder cannot be used.
        UnavailableError: No recorder answers, or the bag could not be written.
    """
    if not client.wait(lambda: client.status(RECORDER) is not None, STATUS_TIMEOUT_S):
        raise UnavailableError(
            f"no recorder_replayer of robot {client.robot!r} in ROS domain {client.domain}; start "
            "one with `rrto up`"
        )
    with (
        BagWriter(folder, client.robot, sealed=sealed) as writer,
        wanted_keys(client.robot, client.domain) as keys,
        _whole_uploads(client),
    ):
        recorder = _known(client, writer, keys)
        try:
            # A status from after that and after the change of the uploads: what it lists may hold
            # references, or have spoken before we were heard.
            status = _fresh(client, RECORDER, KNOWN_TIMEOUT_S, lambda _: True)
            old = {s["session"] for s in status["sessions"]}
            recorder.begin(old)
            if old:
                note(
                    f"{len(old)} sessions began before and are not recorded, since their start is "
                    "missing"
                )
            yield recorder
            recorder.wait_complete(CLOSE_TIMEOUT_S)
        finally:
            recorder.close()
        if strangers := recorder.statistics()["without_keys"]:
            note(
                f"{strangers} sessions are sealed, and their keys were not given to this user: "
                "the bag cannot be played. Record on the robot, as the user of recorder_replayer"
            )
        if recorder.failure:
            raise UnavailableError(f"the bag {folder} is not complete: {recorder.failure}")
        faults = recorder.faults()
        if faults:
            raise UnavailableError(
                f"the bag {folder} is not complete. {'. '.join(faults)}. What it has can be "
                "looked at with `rrto bag info`; record again for a bag that can be played"
            )


def _fresh(
    client: RobotClient, kind: str, timeout_s: float, accepts: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The first status of a node, sent from now on, that `accepts` takes.

    Raises:
        UnavailableError: None came in time.
    """
    seen = client.status(kind)
    stamp = seen["stamp"] if seen else None

    def found() -> bool:
        status = client.status(kind)
        return status is not None and status["stamp"] != stamp and accepts(status)

    status = client.status(kind) if client.wait(found, timeout_s) else None
    if status is None:
        state = "was not seen" if seen is None else "does not see the recording"
        raise UnavailableError(
            f"{kind} of robot {client.robot!r} in ROS domain {client.domain} {state} within "
            f"{timeout_s:g} s, so the bag would lack messages; is it up? See `rrto status`"
        )
    return status


def _known(client: RobotClient, writer: BagWriter, keys: Path) -> CallRecorder:
    """A recording that both ends know: from now on it gets all that they publish.

    Raises:
        UnavailableError: One of them does not discover it.
    """
    for timeout_s in KNOWN_ATTEMPTS_S:
        status = client.status(RECORDER) or {}
        recorder = CallRecorder(
            client.robot,
            client.domain,
            writer.write,
            writer.flush,
            status.get("transports", ""),
            functools.partial(taken, keys),
            writer.write_keys,
        )
        try:
            _wait_known(client, recorder.name, timeout_s)
        except UnavailableError as error:
            failure = error
            recorder.abandon()
        except BaseException:
            recorder.close()
            raise
        else:
            return recorder
    raise failure


def _wait_known(client: RobotClient, name: str, timeout_s: float) -> None:
    for kind in (RECORDER, SERVER):
        _fresh(client, kind, timeout_s, lambda status: name in status["listeners"])


def record(client: RobotClient, folder: Path, *, sealed: bool = False) -> None:
    """Record until Ctrl-C or SIGTERM.

    Args:
        client: Of the robot.
        folder: Of the bag.
        sealed: Keep the sessions' keys beside the bag instead of in it.

    Raises:
        ConfigError: The folder cannot be used.
        UnavailableError: No recorder or server answers, the bag could not be written, or it lacks
            messages.
    """
    with Termination() as termination, recording(client, folder, sealed=sealed) as recorder:
        note(
            f"recording to {folder}; uploads are sent whole meanwhile (blob_references: "
            "false). Ctrl-C ends"
        )
        termination.wait()
    counted = recorder.statistics()
    out.print(f"{counted['written']} messages of {counted['sessions']} sessions in {folder}")
    if sealed:
        note(f"who has {keys_file(folder)} beside the bag can read it")
    running = counted["sessions"] - counted["closed"]
    if running:
        note(f"{running} of them go on; the bag has them up to here")


def play(folder: Path, device: str | None, domain: int) -> dict[str, Any]:
    """Play every session of a bag into a server that is started for it.

    Returns:
        {equal, sessions: [`Outcome` as dict]}.

    Raises:
        ConfigError: It is no bag, or not complete.
        UnavailableError: The server does not start or refuses.
    """
    from rrto_ros.ros.session_port import playing_port

    sessions = read_bag(folder)
    for session in sessions:
        if session.faults:
            raise ConfigError(
                f"session {session.session[:8]} ({session.program}) in {folder} is not complete: "
                f"{'; '.join(session.faults)}. Record again with `rrto bag record`"
            )
    # A name of its own, so that no running server or recorder takes part.
    robot = f"bag_{os.getpid()}"
    options = Options(
        robot=robot, device=device or sessions[0].device, domain=domain, log_level="warn"
    )
    outcomes: list[Outcome] = []
    current: list[SessionPlayer] = []

    def on_results(message: ResultsMessage) -> None:
        for player in current:
            player.on_results(message)

    supervisor = Supervisor([server(options)], process_line, users_environment())
    note(f"starting a server on device {options.device}")
    try:
        supervisor.start()
        with RobotClient(robot, domain) as client:
            while not client.wait(lambda: client.status(SERVER) is not None, 1.0):
                if supervisor.failed():
                    raise UnavailableError(supervisor.failed())
        with playing_port(robot, domain, on_results) as port:
            for session in sessions:
                player = SessionPlayer(session, options.device, of_robot)
                current[:] = [player]
                outcome = player.play(port, robot)
                outcomes.append(outcome)
                _tell(outcome)
    finally:
        supervisor.stop()
    return {
        "equal": all(outcome.equal for outcome in outcomes),
        "device": options.device,
        "sessions": [dataclasses.asdict(outcome) for outcome in outcomes],
    }


def _tell(outcome: Outcome) -> None:
    text = (
        f"{outcome.results:,} results, {human_bytes(outcome.bytes_compared)}: equal byte for byte"
        if outcome.equal
        else f"after {outcome.results:,} equal results: {outcome.difference}"
    )
    if outcome.timings:
        text += f" ({outcome.timings} measured times not compared)"
    out.print(f"session {outcome.session[:8]} {outcome.program}: {text}", markup=False)


def describe(session: RecordedSession) -> dict[str, Any]:
    """A session without its contents."""
    return {
        "session": session.session,
        "robot": session.robot,
        "program": session.program,
        "pid": session.pid,
        "device": session.device,
        "messages": session.messages,
        "batches": len(session.batches),
        "bytes_sent": session.bytes_sent,
        "bytes_received": session.bytes_received,
        "foreign": session.foreign,
        "operations": dict(session.operations.most_common()),
        "faults": session.faults,
    }


def info(folder: Path, *, as_json: bool) -> None:
    """Print what a bag holds.

    Raises:
        ConfigError: It is no bag, or has no driver calls.
    """
    sessions = [describe(session) for session in read_bag(folder)]
    if as_json:
        print_json({"sessions": sessions})
        return
    table = Table(title=f"driver calls in {folder.name}", title_justify="left")
    for name in ("session", "program", "device", "messages", "sent", "received", "state"):
        table.add_column(name)
    total: Counter[str] = Counter()
    for one in sessions:
        total.update(one["operations"])
        table.add_row(
            one["session"][:8],
            one["program"].replace("[", "\\["),
            one["device"] or "?",
            str(one["messages"]),
            human_bytes(one["bytes_sent"]),
            human_bytes(one["bytes_received"]),
            "; ".join(one["faults"]) or "complete",
        )
    out.print(table)
    calls = Table(title="calls by operation", title_justify="left")
    calls.add_column("operation")
    calls.add_column("calls", justify="right")
    for name, count in total.most_common():
        calls.add_row(name, f"{count:,}")
    out.print(calls)
