"""`rrto analyze`: owns its arguments, its help and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rrto_ros.api.parameters import RECORDER
from rrto_ros.cli.replay_options import described
from rrto_ros.errors import ConfigError

if TYPE_CHECKING:
    from rrto_ros.evaluation.partition import Situation
    from rrto_ros.evaluation.pipeline import Overlap
    from rrto_ros.robot.search import SearchOptions


def analyze(
    path: Annotated[Path, typer.Argument(help="A bag of the call topics, or a dumped call log.")],
    search: Annotated[str, described(RECORDER["search"])] = "operator_sequence",
    min_repetitions: Annotated[int, described(RECORDER["min_repetitions"])] = 2,
    min_length: Annotated[int, described(RECORDER["min_length"])] = 3,
    max_length: Annotated[int, described(RECORDER["max_length"])] = 32768,
    png: Annotated[
        Path | None,
        typer.Option(
            help="Write a timeline of the calls (of the longest session); with "
            "--partition the inference as a chain, and its cuts."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write an interactive timeline.")] = None,
    partition: Annotated[
        bool,
        typer.Option(
            "--partition",
            help="Execute the bag here (device cpu) and say where its inference is best cut "
            "between robot and edge, by the link's rate. What concerns robot and link is "
            "modelled.",
        ),
    ] = False,
    slower: Annotated[
        float,
        typer.Option(help="--partition: how many times longer than this machine the robot takes."),
    ] = 10.0,
    round_trip_ms: Annotated[
        float, typer.Option(help="--partition: the link's round trip without load.")
    ] = 4.0,
    objective: Annotated[
        str,
        typer.Option(
            help="--partition: what is to be least: latency, energy, or weighted (of both)."
        ),
    ] = "latency",
    algorithm: Annotated[
        str, typer.Option(help="--partition: min_cut (exact), mcop, all_local or all_edge.")
    ] = "min_cut",
    power: Annotated[
        str, typer.Option(help="--partition: the robot's profile in config/power_profiles.yaml.")
    ] = "",
    in_flight: Annotated[
        int,
        typer.Option(
            "--pipeline",
            metavar="N",
            help="--partition: say as well what is best with N inferences under way, so that "
            "robot, link and edge work at the same time; 0: do not.",
        ),
    ] = 0,
    bits: Annotated[
        int,
        typer.Option(
            help="--pipeline: of each float32 that goes between kernels and crosses, where 32 is "
            "exact. Whether accuracy allows fewer is not looked at."
        ),
    ] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="--partition: print JSON.")] = False,
) -> None:
    """Find the operator sequences that inferences repeat in recorded driver calls."""
    from rrto_ros.robot.search import SearchOptions

    options = SearchOptions(
        min_repetitions=min_repetitions, min_length=min_length, max_length=max_length
    )
    if partition:
        if html is not None:
            raise ConfigError("--html with --partition: its picture is a PNG, give --png FILE")
        # Wrong values are told before a bag is executed.
        from rrto_ros.bringup.processes import config_folder
        from rrto_ros.evaluation.partition import Situation
        from rrto_ros.schedule.power import power_profile

        profiles = config_folder() / "power_profiles.yaml"
        drawn = power_profile(profiles, power) if power else None
        situation = Situation(slower, round_trip_ms / 1e3, objective, algorithm, drawn)
        overlap = None
        if in_flight:
            from rrto_ros.evaluation.pipeline import Overlap
            from rrto_ros.schedule.pipeline import Stream

            overlap = Overlap(Stream(in_flight), bits)
        elif bits != 32:
            raise ConfigError("--bits without --pipeline: say how many inferences are under way")
        _partition(path, search, options, situation, overlap, png, as_json)
        return
    if in_flight or as_json:
        raise ConfigError(
            f"{'--pipeline' if in_flight else '--json'} without --partition: give that as well"
        )
    from rrto_ros.evaluation.analyze import analyze as analysed
    from rrto_ros.evaluation.analyze import report
    from rrto_ros.evaluation.timeline import write_html, write_png

    done = analysed(path, algorithm=search, options=options)
    for analysis in done:
        typer.echo(report(analysis))
    for picture, write in ((png, write_png), (html, write_html)):
        if picture is not None:
            write(done[0], picture)
            typer.echo(f"picture: {picture}")


def _partition(
    path: Path,
    search: str,
    options: SearchOptions,
    situation: Situation,
    overlap: Overlap | None,
    png: Path | None,
    as_json: bool,
) -> None:
    from rrto_ros.cli.console import err
    from rrto_ros.evaluation import partition as text
    from rrto_ros.evaluation import pipeline
    from rrto_ros.evaluation.partition import partitions
    from rrto_ros.evaluation.partition_picture import write_png
    from rrto_ros.evaluation.profiled import profile_bag

    with err.status("executing the bag here") as status:
        found = partitions(
            profile_bag(
                path,
                algorithm=search,
                options=options,
                progress=lambda done, all_: status.update(
                    f"executing the bag here: {done} of {all_} batches"
                ),
            ),
            situation,
        )
    ways = () if overlap is None else pipeline.pipelined(found, overlap)
    if as_json:
        told = text.as_json(found)
        if overlap is not None:
            told["pipeline"] = pipeline.as_json(ways, overlap)
        typer.echo(json.dumps(told, indent=2))
    else:
        typer.echo(text.report(found))
        if overlap is not None:
            typer.echo("\n" + pipeline.report(found, ways, overlap))
    if png is not None:
        write_png(found, png)
        typer.echo(f"picture: {png}", err=as_json)
