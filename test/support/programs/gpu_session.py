"""One session's device on the GPU, in a process of its own, as the server's workers are.

    gpu_session.py steady ROUNDS | fault | hold BYTES | endless | greedy

Prints a line when it is at work, and a JSON line at its end.
"""

import json
import os
import struct
import sys
import time

from rrto_ros.devices.gpu.device import GpuDevice
from rrto_ros.devices.protocol import Launch, MemsetNode, SegmentCall
from rrto_ros.errors import CudaError

PTX = b"""
.version 7.5
.target sm_75
.address_size 64
.visible .entry step(.param .u64 pa, .param .u32 value)
{
    .reg .b64 %rd<2>; .reg .b32 %r<4>;
    ld.param.u64 %rd1, [pa]; ld.param.u32 %r1, [value];
    ld.global.u32 %r2, [%rd1]; mad.lo.u32 %r3, %r2, 3, %r1; st.global.u32 [%rd1], %r3;
    ret;
}
.visible .entry endless(.param .u64 pa)
{
    .reg .b64 %rd<2>; .reg .b32 %r<2>; .reg .pred %p;
    ld.param.u64 %rd1, [pa];
AGAIN:
    ld.volatile.global.u32 %r1, [%rd1]; setp.ne.u32 %p, %r1, 77; @%p bra AGAIN;
    ret;
}
"""


def step(at, value):
    return Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, struct.pack("<QI", at, value))


def word(device, at):
    return struct.unpack("<I", bytes(device.memcpy_dtoh(at, 4, 0)))[0]


def open_device(wait_limit_s=60.0, limit_bytes=1 << 28):
    device = GpuDevice(limit_bytes=limit_bytes, wait_limit_s=wait_limit_s)
    device.module_load(1, PTX)
    device.mem_alloc(device.info.arena_base, 1 << 20, 0)
    device.memset(MemsetNode(device.info.arena_base, 0, 0, 1, 1 << 20, 1), 0)
    device.ctx_synchronize()
    print("at work", flush=True)
    return device, device.info.arena_base


def steady(rounds):
    """Replayed stretches with changing arguments, each result checked."""
    device, base = open_device()
    segment = device.prepare_segment([SegmentCall(step(base, k), 0) for k in range(40)])
    want, wrong = 0, 0
    for number in range(int(rounds)):
        segment.run(0, 40, {7: SegmentCall(step(base, number), 0)}, 1, 0)
        for k in range(40):
            want = (want * 3 + (number if k == 7 else k)) & 0xFFFFFFFF
        wrong += word(device, base) != want
    found = dict(device.statistics())
    device.close()
    return {"wrong": wrong, **found}


def fault():
    """A kernel leaves the session's memory."""
    device, base = open_device()
    device.launch(step(0x10, 1), 0)
    return {"results": [_result(device.ctx_synchronize), _result(device.launch, step(base, 1), 0)]}


def hold(size):
    """Keeps memory until it is killed."""
    size = int(size)
    device, base = open_device(limit_bytes=size + (64 << 20))
    device.mem_alloc(base + (2 << 20), size, 0)
    device.memset(MemsetNode(base + (2 << 20), 0, 1, 1, size, 1), 0)
    device.ctx_synchronize()
    print("holding", flush=True)
    time.sleep(600)
    return {}


def endless():
    """A kernel that never ends, with a limit of two seconds."""
    device, base = open_device(wait_limit_s=2.0)
    started = time.monotonic()
    device.launch(Launch(1, 1, (1, 1, 1), (1, 1, 1), 0, struct.pack("<Q", base)), 0)
    result = _result(device.ctx_synchronize)
    waited = time.monotonic() - started
    device.close()
    return {"results": [result], "waited_s": waited}


def greedy():
    """More than the session may have, then what it may."""
    device, base = open_device(limit_bytes=32 << 20)
    over = _result(device.mem_alloc, base + (1 << 20), 40 << 20, 0)
    device.mem_alloc(base + (1 << 20), 20 << 20, 0)
    device.launch(step(base + (1 << 20), 5), 0)
    device.ctx_synchronize()
    device.close()
    return {"results": [over]}


def _result(call, *arguments):
    try:
        call(*arguments)
    except CudaError as error:
        return error.result.name
    return "SUCCESS"


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
    if sys.argv[1] == "endless":
        # As a worker ends whose kernel does not: a library's exit handlers may wait for the GPU.
        os._exit(0)
