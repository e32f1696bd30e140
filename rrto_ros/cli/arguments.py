"""What the commands of `rrto` share: owns common arguments, exit codes and the way to ROS."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Annotated

from rrto_ros.cli.replay_options import option
from rrto_ros.errors import ConfigError

if TYPE_CHECKING:
    from rrto_ros.ros.client import RobotClient

FAILED = 1
UNUSABLE = 2
Robot = Annotated[str, option("robot")]
Domain = Annotated[int, option("domain")]


def need_ros(*, look: bool = False) -> None:
    """Say what to do where ROS 2 or the messages cannot be imported.

    Args:
        look: Only whether they are there, so that what takes longer can start before the import.
    """
    try:
        if look and all(map(importlib.util.find_spec, ("rclpy", "rrto_msgs.msg"))):
            return
        importlib.import_module("rclpy")

        # A folder of that name would do for a plain `import rrto_msgs`.
        importlib.import_module("rrto_msgs.msg")
    except ImportError as error:
        raise ConfigError(
            f"ROS 2 or rrto_msgs is missing here ({error}); run `make demo` once and use its "
            "environment, or source your ROS installation and workspace"
        ) from error


def client_of(robot: str, domain: int) -> RobotClient:
    """A client of a robot's nodes.

    Raises:
        ConfigError: ROS 2 is missing here, or the domain is none.
    """
    from rrto_ros.bringup.options import Options

    number = Options(robot=robot, domain=domain).domain_number()
    need_ros()
    from rrto_ros.ros.client import RobotClient

    return RobotClient(robot, number)
