#!/usr/bin/env python3
"""A ROS 2 node that runs one of the camera examples on each picture that comes.

    camera_node.py --ros-args -p model:=segmentation_torch -p options:="--graph"

Subscribes to `image_raw` (sensor_msgs/Image; rgb8 or bgr8, 320 x 240). What it publishes is what
the example finds: `mask` (Image, mono8), `region` (RegionOfInterest), `label` (std_msgs/String) or
`image_rect` (Image, rgb8).
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from camera import HEIGHT, WIDTH, NoDeviceError, parser
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import String

TOPICS = {"mask": Image, "region": RegionOfInterest, "label": String, "picture": Image}
NAMES = {"picture": "image_rect"}
MODELS = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if "\ndef make(" in path.read_text(encoding="utf-8")
)


def rgb(message: Image) -> np.ndarray:
    """The picture of a message, (height, width, 3), RGB.

    Raises:
        ValueError: It is none that the models take.
    """
    if message.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"encoding {message.encoding!r}, want rgb8 or bgr8")
    if (message.height, message.width) != (HEIGHT, WIDTH):
        raise ValueError(f"{message.width} x {message.height} pixels, want {WIDTH} x {HEIGHT}")
    if message.step < 3 * WIDTH or len(message.data) != message.step * HEIGHT:
        raise ValueError(f"{len(message.data)} bytes in rows of {message.step}")
    rows = np.frombuffer(message.data, np.uint8).reshape(HEIGHT, message.step)
    out = rows[:, : 3 * WIDTH].reshape(HEIGHT, WIDTH, 3)
    return out if message.encoding == "rgb8" else out[..., ::-1]


def message_of(kind: str, answer: Any, came: Image) -> Any:
    """The message that says an answer."""
    if kind == "label":
        return String(data=answer)
    if kind == "region":
        x, y, width, height = answer
        return RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
    out = Image(header=came.header)
    out.height, out.width = answer.shape[:2]
    out.encoding = "mono8" if kind == "mask" else "rgb8"
    out.step = answer.nbytes // out.height
    out.data = array("B", np.ascontiguousarray(answer).tobytes())
    return out


class CameraNode(Node):
    """Answers pictures."""

    def __init__(self) -> None:
        super().__init__("camera_example")
        name = str(self.declare_parameter("model", "detector_onnxruntime").value)
        given = str(self.declare_parameter("options", "").value)
        if name not in MODELS:
            raise NoDeviceError(f"model {name!r} is none of {', '.join(MODELS)}")
        module = importlib.import_module(name)
        options = getattr(module, "options", None)
        self._model = module.make(parser(module.__doc__, options).parse_args(given.split()))
        kind = self._model.kind
        self._results = self.create_publisher(TOPICS[kind], NAMES.get(kind, kind), 1)
        self.create_subscription(Image, "image_raw", self._on_image, 1)
        self.get_logger().info(f"ready: {name} on {self._model.device}")

    def _on_image(self, message: Image) -> None:
        try:
            image = rgb(message)
        except ValueError as error:
            self.get_logger().warning(f"picture refused: {error}", throttle_duration_sec=5.0)
            return
        answer = self._model.answer(self._model.run(image))
        self._results.publish(message_of(self._model.kind, answer, message))


def main() -> int:
    """Run until Ctrl-C."""
    rclpy.init()
    try:
        node = CameraNode()
    except (ImportError, NoDeviceError) as error:
        print(f"camera_node: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    with contextlib.suppress(KeyboardInterrupt):  # launch sends a second one
        rclpy.try_shutdown()
        # One that comes while the interpreter ends would end it otherwise.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
