#!/usr/bin/env python3
"""Multiply matrices with a numba-cuda kernel that works on tiles in shared memory.

Compares with NumPy. Exits with 77 where numba-cuda, or what it needs to compile (NVIDIA's libNVVM
and NVRTC), is not installed: `pip install "numba-cuda[cu13]"` brings both.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

MISSING = 77
TILE = 16


def missing(reason: object) -> int:
    """Say what is not installed."""
    print(f'skipped: {reason}; pip install "numba-cuda[cu13]"', file=sys.stderr)
    return MISSING


def make_kernel(cuda: Any, float32: Any) -> Any:
    """A kernel, compiled at its first launch: out = a @ b for float32 matrices of any shape."""

    @cuda.jit
    def matmul(a, b, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        rows = cuda.shared.array((TILE, TILE), float32)
        columns = cuda.shared.array((TILE, TILE), float32)
        column, row = cuda.grid(2)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        total = float32(0)
        for tile in range((a.shape[1] + TILE - 1) // TILE):
            start = tile * TILE
            rows[y, x] = 0
            columns[y, x] = 0
            if row < a.shape[0] and start + x < a.shape[1]:
                rows[y, x] = a[row, start + x]
            if column < b.shape[1] and start + y < b.shape[0]:
                columns[y, x] = b[start + y, column]
            cuda.syncthreads()
            for k in range(TILE):
                total += rows[y, k] * columns[k, x]
            cuda.syncthreads()
        if row < out.shape[0] and column < out.shape[1]:
            out[row, column] = total

    return matmul


def main() -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=130, help="rows of a (%(default)s)")
    parser.add_argument("--inner", type=int, default=200, help="columns of a (%(default)s)")
    parser.add_argument("--columns", type=int, default=150, help="columns of b (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="multiplications (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the input (%(default)s)")
    arguments = parser.parse_args()
    if min(arguments.rows, arguments.inner, arguments.columns, arguments.rounds) < 1:
        parser.error("sizes and rounds must be at least 1")
    try:
        import numba
        from cuda.bindings import nvrtc, nvvm
        from numba import cuda

        nvvm.version()
        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:  # RuntimeError: a shared library is missing
        return missing(str(error).strip().split("\n")[0])

    kernel = make_kernel(cuda, numba.float32)
    rng = np.random.default_rng(arguments.seed)
    grid = (-(-arguments.columns // TILE), -(-arguments.rows // TILE))
    worst = 0.0
    for _ in range(arguments.rounds):
        a = rng.standard_normal((arguments.rows, arguments.inner), dtype=np.float32)
        b = rng.standard_normal((arguments.inner, arguments.columns), dtype=np.float32)
        a_device, b_device = cuda.to_device(a), cuda.to_device(b)
        out = cuda.device_array((arguments.rows, arguments.columns), np.float32)
        kernel[grid, (TILE, TILE)](a_device, b_device, out)
        result = out.copy_to_host()
        wanted = a.astype(np.float64) @ b.astype(np.float64)
        # What float32 may lose in a sum of `inner` products, whatever their order.
        bound = arguments.inner * np.finfo(np.float32).eps * (np.abs(a) @ np.abs(b))
        worst = max(worst, float(np.nan_to_num(np.abs(result - wanted) / bound, nan=np.inf).max()))
    print(
        f"numba matmul {arguments.rows}x{arguments.inner}x{arguments.columns}, "
        f"{arguments.rounds} rounds: error at most {worst:.4f} of the float32 bound against NumPy "
        "(want at most 1)"
    )
    return 0 if worst <= 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
