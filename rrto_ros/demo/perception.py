"""Perception node: finds objects in camera pictures with NanoDet-416 on a CUDA GPU.

Subscribes to `image_raw` (sensor_msgs/Image); publishes `detections` (rrto_msgs/Detections) and
`image_annotated` (sensor_msgs/Image). With `output_dir` it also saves the annotated pictures and
one line of JSON per picture, `detections.jsonl`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from rrto_msgs.msg import Detection as DetectionMessage
from rrto_msgs.msg import Detections
from rrto_ros.demo.detector.draw import draw_detections
from rrto_ros.demo.detector.postprocess import Decoder, Detection
from rrto_ros.demo.detector.records import FrameRecord, LatencySummary, ResultFolder
from rrto_ros.demo.image_codec import bgr_from_image, fill_image
from rrto_ros.demo.program import TaskNode, run
from rrto_ros.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from rrto_ros.demo.detector.model import NanoDet


def load_detector(path: Path, device: str, jit: bool) -> NanoDet:
    """Load the network; tinygrad reads DEV when it is imported, so it is set before.

    Args:
        path: ONNX file.
        device: A tinygrad device such as CUDA:PTX; empty leaves the choice to the environment.
        jit: See `NanoDet`.

    Raises:
        ConfigError: There is no such file, or tinygrad has no device to run it on.
    """
    # Before tinygrad is imported: the import alone looks for a device, and fails without one.
    if not path.is_file():
        raise ConfigError(f"no model at {path}, want an ONNX file of NanoDet-416")
    if device:
        os.environ["DEV"] = device
    try:
        from rrto_ros.demo.detector.model import NanoDet
    except RuntimeError as error:
        raise ConfigError(
            f"tinygrad cannot start: {error}. Set the parameter `device` (for example CUDA:PTX) "
            "and start this node by `rrto run`, or install what that device needs (CPU: clang)"
        ) from error
    return NanoDet(path, jit=jit)


class PerceptionNode(TaskNode):
    """Runs the detector on every picture that arrives."""

    def __init__(self) -> None:
        super().__init__("perception")
        values = self.values()
        self._limit = values["frames"]
        folder, every, keep = (values[n] for n in ("output_dir", "save_every", "save_numbered"))
        self._folder = ResultFolder(Path(folder).expanduser(), every, keep) if folder else None
        self._decode = Decoder(values["score_threshold"], values["nms_threshold"])
        self._latency = LatencySummary()
        self._refused = 0
        self._detector = load_detector(
            Path(values["model"]).expanduser(), values["device"], values["jit"]
        )
        loaded = self._detector.statistics()
        self.get_logger().info(
            f"model on {loaded['device']}, loaded in {loaded['load_seconds']:.2f} s"
        )
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=values["queue_depth"],
            reliability=ReliabilityPolicy.RELIABLE,
        )
        self._detections = self.create_publisher(Detections, "detections", qos)
        self._annotated = self.create_publisher(Image, "image_annotated", qos)
        # Last of all: the camera starts as soon as it sees this subscription.
        self._subscription = self.create_subscription(
            Image, "image_raw", lambda image: self.attempt(lambda: self._on_image(image)), qos
        )

    def _on_image(self, image: Image) -> None:
        try:
            picture = bgr_from_image(image)
        except ProtocolError as error:
            self._refused += 1
            self.get_logger().warning(f"picture refused: {error}", throttle_duration_sec=5.0)
            return
        start = time.perf_counter()
        raw = self._detector(picture)
        found = self._decode(raw, picture.shape[1], picture.shape[0])
        seconds = time.perf_counter() - start
        self._latency.add(seconds)
        self.get_logger().debug(
            f"frame {self._latency.count}: {len(found)} objects in {seconds * 1e3:.1f} ms"
        )
        annotated = draw_detections(picture, found)
        if self._folder is not None:
            stamp = image.header.stamp.sec + image.header.stamp.nanosec * 1e-9
            self._folder.save(FrameRecord(stamp, seconds, tuple(found)), annotated)
        self._publish(image, found)
        message = Image(header=image.header)
        fill_image(message, annotated)
        self._annotated.publish(message)
        if self._latency.count == self._limit:
            self.finished.set_result(None)

    def _publish(self, image: Image, found: list[Detection]) -> None:
        message = Detections(header=image.header)
        message.detections = [
            DetectionMessage(class_id=one.label, score=one.score, box=one.box) for one in found
        ]
        self._detections.publish(message)

    def statistics(self) -> dict[str, float | int]:
        """Pictures processed and refused, and their latency (see `LatencySummary`)."""
        return {**self._latency.statistics(), "refused": self._refused}

    def close(self) -> None:
        """Let the last results arrive, close the result file and say how it went."""
        self.deliver(self._detections, self._annotated)
        if self._folder is not None:
            self._folder.close()
        self.report(f"{self._latency.describe()}, {self._refused} pictures refused")


def main(arguments: list[str] | None = None) -> int:
    """Run the perception node; see `rrto_ros.demo.program.run` for the exit code."""
    return run(PerceptionNode, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
