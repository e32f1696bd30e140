#!/usr/bin/env python3
"""Run a network of very many small layers with tinygrad and compare with NumPy.

The mean of some measurements, then residual blocks of a normalisation and two small matrix
products: 421 kernels per inference at the default depth, each of them short.
Weights and inputs are random from a fixed seed. tinygrad takes its device from the environment,
for example DEV=CUDA:PTX; with JIT=2 a captured inference launches its kernels one by one.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from tinygrad import Device, Tensor, TinyJit

WIDTH = 64
HIDDEN = 96
ROWS = 16
MEASUREMENTS = 4
DEPTH = 140
TOLERANCE = 1e-4


def make_weights(rng: np.random.Generator, depth: int = DEPTH) -> list[np.ndarray]:
    """Two matrices per block."""
    weights: list[np.ndarray] = []
    for _ in range(depth):
        weights.append(rng.standard_normal((WIDTH, HIDDEN)) * np.sqrt(2 / WIDTH))
        weights.append(rng.standard_normal((HIDDEN, WIDTH)) * np.sqrt(0.2 / HIDDEN))
    return [weight.astype(np.float32) for weight in weights]


class Network:
    """The network in tinygrad."""

    def __init__(self, weights: list[np.ndarray]) -> None:
        self._weights = [Tensor(weight).realize() for weight in weights]

    def __call__(self, x: Tensor) -> Tensor:
        """Features `[ROWS, WIDTH]` of `[ROWS, MEASUREMENTS, WIDTH]`, computed now."""
        x = x.mean(1).contiguous()
        for first, second in zip(self._weights[::2], self._weights[1::2], strict=True):
            # Each line is a kernel of its own.
            scale = (x.square().mean(1, keepdim=True) + 1e-6).rsqrt().contiguous()
            hidden = (x * scale).dot(first).relu().contiguous()
            x = (x + hidden.dot(second)).contiguous()
        return x.realize()


def reference(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """The same network in NumPy, in float64."""
    x = x.astype(np.float64).mean(1)
    for first, second in zip(weights[::2], weights[1::2], strict=True):
        scaled = x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-6)
        x = x + np.maximum(scaled @ first, 0) @ second
    return x


def main() -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inferences", type=int, default=6, help="how many (%(default)s)")
    parser.add_argument("--depth", type=int, default=DEPTH, help="blocks (%(default)s)")
    parser.add_argument("--jit", action="store_true", help="capture once, then launch")
    parser.add_argument("--seed", type=int, default=0, help="of weights and input (%(default)s)")
    arguments = parser.parse_args()
    if arguments.inferences < 1 or arguments.depth < 1:
        parser.error("inferences and depth must be at least 1")
    rng = np.random.default_rng(arguments.seed)
    weights = make_weights(rng, arguments.depth)
    network = Network(weights)
    run = TinyJit(network) if arguments.jit else network
    worst = 0.0
    seconds = []
    for _ in range(arguments.inferences):
        features = rng.standard_normal((ROWS, MEASUREMENTS, WIDTH), dtype=np.float32)
        start = time.perf_counter()
        result = run(Tensor(features).realize()).numpy()
        seconds.append(time.perf_counter() - start)
        wanted = reference(features, weights)
        error = np.abs(result - wanted) / np.abs(wanted).max()
        worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max()))
    print(
        f"deep network on {Device.DEFAULT}, {arguments.depth} blocks, {arguments.inferences} "
        f"inferences, {'jit' if arguments.jit else 'eager'}: first {seconds[0] * 1e3:.1f} ms, "
        f"last {seconds[-1] * 1e3:.1f} ms; at most {worst:.2e} of the largest value from NumPy "
        f"(want at most {TOLERANCE:g})"
    )
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
