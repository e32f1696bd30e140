"""Starts an example under the shim, beside offload server and recorder.

    ros2 launch rrto_ros examples.launch.py program:=rectify_triton.py arguments:="--frames 100"
    ros2 launch rrto_ros examples.launch.py program:=camera_node.py mode:=replay \
        arguments:="--ros-args -p model:=segmentation_torch -r image_raw:=/camera/image_raw"

`program` is a file of the examples, or any Python file by its path; it starts when recorder and
server know each other. `python` names the Python of another environment, where its framework is.
The other arguments are those of offload.launch.py. The launch ends when the program ends.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription
from rrto_ros.bringup.options import Options
from rrto_ros.bringup.processes import example
from rrto_ros.errors import ConfigError

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
"""Beside this folder in the sources, and where the package is installed."""


def _found(program: str) -> Path:
    """The file that `program` names.

    Raises:
        ConfigError: There is none.
    """
    for path in (EXAMPLES / program, Path(program).expanduser()):
        if path.is_file():
            return path.resolve()
    names = ", ".join(sorted(path.name for path in EXAMPLES.glob("*.py")))
    raise ConfigError(f"program {program!r} is no file, and none of the examples: {names}")


def _ended(event: ProcessExited, name: str) -> list[LaunchDescriptionEntity]:
    reason = f"{name} ended with exit code {event.returncode}"
    return [LogInfo(msg=reason), EmitEvent(event=Shutdown(reason=reason))]


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {
        name: LaunchConfiguration(name).perform(context)
        for name in ("program", "arguments", "python")
    }
    names = [name for name, _, _, _ in Options.describe()]
    options = Options.from_texts(
        {name: LaunchConfiguration(name).perform(context) for name in names}
    )
    path = _found(values["program"])
    process = example(options, path, shlex.split(values["arguments"]), values["python"])
    action = ExecuteProcess(
        name=process.name,
        cmd=list(process.command),
        additional_env=dict(process.environment),
        output="screen",
    )
    handler = OnProcessExit(
        target_action=action, on_exit=lambda event, _: _ended(event, path.name)
    )
    return [RegisterEventHandler(handler), action]


def generate_launch_description() -> LaunchDescription:
    """The arguments of offload.launch.py, and three of the program."""
    beside = PythonLaunchDescriptionSource(str(HERE / "offload.launch.py"))
    return LaunchDescription(
        [
            DeclareLaunchArgument("program", description="File of an example, or a path"),
            DeclareLaunchArgument("arguments", default_value="", description="Of the program"),
            DeclareLaunchArgument(
                "python", default_value=sys.executable, description="Python that runs it"
            ),
            IncludeLaunchDescription(beside),
            OpaqueFunction(function=_start),
        ]
    )
