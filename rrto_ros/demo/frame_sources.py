"""Where the camera node's pictures come from: a moving view of a still, files, a video, a bag."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from rrto_ros.demo.image_codec import bgr_from_image
from rrto_ros.errors import ConfigError

Pixels: TypeAlias = npt.NDArray[np.uint8]

DEFAULT_PICTURE = Path(__file__).resolve().parent.parent / "data" / "astronaut.png"
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
BAG_SUFFIXES = {".mcap", ".db3"}
IMAGE_TYPE = "sensor_msgs/msg/Image"


class FrameSource(Protocol):
    """A sequence of BGR pictures `[height, width, 3]` that can be gone through again."""

    def frames(self) -> Iterator[Pixels]:
        """The pictures, from the first one."""
        ...

    def describe(self) -> str:
        """One line for the log."""
        ...


class PanAndZoom:
    """A camera that looks at a still picture, moves along it and closes in.

    The first frame is the picture itself; after `length` frames the camera is back there.

    Args:
        path: Picture file.
        length: Frames of one round.
    """

    def __init__(self, path: Path, length: int = 60) -> None:
        self._path = path
        self._picture = read_picture(path)
        self._length = length

    def frames(self) -> Iterator[Pixels]:
        """One round; every frame has the size of the picture."""
        for index in range(self._length):
            yield self.frame(index)

    def frame(self, index: int) -> Pixels:
        """The frame at `index`, counted from 0, always the same one."""
        phase = 2 * math.pi * (index % self._length) / self._length
        if phase == 0.0:
            return np.array(self._picture)
        height, width = self._picture.shape[:2]
        zoom = 1.0 + 0.15 * (1.0 - math.cos(phase))
        # The view stays inside the picture: it may only move by what zooming in has freed.
        free_x, free_y = width * (1 - 1 / zoom) / 2, height * (1 - 1 / zoom) / 2
        centre_x = width / 2 + free_x * math.sin(phase)
        centre_y = height / 2 - free_y * math.sin(2 * phase)
        view = np.array(
            [
                [zoom, 0, width / 2 - zoom * centre_x],
                [0, zoom, height / 2 - zoom * centre_y],
            ],
            np.float64,
        )
        moved = cv2.warpAffine(
            self._picture,
            view,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(moved, np.uint8)

    def describe(self) -> str:
        return f"{self._path.name}, panned and zoomed over {self._length} frames"


class PictureFiles:
    """Still pictures, in the order given."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def frames(self) -> Iterator[Pixels]:
        """Each picture once.

        Raises:
            ConfigError: A file is no picture.
        """
        for path in self._paths:
            yield read_picture(path)

    def describe(self) -> str:
        return f"{len(self._paths)} picture(s), first {self._paths[0].name}"


class VideoFile:
    """A video, through OpenCV."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def frames(self) -> Iterator[Pixels]:
        """Every frame once.

        Raises:
            ConfigError: OpenCV cannot open the file.
        """
        video = cv2.VideoCapture(str(self._path))
        try:
            if not video.isOpened():
                msg = f"OpenCV cannot read {self._path} as a video"
                raise ConfigError(msg)
            while True:
                there, frame = video.read()
                if not there:
                    return
                yield np.asarray(frame, np.uint8)
        finally:
            video.release()

    def describe(self) -> str:
        return f"video {self._path.name}"


class BagImages:
    """The pictures of one topic of a ROS 2 bag.

    Args:
        path: Bag directory.
        topic: Topic of type sensor_msgs/Image; empty takes the only one.
    """

    def __init__(self, path: Path, topic: str = "") -> None:
        self._path = path
        self._topic = topic

    def frames(self) -> Iterator[Pixels]:
        """Every picture once.

        Raises:
            ConfigError: The bag cannot be read, or has not exactly one topic that fits.
            ProtocolError: A message in the bag is not a picture this package reads.
        """
        # Imported here: only who plays a bag needs rosbags.
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_typestore

        try:
            reader = AnyReader([self._path], default_typestore=get_typestore(Stores.LATEST))
            reader.open()
        except (AnyReaderError, OSError) as error:
            msg = f"cannot read the bag {self._path}: {error}"
            raise ConfigError(msg) from error
        with closing(reader):
            images = [c for c in reader.connections if c.msgtype == IMAGE_TYPE]
            chosen = [c for c in images if not self._topic or c.topic == self._topic]
            if len({connection.topic for connection in chosen}) != 1:
                names = ", ".join(sorted({c.topic for c in images})) or "none"
                msg = (
                    f"bag {self._path.name} has these topics of type {IMAGE_TYPE}: {names}; "
                    f"name one of them with the parameter topic (now {self._topic!r})"
                )
                raise ConfigError(msg)
            for connection, _, data in reader.messages(connections=chosen):
                yield bgr_from_image(reader.deserialize(data, connection.msgtype))

    def describe(self) -> str:
        return f"bag {self._path.name} {self._topic}".rstrip()


def read_picture(path: Path) -> Pixels:
    """Read a picture file as BGR.

    Raises:
        ConfigError: The file is missing or no picture.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        msg = f"cannot read {path} as a picture"
        raise ConfigError(msg)
    return np.asarray(picture, np.uint8)


def open_source(source: str, topic: str = "") -> FrameSource:
    """Choose the source from what the user named.

    Args:
        source: Empty for the default picture in motion; else a picture, a folder of pictures, a
            bag, or a video file.
        topic: Topic to take from a bag.

    Raises:
        ConfigError: Nothing is there, or nothing that can be played.
    """
    if not source:
        return PanAndZoom(DEFAULT_PICTURE)
    path = Path(source).expanduser()
    if not path.exists():
        msg = f"camera source {source!r} does not exist"
        raise ConfigError(msg)
    if path.is_dir():
        if (path / "metadata.yaml").is_file():
            return BagImages(path, topic)
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            msg = f"folder {source!r} has no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})"
            raise ConfigError(msg)
        return PictureFiles(pictures)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureFiles([path])
    if path.suffix.lower() in BAG_SUFFIXES:
        return open_source(str(path.parent), topic)
    return VideoFile(path)


def play(source: FrameSource, *, loop: bool, limit: int = 0) -> Iterator[Pixels]:
    """Go through a source once, or again and again.

    Args:
        source: What to play.
        loop: Start again at the end.
        limit: Stop after this many pictures; 0 for no limit.

    Raises:
        ConfigError: The source has no pictures.
        ProtocolError: A bag holds a picture that cannot be read.
    """
    sent = 0
    while True:
        before = sent
        for frame in source.frames():
            yield frame
            sent += 1
            if sent == limit:
                return
        if sent == before:
            msg = f"{source.describe()} has no pictures"
            raise ConfigError(msg)
        if not loop:
            return
