"""`rrto evaluate`: owns its arguments, its help and what it shows."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrto_ros.api.parameters import OPTIONS
from rrto_ros.cli.arguments import FAILED, need_ros
from rrto_ros.cli.replay_options import described, option
from rrto_ros.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from rrto_ros.evaluation.links import Link
    from rrto_ros.evaluation.results import Results

INTERRUPTED = 130
DEFAULT_LINK = "80mbit-4ms"
ROUNDS, QUICK_ROUNDS = 5, 2
MOST_ROUNDS = 1000
QUICK = ("--inferences", "40")
"""Of the program that comes with the package."""


def evaluate(
    program: Annotated[
        str,
        typer.Option(
            help="Any CUDA program with its arguments, as in a shell. Default: a small "
            "network that comes with the package."
        ),
    ] = "",
    link: Annotated[
        str,
        typer.Option(
            help="loopback, a constant one as 80mbit-4ms or 80mbit-4ms-1%, wifi-indoor, "
            "wifi-outdoor, lte, outage, or a CSV file (seconds, Mbit/s[, rtt_ms[, "
            "loss]]). All but loopback need root. Default: 80mbit-4ms; without root "
            "loopback."
        ),
    ] = "",
    modes: Annotated[
        str, typer.Option(help="Which, separated by commas.")
    ] = "local,rpc,batched,replay,partition",
    rounds: Annotated[
        int, typer.Option(help="How often each mode runs.", show_default="5, with --quick 2")
    ] = 0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Two rounds, and a shorter run of the program that comes with the package.",
        ),
    ] = False,
    device: Annotated[str, option("device")] = "cpu",
    output: Annotated[Path, typer.Option(help="Folder for results.")] = Path("out/evaluation"),
    again: Annotated[
        bool, typer.Option("--again", help="Start anew instead of going on.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of links that are generated.")] = 0,
    timeout: Annotated[float, typer.Option(help="Of one run of the program, in seconds.")] = 600.0,
    latency_pattern: Annotated[
        str,
        typer.Option(
            help="How the program's output tells an inference's time: a regular "
            "expression whose group is the time in ms."
        ),
    ] = "",
    compare_output: Annotated[
        bool,
        typer.Option(
            "--compare-output",
            help="What the program writes to stdout must be "
            "equal in all modes (times that --latency-pattern finds aside).",
        ),
    ] = False,
    result_pattern: Annotated[
        str,
        typer.Option(help="Compare only what this regular expression finds in the output."),
    ] = "",
    cuda_runtime: Annotated[bool, described(OPTIONS["cuda_runtime"], "--cuda-runtime")] = False,
) -> None:
    """Run a program in each mode over a link, by turns, and report what it takes.

    Starts its own nodes, on this machine alone. Writes results.json, report.md and report.html;
    what was stopped goes on where it was. Exit code 1: a run failed, or outputs differ.
    """
    for name, pattern, groups in (
        ("--latency-pattern", latency_pattern, 1), ("--result-pattern", result_pattern, 0),
    ):  # fmt: skip
        _check_pattern(name, pattern, groups)
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    if not 1 <= rounds <= MOST_ROUNDS:
        raise ConfigError(f"--rounds is {rounds}, want 1 to {MOST_ROUNDS}")
    if not 1 <= timeout <= 86400:
        raise ConfigError(f"--timeout is {timeout:g} s, want 1 to 86400")
    OPTIONS["device"].check(device)
    chosen = _modes(modes)
    from rrto_ros.evaluation import workload
    from rrto_ros.evaluation.results import Settings, opened

    between = _emulable(link, seed)
    try:
        command = shlex.split(program)
    except ValueError as error:
        raise ConfigError(f"--program {program!r} is no command line: {error}") from None
    if not command:
        command = [sys.executable, workload.__file__, *(QUICK if quick else ())]
        command += ["--unchecked"] if device == "null" else []
        latency_pattern = latency_pattern or workload.LATENCY_PATTERN
        compare_output = compare_output or device != "null"
    settings = Settings(
        command, between.name, between.origin, between.digest, chosen, device, latency_pattern,
        result_pattern, compare_output or bool(result_pattern), cuda_runtime,
    )  # fmt: skip
    need_ros(look=True)
    results = opened(output, settings, again=again)
    raise typer.Exit(_run(results, between, rounds, timeout, output, quick=quick))


def _check_pattern(name: str, pattern: str, groups: int) -> None:
    try:
        found = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(f"{name} {pattern!r} is no regular expression: {error}") from None
    if pattern and found < groups:
        raise ConfigError(
            f"{name} {pattern!r} has no group; want the time in one, as 'took (.*) ms'"
        )


def _modes(text: str) -> list[str]:
    out = [name.strip() for name in text.split(",") if name.strip()]
    for name in out:
        OPTIONS["mode"].check(name)
    if not out or len(set(out)) < len(out):
        raise ConfigError(f"--modes is {text!r}; want some modes, each once")
    return out


def _emulable(text: str, seed: int) -> Link:
    """The link that is wanted, or the loopback where none was said and none can be emulated."""
    from rrto_ros.cli.console import note
    from rrto_ros.evaluation.link_emulator import require_emulation
    from rrto_ros.evaluation.links import LOOPBACK, named

    found = named(text or DEFAULT_LINK, seed)
    if not found.emulated:
        return found
    try:
        require_emulation()
    except UnavailableError as error:
        if text:
            raise UnavailableError(
                f"link {text!r} cannot be emulated here: {error}. Without: --link {LOOPBACK}"
            ) from error
        note(f"no link is emulated ({error}): the figures are of this machine's loopback")
        return named(LOOPBACK)
    return found


def _run(
    results: Results, link: Link, rounds: int, timeout_s: float, folder: Path, *, quick: bool
) -> int:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from rrto_ros.cli.console import err, note
    from rrto_ros.evaluation.runner import NOT_COUNTED, Plan, Stop, evaluate
    from rrto_ros.termination import SIGNALS, told_of

    modes = results.settings.modes
    plan = Plan(rounds, timeout_s, tuple(_warm(modes) if quick else modes))
    left = plan.left(results)
    if len(left) < rounds * len(modes):
        note(f"{len(results.runs)} runs are in {folder} already, {len(left)} are left")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    stop = Stop()
    with (
        told_of(SIGNALS, lambda _: stop.ask()),
        Progress(*columns, console=err, transient=True) as progress,
    ):
        task = progress.add_task("starting", total=len(left))

        def begins(mode: str, number: int) -> None:
            where = "warming up" if number == NOT_COUNTED else f"round {number + 1} of {rounds}"
            progress.update(task, description=f"mode {mode}, {where}")

        def ended(run: dict[str, Any]) -> None:
            progress.advance(task)
            what = run["failed"] or f"{run['seconds']:.1f} s"
            if run["failed"] or not err.is_terminal:
                rest = f"{int(progress.tasks[task].remaining or 0)} left"
                note(f"mode {run['mode']}, round {run['round'] + 1}: {what}; {rest}")

        evaluate(results, plan, link, folder, begins, ended, stop)
    if results.runs:
        _write(results, folder)
    if stop.asked:
        kept = len(results.runs)
        note(f"stopped; {kept} runs are kept in {folder}. The same command goes on with the rest")
        return INTERRUPTED
    return _show(results, folder)


def _warm(modes: list[str]) -> list[str]:
    """One mode, at the edge if there is one: kernels are compiled and uploads are known then."""
    order = ["batched", "replay", "rpc", "partition", *modes]
    return [mode for mode in order if mode in modes][:1]


def _write(results: Results, folder: Path) -> None:
    from rrto_ros.evaluation.figures import markdown
    from rrto_ros.evaluation.report import page

    for name, text in (("report.md", markdown(results)), ("report.html", page(results))):
        try:
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {folder / name}: {error.strerror}") from error


def _show(results: Results, folder: Path) -> int:
    """Print the table; the exit code."""
    from rich.markup import escape

    from rrto_ros.cli.compare_command import print_cells
    from rrto_ros.cli.console import out
    from rrto_ros.evaluation.figures import notes, table
    from rrto_ros.evaluation.results import unequal

    head, *rows = table(results)
    # One column a mode fits a terminal; measures are many.
    print_cells([list(row) for row in zip(head, *rows, strict=True)], left=1)
    for text in notes(results):
        out.print(escape(f"- {text.replace('**', '')}"))
    out.print(f"report: {folder / 'report.html'}")
    failed = any(run["failed"] for run in results.runs)
    return FAILED if failed or unequal(results) else 0
