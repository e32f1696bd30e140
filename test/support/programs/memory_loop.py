"""A program that infers from a picture in an array, by a texture, into memory that it maps itself.

`memory_loop.py FRAMES EACH`: FRAMES pictures; EACH 1 makes a texture for each of them. It looks at
every result. `memory_loop.py stray` uses its mapped memory when it is no longer mapped.
"""

import ctypes
import json
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import call, function, load, ok, out, params, start, wants

GRANULE = 2 << 20
WIDTH, HEIGHT = 16, 8
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry look(.param .u64 tex, .param .u64 out)
{
  .reg .b64 %rd<6>; .reg .b32 %r<6>; .reg .f32 %f<8>;
  ld.param.u64 %rd1, [tex]; ld.param.u64 %rd2, [out];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
  cvt.rn.f32.u32 %f1, %r1; cvt.rn.f32.u32 %f2, %r2; add.f32 %f2, %f2, 0f3F000000;
  tex.2d.v4.f32.f32 {%f3, %f4, %f5, %f6}, [%rd1, {%f1, %f2}];
  mad.lo.u32 %r3, %r2, 16, %r1; mul.wide.u32 %rd3, %r3, 4; add.s64 %rd4, %rd2, %rd3;
  st.global.f32 [%rd4], %f3;
  ret;
}
"""


def mapped():
    """Addresses with memory behind them, in two pieces."""
    at = out("cuMemAddressReserve", 2 * GRANULE, 0, 0, 0)
    properties = ctypes.create_string_buffer(struct.pack("<iiiiQ8x", 1, 0, 1, 0, 0))
    access = ctypes.create_string_buffer(struct.pack("<iii", 1, 0, 3))
    for k in range(2):
        memory = out("cuMemCreate", GRANULE, properties, 0)
        ok("cuMemMap", at + k * GRANULE, GRANULE, 0, memory, 0)
        ok("cuMemSetAccess", at + k * GRANULE, GRANULE, access, 1)
    return at


def texture(array):
    resource = struct.pack("<i4xQ", 0, array).ljust(144, b"\0")
    sampling = struct.pack("<4i", 1, 1, 1, 1).ljust(104, b"\0")
    return out("cuTexObjectCreate", ctypes.create_string_buffer(resource),
               ctypes.create_string_buffer(sampling), 0)  # fmt: skip


def loop(frames, each):
    start()
    look = function(load(PTX), b"look")
    form = struct.pack("<QQII", WIDTH, HEIGHT, 0x20, 1)
    array = out("cuArrayCreate_v2", ctypes.create_string_buffer(form))
    result = mapped() + GRANULE - 4 * WIDTH * HEIGHT // 2  # over both pieces
    kept = texture(array)
    pixels = (ctypes.c_float * (WIDTH * HEIGHT))()
    got = (ctypes.c_float * (WIDTH * HEIGHT))()
    row = 4 * WIDTH
    copy = ctypes.create_string_buffer(
        struct.pack("<QQi4xQQQQ", 0, 0, 1, ctypes.addressof(pixels), 0, 0, row)
        + struct.pack("<QQi4xQQQQ", 0, 0, 3, 0, 0, array, 0)
        + struct.pack("<QQ", row, HEIGHT)
    )
    for frame in range(frames):
        for k in range(WIDTH * HEIGHT):
            pixels[k] = frame * 3 + k * k % 29
        ok("cuMemcpy2D_v2", copy)
        number = texture(array) if each else kept
        values = [struct.pack("<Q", v) for v in (number, result)]
        ok("cuLaunchKernel", look, HEIGHT, 1, 1, WIDTH, 1, 1, 0, 0, params(*values), 0)
        ok("cuMemcpyDtoH_v2", got, result, 4 * WIDTH * HEIGHT)
        if each:
            ok("cuTexObjectDestroy", number)
        wanted = [
            (pixels[y * WIDTH + max(x - 1, 0)] + pixels[y * WIDTH + x]) / 2
            for y in range(HEIGHT) for x in range(WIDTH)
        ]  # fmt: skip
        wants(list(got), wanted, f"frame {frame}")
    print(json.dumps({"frames": frames}))


def stray():
    start()
    look = function(load(PTX), b"look")
    result = mapped()

    def looks():
        values = [struct.pack("<Q", v) for v in (0, result)]
        ok("cuLaunchKernel", look, 1, 1, 1, 1, 1, 1, 0, 0, params(*values), 0)
        return call("cuCtxSynchronize")

    before = looks()
    ok("cuMemUnmap", result, 2 * GRANULE)
    print(json.dumps({"mapped": before, "unmapped": looks()}))


if __name__ == "__main__":
    stray() if sys.argv[1] == "stray" else loop(int(sys.argv[1]), int(sys.argv[2]))
