"""Frame sources of the demo's camera, and pictures in and out of messages."""

from __future__ import annotations

import itertools
from array import array
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rrto_ros.demo.frame_sources import (
    DEFAULT_PICTURE,
    BagImages,
    PanAndZoom,
    PictureFiles,
    VideoFile,
    open_source,
    play,
    read_picture,
)
from rrto_ros.demo.image_codec import bgr_from_image, fill_image
from rrto_ros.errors import ConfigError, ProtocolError


@dataclass
class Message:
    """The fields of sensor_msgs/Image."""

    height: int = 0
    width: int = 0
    encoding: str = ""
    is_bigendian: int = 0
    step: int = 0
    data: Any = field(default_factory=lambda: array("B"))


def noise(height: int = 6, width: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_first_frame_of_the_default_source_is_the_plain_picture():
    first = next(open_source("").frames())
    assert np.array_equal(first, cv2.imread(str(DEFAULT_PICTURE)))


def test_default_sequence_moves_and_is_the_same_every_time():
    one, two = ([*itertools.islice(open_source("").frames(), 12)] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(one))
    assert {frame.shape for frame in one} == {(512, 512, 3)}


def test_the_view_stays_inside_the_picture(tmp_path: Path):
    white = np.full((40, 60, 3), 255, np.uint8)
    white[[0, -1]] = 0
    white[:, [0, -1]] = 0
    cv2.imwrite(str(tmp_path / "frame.png"), white)
    source = PanAndZoom(tmp_path / "frame.png", length=24)
    for index in range(24):
        # Replicated border pixels would widen the black frame, which is one pixel (times 1.3).
        frame = source.frame(index)
        assert (frame[3:-3, 3:-3] == 255).all(), index


def test_after_one_round_the_camera_is_back():
    source = PanAndZoom(DEFAULT_PICTURE, length=4)
    frames = [*itertools.islice(play(source, loop=True), 8)]
    assert all(np.array_equal(frames[i], frames[i + 4]) for i in range(4))


def test_a_folder_plays_its_pictures_in_order(tmp_path: Path):
    for index, name in enumerate(["b.png", "a.png", "c.PNG"]):
        cv2.imwrite(str(tmp_path / name.lower()), noise(seed=index))
    (tmp_path / "notes.txt").write_text("not a picture")
    frames = [*open_source(str(tmp_path)).frames()]
    wanted = [noise(seed=1), noise(seed=0), noise(seed=2)]
    assert all(np.array_equal(a, b) for a, b in zip(frames, wanted, strict=True))


def test_one_file_is_one_frame(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), noise())
    source = open_source(str(tmp_path / "a.png"))
    assert len([*source.frames()]) == 1
    assert len([*play(source, loop=True, limit=5)]) == 5
    assert len([*play(source, loop=False, limit=5)]) == 1


def test_a_video_plays_every_frame_and_again(tmp_path: Path):
    path = tmp_path / "grey.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for level in (20, 90, 160, 230):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    source = open_source(str(path))
    assert isinstance(source, VideoFile)
    levels = [round(float(frame.mean()) / 10) for frame in source.frames()]
    assert levels == [2, 9, 16, 23]
    assert len([*play(source, loop=True, limit=9)]) == 9


def write_bag(path: Path, topics: dict[str, list[np.ndarray]]) -> None:
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_KILTED)
    types = store.types
    with rosbag2.Writer(path, version=9) as writer:
        for topic, frames in topics.items():
            connection = writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=store)
            for index, frame in enumerate(frames):
                stamp = types["builtin_interfaces/msg/Time"](sec=index, nanosec=0)
                message = types["sensor_msgs/msg/Image"](
                    header=types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera"),
                    height=frame.shape[0],
                    width=frame.shape[1],
                    encoding="bgr8",
                    is_bigendian=0,
                    step=frame.shape[1] * 3,
                    data=frame.reshape(-1),
                )
                raw = store.serialize_cdr(message, "sensor_msgs/msg/Image")
                writer.write(connection, index * 10**9, raw)


def test_a_bag_plays_the_pictures_of_its_only_image_topic(tmp_path: Path):
    pictures = [noise(seed=seed) for seed in range(3)]
    write_bag(tmp_path / "bag", {"/camera/image_raw": pictures})
    source = open_source(str(tmp_path / "bag"))
    assert isinstance(source, BagImages)
    frames = [*source.frames()]
    assert all(np.array_equal(a, b) for a, b in zip(frames, pictures, strict=True))


def test_a_bag_with_two_image_topics_wants_to_know_which(tmp_path: Path):
    write_bag(tmp_path / "bag", {"/left": [noise(seed=1)], "/right": [noise(seed=2)]})
    with pytest.raises(ConfigError, match="/left, /right"):
        next(open_source(str(tmp_path / "bag")).frames())
    [frame] = open_source(str(tmp_path / "bag"), "/right").frames()
    assert np.array_equal(frame, noise(seed=2))


def test_a_broken_bag_is_a_config_error(tmp_path: Path):
    (tmp_path / "metadata.yaml").write_text("not: [a bag")
    pytest.importorskip("rosbags")
    with pytest.raises(ConfigError, match="cannot read the bag"):
        next(open_source(str(tmp_path)).frames())


@pytest.mark.parametrize("name", ["missing.png", "missing", "missing.avi"])
def test_a_source_that_is_not_there_is_a_config_error(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="does not exist"):
        open_source(str(tmp_path / name))


def test_files_that_are_not_what_they_seem_are_config_errors(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    (tmp_path / "a.avi").write_bytes(b"not a video")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="as a picture"):
        next(open_source(str(tmp_path / "a.png")).frames())
    with pytest.raises(ConfigError, match="as a video"):
        next(open_source(str(tmp_path / "a.avi")).frames())
    with pytest.raises(ConfigError, match="no pictures"):
        open_source(str(tmp_path / "empty"))


def test_a_source_without_frames_does_not_loop_for_ever():
    with pytest.raises(ConfigError, match="no pictures"):
        next(play(Empty(), loop=True))


class Empty(PictureFiles):
    def __init__(self) -> None:
        super().__init__([Path("none")])

    def frames(self):
        return iter(())


def test_read_picture_gives_three_channels_for_grey(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((3, 4), 7, np.uint8))
    assert read_picture(tmp_path / "grey.png").shape == (3, 4, 3)


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8"])
def test_colour_pictures_survive_a_message(encoding: str):
    message = Message()
    fill_image(message, noise(), encoding)
    assert isinstance(message.data, array)
    assert (message.height, message.width, message.step) == (6, 5, 15)
    assert np.array_equal(bgr_from_image(message), noise())


def test_rgb8_and_bgr8_differ_in_the_order_of_the_bytes():
    one, two = Message(), Message()
    fill_image(one, noise(), "bgr8")
    fill_image(two, noise(), "rgb8")
    assert list(one.data[:3]) == list(two.data[:3])[::-1]


def test_mono8_gives_three_equal_channels():
    message = Message()
    fill_image(message, noise(), "mono8")
    assert message.step == 5
    pixels = bgr_from_image(message)
    assert np.array_equal(pixels[..., 0], cv2.cvtColor(noise(), cv2.COLOR_BGR2GRAY))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_padding_at_the_end_of_rows_is_skipped():
    padded = np.zeros((6, 20), np.uint8)
    padded[:, :15] = noise().reshape(6, 15)
    message = Message(6, 5, "bgr8", 0, 20, padded.tobytes())
    assert np.array_equal(bgr_from_image(message), noise())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "yuv422"}, "encoding 'yuv422'"),
        ({"encoding": ""}, "encoding"),
        ({"height": 0}, "5x0 pixels"),
        ({"width": 0}, "0x6 pixels"),
        ({"width": 4_000_000_000}, "4000000000x6"),
        ({"step": 14}, "step of 14 bytes"),
        ({"step": 16}, "want 96"),
        ({"data": b""}, "data of 0 bytes"),
        ({"data": bytes(91)}, "data of 91 bytes"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change: dict[str, Any], reason: str):
    message = Message()
    fill_image(message, noise())
    with pytest.raises(ProtocolError, match=reason):
        bgr_from_image(replace(message, **change))


def test_filling_with_an_unknown_encoding_is_refused():
    with pytest.raises(ConfigError, match="want one of"):
        fill_image(Message(), noise(), "bayer_rggb8")
