"""Which processes a bring-up has: owns their command lines, parameters, environment and order."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rrto_ros.api.runtime_tables import VALIDITY_VARIABLE
from rrto_ros.bringup.environment import node_environment
from rrto_ros.bringup.options import Options
from rrto_ros.errors import UnavailableError

PACKAGE = Path(__file__).resolve().parent.parent
Value = str | int | float | bool


@dataclass(frozen=True)
class Process:
    """One process that a bring-up starts.

    Attributes:
        name: Of the process and its node.
        command: The whole command line.
        environment: Variables set in addition to those of the starter.
        ends_all: When this process ends, whatever its exit code, the bring-up ends.
        held: It waits, imports done, until the supervisor releases it (`bringup.held`).
        lifecycle: It is a lifecycle node.
        restarts: It is started again where its watchdog has ended it (`ros.watchdog`).
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ends_all: bool = False
    held: bool = False
    lifecycle: bool = False
    restarts: bool = False


def config_folder() -> Path:
    """Where the parameter files are: beside the sources, or in the prefix of the installation.

    Raises:
        UnavailableError: In neither place.
    """
    tried = []
    # <prefix>/lib/pythonX.Y/site-packages/rrto_ros, for pip and for colcon.
    bases = [PACKAGE.parent, *(p / "share" / "rrto_ros" for p in PACKAGE.parents[2:5])]
    for base in bases:
        if (base / "config" / "rrto_ros.yaml").is_file():
            return base / "config"
        tried.append(str(base / "config"))
    raise UnavailableError(
        f"the parameter files of rrto_ros are missing (looked in {', '.join(tried)}); install the "
        "package again"
    )


def node_command(
    options: Options, module: str, parameters: Mapping[str, Value]
) -> tuple[str, ...]:
    """The command line of one node.

    Args:
        options: The bring-up.
        module: Of the package, as in ``nodes.offload_server``.
        parameters: Set last, over all files.
    """
    files = [str(config_folder() / "rrto_ros.yaml")]
    if options.params_file:
        files.append(str(Path(options.params_file).expanduser().resolve()))
    out = [sys.executable, "-m", f"rrto_ros.{module}", "--ros-args"]
    out += ["-r", f"__ns:=/{options.robot}"]
    for file in files:
        out += ["--params-file", file]
    for key, value in parameters.items():
        # JSON is YAML; strings stay strings whatever they look like.
        out += ["-p", f"{key}:={json.dumps(value, ensure_ascii=False)}"]
    return (*out, "--log-level", options.log_level)


def server(options: Options) -> Process:
    """The offload server, on the edge."""
    parameters: dict[str, Value] = {"robot": options.robot, "device": options.device}
    if options.limit_bytes:
        parameters["limit_bytes"] = options.limit_bytes
    if options.server_name:
        parameters["server_name"] = options.server_name
    if options.authentication:
        parameters["authentication"] = options.authentication
    return Process(
        "offload_server",
        node_command(options, "nodes.offload_server", parameters),
        {**node_environment(), **options.environment()},
        restarts=True,
    )


def recorder(options: Options, more: Mapping[str, Value] | None = None) -> Process:
    """The recorder, on the robot; it configures and activates itself.

    Args:
        options: The bring-up.
        more: Further parameters.
    """
    parameters: dict[str, Value] = {
        "robot": options.robot,
        "mode": options.mode,
        "autostart": True,
        **options.chosen_replay(),
        **(more or {}),
    }
    if options.authentication:
        parameters["authentication"] = options.authentication
    if options.servers:
        parameters["servers"] = options.servers
    if options.fallback:
        parameters["fallback"] = options.fallback
    if options.cuda_runtime:
        parameters["cuda_runtime"] = True
    return Process(
        "recorder_replayer",
        node_command(options, "nodes.recorder_replayer", parameters),
        {**node_environment(), **options.environment()},
        lifecycle=True,
        restarts=True,
    )


def camera(options: Options) -> Process:
    """The demo's camera. Never interposed; ends with perception."""
    source = str(Path(options.input).expanduser().resolve()) if options.input else ""
    return Process(
        "camera",
        node_command(options, "demo.camera", {"source": source, "loop": True}),
        {**node_environment(), **options.environment()},
    )


def perception(options: Options) -> Process:
    """The demo's perception node: an ordinary CUDA program, interposed when the recorder is up."""
    output = str(Path(options.output).expanduser().resolve()) if options.output else ""
    parameters: dict[str, Value] = {
        "frames": options.frames,
        "output_dir": output,
        "jit": options.jit,
    }
    node = node_command(options, "demo.perception", parameters)
    wait = [sys.executable, "-m", "rrto_ros.bringup.when_ready", "--robot", options.robot]
    if options.label:
        wait += ["--label", options.label]
    environment = {**node_environment(), **options.environment(), "DEV": "CUDA:PTX"}
    return Process("perception", (*wait, "--", *node), environment, ends_all=True)


def example(
    options: Options, path: Path, arguments: Sequence[str], python: str = sys.executable
) -> Process:
    """An ordinary CUDA program in Python, interposed when recorder and server are up.

    Args:
        options: The bring-up.
        path: The program.
        arguments: Its own.
        python: That runs it; another environment's finds nothing of this one's ROS.
    """
    wait = [sys.executable, "-m", "rrto_ros.bringup.when_ready", "--robot", options.robot]
    if options.label:
        wait += ["--label", options.label]
    if python != sys.executable:
        wait.append("--foreign")
    environment = {**node_environment(), **options.environment()}
    if options.cuda_runtime:  # for this program, whichever recorder serves it
        environment[VALIDITY_VARIABLE] = "1"
    command = (*wait, "--", python, str(path), *arguments)
    return Process(path.stem, command, environment, ends_all=True)


def processes(options: Options) -> list[Process]:
    """What to start on this machine, in this order; stop in the reverse order.

    Raises:
        UnavailableError: The package's parameter files are missing.
    """
    out = []
    if options.side in ("both", "edge"):
        out.append(server(options))
    if options.side in ("both", "robot"):
        out.append(recorder(options))
        if options.demo:
            out += [camera(options), perception(options)]
    return out
