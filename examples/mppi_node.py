#!/usr/bin/env python3
"""A ROS 2 node that drives a robot to a goal: mppi_numba.py's controller between two topics.

Subscribes to `pose` and `goal_pose` (geometry_msgs/PoseStamped), answers each pose with a
command on `cmd_vel` (geometry_msgs/TwistStamped), and logs once that the goal is reached.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from mppi_numba import REACHED_M, Controller
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node


class MppiNode(Node):
    """Turns poses into commands."""

    def __init__(self) -> None:
        super().__init__("mppi")
        samples = self.declare_parameter("samples", 512).value
        horizon = self.declare_parameter("horizon", 25).value
        self._controller = Controller(int(samples), int(horizon))
        self._goal: np.ndarray | None = None
        self._commands = self.create_publisher(TwistStamped, "cmd_vel", 1)
        self.create_subscription(PoseStamped, "goal_pose", self._on_goal, 1)
        self.create_subscription(PoseStamped, "pose", self._on_pose, 1)
        self.get_logger().info("ready")

    def _on_goal(self, message: PoseStamped) -> None:
        place = message.pose.position
        self._goal = np.array([place.x, place.y], np.float32)

    def _on_pose(self, message: PoseStamped) -> None:
        if self._goal is None:
            return
        place, turn = message.pose.position, message.pose.orientation
        pose = np.array([place.x, place.y, 2 * math.atan2(turn.z, turn.w)], np.float32)
        out = TwistStamped()
        out.header = message.header
        if np.hypot(*(pose[:2] - self._goal)) > REACHED_M:
            costs = self._controller.costs(pose, self._goal)
            forward, angular = self._controller.command(costs)
            out.twist.linear.x, out.twist.angular.z = float(forward), float(angular)
        else:
            self.get_logger().info("goal reached", once=True)
        self._commands.publish(out)


def main() -> None:
    """Run until Ctrl-C."""
    rclpy.init()
    node = MppiNode()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    with contextlib.suppress(KeyboardInterrupt):  # launch sends a second one
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
