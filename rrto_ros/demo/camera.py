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
from rrto_ros.demo.image_codec import fill_image
from rrto_ros.demo.program import TaskNode, run


class CameraNode(TaskNode):
    """Publishes the frames of one source at a fixed rate."""

    def __init__(self) -> None:
        super().__init__("camera")
        values = self.values()
        self._encoding, self._frame_id = values["encoding"], values["frame_id"]
        opened = open_source(values["source"], values["topic"])
        self._frames: Iterator[Pixels] = play(opened, loop=values["loop"], limit=values["frames"])
        self._published = 0
        self._publisher = self.create_publisher(
            Image,
            "image_raw",
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=values["queue_depth"],
                reliability=ReliabilityPolicy.RELIABLE,
            ),
            event_callbacks=PublisherEventCallbacks(matched=self._on_matched),
        )
        self._timer = self.create_timer(
            1.0 / values["rate_hz"], lambda: self.attempt(self._publish_next), autostart=False
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
