"""Between `sensor_msgs/Image` and BGR pixels.

Works on anything that has the fields of the message, so that it serves rclpy's messages and those
read from a bag, and needs no ROS.
"""

from __future__ import annotations

from array import array
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from rrto_ros.errors import ConfigError, ProtocolError

Pixels: TypeAlias = npt.NDArray[np.uint8]

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
LARGEST_SIDE = 16384


class ImageFields(Protocol):
    """The fields of `sensor_msgs/Image` that are used here."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def bgr_from_image(image: ImageFields) -> Pixels:
    """The pixels of a message.

    Returns:
        `[height, width, 3]` BGR; may share memory with the message.

    Raises:
        ProtocolError: The encoding is not rgb8, bgr8 or mono8, or size, step and data disagree.
    """
    channels = CHANNELS.get(image.encoding)
    if channels is None:
        msg = f"image encoding {image.encoding!r}, want one of {', '.join(CHANNELS)}"
        raise ProtocolError(msg)
    height, width, step = image.height, image.width, image.step
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        msg = f"image of {width}x{height} pixels, want 1 to {LARGEST_SIDE} each"
        raise ProtocolError(msg)
    if step < width * channels:
        msg = f"image step of {step} bytes, want at least {width * channels} for {width} pixels"
        raise ProtocolError(msg)
    if len(image.data) != step * height:
        msg = f"image data of {len(image.data)} bytes, want {step * height} (step x height)"
        raise ProtocolError(msg)
    rows = np.frombuffer(image.data, np.uint8).reshape(height, step)
    pixels = rows[:, : width * channels].reshape(height, width, channels)
    if image.encoding == "bgr8":
        return pixels
    conversion = cv2.COLOR_RGB2BGR if image.encoding == "rgb8" else cv2.COLOR_GRAY2BGR
    return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def fill_image(image: ImageFields, bgr: Pixels, encoding: str = "bgr8") -> None:
    """Put pixels into a message (the header is the caller's).

    Args:
        image: Message to fill.
        bgr: `[height, width, 3]`.
        encoding: rgb8, bgr8 or mono8.

    Raises:
        ConfigError: Another encoding is asked for.
    """
    if encoding not in CHANNELS:
        msg = f"image encoding {encoding!r}, want one of {', '.join(CHANNELS)}"
        raise ConfigError(msg)
    pixels = bgr
    if encoding == "rgb8":
        pixels = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    elif encoding == "mono8":
        pixels = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), np.uint8)
    image.height, image.width = bgr.shape[:2]
    image.encoding = encoding
    image.is_bigendian = 0
    image.step = image.width * CHANNELS[encoding]
    # rclpy takes an array('B') as it is; from bytes or an ndarray it checks every element.
    image.data = array("B", pixels.tobytes())
