#!/usr/bin/env python3
"""Find the ground in the points of a laser scanner with CuPy (RANSAC).

Planes through three points each are tried at once; the one with the most points near it wins, and
its distances to all points come back. They are compared with NumPy's. Exits with 77 where CuPy is
not installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from camera import NoDeviceError, compare, missing, parser

POINTS, PLANES, NEAR_M = 8192, 128, 0.05


def scan(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Points, float32 (POINTS, 3), most of them of a tilted ground; triples of their numbers."""
    rng = np.random.default_rng(number)
    points = rng.uniform([-8, -8, 0], [8, 8, 2], (POINTS, 3))
    ground = rng.random(POINTS) < 0.7
    tilt = 0.02 * (number % 5)
    flat = tilt * points[:, 0] + rng.normal(0, 0.01, POINTS) - 0.3
    points[:, 2] = np.where(ground, flat, points[:, 2])
    return points.astype(np.float32), rng.integers(0, POINTS, (PLANES, 3)).astype(np.int32)


def distances(xp: Any, points: Any, triples: Any) -> Any:
    """From the best plane to each point, in m: float32 (POINTS,). xp is CuPy or NumPy."""
    a, b, c = (points[triples[:, i]] for i in range(3))
    u, v = b - a, c - a
    x = u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1]
    y = u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2]
    z = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    length = xp.sqrt(x * x + y * y + z * z) + np.float32(1e-12)
    x, y, z = x / length, y / length, z / length
    offset = x * a[:, 0] + y * a[:, 1] + z * a[:, 2]
    px, py, pz = (points[None, :, i] for i in range(3))
    away = xp.abs(x[:, None] * px + y[:, None] * py + z[:, None] * pz - offset[:, None])
    best = xp.argmax((away < NEAR_M).sum(1))
    return away[best]


def main() -> int:
    """Find, and compare."""
    asked = parser(__doc__)
    arguments = asked.parse_args()
    if arguments.frames < 1:
        asked.error("--frames must be at least 1")
    try:
        import cupy

        if not cupy.cuda.runtime.getDeviceCount():
            raise NoDeviceError("CuPy finds none")
    except ImportError as error:
        return missing(error, "cupy-cuda13x")

    def run(number: int) -> np.ndarray:
        points, triples = map(cupy.asarray, scan(number))
        return np.asarray(distances(cupy, points, triples).get())

    what = f"scans of {POINTS} points by CuPy {cupy.__version__}"
    # Two planes may have as many points, but for a point at the edge.
    return compare(arguments, what, run, lambda n: distances(np, *scan(n)), 1e-3, quantile=0.98)


if __name__ == "__main__":
    raise SystemExit(main())
