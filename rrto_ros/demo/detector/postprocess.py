"""From the network's raw output to detections: box decoding and non-maximum suppression.

NanoDet predicts, for every cell of three grids (strides 8, 16 and 32 pixels of the network's
input), one score per class and the distance from the cell's centre to each side of the box. A
distance is a distribution over 11 bins (0 to 10 strides); its mean is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rrto_ros.demo.detector.labels import COCO_CLASSES

FloatArray: TypeAlias = npt.NDArray[np.float32]

INPUT_SIZE = 416
STRIDES = (8, 16, 32)
BINS = 11
SIDES = 4
CELLS = sum((INPUT_SIZE // stride) ** 2 for stride in STRIDES)
CANDIDATES_BEFORE_NMS = 1000


@dataclass(frozen=True)
class Detection:
    """One object.

    Attributes:
        label: COCO class name.
        score: Confidence, 0 to 1.
        box: Corners (x0, y0, x1, y1) in pixels of the camera picture, inside the picture.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


def cell_centres() -> tuple[FloatArray, FloatArray]:
    """Centre and stride of every cell, in the order of the network's output.

    Returns:
        Centres `[CELLS, 2]` as (x, y) and strides `[CELLS, 1]`, both in network input pixels.
    """
    centres = []
    strides = []
    for stride in STRIDES:
        side = INPUT_SIZE // stride
        row, column = np.mgrid[:side, :side]
        grid = np.stack([column.ravel(), row.ravel()], axis=1)
        centres.append((grid + 0.5) * stride)
        strides.append(np.full((side * side, 1), stride))
    return (
        np.concatenate(centres).astype(np.float32),
        np.concatenate(strides).astype(np.float32),
    )


def decode_boxes(bins: FloatArray, centres: FloatArray, strides: FloatArray) -> FloatArray:
    """Turn the distance distributions into boxes.

    Args:
        bins: `[n, 44]` raw outputs: left, top, right, bottom, 11 bins each.
        centres: `[n, 2]` cell centres.
        strides: `[n, 1]` cell strides.

    Returns:
        `[n, 4]` corners (x0, y0, x1, y1) in network input pixels, not clipped.
    """
    logits = bins.reshape(-1, SIDES, BINS)
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    distances = (weights @ np.arange(BINS, dtype=np.float32)) * strides
    corners = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
    return corners.astype(np.float32)


def overlap(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """Intersection over union of one box `[4]` with each of `boxes` `[n, 4]`: `[n]`."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    area = float(np.prod(np.clip(box[2:] - box[:2], 0, None)))
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    union = area + areas - shared
    result: FloatArray = np.where(union > 0, shared / np.where(union > 0, union, 1), 0)
    return result.astype(np.float32)


def suppress(boxes: FloatArray, scores: FloatArray, threshold: float) -> list[int]:
    """Greedy non-maximum suppression.

    Args:
        boxes: `[n, 4]` corners.
        scores: `[n]`.
        threshold: A box that overlaps a better one by more than this (intersection over union)
            is dropped.

    Returns:
        Indices of the boxes kept, best score first; equal scores keep their order.
    """
    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while waiting.size:
        best = int(waiting[0])
        kept.append(best)
        rest = waiting[1:]
        waiting = rest[overlap(boxes[best], boxes[rest]) <= threshold]
    return kept


class Decoder:
    """Turns raw network output into detections in the pixels of the camera picture."""

    def __init__(self, score_threshold: float = 0.35, nms_threshold: float = 0.5) -> None:
        self._score_threshold = score_threshold
        self._nms_threshold = nms_threshold
        self._centres, self._strides = cell_centres()

    def __call__(self, raw: FloatArray, width: int, height: int) -> list[Detection]:
        """Decode one picture.

        Args:
            raw: `[CELLS, 80 + 44]`: class scores after the sigmoid, then the box bins.
            width: Width of the camera picture in pixels.
            height: Height of the camera picture in pixels.

        Returns:
            Detections, best score first; classes do not suppress each other.

        Raises:
            ValueError: `raw` has another shape.
        """
        classes = len(COCO_CLASSES)
        wanted = (CELLS, classes + SIDES * BINS)
        if raw.shape != wanted:
            msg = f"network output has shape {raw.shape}, want {wanted}"
            raise ValueError(msg)
        cells, labels = np.nonzero(raw[:, :classes] >= self._score_threshold)
        scores = raw[cells, labels]
        if scores.size > CANDIDATES_BEFORE_NMS:
            best = np.argsort(-scores, kind="stable")[:CANDIDATES_BEFORE_NMS]
            cells, labels, scores = cells[best], labels[best], scores[best]
        boxes = decode_boxes(raw[cells, classes:], self._centres[cells], self._strides[cells])
        scale = np.array([width, height, width, height], np.float32) / INPUT_SIZE
        limit = np.array([width, height, width, height], np.float32)
        boxes = np.clip(boxes * scale, 0, limit)
        found = []
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            for index in suppress(boxes[members], scores[members], self._nms_threshold):
                member = members[index]
                x0, y0, x1, y1 = (float(value) for value in boxes[member])
                name = COCO_CLASSES[int(label)]
                found.append(Detection(name, float(scores[member]), (x0, y0, x1, y1)))
        return sorted(found, key=lambda detection: -detection.score)
