#!/usr/bin/env python3
"""Multiply matrices with tinygrad, with new inputs in every round, and compare with NumPy.

tinygrad takes its device from the environment, for example DEV=CUDA:PTX.
"""

from __future__ import annotations

import argparse

import numpy as np
from tinygrad import Device, Tensor, TinyJit


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """`relu(a @ b)`, computed now."""
    return (a @ b).relu().contiguous().realize()


def main() -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="rows and columns (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="multiplications (%(default)s)")
    parser.add_argument("--jit", action="store_true", help="capture once, then launch as a graph")
    parser.add_argument("--seed", type=int, default=0, help="of the input (%(default)s)")
    arguments = parser.parse_args()
    if arguments.size < 1 or arguments.rounds < 1:
        parser.error("size and rounds must be at least 1")
    run = TinyJit(multiply) if arguments.jit else multiply
    rng = np.random.default_rng(arguments.seed)
    shape = (arguments.size, arguments.size)
    worst = 0.0
    for _ in range(arguments.rounds):
        a, b = rng.standard_normal((2, *shape), dtype=np.float32)
        result = run(Tensor(a).realize(), Tensor(b).realize()).numpy()
        wanted = np.maximum(a.astype(np.float64) @ b.astype(np.float64), 0)
        # What float32 may lose in a sum of `size` products, whatever their order.
        bound = arguments.size * np.finfo(np.float32).eps * (np.abs(a) @ np.abs(b))
        worst = max(worst, float(np.nan_to_num(np.abs(result - wanted) / bound, nan=np.inf).max()))
    print(
        f"matmul of size {arguments.size} on {Device.DEFAULT}, {arguments.rounds} rounds, "
        f"{'jit' if arguments.jit else 'eager'}: error at most {worst:.4f} of the float32 bound "
        "against NumPy (want at most 1)"
    )
    return 0 if worst <= 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
