"""`rrto up` and `rrto demo`: run a bring-up's processes from one terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rrto_ros.bringup.options import Options
from rrto_ros.bringup.processes import processes
from rrto_ros.bringup.supervisor import Supervisor
from rrto_ros.cli.ambient import users_environment
from rrto_ros.cli.console import err, note, out, process_line
from rrto_ros.cli.ready import get_ready
from rrto_ros.cli.summary import report, summary_table
from rrto_ros.errors import UnavailableError
from rrto_ros.ros.reports import collect_reports
from rrto_ros.termination import SIGNALS, told_of
from rrto_ros.wire.port import RECORDER, SERVER

INTERRUPTED = 130
PATIENCE_S = 10.0
"""How long recorder or server may be up without the other: nobody waits for `rrto up` as for
`rrto run`, and several may start at once on a small machine."""


@contextlib.contextmanager
def ends_on_signal(supervisor: Supervisor) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end the waiting; the list receives the signal's number."""
    got: list[int] = []

    def told(number: int) -> None:
        got.append(number)
        supervisor.interrupt()

    with told_of(SIGNALS, told):
        yield got


def up(options: Options) -> int:
    """Start, wait, end in order.

    Returns:
        The exit code of the first process that failed; 0 also after Ctrl-C.
    """
    started = processes(options)
    supervisor = Supervisor(started, process_line, users_environment())
    with ends_on_signal(supervisor) as signals:
        try:
            supervisor.start()
            note(f"starting {' and '.join(process.name for process in started)}")
            # Of one side alone nobody knows whether the other is up yet.
            if options.side == "both":
                _meet(options, supervisor, signals)
            code = supervisor.wait()
        finally:
            note("ending")
            supervisor.stop()
    return code


def _meet(options: Options, supervisor: Supervisor, signals: Sequence[int]) -> None:
    """See to it that recorder and server meet, and say so."""
    from rrto_ros.ros.client import RobotClient

    try:
        with RobotClient(options.robot, options.domain_number()) as client:
            get_ready(client, (supervisor,), (SERVER, RECORDER), note, lambda: bool(signals),
                      alone_s=PATIENCE_S)  # fmt: skip
        note(f"robot {options.robot!r} is ready: `rrto run -- PROGRAM` in another terminal")
    except UnavailableError as error:
        # What ended is what `wait` returns; what is late may still come.
        if not signals and not supervisor.failed():
            note(str(error))


def demo(options: Options, folder: Path) -> tuple[int, dict[str, Any]]:
    """The demonstration: everything on this machine, until perception has seen all its pictures.

    Args:
        options: The bring-up; `demo`, `output` and `label` are set here.
        folder: Where pictures, detections and the report go.

    Returns:
        (exit code, the report as `summary.report` makes it).
    """
    from rrto_ros.ros.client import RobotClient

    folder.mkdir(parents=True, exist_ok=True)
    options = dataclasses.replace(
        options, demo=True, output=str(folder), label=options.label or str(uuid.uuid4())
    )
    supervisor = Supervisor(processes(options), process_line, users_environment())
    if options.device == "cpu":
        note("the first run compiles the program's kernels for this CPU: a minute or two")
    with (
        RobotClient(options.robot, options.domain_number()) as client,
        ends_on_signal(supervisor) as signals,
    ):
        try:
            start = time.monotonic()
            supervisor.start()
            code = supervisor.wait()
            seconds = time.monotonic() - start
            sessions: list[dict[str, Any]] = []
            complete = False
            if not signals and not code:
                sessions, complete = collect_reports(client, options.label)
        finally:
            supervisor.stop()
    if signals:
        code = INTERRUPTED
    return code, report(["demo"], code, seconds, sessions, complete)


def show_demo(folder: Path, result: dict[str, Any]) -> None:
    """Print what the demo found in its first picture, where the pictures are, and the summary.

    Raises:
        UnavailableError: There are no results.
    """
    lines = folder / "detections.jsonl"
    if not lines.is_file() or not (text := lines.read_text().splitlines()):
        raise UnavailableError(f"the demo left no detections in {lines}; see its output above")
    err.print(summary_table(result))
    out.print(f"{len(text)} pictures. In the first one:")
    for found in json.loads(text[0])["detections"]:
        box = ", ".join(f"{value:.0f}" for value in found["box"])
        out.print(f"  {found['class']:12} score {found['score']:.3f}  box \\[{box}]")
    for picture in sorted(folder.glob("annotated_*.png"))[:1]:
        out.print(f"annotated picture: {picture}")
