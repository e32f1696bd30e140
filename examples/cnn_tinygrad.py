#!/usr/bin/env python3
"""Run a small convolutional network with tinygrad and compare with NumPy.

Three convolutions, pooling and a linear layer with a softmax; weights and inputs are random from a
fixed seed. tinygrad takes its device from the environment, for example DEV=CUDA:PTX.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import numpy as np
from tinygrad import Device, Tensor, TinyJit

CHANNELS = (3, 16, 32, 64)
CLASSES = 10
SIDE = 32
TOLERANCE = 1e-5


def make_weights(rng: np.random.Generator) -> list[np.ndarray]:
    """Kernels and biases of the three convolutions and of the linear layer."""
    weights: list[np.ndarray] = []
    for before, after in pairwise(CHANNELS):
        scale = np.sqrt(2 / (before * 9))
        weights.append(rng.standard_normal((after, before, 3, 3), dtype=np.float32) * scale)
        weights.append(rng.standard_normal(after, dtype=np.float32) * 0.1)
    weights.append(rng.standard_normal((CLASSES, CHANNELS[-1]), dtype=np.float32) * 0.2)
    weights.append(rng.standard_normal(CLASSES, dtype=np.float32) * 0.1)
    return [weight.astype(np.float32) for weight in weights]


class Network:
    """The network in tinygrad."""

    def __init__(self, weights: list[np.ndarray]) -> None:
        self._weights = [Tensor(weight).realize() for weight in weights]

    def __call__(self, x: Tensor) -> Tensor:
        """Class probabilities `[n, 10]` of pictures `[n, 3, 32, 32]`, computed now."""
        for layer in range(3):
            kernel, bias = self._weights[2 * layer : 2 * layer + 2]
            x = x.conv2d(kernel, bias, padding=1).relu().max_pool2d(2)
        matrix, bias = self._weights[-2:]
        return (x.mean((2, 3)).linear(matrix.T, bias)).softmax().realize()


def reference(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """The same network in NumPy, in float64."""
    x = x.astype(np.float64)
    for layer in range(3):
        kernel, bias = weights[2 * layer : 2 * layer + 2]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        x = np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)
        x = np.maximum(x + bias[:, None, None], 0)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
    logits = x.mean((2, 3)) @ weights[-2].T + weights[-1]
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponents / exponents.sum(1, keepdims=True))


def main() -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inferences", type=int, default=8, help="how many (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once (%(default)s)")
    parser.add_argument("--jit", action="store_true", help="capture once, then launch as a graph")
    parser.add_argument("--seed", type=int, default=0, help="of weights and input (%(default)s)")
    arguments = parser.parse_args()
    if arguments.inferences < 1 or arguments.batch < 1:
        parser.error("inferences and batch must be at least 1")
    rng = np.random.default_rng(arguments.seed)
    weights = make_weights(rng)
    network = Network(weights)
    run = TinyJit(network) if arguments.jit else network
    worst = 0.0
    seconds = []
    for _ in range(arguments.inferences):
        picture = rng.standard_normal((arguments.batch, 3, SIDE, SIDE), dtype=np.float32)
        start = time.perf_counter()
        result = run(Tensor(picture).realize()).numpy()
        seconds.append(time.perf_counter() - start)
        error = np.abs(result - reference(picture, weights))
        worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max()))
    print(
        f"CNN on {Device.DEFAULT}, {arguments.inferences} inferences, "
        f"{'jit' if arguments.jit else 'eager'}: first {seconds[0] * 1e3:.1f} ms, last "
        f"{seconds[-1] * 1e3:.1f} ms; probabilities at most {worst:.2e} from NumPy "
        f"(want at most {TOLERANCE:g})"
    )
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
