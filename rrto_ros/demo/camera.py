"""Camera source node: publishes pictures of a file, a folder, a video or a bag as a camera would.

Publishes `image_raw` (sensor_msgs/Image). Starts when somebody listens, so that nobody misses the
first frame, and ends with exit code 0 after the last.
"""

from __future__ import annotations

from collections.abc import Iterator

from rclpy.event_handler import PublisherEventCallbacks, QoSPublisherMatchedInfo
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from rrto_ros.demo.frame_sources import Pixels, open_source, play
from rrto_ros.demo.image_codec import CHANNELS, fill_image
from rrto_ros.demo.program import TaskNode, run
from rrto_ros.errors import ConfigError


class CameraNode(TaskNode):
    """Publishes the frames of one source at a fixed rate."""

    def __init__(self) -> None:
        super().__init__("camera")
        source = self.declare(
            "source",
            "",
            "A picture, a folder of pictures, a video file or a ROS 2 bag; empty: a still picture "
            "(astronaut) over which the camera pans and zooms",
        )
        topic = self.declare("topic", "", "Topic to take from a bag; empty: its only image topic")
        rate = self.declare("rate_hz", 10.0, "Frames per second", (0.01, 1000.0))
        limit = self.declare("frames", 0, "Stop after so many frames; 0: no limit", (0, 2**31))
        loop = self.declare("loop", True, "Start again at the end of the source")
        self._encoding = self.declare("encoding", "bgr8", f"One of {', '.join(CHANNELS)}")
        self._frame_id = self.declare("frame_id", "camera", "frame_id of the header")
        depth = self.declare("queue_depth", 5, "Frames kept for slow subscribers", (1, 100))
        if self._encoding not in CHANNELS:
            msg = f"encoding is {self._encoding!r}, want one of {', '.join(CHANNELS)}"
            raise ConfigError(msg)
        opened = open_source(source, topic)
        self._frames: Iterator[Pixels] = play(opened, loop=loop, limit=limit)
        self._published = 0
        self._publisher = self.create_publisher(
            Image,
            "image_raw",
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=depth,
                reliability=ReliabilityPolicy.RELIABLE,
            ),
            event_callbacks=PublisherEventCallbacks(matched=self._on_matched),
        )
        self._timer = self.create_timer(
            1.0 / rate, lambda: self.attempt(self._publish_next), autostart=False
        )
        self.get_logger().info(f"{opened.describe()}; waiting for a subscriber")

    def _on_matched(self, info: QoSPublisherMatchedInfo) -> None:
        if info.current_count > 0 and self._timer.is_canceled() and not self.finished.done():
            self._timer.reset()

    def _publish_next(self) -> None:
        frame = next(self._frames, None)
        if frame is None:
            self._timer.cancel()
            self.finished.set_result(None)
            return
        message = Image()
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self._frame_id
        fill_image(message, frame, self._encoding)
        self._publisher.publish(message)
        self._published += 1

    def statistics(self) -> dict[str, int]:
        """Frames published so far."""
        return {"published": self._published}

    def close(self) -> None:
        """Let the last frames arrive, then say how many there were."""
        self.deliver(self._publisher)
        self.report(f"published {self._published} frames")


def main(arguments: list[str] | None = None) -> int:
    """Run the camera node; see `rrto_ros.demo.program.run` for the exit code."""
    return run(CameraNode, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
