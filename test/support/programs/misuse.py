"""What a program does wrong: `misuse.py CASE` prints the result of every call it makes.

Each case is a function here; every step is one JSON line {"call": ..., "result": NAME}.
"""

import ctypes
import sys

import numpy as np
from cuda.bindings import driver
from kernels import PTX, affine, check, context, functions, name, say

N = 1000
BYTES = 4 * N


def step(call, answer):
    """Report one call; returns its value."""
    result, *values = answer if isinstance(answer, tuple) else (answer,)
    say(call=call, result=name(result))
    return values[0] if values else None


def still_works(kernel):
    """Report whether the session goes on computing, and right."""
    values = np.arange(N, dtype=np.float32)
    data = step("alloc", driver.cuMemAlloc(BYTES))
    step("upload", driver.cuMemcpyHtoD(data, values.ctypes.data, BYTES))
    step("launch", affine(kernel, data, N, 2.0))
    got = np.zeros_like(values)
    step("download", driver.cuMemcpyDtoH(got.ctypes.data, data, BYTES))
    say(call="compare", result="SUCCESS" if np.array_equal(got, values * 2 + 1) else "WRONG")


def too_many_threads():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(BYTES))
    step("bad", affine(kernel, data, N, 2.0, block=2048, grid=1))
    still_works(kernel)


def no_blocks():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(BYTES))
    step("bad", affine(kernel, data, N, 2.0, grid=0))
    still_works(kernel)


def too_much_shared_memory():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(BYTES))
    types = (ctypes.c_void_p, ctypes.c_uint, ctypes.c_float)
    step(
        "bad",
        driver.cuLaunchKernel(
            kernel, 1, 1, 1, 1, 1, 1, 1 << 20, 0, ((int(data), N, 1.0), types), 0
        ),
    )
    still_works(kernel)


def packed(kernel, size):
    """Launch with packed arguments of `size` bytes (affine takes 16)."""
    buffer = (ctypes.c_ubyte * 64)()
    length = ctypes.c_size_t(size)
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(length), 0)
    lib = ctypes.CDLL("libcuda.so.1")
    call = lib.cuLaunchKernel
    call.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3]
    return driver.CUresult(
        call(int(kernel), 1, 1, 1, 1, 1, 1, 0, None, None, ctypes.addressof(extra))
    )


def parameters_too_short():
    context()
    kernel = functions("affine")
    step("bad", packed(kernel, 8))
    still_works(kernel)


def parameters_too_long():
    context()
    kernel = functions("affine")
    step("bad", packed(kernel, 40))
    still_works(kernel)


def freed_pointer_in_kernel():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(64 << 20))
    check(driver.cuMemFree(data))
    step("launch", affine(kernel, data, N, 2.0))
    step("synchronize", driver.cuCtxSynchronize())
    step("after", driver.cuMemAlloc(BYTES))
    step("after", driver.cuCtxSynchronize())


def far_pointer_in_kernel():
    context()
    kernel = functions("affine")
    step("launch", affine(kernel, 0x10, N, 2.0))
    step("synchronize", driver.cuCtxSynchronize())
    step("after", driver.cuCtxSynchronize())


def copy_from_freed():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(BYTES))
    check(driver.cuMemFree(data))
    host = np.zeros(N, np.float32)
    step("bad", driver.cuMemcpyDtoH(host.ctypes.data, data, BYTES))
    still_works(kernel)


def free_twice():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(BYTES))
    check(driver.cuMemFree(data))
    step("bad", driver.cuMemFree(data))
    still_works(kernel)


def upload_past_the_end():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(BYTES))
    host = np.zeros(1 << 20, np.uint8)
    step("bad", driver.cuMemcpyHtoD(data, host.ctypes.data, host.nbytes))
    still_works(kernel)


def download_past_the_end():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(BYTES))
    host = np.zeros(1 << 20, np.uint8)
    step("bad", driver.cuMemcpyDtoH(host.ctypes.data, data, host.nbytes))
    still_works(kernel)


def copy_on_device_past_the_end():
    context()
    kernel = functions("affine")
    one, two = (check(driver.cuMemAlloc(BYTES)) for _ in range(2))
    step("bad", driver.cuMemcpyDtoD(one, two, 1 << 20))
    still_works(kernel)


def fill_past_the_end():
    context()
    kernel = functions("affine")
    data = check(driver.cuMemAlloc(BYTES))
    step("bad", driver.cuMemsetD8(data, 0, 1 << 20))
    still_works(kernel)


def truncated_ptx():
    context()
    kernel = functions("affine")
    step("bad", driver.cuModuleLoadData(PTX[: len(PTX) // 2] + b"\0"))
    still_works(kernel)


def not_ptx():
    context()
    kernel = functions("affine")
    step("bad", driver.cuModuleLoadData(b".version 7.0\n.target sm_75\nnonsense;\n\0"))
    still_works(kernel)


def unknown_instruction():
    context()
    kernel = functions("affine")
    step("bad", driver.cuModuleLoadData(PTX.replace(b"mul.rn.f32", b"mull.rn.f32")))
    still_works(kernel)


def unknown_kernel():
    context()
    module = check(driver.cuModuleLoadData(PTX))
    step("bad", driver.cuModuleGetFunction(module, b"affinity"))
    still_works(check(driver.cuModuleGetFunction(module, b"affine")))


def out_of_memory():
    """Allocates until it is refused; a smaller allocation must then still be possible."""
    context()
    kernel = functions("affine")
    held = []
    for _ in range(64):
        result, data = driver.cuMemAlloc(32 << 20)
        if result == driver.CUresult.CUDA_SUCCESS:
            # Memory that the device only promised would not show.
            result = driver.cuMemsetD8(data, 1, 32 << 20)[0]
            result = result or driver.cuCtxSynchronize()[0]
        if result:
            step("bad", result)
            break
        held.append(data)
    say(call="held", count=len(held))
    for data in held:
        check(driver.cuMemFree(data))
    still_works(kernel)


def huge_allocation():
    context()
    kernel = functions("affine")
    step("bad", driver.cuMemAlloc(1 << 60))
    still_works(kernel)


def zero_bytes():
    context()
    kernel = functions("affine")
    step("bad", driver.cuMemAlloc(0))
    still_works(kernel)


def not_initialised():
    step("bad", driver.cuDeviceGet(0))


def no_context():
    check(driver.cuInit(0))
    step("bad", driver.cuMemAlloc(BYTES))


def unknown_device():
    check(driver.cuInit(0))
    step("bad", driver.cuDeviceGet(7))


def unsupported_call():
    context()
    kernel = functions("affine")
    step("bad", driver.cuIpcGetMemHandle(check(driver.cuMemAlloc(BYTES))))
    still_works(kernel)


def initialise_only():
    step("init", driver.cuInit(0))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
