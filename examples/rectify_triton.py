#!/usr/bin/env python3
"""Take a lens's distortion out of camera pictures with a Triton kernel.

Each pixel of the new picture looks where the lens has put it and mixes the four around. Triton
runs without PyTorch here: memory is the driver's, by cuda-bindings. The pictures are compared with
NumPy's. Exits with 77 where Triton or cuda-bindings is not installed.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from camera import HEIGHT, WIDTH, Model, main

try:
    import triton
    import triton.language as tl
except ImportError as error:
    triton, WHY = None, error

FOCAL, K1, K2 = 200.0, -0.25, 0.08
"""Of the lens: focal length in pixels, coefficients of the radial distortion."""
BLOCK = 256

if triton is not None:

    @triton.jit
    def rectify(  # noqa: ANN201
        picture,  # noqa: ANN001
        out,  # noqa: ANN001
        height,  # noqa: ANN001
        width,  # noqa: ANN001
        focal,  # noqa: ANN001
        k1,  # noqa: ANN001
        k2,  # noqa: ANN001
        size: tl.constexpr,
    ):
        """Pixels `program * size` and following, of pictures of bytes and float32."""
        at = tl.program_id(0) * size + tl.arange(0, size)
        inside = at < height * width
        x = ((at % width) - (width - 1) / 2.0) / focal
        y = ((at // width) - (height - 1) / 2.0) / focal
        r2 = x * x + y * y
        stretch = 1.0 + r2 * (k1 + r2 * k2)
        from_x = x * stretch * focal + (width - 1) / 2.0
        from_y = y * stretch * focal + (height - 1) / 2.0
        left = tl.floor(from_x)
        top = tl.floor(from_y)
        part_x = from_x - left
        part_y = from_y - top
        column = tl.minimum(tl.maximum(left.to(tl.int32), 0), width - 2)
        row = tl.minimum(tl.maximum(top.to(tl.int32), 0), height - 2)
        for channel in range(3):
            place = picture + (row * width + column) * 3 + channel
            a = tl.load(place, inside, 0).to(tl.float32)
            b = tl.load(place + 3, inside, 0).to(tl.float32)
            c = tl.load(place + width * 3, inside, 0).to(tl.float32)
            d = tl.load(place + width * 3 + 3, inside, 0).to(tl.float32)
            upper = a + part_x * (b - a)
            lower = c + part_x * (d - c)
            tl.store(out + at * 3 + channel, upper + part_y * (lower - upper), inside)


def reference(image: np.ndarray) -> np.ndarray:
    """The same by NumPy, in float32."""
    height, width = image.shape[:2]
    one = np.float32(1)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x = (x - np.float32((width - 1) / 2)) / np.float32(FOCAL)
    y = (y - np.float32((height - 1) / 2)) / np.float32(FOCAL)
    r2 = x * x + y * y
    stretch = (one + r2 * (np.float32(K1) + r2 * np.float32(K2))) * np.float32(FOCAL)
    from_x = x * stretch + np.float32((width - 1) / 2)
    from_y = y * stretch + np.float32((height - 1) / 2)
    left, top = np.floor(from_x), np.floor(from_y)
    part_x, part_y = (from_x - left)[..., None], (from_y - top)[..., None]
    column = np.clip(left.astype(np.int32), 0, width - 2)
    row = np.clip(top.astype(np.int32), 0, height - 2)
    wide = image.astype(np.float32)
    a, b = wide[row, column], wide[row, column + 1]
    c, d = wide[row + 1, column], wide[row + 1, column + 1]
    upper, lower = a + part_x * (b - a), c + part_x * (d - c)
    return upper + part_y * (lower - upper)


def check(answer: tuple[Any, ...]) -> Any:
    """What a driver call gives; its error as an exception."""
    error, *values = answer
    if error:
        raise RuntimeError(f"{error!r}")
    return values[0] if values else None


class Place:
    """Device memory, as Triton wants a tensor to be."""

    def __init__(self, driver: Any, size: int, dtype: Any) -> None:
        self.dtype = dtype
        self._at = check(driver.cuMemAlloc(size))

    def data_ptr(self) -> int:
        """Its address."""
        return int(self._at)


def make(arguments: argparse.Namespace) -> Model:
    """The kernel, with a place for the pictures before and after."""
    del arguments
    if triton is None:
        raise WHY
    from cuda.bindings import driver

    check(driver.cuInit(0))
    check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(0))))
    count = HEIGHT * WIDTH
    before = Place(driver, count * 3, tl.uint8)
    after = Place(driver, count * 3 * 4, tl.float32)

    def run(image: np.ndarray) -> np.ndarray:
        out = np.empty(image.shape, np.float32)
        check(driver.cuMemcpyHtoD(before.data_ptr(), np.ascontiguousarray(image), image.nbytes))
        grid = (-(-count // BLOCK),)
        rectify[grid](before, after, HEIGHT, WIDTH, FOCAL, K1, K2, size=BLOCK)
        check(driver.cuMemcpyDtoH(out, after.data_ptr(), out.nbytes))
        return out

    def answer(numbers: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(numbers), 0, 255).astype(np.uint8)

    return Model(run, reference, answer, "picture", f"CUDA by Triton {triton.__version__}")


if __name__ == "__main__":
    raise SystemExit(main(__doc__, make, "triton cuda-bindings setuptools", want=1e-4))
