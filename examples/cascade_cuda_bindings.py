#!/usr/bin/env python3
"""A cascade: a cheap look at a whole picture, a closer one only where something was seen.

Uses cuda.bindings.driver. The picture is cut into tiles and each tile's brightness is read; tiles
that are bright enough are smoothed several times and their detail is measured. So the number of
kernels that are launched, and with which addresses, depends on the picture. Compares every number
with NumPy, exactly, and prints a digest of all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import statistics
import time
from typing import Any

import numpy as np
from cuda.bindings import driver

PTX = b"""
.version 7.0
.target sm_75
.address_size 64

// out[t] = sum of the pixels of tile t; one thread per tile
.visible .entry brightness(
    .param .u64 out_param, .param .u64 image_param, .param .u32 tile_param,
    .param .u32 across_param, .param .u32 count_param)
{
    .reg .pred  %p;
    .reg .b32   %a, %b, %c, %t, %tile, %across, %count, %x, %y, %row, %col, %sum, %v, %width;
    .reg .b64   %out, %image, %at;

    ld.param.u64    %out, [out_param];
    ld.param.u64    %image, [image_param];
    ld.param.u32    %tile, [tile_param];
    ld.param.u32    %across, [across_param];
    ld.param.u32    %count, [count_param];
    mov.u32         %a, %ctaid.x;
    mov.u32         %b, %ntid.x;
    mov.u32         %c, %tid.x;
    mad.lo.u32      %t, %a, %b, %c;
    setp.ge.u32     %p, %t, %count;
    @%p bra         done;
    mul.lo.u32      %width, %tile, %across;
    div.u32         %row, %t, %across;
    rem.u32         %col, %t, %across;
    mul.lo.u32      %row, %row, %tile;
    mul.lo.u32      %col, %col, %tile;
    mov.u32         %sum, 0;
    mov.u32         %y, 0;
rows:
    mov.u32         %x, 0;
columns:
    add.u32         %a, %row, %y;
    mad.lo.u32      %a, %a, %width, %col;
    add.u32         %a, %a, %x;
    mad.wide.u32    %at, %a, 4, %image;
    ld.global.u32   %v, [%at];
    add.u32         %sum, %sum, %v;
    add.u32         %x, %x, 1;
    setp.lt.u32     %p, %x, %tile;
    @%p bra         columns;
    add.u32         %y, %y, 1;
    setp.lt.u32     %p, %y, %tile;
    @%p bra         rows;
    mad.wide.u32    %at, %t, 4, %out;
    st.global.u32   [%at], %sum;
done:
    ret;
}

// out[y][x] = (left + 2 * middle + right + 2) / 4; one thread per pixel of a tile, a row per block
.visible .entry smooth(
    .param .u64 out_param, .param .u64 in_param, .param .u32 pitch_param)
{
    .reg .pred  %p;
    .reg .b32   %x, %y, %size, %last, %pitch, %l, %r, %a, %left, %middle, %right;
    .reg .b64   %out, %in, %row, %at;

    ld.param.u64    %out, [out_param];
    ld.param.u64    %in, [in_param];
    ld.param.u32    %pitch, [pitch_param];
    mov.u32         %y, %ctaid.x;
    mov.u32         %x, %tid.x;
    mov.u32         %size, %ntid.x;
    sub.u32         %last, %size, 1;
    mul.lo.u32      %a, %y, %pitch;
    mad.wide.u32    %row, %a, 4, %in;
    sub.u32         %l, %x, 1;
    setp.eq.u32     %p, %x, 0;
    selp.b32        %l, 0, %l, %p;
    add.u32         %r, %x, 1;
    min.u32         %r, %r, %last;
    mad.wide.u32    %at, %l, 4, %row;
    ld.global.u32   %left, [%at];
    mad.wide.u32    %at, %x, 4, %row;
    ld.global.u32   %middle, [%at];
    mad.wide.u32    %at, %r, 4, %row;
    ld.global.u32   %right, [%at];
    add.u32         %left, %left, %right;
    mad.lo.u32      %left, %middle, 2, %left;
    add.u32         %left, %left, 2;
    shr.u32         %left, %left, 2;
    mad.lo.u32      %a, %y, %size, %x;
    mad.wide.u32    %at, %a, 4, %out;
    st.global.u32   [%at], %left;
    ret;
}

// out[y] = sum over x of |a[y][x] - b[y][x]|; one thread per row
.visible .entry detail(
    .param .u64 out_param, .param .u64 a_param, .param .u64 b_param, .param .u32 pitch_param)
{
    .reg .pred  %p;
    .reg .b32   %x, %y, %size, %pitch, %i, %v, %w, %sum;
    .reg .b64   %out, %a, %b, %at;

    ld.param.u64    %out, [out_param];
    ld.param.u64    %a, [a_param];
    ld.param.u64    %b, [b_param];
    ld.param.u32    %pitch, [pitch_param];
    mov.u32         %y, %tid.x;
    mov.u32         %size, %ntid.x;
    mov.u32         %sum, 0;
    mov.u32         %x, 0;
again:
    mad.lo.u32      %i, %y, %pitch, %x;
    mad.wide.u32    %at, %i, 4, %a;
    ld.global.u32   %v, [%at];
    mad.lo.u32      %i, %y, %size, %x;
    mad.wide.u32    %at, %i, 4, %b;
    ld.global.u32   %w, [%at];
    sub.s32         %v, %v, %w;
    abs.s32         %v, %v;
    add.u32         %sum, %sum, %v;
    add.u32         %x, %x, 1;
    setp.lt.u32     %p, %x, %size;
    @%p bra         again;
    mad.wide.u32    %at, %y, 4, %out;
    st.global.u32   [%at], %sum;
    ret;
}
\0"""
TILE = 32
ACROSS, DOWN = 6, 4
WIDTH, HEIGHT = TILE * ACROSS, TILE * DOWN
ROUNDS = 6
BRIGHT = 100 * TILE * TILE
"""Sum of a tile's pixels from which on it is looked at closely."""


def check(answer: tuple[Any, ...]) -> Any:
    """Return what a driver call gives, or raise with the name of its error."""
    error, *values = answer
    if error != driver.CUresult.CUDA_SUCCESS:
        _, name = driver.cuGetErrorName(error)
        raise RuntimeError(name.decode())
    return values[0] if len(values) == 1 else tuple(values)


class Cascade:
    """Both stages, on the GPU."""

    def __init__(self) -> None:
        check(driver.cuInit(0))
        device = check(driver.cuDeviceGet(0))
        check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(device))))
        module = check(driver.cuModuleLoadData(PTX))
        self._brightness, self._smooth, self._detail = (
            check(driver.cuModuleGetFunction(module, name))
            for name in (b"brightness", b"smooth", b"detail")
        )
        sizes = (WIDTH * HEIGHT, ACROSS * DOWN, TILE * TILE, TILE * TILE, ACROSS * DOWN * TILE)
        self._image, self._sums, self._one, self._two, self._details = (
            int(check(driver.cuMemAlloc(4 * size))) for size in sizes
        )

    def look(self, picture: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """The brightness of each tile, and the detail in each row of the bright ones.

        Args:
            picture: uint32, HEIGHT x WIDTH.
        """
        check(driver.cuMemcpyHtoD(self._image, picture.ctypes.data, picture.nbytes))
        count = ACROSS * DOWN
        self._launch(
            self._brightness, 1, count, (self._sums, self._image, TILE, ACROSS, count), "ppuuu"
        )
        sums = np.empty(count, np.uint32)
        check(driver.cuMemcpyDtoH(sums.ctypes.data, self._sums, sums.nbytes))
        bright = [int(tile) for tile in np.flatnonzero(sums >= BRIGHT)]
        for place, tile in enumerate(bright):
            self._closer(tile, self._details + 4 * TILE * place)
        if not bright:
            return sums, {}
        rows = np.empty((len(bright), TILE), np.uint32)
        check(driver.cuMemcpyDtoH(rows.ctypes.data, self._details, rows.nbytes))
        return sums, dict(zip(bright, rows, strict=True))

    def _closer(self, tile: int, out: int) -> None:
        row, column = divmod(tile, ACROSS)
        corner = self._image + 4 * TILE * (row * WIDTH + column)
        source, pitch = corner, WIDTH
        into, other = self._one, self._two
        for _ in range(ROUNDS):
            self._launch(self._smooth, TILE, TILE, (into, source, pitch), "ppu")
            source, pitch = into, TILE
            into, other = other, into
        self._launch(self._detail, 1, TILE, (out, corner, source, WIDTH), "pppu")

    def _launch(
        self, kernel: Any, grid: int, block: int, values: tuple[int, ...], kinds: str
    ) -> None:
        types = tuple(ctypes.c_void_p if kind == "p" else ctypes.c_uint32 for kind in kinds)
        check(driver.cuLaunchKernel(kernel, grid, 1, 1, block, 1, 1, 0, 0, (values, types), 0))


def reference(picture: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """What `Cascade.look` has to give, by NumPy."""
    tiles = picture.reshape(DOWN, TILE, ACROSS, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE)
    sums = tiles.sum(axis=(1, 2), dtype=np.uint32)
    found = {}
    for tile in np.flatnonzero(sums >= BRIGHT):
        smooth = tiles[tile].astype(np.int64)
        for _ in range(ROUNDS):
            left = np.concatenate((smooth[:, :1], smooth[:, :-1]), axis=1)
            right = np.concatenate((smooth[:, 1:], smooth[:, -1:]), axis=1)
            smooth = (left + 2 * smooth + right + 2) >> 2
        found[int(tile)] = np.abs(tiles[tile] - smooth).sum(axis=1).astype(np.uint32)
    return sums, found


def draw(rng: np.random.Generator) -> np.ndarray:
    """A dark noisy picture in which none, one or several tiles are bright."""
    picture = rng.integers(0, 60, (HEIGHT, WIDTH), dtype=np.uint32)
    for tile in rng.choice(ACROSS * DOWN, size=rng.integers(0, 6), replace=False):
        row, column = divmod(int(tile), ACROSS)
        area = (
            slice(row * TILE, (row + 1) * TILE),
            slice(column * TILE, (column + 1) * TILE),
        )
        picture[area] += rng.integers(90, 190, (TILE, TILE), dtype=np.uint32)
    return picture


def main() -> int:
    """Look at several pictures and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=50, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.pictures < 1:
        parser.error("want 1 picture or more")
    rng = np.random.default_rng(arguments.seed)
    cascade = Cascade()
    digest = hashlib.sha256()
    wrong, looks, times = 0, [], []
    for _ in range(arguments.pictures):
        picture = draw(rng)
        begin = time.perf_counter()
        sums, found = cascade.look(picture)
        times.append((time.perf_counter() - begin) * 1000)
        wanted_sums, wanted = reference(picture)
        same = found.keys() == wanted.keys() and np.array_equal(sums, wanted_sums)
        wrong += not (same and all(np.array_equal(found[t], wanted[t]) for t in wanted))
        looks.append(len(found))
        for part in (sums, *found.values()):
            digest.update(part.tobytes())
    result = {
        "pictures": arguments.pictures,
        "wrong": wrong,
        "looks": looks,
        "digest": digest.hexdigest(),
        "milliseconds": [round(value, 4) for value in times],
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"{arguments.pictures} pictures, {min(looks)} to {max(looks)} closer looks each, "
            f"{statistics.median(times):.3f} ms per picture (median): {wrong} differ from NumPy "
            f"(want 0); digest {result['digest']}"
        )
    return 0 if wrong == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
