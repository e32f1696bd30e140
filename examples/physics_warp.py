#!/usr/bin/env python3
"""Say where thrown balls come to lie, with a physics step in Warp.

Some thousand balls leave with a little noise in their speed, fall with drag and bounce; how they
spread is how sure a robot can be of a throw. The places are compared with NumPy's. --graph
launches all steps as one CUDA graph. Exits with 77 where Warp is not installed.
"""

from __future__ import annotations

import sys

import numpy as np
from camera import compare, missing, parser

try:
    import warp as wp
except ImportError as error:
    wp, WHY = None, error

BALLS, STEPS, STEP_S = 4096, 150, 0.01
GRAVITY, DRAG, BOUNCE = -9.81, 0.1, 0.6

if wp is not None:

    @wp.kernel
    def step(  # noqa: ANN201
        place: wp.array(dtype=wp.vec3),
        speed: wp.array(dtype=wp.vec3),
        gravity: float,
        drag: float,
        bounce: float,
        time: float,
    ):
        """One step of each ball."""
        i = wp.tid()
        v = speed[i]
        v = v + (wp.vec3(0.0, 0.0, gravity) - v * drag) * time
        p = place[i] + v * time
        if p[2] < 0.0:
            p = wp.vec3(p[0], p[1], -p[2])
            v = wp.vec3(v[0], v[1], -v[2] * bounce)
        place[i] = p
        speed[i] = v


def thrown(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and speeds at the start of a throw, float32 (BALLS, 3)."""
    rng = np.random.default_rng(number)
    place = np.zeros((BALLS, 3), np.float32) + np.float32([0, 0, 1.2])
    mean = [3 + 0.1 * (number % 7), 0.2, 2]
    return place, rng.normal(mean, 0.15, (BALLS, 3)).astype(np.float32)


def reference(number: int) -> np.ndarray:
    """Where the balls are at the end by NumPy, in float32."""
    place, speed = thrown(number)
    gravity, time = np.float32([0, 0, GRAVITY]), np.float32(STEP_S)
    for _ in range(STEPS):
        speed = speed + (gravity - speed * np.float32(DRAG)) * time
        place = place + speed * time
        low = place[:, 2] < 0
        place[low, 2] *= -1
        speed[low, 2] *= np.float32(-BOUNCE)
    return place


def main() -> int:
    """Throw, and compare."""
    asked = parser(__doc__)
    asked.add_argument("--graph", action="store_true", help="as a CUDA graph")
    arguments = asked.parse_args()
    if arguments.frames < 1:
        asked.error("--frames must be at least 1")
    if wp is None:
        return missing(WHY, "warp-lang")
    wp.config.quiet = True
    wp.init()
    if not wp.is_cuda_available():
        print("no CUDA device: Warp finds none", file=sys.stderr)
        return 1
    device = "cuda:0"
    place, speed = (wp.zeros(BALLS, dtype=wp.vec3, device=device) for _ in range(2))
    wp.load_module(device=device)

    def steps() -> None:
        inputs = [place, speed, GRAVITY, DRAG, BOUNCE, STEP_S]
        for _ in range(STEPS):
            wp.launch(step, dim=BALLS, inputs=inputs, device=device)

    if arguments.graph:
        with wp.ScopedCapture(device=device) as capture:
            steps()

    def run(number: int) -> np.ndarray:
        for array, start in zip((place, speed), thrown(number), strict=True):
            array.assign(start)
        if arguments.graph:
            wp.capture_launch(capture.graph)
        else:
            steps()
        return np.asarray(place.numpy())

    what = f"throws of {BALLS} balls on {wp.get_device(device).name} by Warp {wp.__version__}"
    # A ball at the ground may bounce one step sooner for one than for the other.
    return compare(arguments, what, run, reference, 1e-3, quantile=0.98)


if __name__ == "__main__":
    raise SystemExit(main())
