"""The program that `rrto evaluate` runs where the user names none: a small network, unmodified.

    python rrto_ros/evaluation/workload.py [--inferences 100] [--layers 8]

It needs NumPy and `libcuda.so.1`, which it calls through ctypes. Each inference uploads an input
of 12 KB, launches a kernel per layer and reads the answer; it prints a JSON line with its time,
and at the end one with the digest of all answers. Exits with 1 where an answer is not NumPy's.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import struct
import time
from typing import Any

import numpy as np
import numpy.typing as npt

INPUTS, WIDTH = 3072, 64
TOLERANCE = 1e-4
LATENCY_PATTERN = r'"ms": ([0-9.]+)'
"""How its lines tell an inference's time, for `--latency-pattern`."""
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
// to[j] = max(0, sum over i < n of weights[i * width + j] * from[i])
.visible .entry layer(.param .u64 to, .param .u64 from, .param .u64 weights,
                      .param .u32 n, .param .u32 width)
{
  .reg .pred %p; .reg .b32 %r<8>; .reg .b64 %a<8>; .reg .f32 %f<4>;
  ld.param.u64 %a1, [to]; ld.param.u64 %a2, [from]; ld.param.u64 %a3, [weights];
  ld.param.u32 %r1, [n]; ld.param.u32 %r2, [width];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
  mad.lo.s32 %r5, %r3, %r4, %r5;
  setp.ge.u32 %p, %r5, %r2;
  @%p bra DONE;
  mul.wide.u32 %a4, %r5, 4;
  add.s64 %a1, %a1, %a4; add.s64 %a3, %a3, %a4;
  mul.wide.u32 %a5, %r2, 4;
  mov.f32 %f1, 0f00000000; mov.u32 %r6, 0;
NEXT:
  ld.global.f32 %f2, [%a2]; ld.global.f32 %f3, [%a3];
  fma.rn.f32 %f1, %f2, %f3, %f1;
  add.s64 %a2, %a2, 4; add.s64 %a3, %a3, %a5;
  add.s32 %r6, %r6, 1; setp.lt.u32 %p, %r6, %r1;
  @%p bra NEXT;
  max.f32 %f1, %f1, 0f00000000;
  st.global.f32 [%a1], %f1;
DONE:
  ret;
}
\0"""
Floats = npt.NDArray[np.float32]


class Driver:
    """The calls of the driver API that the network needs."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._kept: list[Any] = []
        self("cuInit", 0)
        self.new("cuCtxCreate_v2", 0, 0)
        module = self.new("cuModuleLoadData", PTX)
        self._layer = self.new("cuModuleGetFunction", module, b"layer")

    def __call__(self, name: str, *arguments: Any) -> None:
        """Make a call.

        Raises:
            SystemExit: It failed.
        """
        words = [ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments]
        result = getattr(self._library, name)(*words)
        if result:
            raise SystemExit(f"{name} returned {result}")

    def new(self, name: str, *arguments: Any) -> int:
        """Make a call that gives a handle or an address."""
        value = ctypes.c_uint64()
        self(name, ctypes.byref(value), *arguments)
        return value.value

    def upload(self, to: int, values: Floats) -> None:
        """Copy to the device."""
        self("cuMemcpyHtoD_v2", to, ctypes.c_void_p(values.ctypes.data), values.nbytes)

    def download(self, values: Floats, source: int) -> None:
        """Copy from the device."""
        self("cuMemcpyDtoH_v2", ctypes.c_void_p(values.ctypes.data), source, values.nbytes)

    def arguments(self, to: int, source: int, weights: int, count: int) -> Any:
        """Arguments of a layer, which stay alive."""
        packed = [struct.pack("<Q", v) for v in (to, source, weights)]
        packed += [struct.pack("<I", v) for v in (count, WIDTH)]
        buffers = [ctypes.create_string_buffer(one) for one in packed]
        self._kept += buffers
        return (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers))

    def launch(self, arguments: Any) -> None:
        """Run a layer."""
        self("cuLaunchKernel", self._layer, 1, 1, 1, WIDTH, 1, 1, 0, 0, arguments, 0)


def expected(given: Floats, weights: list[Floats]) -> Floats:
    """The answer by NumPy."""
    out = given
    for matrix in weights:
        out = np.maximum(out @ matrix, 0)
    return out


def main() -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inferences", type=int, default=100, help="how many (%(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="launches of each (%(default)s)")
    parser.add_argument(
        "--unchecked", action="store_true", help="for a device that computes nothing"
    )
    options = parser.parse_args()
    if options.inferences < 1 or options.layers < 1:
        parser.error("inferences and layers must be at least 1")
    rng = np.random.default_rng(0)
    sizes = [INPUTS] + [WIDTH] * (options.layers - 1)
    weights = [
        (rng.standard_normal((n, WIDTH)) * np.sqrt(2 / n)).astype(np.float32) for n in sizes
    ]
    driver = Driver()
    places = [driver.new("cuMemAlloc_v2", one.nbytes) for one in weights]
    for place, matrix in zip(places, weights, strict=True):
        driver.upload(place, matrix)
    given_at = driver.new("cuMemAlloc_v2", INPUTS * 4)
    outs = [driver.new("cuMemAlloc_v2", WIDTH * 4) for _ in weights]
    calls = [
        driver.arguments(to, source, place, count)
        for to, source, place, count in zip(outs, [given_at, *outs], places, sizes, strict=False)
    ]
    digest, worst = hashlib.sha256(), 0.0
    for number in range(options.inferences):
        given = rng.standard_normal(INPUTS, dtype=np.float32)
        answer = np.empty(WIDTH, np.float32)
        start = time.perf_counter()
        driver.upload(given_at, given)
        for arguments in calls:
            driver.launch(arguments)
        driver.download(answer, outs[-1])
        seconds = time.perf_counter() - start
        wanted = expected(given, weights)
        worst = max(worst, float(np.abs(answer - wanted).max() / max(1.0, float(wanted.max()))))
        digest.update(answer.tobytes())
        print(json.dumps({"inference": number, "ms": round(1e3 * seconds, 4)}), flush=True)
    right = options.unchecked or worst <= TOLERANCE
    print(json.dumps({"digest": digest.hexdigest(), "right": right}), flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
