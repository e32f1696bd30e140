"""CuPy: arrays, elementwise and reduction kernels, indexing, streams, kernels from source.

What it hands to cuBLAS, cuFFT and the like is those libraries' and not tried here. Sorting and
scans are CUB's, 20 MB of PTX that a virtual device would have to read.
"""

from __future__ import annotations

import sys

import numpy as np
from agree import Cases, absent, need_consent

need_consent()
try:
    import cupy as cp
except ImportError as error:
    absent(error, "cupy-cuda13x nvidia-cuda-nvrtc nvidia-cuda-runtime")

RNG = np.random.default_rng(11)
X = RNG.standard_normal((37, 53)).astype(np.float32)
Y = RNG.uniform(0.5, 1.5, (37, 53)).astype(np.float32)
WHOLE = RNG.integers(-1000, 1000, (37, 53), dtype=np.int32)
UNARY = (
    "negative", "absolute", "square", "sqrt", "exp", "exp2", "expm1", "log", "log1p", "log2",
    "sin", "cos", "tan", "arctan", "sinh", "cosh", "tanh", "floor", "ceil", "rint", "sign",
    "reciprocal", "cbrt", "isnan", "isfinite", "logical_not",
)  # fmt: skip
BINARY = (
    "add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "arctan2", "hypot",
    "fmod", "remainder", "floor_divide", "copysign", "less", "equal", "greater_equal",
    "logical_and",
)  # fmt: skip
WHOLE_BINARY = (
    "add", "subtract", "multiply", "maximum", "minimum", "bitwise_and", "bitwise_or",
    "bitwise_xor", "gcd", "equal",
)  # fmt: skip
REDUCTIONS = (
    "sum", "prod", "max", "min", "mean", "var", "std", "argmax", "argmin", "any", "all",
    "count_nonzero",
)  # fmt: skip
EXACT = {"negative", "absolute", "square", "floor", "ceil", "rint", "sign", "add", "subtract",
         "multiply", "maximum", "minimum", "copysign", "max", "min", "argmax",
         "argmin"}  # fmt: skip


def pair(name, *hosts, **more):
    """What CuPy and NumPy make of a function of that name."""

    def case():
        got = getattr(cp, name)(*map(cp.asarray, hosts), **more)
        return cp.asnumpy(got), getattr(np, name)(*hosts, **more)

    return case


def raw_kernel():
    source = r"""
    extern "C" __global__ void saxpy(const float *x, const float *y, float *out, float a, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) out[i] = a * x[i] + y[i];
    }"""
    out = cp.zeros(X.size, cp.float32)
    args = (cp.asarray(X).ravel(), cp.asarray(Y).ravel(), out, np.float32(2.5), np.int32(X.size))
    cp.RawKernel(source, "saxpy", options=("--fmad=false",))((16,), (128,), args)
    return out.get(), np.float32(2.5) * X.ravel() + Y.ravel()


def shared_memory():
    source = r"""
    extern "C" __global__ void turned(const int *x, int *out) {
        __shared__ int kept[128];
        kept[threadIdx.x] = x[blockIdx.x * 128 + threadIdx.x];
        __syncthreads();
        out[blockIdx.x * 128 + threadIdx.x] = kept[127 - threadIdx.x];
    }"""
    x = np.arange(1024, dtype=np.int32)
    out = cp.zeros_like(cp.asarray(x))
    cp.RawKernel(source, "turned")((8,), (128,), (cp.asarray(x), out))
    return out.get(), x.reshape(8, 128)[:, ::-1].ravel()


def elementwise_kernel():
    kernel = cp.ElementwiseKernel(
        "float32 x, float32 y", "float32 z", "z = x > y ? x : 2 * y", "larger"
    )
    return kernel(cp.asarray(X), cp.asarray(Y)).get(), np.where(X > Y, X, 2 * Y)


def reduction_kernel():
    kernel = cp.ReductionKernel("int32 x", "int64 y", "x * x", "a + b", "y = a", "0", "squares")
    return kernel(cp.asarray(WHOLE)).get(), (WHOLE.astype(np.int64) ** 2).sum()


def streams():
    first, second = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    event = cp.cuda.Event()
    with first:
        a = cp.asarray(X) * 2
        event.record(first)
    second.wait_event(event)
    with second:
        b = a + 1
    second.synchronize()
    return b.get(), X * 2 + 1


def indexing():
    a = cp.asarray(X)
    a[a < 0] = 0
    a[3:20:2, ::-1] += 1
    b = X.copy()
    b[b < 0] = 0
    b[3:20:2, ::-1] += 1
    return a.get(), b


def taking():
    rows = np.array([5, 1, 36, 5])
    return cp.asarray(X)[cp.asarray(rows)].get(), X[rows]


def shapes():
    a = cp.concatenate([cp.asarray(X).T, cp.asarray(Y).T], axis=1)
    return cp.roll(cp.pad(a, 2), 5).get(), np.roll(np.pad(np.concatenate([X.T, Y.T], 1), 2), 5)


def fused():
    @cp.fuse()
    def both(x, y):
        return cp.sqrt(cp.abs(x)) * y + 1

    return both(cp.asarray(X), cp.asarray(Y)).get(), np.sqrt(np.abs(X)) * Y + 1


def pinned():
    memory = cp.cuda.alloc_pinned_memory(X.nbytes)
    host = np.frombuffer(memory, np.float32, X.size).reshape(X.shape)
    host[...] = X
    device, out = cp.empty_like(cp.asarray(X)), np.empty_like(X)
    device.set(host)
    device.get(out=out)
    return out, X


def main():
    cases = Cases("CuPy", cp.__version__, "NumPy")
    for name in UNARY:
        cases.check(name, pair(name, Y if "log" in name or name == "sqrt" else X),
                    0 if name in EXACT else 1e-6)  # fmt: skip
    for name in BINARY:
        left = np.abs(X) if name == "power" else X
        cases.check(name, pair(name, left, Y), 0 if name in EXACT else 1e-6)
    for name in WHOLE_BINARY:
        cases.check(f"int32 {name}", pair(name, WHOLE, WHOLE[::-1].copy()), 0)
    for name in REDUCTIONS:
        for axis in (None, 0, 1):  # of numbers whose product is no infinity
            cases.check(f"{name} axis {axis}", pair(name, np.sqrt(np.sqrt(Y)), axis=axis),
                        0 if name in EXACT else 1e-5)  # fmt: skip
    for kind in (np.float16, np.float64, np.int8, np.uint64, np.complex64):
        cases.check(f"astype {np.dtype(kind)}", lambda kind=kind: (
            cp.asarray(Y * 50).astype(kind).get(), (Y * 50).astype(kind)), 1e-6)  # fmt: skip
    cases.check("arange", lambda: (cp.arange(0, 100, 3).get(), np.arange(0, 100, 3)), 0)
    cases.check("linspace", lambda: (cp.linspace(0, 1, 50).get(), np.linspace(0, 1, 50)), 1e-12)
    cases.check("eye", lambda: (cp.eye(9).get(), np.eye(9)), 0)
    for case in (raw_kernel, shared_memory, elementwise_kernel, reduction_kernel, streams,
                 indexing, taking, shapes, fused, pinned):  # fmt: skip
        cases.check(case.__name__, case, 1e-6)
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
