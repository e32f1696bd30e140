"""Kernels of numba-cuda: tiles in shared memory, shuffles, votes, atomics, reductions.

Each is compared with NumPy; one JSON line for all. Exits with 77 where numba-cuda, or what it
needs to compile, is not installed.
"""

import json
import sys

import numpy as np


def skip(reason):
    print(f'skipped: {reason}; pip install "numba-cuda[cu13]"', file=sys.stderr)
    sys.exit(77)


try:
    from numba import cuda, float32, int32
except ImportError as error:
    skip(error)

RNG = np.random.default_rng(3)
TILE = 16
ALL = 0xFFFFFFFF


def matmul(a, b, out):
    left = cuda.shared.array((TILE, TILE), float32)
    right = cuda.shared.array((TILE, TILE), float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0)
    for tile in range((a.shape[1] + TILE - 1) // TILE):
        left[y, x] = 0
        right[y, x] = 0
        if row < a.shape[0] and tile * TILE + x < a.shape[1]:
            left[y, x] = a[row, tile * TILE + x]
        if column < b.shape[1] and tile * TILE + y < b.shape[0]:
            right[y, x] = b[tile * TILE + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            total += left[y, k] * right[k, x]
        cuda.syncthreads()
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = total


def warp_sums(x, out):
    i = cuda.grid(1)
    value = x[i]
    step = 16
    while step:
        value += cuda.shfl_down_sync(ALL, value, step)
        step //= 2
    if i % 32 == 0:
        out[i // 32] = value


def rotate(x, out):
    i = cuda.grid(1)
    out[i] = cuda.shfl_sync(ALL, x[i], (i + 5) % 32) + cuda.shfl_xor_sync(ALL, x[i], 3)


def votes(x, out):
    i = cuda.grid(1)
    out[i, 0] = cuda.ballot_sync(ALL, x[i] > 0)
    out[i, 1] = 1 if cuda.any_sync(ALL, x[i] > 90) else 0
    out[i, 2] = 1 if cuda.all_sync(ALL, x[i] > -99) else 0
    out[i, 3] = cuda.popc(cuda.activemask())


def histogram(x, out):
    i = cuda.grid(1)
    if i < x.size:
        cuda.atomic.add(out, x[i], 1)


def extremes(x, most, least, total):
    i = cuda.grid(1)
    if i < x.size:
        cuda.atomic.max(most, 0, x[i])
        cuda.atomic.min(least, 0, x[i])
        cuda.atomic.add(total, 0, x[i])


def locked(out):
    while cuda.atomic.cas(out, 1, 0, 1) != 0:
        pass
    out[0] += 1
    cuda.threadfence()
    cuda.atomic.exch(out, 1, 0)


def block_sums(x, out):
    held = cuda.shared.array(128, float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    held[t] = x[i] if i < x.size else 0
    cuda.syncthreads()
    half = 64
    while half:
        if t < half:
            held[t] += held[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        cuda.atomic.add(out, 0, held[0])


def dynamic_reverse(x):
    held = cuda.shared.array(0, int32)
    t = cuda.threadIdx.x
    held[t] = x[t]
    cuda.syncthreads()
    x[t] = held[cuda.blockDim.x - 1 - t]


def mandelbrot(out, limit):
    x, y = cuda.grid(2)
    if x >= out.shape[1] or y >= out.shape[0]:
        return
    cr, ci = x / 24.0 - 2.0, y / 16.0 - 1.0
    r = i = 0.0
    n = 0
    while n < limit and r * r + i * i < 4.0:
        r, i = r * r - i * i + cr, 2.0 * r * i + ci
        n += 1
    out[y, x] = n


def local_sort(x):
    held = cuda.local.array(8, int32)
    row = cuda.grid(1)
    if row < x.shape[0]:
        for k in range(8):
            held[k] = x[row, k]
        for k in range(1, 8):
            value, j = held[k], k - 1
            while j >= 0 and held[j] > value:
                held[j + 1] = held[j]
                j -= 1
            held[j + 1] = value
        for k in range(8):
            x[row, k] = held[k]


def grid_rows(m):
    column = cuda.grid(1)
    grid = cuda.cg.this_grid()
    for row in range(1, m.shape[0]):
        m[row, column] = m[row - 1, m.shape[1] - column - 1] + 1
        grid.sync()


def mandelbrot_reference(shape, limit):
    y, x = np.mgrid[: shape[0], : shape[1]]
    c = (x / 24.0 - 2.0) + 1j * (y / 16.0 - 1.0)
    z, n = np.zeros_like(c), np.zeros(shape, np.int32)
    for _ in range(limit):
        inside = z.real**2 + z.imag**2 < 4
        n += inside
        z = np.where(inside, z * z + c, z)
    return n


def cases():
    """(name, kernel, grid, block, arguments, what they are afterwards, shared bytes)."""
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in ((50, 70), (70, 40)))
    product = (a.astype(np.float64) @ b).astype(np.float32)
    yield (
        "shared-memory matmul",
        matmul,
        (3, 4),
        (16, 16),
        (a, b, np.zeros((50, 40), np.float32)),
        (a, b, product),
        0,
    )
    x = RNG.integers(-100, 100, 256).astype(np.int32)
    rows = x.reshape(-1, 32)
    yield ("shuffle down", warp_sums, 2, 128, (x, np.zeros(8, np.int32)), (x, rows.sum(1)), 0)
    lane = np.arange(32)
    turned = rows[:, (lane + 5) % 32] + rows[:, lane ^ 3]
    yield ("shuffle", rotate, 2, 128, (x, np.zeros(256, np.int32)), (x, turned.reshape(-1)), 0)
    bits = ((rows > 0).astype(np.uint32) << lane.astype(np.uint32)).sum(1, dtype=np.uint32)
    facts = np.stack([bits, (rows > 90).any(1), (rows > -99).all(1), np.full(8, 32)], 1)
    yield (
        "votes",
        votes,
        2,
        128,
        (x, np.zeros((256, 4), np.uint32)),
        (x, np.repeat(facts, 32, 0)),
        0,
    )
    few = RNG.integers(0, 10, 1000).astype(np.int32)
    yield (
        "histogram",
        histogram,
        8,
        128,
        (few, np.zeros(10, np.int32)),
        (few, np.bincount(few, minlength=10)),
        0,
    )
    y = RNG.integers(-500, 500, 700).astype(np.float32)
    one = [np.zeros(1, np.float32) for _ in range(3)]
    yield (
        "atomic extremes",
        extremes,
        6,
        128,
        (y, *one),
        (y, y.max(keepdims=True), y.min(keepdims=True), y.sum(keepdims=True)),
        0,
    )
    yield "lock", locked, 3, 32, (np.zeros(2, np.int32),), (np.array([96, 0]),), 0
    yield (
        "block reduction",
        block_sums,
        6,
        128,
        (y, np.zeros(1, np.float32)),
        (y, y.sum(keepdims=True)),
        0,
    )
    z = np.arange(100, dtype=np.int32)
    yield "dynamic shared memory", dynamic_reverse, 1, 100, (z,), (z[::-1],), 400
    yield (
        "data-dependent loop",
        mandelbrot,
        (5, 3),
        (16, 16),
        (np.zeros((33, 70), np.int32), np.int32(60)),
        (mandelbrot_reference((33, 70), 60),),
        0,
    )
    many = RNG.integers(-99, 99, (200, 8)).astype(np.int32)
    yield "local memory", local_sort, 2, 128, (many,), (np.sort(many, 1),), 0
    yield (
        "barriers of the grid",
        grid_rows,
        12,
        32,
        (np.zeros((40, 384), np.int32),),
        (np.tile(np.arange(40)[:, None], 384),),
        0,
    )


def main():
    failed, names = {}, []
    for name, function, grid, block, arguments, wanted, shared in cases():
        names.append(name)
        on_device = [cuda.to_device(x) if isinstance(x, np.ndarray) else x for x in arguments]
        try:
            cuda.jit(function)[grid, block, 0, shared](*on_device)
        except Exception as error:
            if any(word in repr(error).lower() for word in ("nvrtc", "nvvm")) and (
                "not" in repr(error).lower() or "library" in repr(error).lower()
            ):
                skip(error)
            failed[name] = repr(error)[:500]
            continue
        arrays = [x for x in on_device if not np.isscalar(x)]
        for got, want in zip(arrays, wanted, strict=True):
            if not np.allclose(got.copy_to_host(), want, rtol=1e-5, atol=1e-5):
                failed[name] = "not what NumPy says"
    print(json.dumps({"kernels": names, "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
