"""`rrto bag`: owns the arguments, help and exit codes of its commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rrto_ros.cli.arguments import FAILED, Domain, Robot, client_of, need_ros

bag = typer.Typer(no_args_is_help=True, help="Record, replay and look at bags of driver calls.")


@bag.command("record")
def bag_record(
    folder: Annotated[Path, typer.Argument(help="New folder for the bag.")],
    robot: Robot = "robot",
    domain: Domain = -1,
    sealed: Annotated[
        bool,
        typer.Option("--sealed", help="Keep what opens the bag in FOLDER.keys, not in the bag."),
    ] = False,
) -> None:
    """Record the driver calls and results of the sessions that begin from now on; Ctrl-C ends."""
    with client_of(robot, domain) as client:
        from rrto_ros.cli.bags import record

        record(client, folder, sealed=sealed)


@bag.command("play")
def bag_play(
    folder: Annotated[Path, typer.Argument(help="Folder of the bag.")],
    device: Annotated[str | None, typer.Option(help="Device; default: the recorded one.")] = None,
    domain: Domain = -1,
    report: Annotated[Path | None, typer.Option(help="Write the outcome as JSON.")] = None,
) -> None:
    """Play a bag into a fresh server and compare the results byte for byte.

    Exit code 0: all equal; 1: not.
    """
    from rrto_ros.bringup.options import Options
    from rrto_ros.cli.console import write_json

    number = Options(domain=domain, device=device or "cpu").domain_number()
    need_ros()
    from rrto_ros.cli.bags import play

    outcome = play(folder, device, number)
    if report is not None:
        write_json(report, outcome)
    raise typer.Exit(0 if outcome["equal"] else FAILED)


@bag.command("info")
def bag_info(
    folder: Annotated[Path, typer.Argument(help="Folder of the bag.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a bag's sessions, messages, bytes and calls by operation."""
    need_ros()
    from rrto_ros.cli.bags import info

    info(folder, as_json=as_json)


@bag.command("repair")
def bag_repair(
    folder: Annotated[Path, typer.Argument(help="Folder of the bag.")],
) -> None:
    """Make a bag readable whose recording was killed; the old files are kept beside it."""
    need_ros()
    from rrto_ros.cli.bags import info
    from rrto_ros.ros.bag_repair import repair

    done = repair(folder)
    if done.kept is None:
        typer.echo(f"{folder} is whole, nothing to repair")
        return
    typer.echo(
        f"{done.messages} messages saved, {done.lost_bytes} bytes of an unfinished record lost; "
        f"the old files are in {done.kept}"
    )
    if done.messages:
        info(folder, as_json=False)
