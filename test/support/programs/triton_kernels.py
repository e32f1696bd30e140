"""Kernels that Triton compiles with the ptxas it is given, launched by the driver API.

Vector addition, softmax by rows, a sum by atomics, a matrix product in exact float32. Each is
compared with NumPy; one JSON line for all. The argument is the architecture (90, 121; the device's
if none). Exits with 77 where Triton is not installed (it needs neither PyTorch nor a GPU).
"""

import json
import sys

import numpy as np

try:
    import triton
    import triton.language as tl
    from cuda.bindings import driver
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ImportError as error:
    print(f"skipped: {error}; pip install triton cuda-bindings", file=sys.stderr)
    sys.exit(77)


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
def total(x, out, n, size: tl.constexpr):
    at = tl.program_id(0) * size + tl.arange(0, size)
    tl.atomic_add(out, tl.sum(tl.load(x + at, at < n, 0), 0))


@triton.jit
def matmul(a, b, c, m, n, k, size: tl.constexpr):
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
        sums += tl.dot(left, right, input_precision="ieee")
    tl.store(
        c + rows[:, None] * n + columns[None, :],
        sums,
        (rows[:, None] < m) & (columns[None, :] < n),
    )


FLOATS, INTEGERS = ("*fp32",), ("i32",)
SIGNATURES = {
    "add": 3 * FLOATS + INTEGERS,
    "softmax": 2 * FLOATS + INTEGERS,
    "total": 2 * ("*i32",) + INTEGERS,
    "matmul": 3 * FLOATS + 3 * INTEGERS,
}
SIZES = {"add": 256, "softmax": 128, "total": 512, "matmul": 32}
KERNELS = {"add": add, "softmax": softmax, "total": total, "matmul": matmul}


def check(answer):
    """What a call gives; its error as an exception."""
    error, *values = answer
    if error:
        raise RuntimeError(f"{error!r}")
    return values[0] if values else None


def compiled(name, architecture):
    """One kernel of the above as Triton compiles it."""
    kernel = KERNELS[name]
    types = dict(zip(kernel.arg_names, (*SIGNATURES[name], "constexpr"), strict=True))
    source = ASTSource(fn=kernel, signature=types, constexprs={"size": SIZES[name]})
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32))


def run(kernel, grid, arguments):
    """Launches on copies of the arrays; returns them as they are afterwards."""
    module = check(driver.cuModuleLoadData(kernel.asm["cubin"]))
    function = check(driver.cuModuleGetFunction(module, kernel.metadata.name.encode()))
    values, places = [], []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            place = check(driver.cuMemAlloc(argument.nbytes))
            check(driver.cuMemcpyHtoD(place, np.ascontiguousarray(argument), argument.nbytes))
            places.append((place, argument))
            values.append(np.array(int(place), np.uint64))
        else:
            values.append(np.array(argument, np.int32))
    values += 2 * [np.zeros((), np.uint64)]  # scratch memory: these kernels use none
    pointers = np.array([v.ctypes.data for v in values], np.uint64)
    check(
        driver.cuLaunchKernel(
            function,
            *grid,
            32 * kernel.metadata.num_warps,
            1,
            1,
            kernel.metadata.shared,
            0,
            pointers.ctypes.data,
            0,
        )
    )
    check(driver.cuCtxSynchronize())
    results = []
    for place, argument in places:
        result = np.empty_like(argument)
        check(driver.cuMemcpyDtoH(result, place, result.nbytes))
        check(driver.cuMemFree(place))
        results.append(result)
    check(driver.cuModuleUnload(module))
    return results


def cases(architecture):
    """(name, what came out, what NumPy says)."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((2, 1000)).astype(np.float32)
    kernel = compiled("add", architecture)
    yield "add", run(kernel, (4, 1, 1), [x, y, np.zeros_like(x), x.size])[2], x + y
    z = 3 * rng.standard_normal((7, 100)).astype(np.float32)
    powers = np.exp(z.astype(np.float64))
    kernel = compiled("softmax", architecture)
    yield (
        "softmax",
        run(kernel, (7, 1, 1), [z, np.zeros_like(z), 100])[1],
        powers / powers.sum(1, keepdims=True),
    )
    numbers = rng.integers(-1000, 1000, 3000).astype(np.int32)
    kernel = compiled("total", architecture)
    yield (
        "total",
        run(kernel, (6, 1, 1), [numbers, np.zeros(1, np.int32), numbers.size])[1],
        numbers.sum(keepdims=True),
    )
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((70, 50), (50, 40)))
    kernel = compiled("matmul", architecture)
    yield (
        "matmul",
        run(kernel, (3, 2, 1), [a, b, np.zeros((70, 40), np.float32), 70, 40, 50])[2],
        a.astype(np.float64) @ b,
    )


def main():
    check(driver.cuInit(0))
    check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(0))))
    attribute = driver.CUdevice_attribute
    own = [
        check(driver.cuDeviceGetAttribute(one, 0))
        for one in (
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    ]
    architecture = int(sys.argv[1]) if sys.argv[1:] else own[0] * 10 + own[1]
    failed, names = {}, []
    for name, got, wanted in cases(architecture):
        names.append(name)
        if not np.allclose(got, wanted, rtol=1e-5, atol=1e-5):
            failed[name] = float(np.abs(np.asarray(got, np.float64) - wanted).max())
    print(json.dumps({"architecture": architecture, "kernels": names, "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
