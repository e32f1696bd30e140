"""A device for tests: the null device's handles and checks, with real memory and kernels by name.

A kernel's name says what a launch does: `add_one` adds 1 to `count` u32 at `pointer`; `segfault`,
`abort`, `killed` and `hang` end or stop the worker process; `bug` raises what no device should.
"""

import ctypes
import os
import signal
import struct
import threading

from rrto_ros.api.results import CUresult
from rrto_ros.devices.null import NullDevice
from rrto_ros.errors import AccessError, CudaError

PTX = b"""
.version 7.0
.target sm_80
.visible .entry add_one(.param .u64 pointer, .param .u32 count) { ret; }
.visible .entry segfault() { ret; }
.visible .entry abort() { ret; }
.visible .entry killed() { ret; }
.visible .entry hang() { ret; }
.visible .entry bug() { ret; }
.visible .entry wild() { ret; }
"""
KERNELS = ["add_one", "segfault", "abort", "killed", "hang", "bug", "wild"]


class MemoryDevice(NullDevice):
    """Executes at once; memory is one bytearray per allocation."""

    def __init__(self, limit_bytes, arena_base=0):
        super().__init__(limit_bytes=limit_bytes, arena_base=arena_base, bytes_per_s=0, launch_s=0)
        self.blocks = {}
        self.done = []

    def _at(self, address, size):
        self._memory.check(address, size)
        start = max(base for base in self.blocks if base <= address)
        return memoryview(self.blocks[start])[address - start : address - start + size]

    def mem_alloc(self, address, size, stream):
        super().mem_alloc(address, size, stream)
        self.blocks[address] = bytearray(size)
        self.done.append("mem_alloc")

    def mem_free(self, address, stream):
        super().mem_free(address, stream)
        del self.blocks[address]

    def memcpy_htod(self, dst, data, stream):
        super().memcpy_htod(dst, data, stream)
        self._at(dst, len(data))[:] = data
        self.done.append("memcpy_htod")

    def memcpy_dtoh(self, src, size, stream):
        super().memcpy_dtoh(src, size, stream)
        return bytes(self._at(src, size))

    def launch(self, launch, stream):
        super().launch(launch, stream)
        name = KERNELS[launch.kernel]
        self.done.append(name)
        getattr(self, f"_kernel_{name}")(launch.params)

    def _kernel_add_one(self, params):
        pointer, count = struct.unpack_from("<QI", params)
        words = self._at(pointer, 4 * count).cast("I")
        for i in range(count):
            words[i] = (words[i] + 1) & 0xFFFFFFFF

    def _kernel_segfault(self, params):
        ctypes.string_at(8)

    def _kernel_abort(self, params):
        os._exit(3)

    def _kernel_killed(self, params):
        os.kill(os.getpid(), signal.SIGKILL)

    def _kernel_hang(self, params):
        threading.Event().wait()

    def _kernel_bug(self, params):
        raise ZeroDivisionError("in the device")

    def _kernel_wild(self, params):
        raise AccessError("load of 4 bytes at 0x10")


def make(settings):
    """Device factory of a worker."""
    return MemoryDevice(settings.limit_bytes, settings.arena_base)


def make_none(settings):
    """A device that cannot be made."""
    raise CudaError(CUresult.OUT_OF_MEMORY, "no memory for the arena")


def make_crash(settings):
    """A device whose making kills the worker."""
    ctypes.string_at(8)
