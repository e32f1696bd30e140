"""Draws detections into a picture and saves pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from rrto_ros.demo.detector.labels import COCO_CLASSES
from rrto_ros.demo.detector.postprocess import Detection
from rrto_ros.errors import ConfigError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Colour: TypeAlias = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN_ANGLE = 137.508


def class_colour(label: str) -> Colour:
    """A BGR colour that is the same in every frame and unlike that of the neighbouring classes."""
    index = COCO_CLASSES.index(label) if label in COCO_CLASSES else len(COCO_CLASSES)
    hue = (60 + index * GOLDEN_ANGLE) % 360 / 2  # OpenCV's hue runs from 0 to 180
    swatch = np.array([[[hue, 230, 235]]], np.uint8)
    blue, green, red = cv2.cvtColor(swatch, cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def draw_detections(bgr: Pixels, detections: Sequence[Detection]) -> Pixels:
    """A copy of the picture with a labelled box for each detection, the best one on top.

    Args:
        bgr: `[height, width, 3]`, left as it is.
        detections: Boxes in pixels of this picture.
    """
    picture: Pixels = np.array(bgr)
    height, width = picture.shape[:2]
    scale = max(0.4, min(height, width) / 900)
    line = max(1, round(scale * 3))
    for detection in sorted(detections, key=lambda found: found.score):
        colour = class_colour(detection.label)
        limits = (width - 1, height - 1, width - 1, height - 1)
        corners = zip(detection.box, limits, strict=True)
        x0, y0, x1, y1 = (min(max(round(value), 0), limit) for value, limit in corners)
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, line)
        text = f"{detection.label} {detection.score:.2f}"
        (text_width, text_height), baseline = cv2.getTextSize(text, FONT, scale, 1)
        # The label sits on the box, or inside it where the picture ends.
        top = y0 - text_height - baseline - line
        top = top if top >= 0 else y0
        left = max(0, min(x0, width - text_width - 2 * line))
        bottom = top + text_height + baseline + line
        cv2.rectangle(picture, (left, top), (left + text_width + 2 * line, bottom), colour, -1)
        origin = (left + line, bottom - baseline)
        cv2.putText(picture, text, origin, FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def save_png(path: Path, bgr: Pixels) -> None:
    """Write a PNG; whoever reads the file meanwhile sees the old picture or the new one.

    Raises:
        ConfigError: The picture cannot be written there.
    """
    done, encoded = cv2.imencode(".png", bgr)
    partial = path.with_name(f".{path.name}.partial")
    try:
        if not done:
            raise OSError("OpenCV could not encode it")
        partial.write_bytes(encoded.tobytes())
        partial.replace(path)
    except OSError as error:
        msg = f"cannot write {path}: {error}"
        raise ConfigError(msg) from error
