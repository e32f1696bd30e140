"""What the perception node keeps of its work: result files and a latency summary."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rrto_ros.demo.detector.draw import Pixels, save_png
from rrto_ros.demo.detector.postprocess import Detection
from rrto_ros.errors import ConfigError

LATEST = "annotated_latest.png"
RESULTS = "detections.jsonl"
WINDOW = 10_000
"""Latencies kept for the summary; of longer runs it covers the end."""


@dataclass(frozen=True)
class FrameRecord:
    """The result of one picture.

    Attributes:
        stamp: Time of the picture in seconds, from its header.
        seconds: From pixels to detections.
        detections: Best score first.
    """

    stamp: float
    seconds: float
    detections: tuple[Detection, ...]

    def to_json(self, index: int) -> str:
        """One line; floats are written so that reading gives the same number."""
        return json.dumps(
            {
                "frame": index,
                "stamp": self.stamp,
                "latency_ms": round(self.seconds * 1e3, 3),
                "detections": [
                    {"class": one.label, "score": one.score, "box": list(one.box)}
                    for one in self.detections
                ],
            }
        )


class ResultFolder:
    """Saves results in a folder: `detections.jsonl` and annotated pictures.

    Args:
        path: Made if missing; results of an earlier run are replaced.
        every: One picture in so many is saved, from the first.
        numbered: So many are saved as `annotated_0000.png` and on; every saved one also as
            `annotated_latest.png`.

    Raises:
        ConfigError: The folder cannot be written.
    """

    def __init__(self, path: Path, every: int = 1, numbered: int = 10) -> None:
        self._path = path
        self._every = every
        self._numbered = numbered
        self._frames = 0
        self._saved = 0
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._results = (path / RESULTS).open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            msg = f"cannot write results to {path}: {error}"
            raise ConfigError(msg) from error
        for old in path.glob("annotated_*.png"):
            old.unlink()

    def save(self, record: FrameRecord, annotated: Pixels) -> None:
        """Save the result of the next picture.

        Raises:
            ConfigError: A file cannot be written.
        """
        index = self._frames
        self._frames += 1
        if index % self._every == 0:
            if self._saved < self._numbered:
                save_png(self._path / f"annotated_{index:04d}.png", annotated)
            save_png(self._path / LATEST, annotated)
            self._saved += 1
        self._results.write(record.to_json(index) + "\n")

    def close(self) -> None:
        """Close the result file."""
        self._results.close()

    def statistics(self) -> dict[str, int]:
        """Results and pictures saved."""
        return {"frames": self._frames, "pictures": self._saved}


class LatencySummary:
    """Latencies of inferences; the first one, which compiles and uploads, is kept apart."""

    def __init__(self) -> None:
        self._count = 0
        self._first = 0.0
        self._rest: deque[float] = deque(maxlen=WINDOW)

    @property
    def count(self) -> int:
        """Inferences so far."""
        return self._count

    def add(self, seconds: float) -> None:
        """Take in one inference."""
        if self._count:
            self._rest.append(seconds)
        else:
            self._first = seconds
        self._count += 1

    def statistics(self) -> dict[str, float | int]:
        """Frames, and in ms the first latency, the median and the 95th percentile of the rest."""
        if not self._count:
            return {"frames": 0}
        rest = self._rest or [self._first]
        return {
            "frames": self._count,
            "first_ms": self._first * 1e3,
            "median_ms": float(np.median(rest)) * 1e3,
            "p95_ms": float(np.percentile(rest, 95)) * 1e3,
        }

    def describe(self) -> str:
        """One line for the log."""
        values = self.statistics()
        if not self._count:
            return "no frames"
        return (
            f"{values['frames']} frames: first {values['first_ms']:.1f} ms, then median "
            f"{values['median_ms']:.1f} ms, 95 % within {values['p95_ms']:.1f} ms"
        )
