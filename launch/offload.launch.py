"""Starts offload server and recorder, with `demo:=true` also camera and perception.

`ros2 launch rrto_ros offload.launch.py --show-args` lists the arguments. What starts is described
in `rrto_ros.bringup`, which `rrto up` reads too. Where launch_ros is installed the recorder is a
lifecycle node for launch too: a launch file that includes this one may ask for transitions
(`ChangeState`) and act on them (`OnStateTransition`). It configures and activates itself at once,
most likely before launch sees it.
"""

from __future__ import annotations

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription
from rrto_ros.bringup.options import Options
from rrto_ros.bringup.processes import Process, processes
from rrto_ros.bringup.supervisor import MOST_RESTARTS, STOOD_STILL

try:
    from launch_ros.actions import LifecycleNode
except ImportError:  # launch alone starts the same processes
    LifecycleNode = None


def _ended(
    event: ProcessExited, process: Process, robot: str, restarts: int
) -> list[LaunchDescriptionEntity] | None:
    if event.returncode == 0 and not process.ends_all:
        return None
    if event.returncode == STOOD_STILL and process.restarts and restarts < MOST_RESTARTS:
        again = LogInfo(msg=f"{process.name} stood still and is started again")
        return [again, *_started(process, robot, restarts + 1)]
    reason = f"{process.name} ended with exit code {event.returncode}"
    return [LogInfo(msg=reason), EmitEvent(event=Shutdown(reason=reason))]


def _action(process: Process, robot: str) -> ExecuteProcess:
    """What starts a process."""
    program, *arguments = process.command
    if process.lifecycle and LifecycleNode is not None:
        return LifecycleNode(
            name=process.name,
            exec_name=process.name,
            namespace=f"/{robot}",
            executable=program,
            arguments=arguments,
            additional_env=dict(process.environment),
            output="screen",
        )
    return ExecuteProcess(
        name=process.name,
        cmd=[program, *arguments],
        additional_env=dict(process.environment),
        output="screen",
    )


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    names = [name for name, _, _, _ in Options.describe()]
    options = Options.from_texts(
        {name: LaunchConfiguration(name).perform(context) for name in names}
    )
    return [
        entity for process in processes(options) for entity in _started(process, options.robot)
    ]


def _started(process: Process, robot: str, restarts: int = 0) -> list[LaunchDescriptionEntity]:
    """What starts a process and knows what to do when it ends."""
    action = _action(process, robot)
    # Processes that start late must not end before their handler is there.
    handler = OnProcessExit(
        target_action=action,
        on_exit=lambda event, _: _ended(event, process, robot, restarts),
    )
    return [RegisterEventHandler(handler), action]


def generate_launch_description() -> LaunchDescription:
    """One argument per option of `rrto_ros.bringup.options.Options`."""
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            # Not launch's own `choices`: a wrong value is refused with our message.
            description=text + (f" ({', '.join(c for c in choices if c)})" if choices else ""),
        )
        for name, default, text, choices in Options.describe()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_start)])
