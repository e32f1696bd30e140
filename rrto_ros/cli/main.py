"""The commands of `rrto`: owns their arguments, help and exit codes. Nothing here imports ROS."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rrto_ros.api.parameters import OPTIONS, RECORDER, Parameter
from rrto_ros.cli.analyze_command import analyze
from rrto_ros.cli.arguments import FAILED, UNUSABLE, Domain, Robot, client_of, need_ros
from rrto_ros.cli.bag_commands import bag
from rrto_ros.cli.compare_command import compare
from rrto_ros.cli.evaluate_command import evaluate
from rrto_ros.cli.key_commands import keys
from rrto_ros.cli.replay_options import described, flags, option, with_replay_options
from rrto_ros.errors import ConfigError, RrtoError

RUN_FAILED = 125
"""Exit code of `rrto run` when it could not run the program, to tell it from the program's."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run the CUDA work of unmodified programs on an offload server over ROS 2.",
)
app.add_typer(bag, name="bag")
app.add_typer(keys, name="keys")

Given = Mapping[str, Any]
"""What `with_replay_options` gives: option -> value."""
_NONE: Given = {}
_TIMEOUT = Parameter("timeout", 20.0, "How long the sessions are watched, in seconds.")
_INTERVAL = Parameter("interval", 1.0, "Seconds from one view to the next.")


@app.callback()
def _prepare() -> None:
    """Run the CUDA work of unmodified programs on an offload server over ROS 2."""
    from rrto_ros.cli.ambient import join_discovery

    join_discovery()


@app.command()
@with_replay_options
def up(bring_up: Given) -> None:
    """Start offload server and recorder (as `ros2 launch` would) and show their output.

    Ctrl-C ends all in order. The exit code is that of the process that failed first.
    """
    from rrto_ros.bringup.options import Options

    options = Options(**bring_up)
    need_ros()
    from rrto_ros.cli.bring_up import up as start

    raise typer.Exit(start(options))


@app.command("demo")
@with_replay_options
def demo_command(
    demo: Given,
    frames: Annotated[int, option("frames", help="Pictures to look at.")] = 10,
    jit: Annotated[bool, option("jit")] = False,
    output: Annotated[Path, option("output", help="Folder for results.")] = Path("out/demo"),
) -> None:
    """Find objects in pictures with an unmodified CUDA program on an offload server."""
    from rrto_ros.bringup.options import Options
    from rrto_ros.cli.console import write_json

    if frames < 1:
        raise ConfigError(f"frames is {frames}, want 1 or more; `rrto up --demo` runs for ever")
    options = Options(**demo, frames=frames, jit=jit)
    need_ros()
    from rrto_ros.cli.bring_up import demo as show
    from rrto_ros.cli.bring_up import show_demo

    code, result = show(options, output)
    write_json(output / "report.json", result)
    if code == 0:
        show_demo(output, result)
    raise typer.Exit(code)


@app.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
)
@with_replay_options
def run(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments.")],
    mode: Annotated[str | None, option("mode", show_default="batched")] = None,
    device: Annotated[str | None, option("device", show_default="cpu")] = None,
    robot: Robot = "robot",
    domain: Domain = -1,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    limit: Annotated[int | None, described(OPTIONS["limit_bytes"], "--limit")] = None,
    bag_folder: Annotated[
        Path | None, typer.Option("--bag", help="Record the driver calls into this folder.")
    ] = None,
    cuda_runtime: Annotated[
        bool, option("cuda_runtime", show_default="as the recorder's")
    ] = False,
    authentication: Annotated[str, option("authentication")] = "",
    log_level: Annotated[str, option("log_level")] = "warn",
    params_file: Annotated[str, option("params_file")] = "",
    replay: Given = _NONE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table at the end.")] = False,
) -> None:
    """Run any program interposed, for example: rrto run -- python my_node.py.

    Starts offload server and recorder where none answers; the options of mode replay are for that
    recorder. The exit code is the program's; 125 if it could not be run. The table at the end goes
    to stderr.
    """
    from rrto_ros.bringup.options import Options

    try:
        options = Options(
            robot=robot,
            device=device or "cpu",
            mode=mode or "batched",
            domain=domain,
            log_level=log_level,
            limit_bytes=0 if limit is None else limit,
            cuda_runtime=cuda_runtime,
            authentication=authentication,
            params_file=params_file,
            **replay,
        )
        chosen = tuple(options.chosen_replay())
        if chosen and options.mode != "replay":
            raise ConfigError(
                f"{flags(chosen)} would change nothing in mode {options.mode!r}; add --mode replay"
            )
        need_ros(look=True)
        from rrto_ros.cli.running import Wanted, run_interposed

        wanted = Wanted(mode, device, limit, chosen)
        result = run_interposed(command, options, wanted, bag_folder)
        from rrto_ros.cli.console import err, write_json
        from rrto_ros.cli.summary import summary_table

        if report is not None:
            write_json(report, result)
    except RrtoError as error:
        _complain(error)
        raise typer.Exit(RUN_FAILED) from None
    if not quiet:
        err.print(summary_table(result))
    raise typer.Exit(result["exit_code"])


@app.command()
def status(
    robot: Robot = "robot",
    domain: Domain = -1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what recorder, server and their sessions do."""
    from rrto_ros.cli.console import out, print_json

    with client_of(robot, domain) as client:
        from rrto_ros.cli.state import node_table, read_statuses, replay_table, session_table

        found = read_statuses(client)
    if as_json:
        print_json(found)
        return
    out.print(node_table(found))
    for table in (session_table(found), replay_table(found)):
        if table is not None:
            out.print(table)


@app.command("doctor")
def doctor_command(
    python: Annotated[
        Path | None, typer.Option(help="The interpreter whose packages to look at.")
    ] = None,
    venv: Annotated[Path | None, typer.Option(help="Or the folder of an environment.")] = None,
    device: Annotated[str, typer.Option(help="cpu or gpu; default: the server's.")] = "",
    server: Annotated[
        bool | None,
        typer.Option("--server/--no-server", help="A server must be there / do not look."),
    ] = None,
    robot: Robot = "robot",
    domain: Domain = -1,
    seconds: Annotated[float, typer.Option(help="How long to look through libraries.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at machine, link and an environment's CUDA programs; say what runs, and what to do.

    Exit code 0: all that is needed is there; 1: something is missing.
    """
    from rrto_ros.bringup.options import Options
    from rrto_ros.cli.console import print_json

    if python is not None and venv is not None:
        raise ConfigError("--python and --venv name an environment each; give one")
    if device not in ("", "cpu", "gpu"):
        raise ConfigError(f"device {device!r} is none of cpu, gpu")
    options = Options(robot=robot, domain=domain, device=device or "cpu")
    options.domain_number()
    from rrto_ros.cli import doctor
    from rrto_ros.clients import environment

    if venv is not None:
        where = environment.of_venv(venv)
    else:
        where = environment.of_python(python) if python else environment.default()
    found = doctor.examine(where, device, options, server, seconds)
    if as_json:
        print_json(doctor.as_json(found))
    else:
        doctor.show(found)
    raise typer.Exit(FAILED if found.missing else 0)


@app.command("top")
def top_command(
    robot: Robot = "robot",
    domain: Domain = -1,
    interval: Annotated[float, described(_INTERVAL)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show one view and end.")] = False,
) -> None:
    """Watch recorder, server and their sessions until Ctrl-C."""
    from rrto_ros.cli.console import out

    with client_of(robot, domain) as client:
        from rrto_ros.cli.top import top

        top(client, out, interval, once=once)


@app.command()
def mode(
    name: Annotated[str, typer.Argument(help=RECORDER["mode"].text)],
    robot: Robot = "robot",
    domain: Domain = -1,
) -> None:
    """Change the mode of the running recorder, for all its sessions."""
    from rrto_ros.cli.console import out

    # Before a recorder is looked for: a name that is none is wrong for every recorder.
    RECORDER["mode"].check(name)
    with client_of(robot, domain) as client:
        from rrto_ros.cli.state import set_mode

        before = set_mode(client, name)
    out.print(f"mode {name} (was {before})")


@app.command("move")
def move_command(
    session: Annotated[
        str,
        typer.Argument(help="Process id, or first digits of a session's id; default: every one."),
    ] = "",
    to: Annotated[
        str, typer.Option(help="Name of the server (`rrto status`); default: any other.")
    ] = "",
    robot: Robot = "robot",
    domain: Domain = -1,
    timeout: Annotated[float, described(_TIMEOUT)] = 20.0,
) -> None:
    """Have sessions go on at another server; their programs notice a pause at most.

    Exit code 0: all have moved; 1: not all. Ctrl-C ends the watching, the order stands.
    """
    if not 0.1 <= timeout <= 3600.0:
        raise ConfigError(f"the timeout is {timeout:g} s, want 0.1 to 3600")
    with client_of(robot, domain) as client:
        from rrto_ros.cli.moving import move

        moved = move(client, session, to, timeout)
    raise typer.Exit(0 if moved else FAILED)


app.command("analyze")(analyze)
app.command("evaluate")(evaluate)
app.command("compare")(compare)


def _complain(error: RrtoError) -> None:
    sys.stderr.write(f"rrto: {error}\n")


def main() -> int:
    """Run the command line.

    Returns:
        Exit code: 0 done, 1 failed, 2 an argument or file cannot be used; `run`, `up` and
        `bag play` have their own.
    """
    code = _command()
    context = sys.modules.get("rrto_ros.ros.context")
    return code if context is None else int(context.end(code))


def _command() -> int:
    try:
        app()
    except SystemExit as done:
        if done.code is None or isinstance(done.code, int):
            return done.code or 0
        raise
    except ConfigError as error:
        _complain(error)
        return UNUSABLE
    except RrtoError as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
