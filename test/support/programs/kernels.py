"""PTX and small helpers that the programs under test share (cuda.bindings.driver only)."""

import json
import sys

from cuda.bindings import driver

PTX = b"""
.version 7.0
.target sm_75
.address_size 64

// data[i] = data[i] * factor + 1 for i < count
.visible .entry affine(.param .u64 data, .param .u32 count, .param .f32 factor)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [data];
    ld.param.u32 %r1, [count];
    ld.param.f32 %f1, [factor];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra done;
    cvta.to.global.u64 %d1, %d1;
    mul.wide.u32 %d2, %r5, 4;
    add.s64 %d3, %d1, %d2;
    ld.global.f32 %f2, [%d3];
    mul.rn.f32 %f2, %f2, %f1;
    add.rn.f32 %f3, %f2, 0f3F800000;
    st.global.f32 [%d3], %f3;
done:
    ret;
}

// one thread counts up to `rounds` in memory: takes long when told to
.visible .entry count_up(.param .u64 data, .param .u32 rounds)
{
    .reg .pred %p;
    .reg .b32 %r<4>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [data];
    ld.param.u32 %r1, [rounds];
    cvta.to.global.u64 %d1, %d1;
    mov.u32 %r2, 0;
again:
    add.u32 %r2, %r2, 1;
    st.volatile.global.u32 [%d1], %r2;
    setp.lt.u32 %p, %r2, %r1;
    @%p bra again;
    ret;
}
\0"""
BLOCK = 128


def name(result):
    """The CUDA name of a result, without its prefix."""
    return driver.CUresult(result).name.removeprefix("CUDA_ERROR_").removeprefix("CUDA_")


def check(answer):
    """What a driver call gives; ends the program with one JSON line if it failed."""
    result, *values = answer
    if result != driver.CUresult.CUDA_SUCCESS:
        say(failed=name(result), code=int(result))
        sys.exit(3)
    return values[0] if len(values) == 1 else tuple(values)


def say(**fields):
    """One JSON line for the test that waits for it."""
    print(json.dumps(fields), flush=True)


def context():
    """Initialise, and make the primary context current."""
    check(driver.cuInit(0))
    device = check(driver.cuDeviceGet(0))
    check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(device))))
    return device


def functions(*names):
    """The kernels of PTX by name."""
    module = check(driver.cuModuleLoadData(PTX))
    found = [check(driver.cuModuleGetFunction(module, n.encode())) for n in names]
    return found[0] if len(found) == 1 else found


def affine(function, data, count, factor, stream=0, block=BLOCK, grid=None):
    """Launch `affine`; returns the CUresult."""
    import ctypes

    blocks = (count + block - 1) // block if grid is None else grid
    types = (ctypes.c_void_p, ctypes.c_uint, ctypes.c_float)
    return driver.cuLaunchKernel(
        function, blocks, 1, 1, block, 1, 1, 0, stream, ((int(data), count, factor), types), 0
    )[0]


def count_up(function, data, rounds, stream=0):
    """Launch `count_up`; returns the CUresult."""
    import ctypes

    types = (ctypes.c_void_p, ctypes.c_uint)
    return driver.cuLaunchKernel(
        function, 1, 1, 1, 1, 1, 1, 0, stream, ((int(data), rounds), types), 0
    )[0]
