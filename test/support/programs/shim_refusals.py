"""Programs that ask for what is not offered: `shim_refusals.py NAME` runs one."""

import ctypes
import os
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import PTX, call, function, load, ok, out, scale_params, start, wants

HEAP_TABLE = bytes.fromhex("195bcbf4d67d024aacc51d29cea631ae")


def tables():
    """As the runtime library does: some of it before there is a session, some after."""
    table = ctypes.c_void_p(1)
    for _ in range(2):
        wants(call("cuGetExportTable", ctypes.byref(table), HEAP_TABLE), 1, "a table")
        wants(table.value, None, "its pointer")
    pointer = ctypes.c_void_p()
    wants(call("cuGetProcAddress", b"cuLaunchKernelEx", ctypes.byref(pointer), 11000, 0), 500,
          "a version")  # fmt: skip
    start()
    wants(call("cuGetExportTable", ctypes.byref(table), HEAP_TABLE), 1, "a table")
    wants(call("cuGetExportTable", ctypes.byref(table), bytes(range(16))), 1, "an unknown table")
    wants(call("cuGetProcAddress", b"cuNoSuchThing", ctypes.byref(pointer), 13000, 0), 500,
          "a name that no driver has")  # fmt: skip
    wants(call("cuMemAllocManaged", 0, 0, 0), 801, "a call")


def uses():
    start()
    kernel = function(load())
    args = scale_params(out("cuMemAlloc_v2", 16), 1.0, 4)
    cluster = struct.pack("<i4x3I", 4, 2, 1, 1).ljust(72, b"\0")
    kept = ctypes.create_string_buffer(cluster, 72)
    config = struct.pack("<7I4xQQI4x", 1, 1, 1, 64, 1, 1, 0, 0, ctypes.addressof(kept), 1)
    for _ in range(3):
        wants(call("cuLaunchKernelEx", config, kernel, args, 0), 801, "a cluster")
    event = ctypes.byref(ctypes.c_uint64())
    wants(call("cuEventCreate", event, 6), 801, "an event between processes")
    wants(call("cuEventCreate", event, 1 << 20), 1, "a flag that no driver has")
    image = ctypes.byref(ctypes.c_uint64())
    broken = PTX.replace(b"mul.f32", b"mulch.f32")
    wants(call("cuModuleLoadData", image, broken), 218, "an unknown instruction")
    ok("cuCtxSynchronize")


def many():
    """More kinds of refusals than there is room for."""
    start()
    table = ctypes.c_void_p()
    for number in range(40):
        call("cuGetExportTable", ctypes.byref(table), bytes(15) + bytes([number]))


def child():
    """What a child asks for is not its parent's."""
    start()
    ok("cuCtxSynchronize")
    if (process := os.fork()) == 0:
        table = ctypes.c_void_p()
        os._exit(call("cuGetExportTable", ctypes.byref(table), HEAP_TABLE) != 1)
    wants(os.waitpid(process, 0)[1], 0, "the child's exit")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
