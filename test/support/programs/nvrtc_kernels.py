"""CUDA C++ compiled at run time by NVRTC and launched by the driver API.

To PTX, or with the argument `cubin` to machine code for the device's architecture.

Tiles in shared memory, warp shuffles, votes, atomics, constant memory, a structure by value. Each
is compared with NumPy; one JSON line for all. Exits with 77 where NVRTC is not installed (it
needs no GPU).
"""

import json
import sys

import numpy as np


def skip(reason):
    print(f"skipped: {reason}; pip install cuda-bindings nvidia-cuda-nvrtc", file=sys.stderr)
    sys.exit(77)


try:
    from cuda.bindings import driver, nvrtc

    nvrtc.nvrtcVersion()
except (ImportError, RuntimeError) as error:
    skip(error)

SOURCE = r"""
constexpr int T = 16;
extern "C" __global__ void matmul(const float *a, const float *b, float *c, int m, int n, int k) {
  __shared__ float left[T][T], right[T][T + 1];
  int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * T + y, column = blockIdx.x * T + x;
  float sum = 0;
  for (int tile = 0; tile < k; tile += T) {
    left[y][x] = row < m && tile + x < k ? a[row * k + tile + x] : 0;
    right[y][x] = column < n && tile + y < k ? b[(tile + y) * n + column] : 0;
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < T; i++) sum += left[y][i] * right[i][x];
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}

extern "C" __global__ void total(const int *x, int *sum, int *most, int n) {
  __shared__ int parts[32];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, mine = 0, high = -2147483647;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    mine += x[i];
    high = max(high, x[i]);
  }
  for (int step = 16; step; step >>= 1) mine += __shfl_down_sync(~0u, mine, step);
  if (lane == 0) parts[warp] = mine;
  __syncthreads();
  if (warp == 0) {
    mine = lane < blockDim.x / 32 ? parts[lane] : 0;
    for (int step = 16; step; step >>= 1) mine += __shfl_xor_sync(~0u, mine, step);
    if (lane == 0) atomicAdd(sum, mine);
  }
  atomicMax(most, high);
}

extern "C" __global__ void softmax(const float *x, float *out, int width) {
  const float *row = x + blockIdx.x * width;
  float high = -1e30f, sum = 0;
  for (int i = threadIdx.x; i < width; i += 32) high = fmaxf(high, row[i]);
  for (int step = 16; step; step >>= 1) high = fmaxf(high, __shfl_xor_sync(~0u, high, step));
  for (int i = threadIdx.x; i < width; i += 32) sum += expf(row[i] - high);
  for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(~0u, sum, step);
  for (int i = threadIdx.x; i < width; i += 32)
    out[blockIdx.x * width + i] = expf(row[i] - high) / sum;
}

// Keeps the positive numbers, in order within a warp; where warps go is up to the counter.
extern "C" __global__ void compact(const int *x, int *out, int *count, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31;
  bool keep = i < n && x[i] > 0;
  unsigned kept = __ballot_sync(~0u, keep);
  int start = 0;
  if (lane == 0) start = atomicAdd(count, __popc(kept));
  start = __shfl_sync(~0u, start, 0);
  if (keep) out[start + __popc(kept & ((1u << lane) - 1))] = x[i];
}

struct Line { double slope, offset; int bits; unsigned char shift; };
__constant__ double bends[4] = {0.0, 0.25, -1.5, 3.0};
extern "C" __global__ void lines(const double *x, double *out, Line line, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double value = fma(line.slope, x[i], line.offset);
  switch ((i >> line.shift) & line.bits) {
    case 0: value = sqrt(fabs(value)); break;
    case 1: value = floor(value) + bends[i & 3]; break;
    case 2: value = value / 3; break;
    default: value = value < 0 ? -value : bends[i % 4];
  }
  out[i] = value;
}
"""
RNG = np.random.default_rng(11)


def check(answer):
    """What a call gives; its error as an exception."""
    error, *values = answer
    if error:
        raise RuntimeError(f"{error!r}")
    return values[0] if values else None


def compiled(architecture):
    """SOURCE for an architecture: PTX for a virtual one, a cubin for a real one."""
    program = check(nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"kernels.cu", 0, [], []))
    options = [b"--gpu-architecture=" + architecture, b"--std=c++17"]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if error:
        log = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
        check(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(log.decode())
    if architecture.startswith(b"sm_"):
        image = b" " * check(nvrtc.nvrtcGetCUBINSize(program))
        check(nvrtc.nvrtcGetCUBIN(program, image))
    else:
        image = b" " * check(nvrtc.nvrtcGetPTXSize(program))
        check(nvrtc.nvrtcGetPTX(program, image))
    return image


def run(module, name, grid, block, arguments):
    """Launches a kernel on copies of the arrays; returns them as they are afterwards."""
    function = check(driver.cuModuleGetFunction(module, name.encode()))
    values, places = [], []
    for argument in arguments:
        if isinstance(argument, np.ndarray) and argument.ndim:
            place = check(driver.cuMemAlloc(argument.nbytes))
            check(driver.cuMemcpyHtoD(place, np.ascontiguousarray(argument), argument.nbytes))
            places.append((place, argument))
            values.append(np.array(int(place), np.uint64))
        else:
            values.append(np.asarray(argument))
    pointers = np.array([v.ctypes.data for v in values], np.uint64)
    check(driver.cuLaunchKernel(function, *grid, *block, 0, 0, pointers.ctypes.data, 0))
    check(driver.cuCtxSynchronize())
    results = []
    for place, argument in places:
        result = np.empty_like(argument)
        check(driver.cuMemcpyDtoH(result, place, result.nbytes))
        check(driver.cuMemFree(place))
        results.append(result)
    return results


def cases(module):
    """(name, what came out, what NumPy says)."""
    m, n, k = 45, 70, 53
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    sizes = [np.int32(s) for s in (m, n, k)]
    got = run(
        module, "matmul", (5, 3, 1), (16, 16, 1), [a, b, np.zeros((m, n), np.float32), *sizes]
    )[2]
    yield "tiled matmul", got, a.astype(np.float64) @ b
    x = RNG.integers(-1000, 1000, 5000).astype(np.int32)
    got = run(
        module,
        "total",
        (4, 1, 1),
        (256, 1, 1),
        [x, np.zeros(1, np.int32), np.full(1, -9999, np.int32), np.int32(x.size)],
    )
    yield "sum by shuffles", got[1], x.sum(keepdims=True)
    yield "maximum by atomics", got[2], x.max(keepdims=True)
    y = (4 * RNG.standard_normal((6, 100))).astype(np.float32)
    got = run(module, "softmax", (6, 1, 1), (32, 1, 1), [y, np.zeros_like(y), np.int32(100)])[1]
    exponents = np.exp(y.astype(np.float64) - y.max(1, keepdims=True))
    yield "softmax", got, exponents / exponents.sum(1, keepdims=True)
    got = run(
        module,
        "compact",
        (20, 1, 1),
        (256, 1, 1),
        [x, np.zeros_like(x), np.zeros(1, np.int32), np.int32(x.size)],
    )
    kept = x[x > 0]
    yield "compaction", np.sort(got[1][: kept.size]), np.sort(kept)
    yield "compaction's count", got[2], np.array([kept.size])
    z = 9 * RNG.standard_normal(500)
    kind = np.dtype(
        [("slope", "f8"), ("offset", "f8"), ("bits", "i4"), ("shift", "u1")], align=True
    )
    line = np.array((1.75, -0.5, 3, 1), kind)
    got = run(module, "lines", (2, 1, 1), (256, 1, 1), [z, np.zeros(500), line, np.int32(500)])[1]
    i, value = np.arange(500), 1.75 * z - 0.5
    bends = np.array([0.0, 0.25, -1.5, 3.0])[i % 4]
    yield (
        "structure and constants",
        got,
        np.choose(
            i >> 1 & 3,
            [
                np.sqrt(np.abs(value)),
                np.floor(value) + bends,
                value / 3,
                np.where(value < 0, -value, bends),
            ],
        ),
    )


def main():
    check(driver.cuInit(0))
    context = check(driver.cuDevicePrimaryCtxRetain(0))
    check(driver.cuCtxSetCurrent(context))
    attribute = driver.CUdevice_attribute
    own = [
        check(driver.cuDeviceGetAttribute(one, 0))
        for one in (
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    ]
    real = sys.argv[1:] == ["cubin"]
    architecture = b"sm_%d%d" % tuple(own) if real else b"compute_90"
    module = check(driver.cuModuleLoadData(compiled(architecture)))
    failed, names = {}, []
    for name, got, wanted in cases(module):
        names.append(name)
        if not np.allclose(got, wanted, rtol=1e-5, atol=1e-5):
            failed[name] = float(np.abs(np.asarray(got, np.float64) - wanted).max())
    check(driver.cuModuleUnload(module))
    print(json.dumps({"kernels": names, "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
