"""What the camera examples share: pictures, their preparation, a loop that times and compares.

The pictures are made here and the same at every start: a floor with posts, and a red ball that
rolls over it, so that it is known what there is to be found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

try:
    import cv2
except ImportError:
    cv2 = None

MISSING = 77
"""Exit code where what an example needs is not installed."""
HEIGHT, WIDTH = 240, 320
BALL = 14
"""Its radius, in pixels."""
WARM_UP = 3
"""Pictures whose time does not count: kernels are made and loaded."""
REDNESS = np.array([1.0, -0.5, -0.5], np.float32)
"""Of red, green and blue: 0 for grey, greatest for red."""


class NoDeviceError(Exception):
    """The framework is there and finds no CUDA device."""


@dataclass(frozen=True)
class Model:
    """What an example does with a picture.

    Attributes:
        run: On the device: from a picture (height, width, 3), RGB, to numbers.
        reference: The same on the CPU.
        answer: What the numbers mean: a mask (height, width) of bytes, a region (x, y, width,
            height), a label or a picture, by `kind`.
        kind: mask, region, label or picture.
        device: Where it runs, for the last line.
    """

    run: Callable[[np.ndarray], np.ndarray]
    reference: Callable[[np.ndarray], np.ndarray]
    answer: Callable[[np.ndarray], Any]
    kind: str
    device: str


Make = Callable[[argparse.Namespace], Model]


def ball(number: int) -> tuple[int, int]:
    """Where the ball's middle is in a picture: x, y."""
    x = 30 + (17 * number) % (WIDTH - 60)
    return x, 130 + (23 * number) % (HEIGHT - 170)


def picture(number: int) -> np.ndarray:
    """The picture of a number: bytes (HEIGHT, WIDTH, 3), RGB."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    out = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    out[:] = (110 + (y // 20 + x // 20) % 2 * 30)[..., None]
    for post in (60, 150, 250):
        out[40:160, post - 4 : post + 4] = (70, 80, 120)
    at_x, at_y = ball(number)
    out[(x - at_x) ** 2 + (y - at_y) ** 2 <= BALL**2] = (210, 40, 35)
    noise = np.random.default_rng(number).integers(-6, 7, out.shape)
    return np.clip(out + noise, 0, 255).astype(np.uint8)


def prepared(image: np.ndarray, factor: int) -> np.ndarray:
    """A picture as networks take it: smaller by a factor, channels first, about -1 to 1.

    OpenCV makes it smaller where it is installed, NumPy elsewhere; they differ by rounding.

    Returns:
        float32 (3, height / factor, width / factor).

    Raises:
        ValueError: The picture has another form, or a side is no multiple of the factor.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"a picture of bytes (height, width, 3), got {image.dtype} {image.shape}")
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if (height * factor, width * factor) != image.shape[:2]:
        raise ValueError(f"sides that are multiples of {factor}, got {image.shape[:2]}")
    if cv2 is not None:
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    else:
        parts = image.reshape(height, factor, width, factor, 3)
        small = np.rint(parts.mean((1, 3), np.float32))
    return np.ascontiguousarray((small.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1))


def region(heat: np.ndarray, factor: int) -> tuple[int, int, int, int]:
    """The region of a picture where a map (height, width) of it is hot: x, y, width, height.

    Nothing is hot, and the region is empty, if the map is nowhere above 0.3.
    """
    if heat.max() < 0.3:
        return 0, 0, 0, 0
    rows, columns = np.nonzero(heat > 0.5 * heat.max())
    x, y = int(columns.min()), int(rows.min())
    width, height = int(columns.max()) - x + 1, int(rows.max()) - y + 1
    return x * factor, y * factor, width * factor, height * factor


def parser(
    description: str | None, options: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.ArgumentParser:
    """The options that all have, and an example's own."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--frames", type=int, default=30, help="how many (%(default)s)")
    made.add_argument("--json", action="store_true", help="the last line as JSON")
    if options is not None:
        options(made)
    return made


def missing(error: ImportError, install: str) -> int:
    """Say what is to be installed; the exit code."""
    reason = " ".join(str(error).split())
    print(f"skipped: {reason}; pip install {install}", file=sys.stderr)
    return MISSING


def compare(
    arguments: argparse.Namespace,
    what: str,
    run: Callable[[int], np.ndarray],
    reference: Callable[[int], np.ndarray],
    want: float,
    quantile: float = 1.0,
) -> int:
    """Run, time and compare so many times; 0 if all results are as they should be.

    Args:
        arguments: Of `parser`.
        what: Runs, and on what, for the last line.
        run: Gives the device's result for a number.
        reference: The CPU's.
        want: Greatest difference, relative to the largest value.
        quantile: Of the differences that are looked at; below 1 where a few may be far.
    """
    times, worst, digest = [], 0.0, hashlib.sha256()
    for number in range(arguments.frames):
        started = time.perf_counter()
        got = run(number)
        times.append(1e3 * (time.perf_counter() - started))
        digest.update(np.ascontiguousarray(got).tobytes())
        wanted = reference(number).astype(np.float64)
        wrong = np.abs(got.astype(np.float64) - wanted) / max(1.0, float(np.abs(wanted).max()))
        worst = max(worst, float(np.nan_to_num(np.quantile(wrong, quantile), nan=np.inf)))
    median = statistics.median(times[WARM_UP:] or times)
    good = worst <= want
    if arguments.json:
        found = {"what": what, "frames": len(times), "median_ms": median, "first_ms": times[0]}
        print(json.dumps({**found, "worst": worst, "good": good, "sha256": digest.hexdigest()}))
    else:
        print(
            f"{len(times)} {what}: {median:.2f} ms each (median), within {worst:.1e} of the CPU's "
            f"(want {want:g}), SHA-256 of all results {digest.hexdigest()[:16]}"
        )
    return 0 if good else 1


def main(
    description: str | None,
    make: Make,
    install: str,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    want: float = 1e-3,
) -> int:
    """Run an example over the pictures; its exit code.

    Args:
        description: For `--help`.
        make: Makes the model; what it imports may be missing.
        install: For pip, if it is.
        options: Adds options.
        want: See `compare`.
    """
    asked = parser(description, options)
    arguments = asked.parse_args()
    if arguments.frames < 1:
        asked.error("--frames must be at least 1")
    try:
        model = make(arguments)
    except ImportError as error:
        return missing(error, install)
    except NoDeviceError as error:
        print(f"no CUDA device: {error}", file=sys.stderr)
        return 1
    what = f"pictures on {model.device}"
    images = [picture(number) for number in range(arguments.frames)]
    return compare(
        arguments,
        what,
        lambda number: model.run(images[number]),
        lambda number: model.reference(images[number]),
        want,
    )
