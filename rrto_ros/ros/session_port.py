"""A robot's port over DDS for a tool that plays sessions itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rrto_ros.ros.robot_port import RosRobotPort
from rrto_ros.wire.port import ResultsMessage


@contextlib.contextmanager
def playing_port(
    robot: str, domain: int, on_results: Callable[[ResultsMessage], None]
) -> Iterator[RosRobotPort]:
    """A port that lasts as long as the block.

    Args:
        robot: Robot name.
        domain: ROS domain number.
        on_results: Takes every message of results, in the port's thread.
    """
    port = RosRobotPort(domain, robot, on_results, name="rrto_bag_play")
    try:
        yield port
    finally:
        port.close()
