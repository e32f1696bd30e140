"""Triton's own launcher without PyTorch: memory by the driver API, kernels by `kernel[grid](...)`.

Vector addition, softmax by rows, a matrix product in float32 and one in float16 (whose products
are the tensor cores'), each several times with new inputs.
"""

from __future__ import annotations

import sys

import numpy as np
from agree import Cases, absent

try:
    import triton
    import triton.language as tl
    from cuda.bindings import driver
except ImportError as error:
    absent(error, "triton cuda-bindings")

ROUNDS = 12


def check(answer):
    """What a call gives; its error as an exception."""
    error, *values = answer
    if error:
        raise RuntimeError(f"{error!r}")
    return values[0] if values else None


class Array:
    """An array in device memory, as Triton wants a tensor to be."""

    def __init__(self, host):
        host = np.ascontiguousarray(host)
        self.shape, self.dtype, self._nbytes = host.shape, TYPES[host.dtype.name], host.nbytes
        self._kind = host.dtype
        self._place = check(driver.cuMemAlloc(host.nbytes))
        check(driver.cuMemcpyHtoD(self._place, host, host.nbytes))

    def data_ptr(self):
        return int(self._place)

    def host(self):
        out = np.empty(self.shape, self._kind)
        check(driver.cuMemcpyDtoH(out, self._place, self._nbytes))
        return out

    def free(self):
        check(driver.cuMemFree(self._place))


TYPES = {"float32": tl.float32, "float16": tl.float16, "int32": tl.int32}


@triton.jit
def add(x, y, out, n, size: tl.constexpr):
    at = tl.program_id(0) * size + tl.arange(0, size)
    tl.store(out + at, tl.load(x + at, at < n) + tl.load(y + at, at < n), at < n)


@triton.jit
def softmax(x, out, width, size: tl.constexpr):
    at = tl.arange(0, size)
    row = tl.load(x + tl.program_id(0) * width + at, at < width, -float("inf"))
    powers = tl.exp(row - tl.max(row, 0))
    tl.store(out + tl.program_id(0) * width + at, powers / tl.sum(powers, 0), at < width)


@triton.jit
def matmul(a, b, c, m, n, k, size: tl.constexpr, precision: tl.constexpr):
    rows = tl.program_id(0) * size + tl.arange(0, size)
    columns = tl.program_id(1) * size + tl.arange(0, size)
    steps = tl.arange(0, size)
    sums = tl.zeros((size, size), tl.float32)
    for first in range(0, k, size):
        depth = first + steps
        left = tl.load(
            a + rows[:, None] * k + depth[None, :], (rows[:, None] < m) & (depth[None, :] < k), 0.0
        )
        right = tl.load(
            b + depth[:, None] * n + columns[None, :],
            (depth[:, None] < k) & (columns[None, :] < n),
            0.0,
        )
        sums += tl.dot(left, right, input_precision=precision)
    tl.store(
        c + rows[:, None] * n + columns[None, :],
        sums,
        (rows[:, None] < m) & (columns[None, :] < n),
    )


def launched(kernel, grid, inputs, out, *numbers, **constants):
    """What a kernel writes into an array like `out`."""
    arrays = [Array(x) for x in (*inputs, out)]
    kernel[grid](*arrays, *numbers, **constants)
    result = arrays[-1].host()
    for array in arrays:
        array.free()
    return result


def rounds(one):
    """A case that runs `one(rng)` several times: all that came out, all that is right."""
    rng = np.random.default_rng(7)
    got, wanted = zip(*(one(rng) for _ in range(ROUNDS)), strict=True)
    return np.stack(got), np.stack(wanted)


def addition(rng):
    x, y = rng.standard_normal((2, 1000)).astype(np.float32)
    return launched(add, (4,), [x, y], np.zeros_like(x), x.size, size=256), x + y


def soft(rng):
    x = 3 * rng.standard_normal((7, 100)).astype(np.float32)
    powers = np.exp(x.astype(np.float64))
    wanted = powers / powers.sum(1, keepdims=True)
    return launched(softmax, (7,), [x], np.zeros_like(x), 100, size=128), wanted


def product(kind, precision):
    def one(rng):
        a, b = (rng.standard_normal(s).astype(kind) for s in ((70, 50), (50, 40)))
        out = np.zeros((70, 40), np.float32)
        got = launched(matmul, (3, 2), [a, b], out, 70, 40, 50, size=32, precision=precision)
        return got, a.astype(np.float64) @ b.astype(np.float64)

    return one


def main():
    check(driver.cuInit(0))
    check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(0))))
    cases = Cases("Triton", triton.__version__, "NumPy")
    cases.check("addition", lambda: rounds(addition), 0)
    cases.check("softmax", lambda: rounds(soft))
    cases.check("matmul float32", lambda: rounds(product(np.float32, "ieee")))
    cases.check("matmul float16", lambda: rounds(product(np.float16, "tf32")))
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
