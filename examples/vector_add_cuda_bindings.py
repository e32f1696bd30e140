#!/usr/bin/env python3
"""Add two vectors with the CUDA driver API, in chunks on several streams.

Uses cuda.bindings.driver: PTX text as a module, pinned host memory, asynchronous copies that
overlap with kernels, events between streams. Compares with NumPy, exactly.
"""

from __future__ import annotations

import argparse
import ctypes
from typing import Any

import numpy as np
from cuda.bindings import driver

PTX = b"""
.version 7.0
.target sm_75
.address_size 64

// out[i] = a[i] + b[i] for i < count
.visible .entry vector_add(
    .param .u64 out_param, .param .u64 a_param, .param .u64 b_param, .param .u32 count_param)
{
    .reg .pred  %p;
    .reg .f32   %x, %y, %z;
    .reg .b32   %block, %size, %thread, %i, %count;
    .reg .b64   %out, %a, %b, %offset;

    ld.param.u64    %out, [out_param];
    ld.param.u64    %a, [a_param];
    ld.param.u64    %b, [b_param];
    ld.param.u32    %count, [count_param];
    mov.u32         %block, %ctaid.x;
    mov.u32         %size, %ntid.x;
    mov.u32         %thread, %tid.x;
    mad.lo.s32      %i, %block, %size, %thread;
    setp.ge.u32     %p, %i, %count;
    @%p bra         done;
    cvta.to.global.u64 %out, %out;
    cvta.to.global.u64 %a, %a;
    cvta.to.global.u64 %b, %b;
    mul.wide.u32    %offset, %i, 4;
    add.s64         %a, %a, %offset;
    add.s64         %b, %b, %offset;
    add.s64         %out, %out, %offset;
    ld.global.f32   %x, [%a];
    ld.global.f32   %y, [%b];
    add.rn.f32      %z, %x, %y;
    st.global.f32   [%out], %z;
done:
    ret;
}
\0"""
BLOCK = 256


def check(answer: tuple[Any, ...]) -> Any:
    """Return what a driver call gives, or raise with the name of its error."""
    error, *values = answer
    if error != driver.CUresult.CUDA_SUCCESS:
        _, name = driver.cuGetErrorName(error)
        _, text = driver.cuGetErrorString(error)
        msg = f"{name.decode()}: {text.decode()}"
        raise RuntimeError(msg)
    return values[0] if len(values) == 1 else tuple(values)


def pinned(count: int) -> tuple[int, np.ndarray]:
    """A pinned host buffer of `count` floats: its address and an array over it."""
    address = int(check(driver.cuMemAllocHost(count * 4)))
    floats = (ctypes.c_float * count).from_address(address)
    return address, np.ctypeslib.as_array(floats)


def launch(function: Any, stream: Any, out: int, a: int, b: int, count: int) -> None:
    """Add `count` elements at device addresses a and b."""
    values = (out, a, b, count)
    kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    grid = (count + BLOCK - 1) // BLOCK
    check(driver.cuLaunchKernel(function, grid, 1, 1, BLOCK, 1, 1, 0, stream, (values, kinds), 0))


def add(size: int, streams: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Add two random vectors on the GPU.

    Returns:
        (the GPU's result, NumPy's result, milliseconds on the GPU by its events).
    """
    check(driver.cuInit(0))
    device = check(driver.cuDeviceGet(0))
    name = check(driver.cuDeviceGetName(256, device)).split(b"\0")[0].decode()
    print(f"device 0: {name}")
    context = check(driver.cuDevicePrimaryCtxRetain(device))
    check(driver.cuCtxSetCurrent(context))
    module = check(driver.cuModuleLoadData(PTX))
    function = check(driver.cuModuleGetFunction(module, b"vector_add"))

    rng = np.random.default_rng(seed)
    host = [pinned(size) for _ in range(3)]
    (a_at, a), (b_at, b), (out_at, out) = host
    a[:] = rng.standard_normal(size, dtype=np.float32)
    b[:] = rng.standard_normal(size, dtype=np.float32)
    out[:] = np.nan
    on_device = [int(check(driver.cuMemAlloc(size * 4))) for _ in range(3)]
    a_device, b_device, out_device = on_device

    main = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    workers = [
        check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        for _ in range(streams)
    ]
    begin, end = (check(driver.cuEventCreate(0)) for _ in range(2))
    done = [
        check(driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        for _ in range(streams)
    ]

    check(driver.cuEventRecord(begin, main))
    bounds = np.linspace(0, size, streams + 1).astype(int)
    for worker, ready, first, last in zip(workers, done, bounds[:-1], bounds[1:], strict=True):
        start, count = int(first) * 4, int(last - first)
        check(driver.cuStreamWaitEvent(worker, begin, 0))
        check(driver.cuMemcpyHtoDAsync(a_device + start, a_at + start, count * 4, worker))
        check(driver.cuMemcpyHtoDAsync(b_device + start, b_at + start, count * 4, worker))
        launch(function, worker, out_device + start, a_device + start, b_device + start, count)
        check(driver.cuMemcpyDtoHAsync(out_at + start, out_device + start, count * 4, worker))
        check(driver.cuEventRecord(ready, worker))
        check(driver.cuStreamWaitEvent(main, ready, 0))
    check(driver.cuEventRecord(end, main))
    check(driver.cuEventSynchronize(end))
    milliseconds = float(check(driver.cuEventElapsedTime(begin, end)))
    result, wanted = out.copy(), a + b

    for event in (begin, end, *done):
        check(driver.cuEventDestroy(event))
    for stream in (main, *workers):
        check(driver.cuStreamDestroy(stream))
    for address in on_device:
        check(driver.cuMemFree(address))
    for address, _ in host:
        check(driver.cuMemFreeHost(address))
    check(driver.cuModuleUnload(module))
    check(driver.cuDevicePrimaryCtxRelease(device))
    return result, wanted, milliseconds


def main() -> int:
    """Run once and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_003, help="elements (%(default)s)")
    parser.add_argument("--streams", type=int, default=4, help="streams (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the input (%(default)s)")
    arguments = parser.parse_args()
    if not 1 <= arguments.streams <= arguments.size:
        parser.error("want 1 <= streams <= size")
    result, wanted, milliseconds = add(arguments.size, arguments.streams, arguments.seed)
    wrong = int(np.count_nonzero(result != wanted))
    print(
        f"vector add, {arguments.size} float32 on {arguments.streams} streams, "
        f"{milliseconds:.3f} ms: {wrong} elements differ from NumPy (want 0)"
    )
    return 0 if wrong == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
