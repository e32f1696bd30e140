"""A robot in a test: sends its pose, moves as `cmd_vel` says, ends when it is at the goal.

Prints one JSON line. The first argument is how many steps it may take.
"""

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples"))

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from mppi_numba import OBSTACLES, REACHED_M, moved
from rclpy.node import Node

GOAL = (4.5, 0.5)
AGAIN_S = 2.0
"""A pose to which no command came is sent again: the controller may just have started."""


class Robot(Node):
    def __init__(self, steps):
        super().__init__("robot")
        self.left, self.nearest = steps, math.inf
        self.pose = np.zeros(3, np.float32)
        self._goals = self.create_publisher(PoseStamped, "goal_pose", 1)
        self._poses = self.create_publisher(PoseStamped, "pose", 1)
        self.create_subscription(TwistStamped, "cmd_vel", self.on_command, 1)
        self._timer = self.create_timer(AGAIN_S, self.send)
        self.sent = 0

    def message(self, x, y, heading):
        out = PoseStamped()
        out.header.frame_id = str(self.sent)
        out.pose.position.x, out.pose.position.y = float(x), float(y)
        out.pose.orientation.z = math.sin(heading / 2)
        out.pose.orientation.w = math.cos(heading / 2)
        return out

    def send(self):
        self._goals.publish(self.message(*GOAL, 0.0))
        self._poses.publish(self.message(*self.pose))
        self._timer.reset()

    def on_command(self, message):
        if message.header.frame_id != str(self.sent):
            return  # of a pose that was sent again
        self.sent += 1
        twist = message.twist
        self.pose = moved(self.pose, np.array([twist.linear.x, twist.angular.z]))
        away = np.hypot(*(self.pose[:2] - OBSTACLES[:, :2]).T) - OBSTACLES[:, 2]
        self.nearest = min(self.nearest, float(away.min()))
        self.left -= 1
        self.send()

    def distance(self):
        return float(np.hypot(*(self.pose[:2] - np.array(GOAL))))


def main():
    rclpy.init()
    robot = Robot(int(sys.argv[1]))
    while robot.left and robot.distance() > REACHED_M:
        rclpy.spin_once(robot)
    print(
        json.dumps({"distance": robot.distance(), "nearest": robot.nearest, "steps": robot.sent})
    )
    robot.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
