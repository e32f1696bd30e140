"""cuda.core with machine code: NVRTC's cubin of the device's architecture, loaded and linked.

A template by its name expression, a kernel whose function is in another cubin, attributes, and the
log of a program that does not compile. One JSON line for all; exits with 77 where cuda.core or
NVRTC is not installed.
"""

import json
import sys

import numpy as np

try:
    from cuda.bindings import driver, nvrtc
    from cuda.core import (
        Device,
        LaunchConfig,
        Linker,
        LinkerOptions,
        Program,
        ProgramOptions,
        launch,
    )

    nvrtc.nvrtcVersion()
except (ImportError, RuntimeError) as error:
    print(f"skipped: {error}; pip install cuda-core nvidia-cuda-nvrtc", file=sys.stderr)
    sys.exit(77)

SAXPY = """
template <typename T> __global__ void __launch_bounds__(256) saxpy(T a, const T *x, T *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
"""
SCALE = """
extern "C" __device__ double scaled(double x);
extern "C" __global__ void scale(double *y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = scaled(y[i]);
}
"""
SCALED = 'extern "C" __device__ double scaled(double x) { return x * -3; }'
COUNT = 1000


def check(answer):
    error, *values = answer
    if error:
        raise RuntimeError(f"{error!r}")
    return values[0] if values else None


def cubin(source, names=(), **options):
    """The cubin of a source for the device's own architecture."""
    arch = f"sm_{Device().arch}"
    program = Program(source, "c++", ProgramOptions(std="c++17", arch=arch, **options))
    return program.compile("cubin", name_expressions=names)


def main():
    device = Device()
    device.set_current()
    stream = device.create_stream()
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, COUNT))
    x_at, y_at = (check(driver.cuMemAlloc(x.nbytes)) for _ in range(2))
    for place, array in ((x_at, x), (y_at, y)):
        check(driver.cuMemcpyHtoD(place, array, array.nbytes))
    kernel = cubin(SAXPY, ("saxpy<double>", "saxpy<float>")).get_kernel("saxpy<double>")
    launch(
        stream,
        LaunchConfig(grid=8, block=128),
        kernel,
        np.float64(2.5),
        np.uint64(int(x_at)),
        np.uint64(int(y_at)),
        np.int32(COUNT),
    )
    parts = [cubin(source, relocatable_device_code=True) for source in (SCALE, SCALED)]
    linked = Linker(*parts, options=LinkerOptions(arch=f"sm_{device.arch}")).link("cubin")
    launch(
        stream,
        LaunchConfig(grid=1, block=64),
        linked.get_kernel("scale"),
        np.uint64(int(y_at)),
        np.int32(COUNT),
    )
    stream.sync()
    got = np.empty_like(y)
    check(driver.cuMemcpyDtoH(got, y_at, got.nbytes))
    try:
        cubin("__global__ void broken( {")
        log = "it compiled"
    except Exception as error:
        log = str(error)
    print(
        json.dumps(
            {
                "worst": float(np.abs(got - -3 * (y + 2.5 * x)).max()),
                "log": log[:200],
                "threads": kernel.attributes.max_threads_per_block,
            }
        )
    )


if __name__ == "__main__":
    main()
