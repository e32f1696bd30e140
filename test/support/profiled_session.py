"""A session on the CPU device whose calls are looked at, with kernels that touch this and that."""

import struct

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.execution.executor import Executor
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.profiles import ProfileReader
from rrto_ros.wire.result_codec import iter_results

N = 64
"""Floats of a buffer; that many threads."""
HEAD = """.version 8.0
.target sm_80
.address_size 64
.global .align 4 .f32 table[4] = {0f3F800000, 0f40000000, 0f40400000, 0f40800000};
"""
KERNEL = """.visible .entry NAME(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{ .reg .pred %p<9>; .reg .b32 %r<30>; .reg .b64 %d<20>; .reg .f32 %f<20>;
  ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u64 %d3, [c]; ld.param.u32 %r9, [n];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.s32 %r3, %r2, 32, %r1;
  setp.ge.u32 %p1, %r3, %r9; @%p1 bra DONE;
  mul.wide.u32 %d4, %r3, 4;
  add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4; add.s64 %d7, %d3, %d4;
BODY
DONE: ret; }
"""
BODIES = {
    "add": "ld.global.f32 %f1, [%d6]; ld.global.f32 %f2, [%d7]; add.f32 %f3, %f1, %f2;"
           "st.global.f32 [%d5], %f3;",
    "scale": "ld.global.f32 %f1, [%d5]; mul.f32 %f1, %f1, 0f3F000000; st.global.f32 [%d5], %f1;",
    # A sum over rows of 8, written by every eighth thread: gaps of 28 bytes stay as they are.
    "rows": "and.b32 %r4, %r3, 7; setp.ne.s32 %p2, %r4, 0; @%p2 bra DONE;"
            "mov.f32 %f1, 0f00000000; mov.u32 %r5, 0;"
            "LOOP: ld.global.f32 %f2, [%d6]; add.f32 %f1, %f1, %f2; add.s64 %d6, %d6, 4;"
            "add.u32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 8; @%p3 bra LOOP;"
            "st.global.f32 [%d5], %f1;",
    # The neighbour to the left, zero at the border: the address is widened before it is compared.
    "left": "add.s32 %r4, %r3, -1; mul.wide.s32 %d8, %r4, 4; add.s64 %d9, %d2, %d8;"
            "setp.ge.s32 %p2, %r4, 0; mov.f32 %f1, 0f00000000; @%p2 ld.global.f32 %f1, [%d9];"
            "st.global.f32 [%d5], %f1;",
    "table": "and.b32 %r4, %r3, 3; mul.wide.u32 %d8, %r4, 4; mov.u64 %d9, table;"
             "add.s64 %d9, %d9, %d8; ld.global.f32 %f1, [%d9]; ld.global.f32 %f2, [%d6];"
             "mul.f32 %f1, %f1, %f2; st.global.f32 [%d5], %f1;",
    "count": "ld.global.f32 %f1, [%d6]; red.global.add.f32 [%d1], %f1;",
    # What was read says where: nobody knows what it touches.
    "gather": "ld.global.u32 %r4, [%d7]; and.b32 %r4, %r4, 63; mul.wide.u32 %d8, %r4, 4;"
              "add.s64 %d9, %d2, %d8; ld.global.f32 %f1, [%d9]; st.global.f32 [%d5], %f1;",
}  # fmt: skip
NAMES = sorted(BODIES)
IMAGE = (HEAD + "".join(
    KERNEL.replace("NAME", name).replace("BODY", BODIES[name])
    .replace("LOOP", f"LOOP_{name}").replace("DONE", f"DONE_{name}") for name in NAMES
)).encode()  # fmt: skip
MODULE = 1
BUFFERS = 8
BYTES = 4 * N


class Session:
    """An executor with its device, and calls made for it."""

    def __init__(self, cache, beside=False):
        self.device = CpuDevice(
            threads=1, cache_dir=cache, limit_bytes=1 << 22, arena_bytes=1 << 25
        )
        self.executor = Executor(self.device, beside=beside)
        self.index = 0
        self.base = self.device.info.arena_base
        self.call("module_load", module=MODULE, payload=IMAGE)
        self.call("mem_alloc", address=self.base, size=BUFFERS * BYTES, stream=0)

    def call(self, name, payload=b"", **fields):
        self.index += 1
        out = self.executor.execute(pack_call(name, self.index, payload=payload, **fields))
        assert not self.executor.sticky, self.executor.statistics()["sticky_text"]
        return bytes(out)

    def at(self, buffer, offset=0):
        return self.base + buffer * BYTES + 4 * offset

    def launch(self, name, a, b, c, n=N):
        """Name and fields of a launch on three buffers."""
        params = struct.pack("<QQQI4x", self.at(a), self.at(b), self.at(c), n)
        sizes = {f"{of}_{axis}": 1 for of in ("grid", "block") for axis in "xyz"}
        sizes |= {"grid_x": N // 32, "block_x": 32}
        kernel = {"module": MODULE, "kernel": NAMES.index(name), "flags": 0}
        return "launch", {**kernel, **sizes, "shared_bytes": 0, "stream": 0, "params": params}

    def memory(self):
        return bytes(self.device.memcpy_dtoh(self.base, BUFFERS * BYTES, 0))

    def close(self):
        self.device.close()


def floats(rnd, count=N):
    return struct.pack(f"<{count}f", *(rnd.uniform(-9, 9) for _ in range(count)))


def told(session, number):
    """The profile as its result records tell it."""
    reader = ProfileReader(number)
    out = session.executor.execute(pack_call("profile", 0, number=number, first=0, calls=0))
    for result in iter_results(out):
        reader.take(result)
    assert reader.done
    return reader


def announce(session, calls, number=1, first=0):
    """Say that calls come which are to be looked at."""
    first = first or session.index + 1
    return session.executor.execute(
        pack_call("profile", 0, number=number, first=first, calls=calls)
    )


def profiled(session, calls):
    """What each of some calls touches, executed once."""
    assert announce(session, len(calls)) == b""
    for name, fields in calls:
        session.call(name, **fields)
    return told(session, 1).calls
