"""The camera node over real DDS, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from rrto_ros.demo.frame_sources import DEFAULT_PICTURE, PanAndZoom  # noqa: E402
from rrto_ros.demo.image_codec import bgr_from_image, fill_image  # noqa: E402

pytestmark = pytest.mark.ros

DOMAIN = 30 + os.getpid() % 60
PATIENCE = 120.0
ROOT = Path(__file__).resolve().parents[2]


class Listener:
    """A node of the test, in this process."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = Node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.images: list[Image] = []

    def subscribe(self) -> None:
        self.node.create_subscription(Image, "image_raw", self.images.append, 50)

    def wait(self, true: Callable[[], bool]) -> bool:
        end = time.monotonic() + PATIENCE
        while not true() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.1)
        return true()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    yield one
    one.close()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a node with parameters; what still runs at the end is stopped."""
    started: list[subprocess.Popen[str]] = []

    def run(module: str = "camera", **parameters: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"rrto_ros.demo.{module}", "--ros-args"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        process = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_first_frame_is_the_plain_picture_however_late_the_subscriber(listener, start):
    camera = start(rate_hz=20.0, frames=5)
    # The publisher is there and has no subscriber: nothing may be sent yet.
    assert listener.wait(lambda: listener.node.count_publishers("image_raw") == 1)
    listener.wait_until = time.monotonic() + 0.5
    listener.wait(lambda: time.monotonic() > listener.wait_until)
    listener.subscribe()
    assert listener.wait(lambda: len(listener.images) == 5)
    output, _ = camera.communicate(timeout=PATIENCE)
    assert camera.returncode == 0, output
    assert "published 5 frames" in output
    source = PanAndZoom(DEFAULT_PICTURE)
    for index, image in enumerate(listener.images):
        assert np.array_equal(bgr_from_image(image), source.frame(index)), index
    assert np.array_equal(bgr_from_image(listener.images[0]), cv2.imread(str(DEFAULT_PICTURE)))
    stamps = [
        image.header.stamp.sec * 10**9 + image.header.stamp.nanosec for image in listener.images
    ]
    assert stamps == sorted(stamps)
    assert {image.header.frame_id for image in listener.images} == {"camera"}


def test_end_of_the_source_without_loop_ends_the_camera(listener, start, tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((8, 8, 3), index, np.uint8))
    listener.subscribe()
    camera = start(source=tmp_path, loop="false", rate_hz=50.0, encoding="mono8")
    assert listener.wait(lambda: len(listener.images) == 3)
    assert [image.data[0] for image in listener.images] == [0, 1, 2]
    assert {image.encoding for image in listener.images} == {"mono8"}
    assert camera.wait(PATIENCE) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_an_endless_camera_without_a_traceback(listener, start, number):
    listener.subscribe()
    camera = start(rate_hz=50.0)
    assert listener.wait(lambda: len(listener.images) >= 2)
    camera.send_signal(number)
    output, _ = camera.communicate(timeout=PATIENCE)
    assert camera.returncode == 0, output
    assert "Traceback" not in output
    assert "published" in output


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"source": "/no/such/file.png"}, "does not exist"),
        ({"encoding": "yuv422"}, "none of rgb8, bgr8, mono8"),
        ({"rate_hz": 0.0}, "rate_hz"),
        ({"frames": -1}, "frames"),
        ({"loop": 3}, "loop"),
    ],
)
def test_a_bad_parameter_ends_the_camera_with_code_2_and_the_reason(start, parameters, reason):
    camera = start(**parameters)
    output, _ = camera.communicate(timeout=PATIENCE)
    assert camera.returncode == 2, output
    assert reason in output
    assert "Traceback" not in output


def test_a_source_that_breaks_later_ends_the_camera_with_code_2(listener, start, tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "1.png").write_bytes(b"not a picture")
    listener.subscribe()
    camera = start(source=tmp_path, rate_hz=50.0)
    assert listener.wait(lambda: camera.poll() is not None)
    output, _ = camera.communicate(timeout=PATIENCE)
    assert camera.returncode == 2, output
    assert "cannot read" in output


def test_perception_says_what_is_wrong_when_it_cannot_start(start, tmp_path):
    pytest.importorskip("rrto_msgs.msg")
    node = start("perception", model=tmp_path / "missing.onnx")
    output, _ = node.communicate(timeout=PATIENCE)
    assert node.returncode == 2, output
    assert "no model at" in output
    assert "Traceback" not in output


def test_perception_refuses_a_broken_picture_and_finds_the_astronaut(listener, start, tmp_path):
    """With tinygrad's CPU device; the CUDA device is tested with the offloading."""
    pytest.importorskip("rrto_msgs.msg")
    import shutil

    if shutil.which("clang") is None:
        pytest.skip("tinygrad's CPU device needs clang")
    from rrto_msgs.msg import Detections

    found: list[Detections] = []
    annotated: list[Image] = []
    listener.node.create_subscription(Detections, "detections", found.append, 10)
    listener.node.create_subscription(Image, "image_annotated", annotated.append, 10)
    publisher = listener.node.create_publisher(Image, "image_raw", 10)
    node = start("perception", device="CPU", frames=1, output_dir=tmp_path, jit="true")
    assert listener.wait(lambda: publisher.get_subscription_count() == 1)
    assert listener.wait(lambda: listener.node.count_publishers("detections") == 1)
    broken = Image(height=4, width=4, encoding="bgr8", step=12, data=b"short")
    publisher.publish(broken)
    good = Image()
    good.header.frame_id = "left_eye"
    good.header.stamp.sec = 7
    fill_image(good, cv2.imread(str(DEFAULT_PICTURE)), "rgb8")
    publisher.publish(good)
    listener.wait(lambda: bool(found and annotated) or node.poll() not in (None, 0))
    if not (found and annotated):
        node.terminate()  # so that the assertion below shows what it said
    output, _ = node.communicate(timeout=PATIENCE)
    assert node.returncode == 0, output
    assert "picture refused" in output
    assert "1 pictures refused" in output
    [person] = found[0].detections
    assert (found[0].header.frame_id, found[0].header.stamp.sec) == ("left_eye", 7)
    assert person.class_id == "person"
    assert person.score == pytest.approx(0.734, abs=0.02)
    assert list(person.box) == pytest.approx([14, 14, 364, 508], abs=3)
    saved = cv2.imread(str(tmp_path / "annotated_0000.png"))
    assert np.array_equal(bgr_from_image(annotated[0]), saved)
    assert not np.array_equal(saved, cv2.imread(str(DEFAULT_PICTURE)))
