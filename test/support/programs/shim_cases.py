"""Programs for the shim's tests: `shim_cases.py NAME` runs one and fails where CUDA would differ.

They use ctypes only, and print what the test looks at as one JSON line.
"""

import ctypes
import errno
import json
import os
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import (
    LIB,
    PTX,
    call,
    floats,
    function,
    launch,
    load,
    ok,
    out,
    params,
    read,
    scale_params,
    start,
    wants,
)

INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED = 1, 2, 3
INVALID_CONTEXT, INVALID_HANDLE, NOT_FOUND = 201, 400, 500
NOT_SUPPORTED, CONTEXT_IS_DESTROYED, DEVICE_UNAVAILABLE = 801, 709, 46


def init_only():
    began = time.monotonic()
    result = call("cuInit", 0)
    print(json.dumps({"result": result, "seconds": time.monotonic() - began}))


def visible():
    """What a program that may use a GPU asks first."""
    count, version, uuid = ctypes.c_int(-1), ctypes.c_int(), ctypes.create_string_buffer(16)
    ok("cuDriverGetVersion", ctypes.byref(version))
    wants(call("cuDeviceGetCount", ctypes.byref(count)), NOT_INITIALIZED, "before cuInit")
    answer = {"init": call("cuInit", 0), "count": call("cuDeviceGetCount", ctypes.byref(count)),
              "devices": count.value, "version": version.value}  # fmt: skip
    if not answer["init"]:
        ok("cuDeviceGetUuid_v2", uuid, 0)
        answer["uuid"] = uuid.raw.hex()
    print(json.dumps(answer))


def _mmap_at(address, size=4096):
    """The address that memory without access was mapped at, or minus errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    private_anonymous_noreplace = 0x100022
    got = libc.mmap(
        ctypes.c_void_p(address), ctypes.c_size_t(size), 0, private_anonymous_noreplace, -1,
        ctypes.c_long(0),
    )  # fmt: skip
    return -ctypes.get_errno() if got == 2**64 - 1 else got


def own_memory_in_the_arena():
    """The program's own memory lies where the device's addresses would be."""
    address = int(os.environ["ADDRESS"])
    wants(_mmap_at(address), address, "mmap")
    print(json.dumps({"init": call("cuInit", 0)}))


def arena_is_kept_free():
    """Once there is a session, nothing of the program can get an address of the device."""
    start()
    pointer = ctypes.c_uint64()
    ok("cuMemAlloc_v2", ctypes.byref(pointer), 4096)
    for address in (pointer.value, pointer.value + (1 << 20)):
        wants(_mmap_at(address & ~4095), -errno.EEXIST, "mmap")


def not_started():
    """Everything but the few calls that need no cuInit."""
    ok("cuDriverGetVersion", ctypes.byref(ctypes.c_int()))
    text = ctypes.c_char_p()
    ok("cuGetErrorString", 1, ctypes.byref(text))
    for name in ("cuDeviceGetCount", "cuDeviceGet", "cuCtxGetCurrent", "cuProfilerStart",
                 "cuProfilerStop", "cuCtxSynchronize", "cuMemAlloc_v2", "cuModuleLoadData",
                 "cuModuleGetLoadingMode", "cuLibraryLoadData", "cuStreamCreate"):  # fmt: skip
        wants(call(name, 0, 0), NOT_INITIALIZED, name)
    wants(call("cuInit", 1), INVALID_VALUE, "flags of cuInit")
    wants(call("cuDeviceGetCount", 0), NOT_INITIALIZED, "after a cuInit that failed")


def fork_before_start():
    """A version is asked, then a child computes, as with multiprocessing."""
    ok("cuDriverGetVersion", ctypes.byref(ctypes.c_int()))
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                scale_and_read()
                again = os.fork()
                if again == 0:
                    os._exit(call("cuInit", 0) != NOT_INITIALIZED)
                wants(os.waitpid(again, 0)[1], 0, "a child of a process that had started")
                ok("cuCtxSynchronize")
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    for child in children:
        wants(os.waitpid(child, 0)[1], 0, "a child's exit")
    scale_and_read()


def device_questions():
    wants(call("cuCtxGetDevice", ctypes.byref(ctypes.c_int())), NOT_INITIALIZED, "before cuInit")
    version = out("cuDriverGetVersion", kind=ctypes.c_int)
    ok("cuInit", 0)
    name = ctypes.create_string_buffer(64)
    ok("cuDeviceGetName", name, 64, 0)
    uuid = ctypes.create_string_buffer(16)
    ok("cuDeviceGetUuid", uuid, 0)
    major, minor = ctypes.c_int(), ctypes.c_int()
    ok("cuDeviceComputeCapability", ctypes.byref(major), ctypes.byref(minor), 0)
    attributes = {a: out("cuDeviceGetAttribute", a, 0, kind=ctypes.c_int) for a in (1, 10, 16, 83)}
    wants(call("cuDeviceGet", ctypes.byref(ctypes.c_int()), 1), 101, "a second device")
    wants(call("cuDeviceGetAttribute", ctypes.byref(ctypes.c_int()), 1, 7), 101, "of device 7")
    total = out("cuDeviceTotalMem_v2", 0)
    print(json.dumps({"version": version, "name": name.value.decode(), "uuid": uuid.raw.hex(),
                      "capability": [major.value, minor.value], "total": total,
                      "attributes": attributes}))  # fmt: skip


def scale_and_read():
    start()
    module = load()
    address = out("cuMemAlloc_v2", 16)
    ok("cuMemcpyHtoD_v2", address, floats(1, 2, 3, 4), 16)
    wants(launch(function(module), scale_params(address, 2.0, 4)), 0, "launch")
    wants(read(address, 16), floats(2, 4, 6, 8), "scaled")
    size = ctypes.c_size_t(16)
    packed = ctypes.create_string_buffer(struct.pack("<QfI", address, 0.5, 4))
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(packed), 2, ctypes.addressof(size), 0)
    wants(launch(function(module), None, extra=extra), 0, "launch with packed arguments")
    wants(read(address, 16), floats(1, 2, 3, 4), "scaled back")
    where, length = ctypes.c_uint64(), ctypes.c_size_t()
    ok("cuModuleGetGlobal_v2", ctypes.byref(where), ctypes.byref(length), module, b"offset")
    wants(length.value, 16, "bytes of the variable")
    wants(read(where.value, 16), floats(1, 2, 3, 4), "the variable")
    ok("cuMemFree_v2", address)
    ok("cuModuleUnload", module)


def addresses():
    start()
    first = [out("cuMemAlloc_v2", size) for size in (100, 5000, 512, 1 << 20)]
    ok("cuMemFree_v2", first[1])
    again = [out("cuMemAlloc_v2", 4096), out("cuMemAlloc_v2", 1024), out("cuMemAlloc_v2", 1)]
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ok("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    print(json.dumps({"first": first, "again": again, "used": total.value - free.value}))


def launch_refused():
    start()
    module = load()
    scale, limited = function(module), function(module, b"limited")
    address = out("cuMemAlloc_v2", 16)
    args = scale_params(address, 1.0, 4)
    bad = {
        "no blocks": ({"grid": (0, 1, 1)}, INVALID_VALUE),
        "no threads": ({"block": (1, 0, 1)}, INVALID_VALUE),
        "too many threads": ({"block": (1024, 2, 1)}, INVALID_VALUE),
        "too deep a block": ({"block": (1, 1, 65)}, INVALID_VALUE),
        "too high a grid": ({"grid": (1, 65536, 1)}, INVALID_VALUE),
        "too much shared memory": ({"shared": 1 << 20}, INVALID_VALUE),
        "no such stream": ({"stream": 12345}, INVALID_HANDLE),
    }
    for what, (how, wanted) in bad.items():
        wants(launch(scale, args, **how), wanted, what)
    wants(launch(0, args), INVALID_HANDLE, "no function")
    wants(launch(0xDEADBEEF, args), INVALID_HANDLE, "not a function")
    wants(launch(limited, params(bytes(8)), block=(65, 1, 1)), INVALID_VALUE, "maxntid")
    wants(launch(scale, None), INVALID_VALUE, "no arguments")
    packed = ctypes.create_string_buffer(64)
    for size in (8, 12, 15, 17, 64):
        count = ctypes.c_size_t(size)
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(packed), 2, ctypes.addressof(count), 0)
        wants(launch(scale, None, extra=extra), INVALID_VALUE, f"{size} bytes of arguments")
    ok("cuModuleUnload", module)
    wants(launch(scale, args), INVALID_HANDLE, "a function of an unloaded module")
    ok("cuCtxSynchronize")


def launch_attributes():
    start()
    kernel = function(load())
    address = out("cuMemAlloc_v2", 16)
    args = scale_params(address, 1.0, 4)

    def config(*attributes):
        raw = b"".join(struct.pack("<i4x", a) + value.ljust(64, b"\0") for a, value in attributes)
        kept = ctypes.create_string_buffer(raw, len(raw) + 1)
        head = struct.pack("<7I4xQQI4x", 1, 1, 1, 64, 1, 1, 0, 0, ctypes.addressof(kept),
                           len(attributes))  # fmt: skip
        block = ctypes.create_string_buffer(head)
        block.kept = kept
        return block

    one = struct.pack("<i", 1)
    for what, attributes, wanted in (
        ("none", (), 0),
        ("cooperative", ((2, one),), 0),
        ("programmatic serialization", ((6, one), (8, one)), 0),
        ("cluster of one", ((4, struct.pack("<3I", 1, 1, 1)),), 0),
        ("cluster of two", ((4, struct.pack("<3I", 2, 1, 1)),), NOT_SUPPORTED),
        ("event", ((7, one),), NOT_SUPPORTED),
        ("unknown", ((99, one),), NOT_SUPPORTED),
    ):
        wants(call("cuLaunchKernelEx", config(*attributes), kernel, args, 0), wanted, what)
    ok("cuCtxSynchronize")


def copies_refused():
    start()
    address = out("cuMemAlloc_v2", 1000)
    other = out("cuMemAlloc_v2", 1000)
    data = ctypes.create_string_buffer(4096)
    wants(call("cuMemcpyHtoD_v2", address, data, 1001), INVALID_VALUE, "one byte too many")
    wants(call("cuMemcpyHtoD_v2", address + 999, data, 2), INVALID_VALUE, "over the end")
    wants(call("cuMemcpyDtoH_v2", data, address - 1, 4), INVALID_VALUE, "before the start")
    wants(call("cuMemcpyDtoD_v2", other, address, 1001), INVALID_VALUE, "device to device")
    wants(call("cuMemcpyDtoH_v2", data, 0, 4), INVALID_VALUE, "from null")
    wants(call("cuMemsetD8_v2", address, 0, 1001), INVALID_VALUE, "fill")
    wants(call("cuMemsetD32_v2", address + 2, 0, 4), INVALID_VALUE, "fill, misaligned")
    wants(call("cuMemsetD2D8_v2", address, 100, 1, 90, 11), INVALID_VALUE, "fill rows")
    ok("cuMemFree_v2", address)
    wants(call("cuMemFree_v2", address), INVALID_VALUE, "freed twice")
    wants(call("cuMemFree_v2", other + 8), INVALID_VALUE, "not a start")
    wants(call("cuMemcpyHtoD_v2", address, data, 4), INVALID_VALUE, "freed pointer")
    wants(call("cuMemcpy", address, other, 4), INVALID_VALUE, "freed pointer, unified")
    wants(call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 0), INVALID_VALUE, "no bytes")
    ok("cuMemcpyHtoD_v2", other, data, 0)
    ok("cuMemFree_v2", 0)


def out_of_memory():
    start()
    total = out("cuDeviceTotalMem_v2", 0)
    pointer = ctypes.byref(ctypes.c_uint64())
    wants(call("cuMemAlloc_v2", pointer, total + 1), OUT_OF_MEMORY, "more than there is")
    wants(call("cuMemAlloc_v2", pointer, (1 << 64) - 1), OUT_OF_MEMORY, "everything")
    half = out("cuMemAlloc_v2", total // 2)
    wants(
        call("cuMemAlloc_v2", pointer, total // 2 + 512), OUT_OF_MEMORY, "the other half and more"
    )
    ok("cuMemFree_v2", half)
    ok("cuMemAlloc_v2", pointer, total)


def handles():
    context = start()
    stream, event = out("cuStreamCreate", 1), out("cuEventCreate", 0)
    for bad in (0xDEAD, event, context, (1 << 63) + 5):
        wants(call("cuStreamSynchronize", bad), INVALID_HANDLE, f"stream {bad:#x}")
    for bad in (0, 1, stream, 0x7FFFFFFFFFFF0000):
        wants(call("cuEventRecord", bad, stream), INVALID_HANDLE, f"event {bad:#x}")
    ok("cuEventSynchronize", event)
    ok("cuEventRecord", event, stream)
    ok("cuEventSynchronize", event)
    ok("cuStreamWaitEvent", 1, event, 0)
    ok("cuStreamSynchronize", 2)
    ok("cuEventDestroy_v2", event)
    wants(call("cuEventDestroy_v2", event), INVALID_HANDLE, "destroyed event")
    again = out("cuEventCreate", 2)
    wants(call("cuEventQuery", event), INVALID_HANDLE, "a handle whose name is used again")
    ok("cuEventQuery", again)
    ok("cuStreamDestroy_v2", stream)
    wants(call("cuStreamQuery", stream), INVALID_HANDLE, "destroyed stream")
    for bad in (0xDEAD, stream, 1 << 62):
        wants(call("cuCtxSetCurrent", bad), INVALID_CONTEXT, f"context {bad:#x}")
        wants(call("cuCtxPushCurrent_v2", bad), INVALID_CONTEXT, f"pushed {bad:#x}")
        wants(call("cuCtxGetId", bad, ctypes.byref(ctypes.c_uint64())), INVALID_CONTEXT, "its id")
        wants(call("cuModuleUnload", bad), INVALID_HANDLE, f"module {bad:#x}")
        wants(call("cuGraphLaunch", bad, 0), INVALID_HANDLE, f"graph {bad:#x}")
    mine = out_last("cuCtxGetId", context)
    wants(out_last("cuCtxGetId", (1 << 64) - 1), mine, "the current context's id")
    ok("cuCtxSynchronize")


def contexts():
    ok("cuInit", 0)
    wants(call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4), INVALID_CONTEXT, "no context")
    primary = out("cuDevicePrimaryCtxRetain", 0)
    flags, active = ctypes.c_uint(), ctypes.c_int()
    ok("cuDevicePrimaryCtxGetState", 0, ctypes.byref(flags), ctypes.byref(active))
    wants(active.value, 1, "active")
    ok("cuCtxSetCurrent", primary)
    kept = out("cuMemAlloc_v2", 100)
    made = out("cuCtxCreate_v4", 0, 0, 0)
    wants(out("cuCtxGetCurrent"), made, "a new context is current")
    theirs = out("cuMemAlloc_v2", 100)
    seen = []

    def other():
        seen.append(out("cuCtxGetCurrent"))
        ok("cuCtxPushCurrent_v2", primary)
        seen.append(out("cuCtxGetCurrent"))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    wants(seen, [0, primary], "a thread has its own stack")
    ok("cuCtxDestroy_v2", made)
    wants(out("cuCtxGetCurrent"), primary, "below it")
    wants(call("cuMemFree_v2", theirs), INVALID_VALUE, "its memory is gone")
    ok("cuMemFree_v2", kept)
    wants(call("cuCtxDestroy_v2", made), INVALID_CONTEXT, "destroyed twice")
    lost, event = out("cuMemAlloc_v2", 100), out("cuEventCreate", 0)
    freed = out("cuMemAlloc_v2", 100)
    ok("cuCtxPopCurrent_v2", 0)
    ok("cuMemFree_v2", freed)  # numba-cuda frees after it has popped every context
    ok("cuEventDestroy_v2", event)
    ok("cuCtxSetCurrent", primary)
    ok("cuDevicePrimaryCtxReset_v2", 0)
    wants(call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4), CONTEXT_IS_DESTROYED, "reset")
    wants(out("cuDevicePrimaryCtxRetain", 0), primary, "the primary context's handle")
    wants(call("cuMemFree_v2", lost), INVALID_VALUE, "memory of a context that was reset")
    ok("cuDevicePrimaryCtxRelease_v2", 0)
    wants(call("cuDevicePrimaryCtxRelease_v2", 0), INVALID_CONTEXT, "released too often")


def big_copies():
    start()
    size = int(sys.argv[2])
    address = out("cuMemAlloc_v2", size)
    data = os.urandom(size)
    ok("cuMemcpyHtoD_v2", address, data, size)
    wants(read(address, size) == data, True, "what came back")
    second = out("cuMemAlloc_v2", size)
    ok("cuMemcpyDtoDAsync_v2", second, address, size, 0)
    pinned = out("cuMemHostAlloc", size, 0)
    ok("cuMemcpyDtoHAsync_v2", pinned, second, size, 0)
    ok("cuStreamSynchronize", 0)
    wants(ctypes.string_at(pinned, size) == data, True, "through pinned memory")
    ok("cuMemFreeHost", pinned)
    wants(call("cuMemFreeHost", pinned), INVALID_VALUE, "freed twice")


def one_address_space():
    """Page-locked memory where device memory is meant, and the other way round."""
    start()
    pinned, address = out("cuMemHostAlloc", 4096, 0), out("cuMemAlloc_v2", 4096)
    other = out("cuMemAlloc_v2", 4096)
    ok("cuMemsetD8_v2", pinned, 7, 4096)
    wants(ctypes.string_at(pinned, 4096), bytes([7]) * 4096, "bytes")
    ok("cuMemsetD16Async", pinned + 2, 0x0102, 3, 0)
    ok("cuMemsetD32_v2", pinned + 8, 0x01020304, 1)
    wants(ctypes.string_at(pinned, 13), b"\7\7" + b"\2\1" * 3 + b"\4\3\2\1\7", "words")
    ok("cuMemsetD2D8_v2", pinned, 16, 9, 4, 3)
    wants(ctypes.string_at(pinned + 16, 20), bytes([9] * 4 + [7] * 12 + [9] * 4), "rows")
    wants(call("cuMemsetD8_v2", pinned, 0, 4097), INVALID_VALUE, "beyond the end")
    wants(call("cuMemsetD32_v2", pinned + 2, 0, 1), INVALID_VALUE, "misaligned")
    ok("cuMemcpyDtoD_v2", address, pinned, 64)
    ok("cuMemcpy", other, address, 64)
    ok("cuMemcpyDtoD_v2", other + 64, address, 64)
    wants(read(other, 128), ctypes.string_at(pinned, 64) * 2, "on the device")
    ok("cuMemsetD8_v2", address, 5, 4096)
    ok("cuMemcpyDtoHAsync_v2", pinned, address, 4096, 0)
    ok("cuMemsetD8Async", pinned, 6, 1024, 0)  # comes after the copy
    ok("cuMemcpyDtoDAsync_v2", other, pinned, 2048, 0)
    wants(read(other, 2048), bytes([6]) * 1024 + bytes([5]) * 1024, "in order")
    ok("cuMemsetD8_v2", other, 3, 256)
    ok("cuMemcpyHtoD_v2", address, other, 64)
    ok("cuMemcpyHtoDAsync_v2", address + 64, other, 64, 0)
    ok("cuMemcpyDtoH_v2", address + 128, other, 64)
    ok("cuMemcpyDtoHAsync_v2", address + 192, other, 64, 0)
    wants(read(address, 260), bytes([3]) * 256 + bytes([5]) * 4, "device memory called the host's")
    wants(call("cuMemcpyHtoD_v2", address, other, 4097), INVALID_VALUE, "beyond the end")
    wants(call("cuMemcpyHtoD_v2", address, other + (1 << 24), 4), INVALID_VALUE, "freed memory")
    mapped, registered = ctypes.c_uint64(), ctypes.create_string_buffer(64)
    ok("cuMemHostAlloc", ctypes.byref(mapped), 64, 2)
    ok("cuMemHostRegister_v2", registered, 64, 2)
    for place in (mapped.value, ctypes.addressof(registered)):
        got = call("cuMemHostGetDevicePointer_v2", ctypes.byref(ctypes.c_uint64()), place, 0)
        wants(got, 801, "memory for kernels")
    ok("cuMemFreeHost", mapped.value)
    ok("cuMemHostUnregister", registered)
    flag = ctypes.c_ubyte(7)
    ok("cuPointerGetAttribute", ctypes.byref(flag), 13, pinned)
    wants(flag.value, 0, "mapped")


def pinned_copies():
    start()
    stream, event = out("cuStreamCreate", 0), out("cuEventCreate", 2)
    address = out("cuMemAlloc_v2", 4096)
    pinned = out("cuMemHostAlloc", 4096, 0)
    plain = ctypes.create_string_buffer(4096)
    for turn, sync in enumerate(("stream", "context", "event", "query", "copy", "free")):
        value = turn + 1
        ctypes.memset(pinned, 0, 4096)
        ok("cuMemsetD8Async", address, value, 4096, stream)
        ok("cuMemcpyDtoHAsync_v2", pinned, address, 4096, stream)
        ok("cuEventRecord", event, stream)
        if sync == "stream":
            ok("cuStreamSynchronize", stream)
        elif sync == "context":
            ok("cuCtxSynchronize")
        elif sync == "event":
            ok("cuEventSynchronize", event)
        elif sync == "query":
            while call("cuEventQuery", event):
                pass
        elif sync == "copy":
            ok("cuMemcpyDtoH_v2", plain, address, 4096)
        if sync == "free":
            ok("cuMemFreeHost", pinned)
        else:
            wants(set(ctypes.string_at(pinned, 4096)), {value}, f"after {sync}")
    ok("cuMemHostRegister_v2", plain, 4096, 0)
    wants(call("cuMemHostRegister_v2", plain, 4096, 0), 712, "registered twice")
    ok("cuMemcpyDtoHAsync_v2", plain, address, 4096, stream)
    ok("cuMemHostUnregister", plain)
    wants(set(plain.raw), {6}, "unregistering waits for the copy")
    wants(call("cuMemHostUnregister", plain), 713, "unregistered twice")


def rows():
    start()
    address = out("cuMemAlloc_v2", 1024)
    source = bytes(range(256)) * 4
    target = ctypes.create_string_buffer(1024)
    kept = ctypes.create_string_buffer(source, 1024)

    def side(kind, host, device, pitch, x, y):
        return struct.pack("<QQi4xQQQQ", x, y, kind, host, device, 0, pitch)

    ok("cuMemsetD8_v2", address, 0, 1024)
    copy = side(1, ctypes.addressof(kept), 0, 64, 4, 1) + side(2, 0, address, 32, 8, 2)
    ok("cuMemcpy2D_v2", ctypes.create_string_buffer(copy + struct.pack("<QQ", 16, 5)))
    back = side(2, 0, address, 32, 8, 2) + side(1, ctypes.addressof(target), 0, 16, 0, 0)
    ok("cuMemcpy2DUnaligned_v2", ctypes.create_string_buffer(back + struct.pack("<QQ", 16, 5)))
    wanted = b"".join(source[(1 + y) * 64 + 4 :][:16] for y in range(5))
    wants(target.raw[:80], wanted, "rows")
    wants(read(address, 72), bytes(72), "what lies before the rows")
    array = side(3, 0, 0, 32, 0, 0) + side(2, 0, address, 32, 0, 0)
    wants(call("cuMemcpy2D_v2", ctypes.create_string_buffer(array + struct.pack("<QQ", 16, 5))),
          INVALID_HANDLE, "an array that is none")  # fmt: skip
    ok("cuMemsetD2D16_v2", address, 64, 0xBEEF, 8, 3)
    wants(read(address + 128, 16), b"\xef\xbe" * 8, "the second row of a fill")


def pools():
    start()
    pool = out("cuDeviceGetDefaultMemPool", 0)
    wants(out("cuDeviceGetMemPool", 0), pool, "the current pool")
    stream = out("cuStreamCreate", 1)
    address = out("cuMemAllocAsync", 1000, stream)
    used = ctypes.c_uint64()
    ok("cuMemPoolGetAttribute", pool, 7, ctypes.byref(used))
    wants(used.value, 1024, "used")
    held = out("cuMemAllocFromPoolAsync", 100, pool, stream)
    owner = ctypes.c_uint64()
    ok("cuPointerGetAttribute", ctypes.byref(owner), 17, held)
    wants(owner.value, pool, "the pool of a pointer")
    ok("cuMemFreeAsync", held, stream)
    ok("cuMemFreeAsync", address, stream)
    wants(call("cuMemFreeAsync", address, stream), INVALID_VALUE, "freed twice")
    ok("cuStreamSynchronize", stream)
    ok("cuMemPoolGetAttribute", pool, 7, ctypes.byref(used))
    wants(used.value, 0, "used at the end")
    wants(call("cuMemPoolDestroy", pool), INVALID_VALUE, "the default pool stays")
    wants(call("cuMemPoolTrimTo", 77, 0), INVALID_VALUE, "no pool")


def libraries():
    start()
    image = ctypes.create_string_buffer(PTX)
    library = out("cuLibraryLoadData", image, 0, 0, 0, 0, 0, 0)
    kernel = out("cuLibraryGetKernel", library, b"scale")
    address = out("cuMemAlloc_v2", 16)
    ok("cuMemcpyHtoD_v2", address, floats(1, 2, 3, 4), 16)
    wants(launch(kernel, scale_params(address, 3.0, 4)), 0, "a kernel as a function")
    wants(launch(out("cuKernelGetFunction", kernel), scale_params(address, 1.0, 4)), 0, "function")
    wants(read(address, 16), floats(3, 6, 9, 12), "scaled")
    wants(call("cuLibraryGetKernel", ctypes.byref(ctypes.c_uint64()), library, b"none"),
          NOT_FOUND, "no such kernel")  # fmt: skip
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    found = []
    both = (ctypes.byref(offset), ctypes.byref(size))
    while not call("cuKernelGetParamInfo", kernel, len(found), *both):
        found.append([offset.value, size.value])
    wants(found, [[0, 8], [8, 4], [12, 4]], "parameters")
    module = out("cuLibraryGetModule", library)
    wants(call("cuModuleUnload", module), 800, "a library's module")
    wants(out("cuLibraryGetKernelCount", library, kind=ctypes.c_uint), 2, "kernels")
    ok("cuLibraryUnload", library)
    wants(launch(kernel, scale_params(address, 1.0, 4)), INVALID_HANDLE, "after unloading")


def linking():
    start()
    log = ctypes.create_string_buffer(256)
    options = (ctypes.c_int * 2)(5, 6)
    values = (ctypes.c_void_p * 2)(ctypes.addressof(log), 256)
    state = out_last("cuLinkCreate_v2", 2, options, values)
    first = PTX
    ok("cuLinkAddData_v2", state, 1, first, len(first) + 1, b"a.ptx", 0, 0, 0)
    image, size = ctypes.c_void_p(), ctypes.c_size_t()
    ok("cuLinkComplete", state, ctypes.byref(image), ctypes.byref(size))
    from rrto_ros.devices.linked import LinkInput, linked_image

    inputs = (LinkInput(1, "a.ptx", PTX),)
    wants(ctypes.string_at(image.value, size.value), linked_image(inputs), "the linked image")
    module = out("cuModuleLoadDataEx", image, 0, 0, 0)
    function(module)
    more = PTX[: PTX.index(b".visible")] + b".visible .func more() { ret; }"
    with tempfile.NamedTemporaryFile(suffix=".ptx") as file:
        file.write(more)
        file.flush()
        ok("cuLinkAddFile_v2", state, 1, file.name.encode(), 0, 0, 0)
        inputs += (LinkInput(1, Path(file.name).name, more),)
    kept = ctypes.string_at(image.value, size.value), image.value, size.value
    ok("cuLinkComplete", state, ctypes.byref(image), ctypes.byref(size))
    whole = ctypes.string_at(image.value, size.value)
    wants(whole, linked_image(inputs), "two inputs")
    wants(ctypes.string_at(kept[1], kept[2]), kept[0], "the first image, afterwards")
    # What is linked can be an input itself.
    again = out_last("cuLinkCreate_v2", 0, 0, 0)
    ok("cuLinkAddData_v2", again, 0, whole, len(whole), b"c", 0, 0, 0)
    wants(call("cuLinkAddData_v2", again, 1, b"", 0, b"d", 0, 0, 0), INVALID_VALUE, "no bytes")
    wants(call("cuLinkAddData_v2", again, 5, b"BC", 2, b"d", 0, 0, 0), NOT_SUPPORTED, "NVVM")
    wants(call("cuLinkAddData_v2", again, 7, b"BC", 2, b"d", 0, 0, 0), INVALID_VALUE, "no kind")
    ok("cuLinkComplete", again, ctypes.byref(image), ctypes.byref(size))
    wants(ctypes.string_at(image.value, size.value), whole, "a link of a link")
    ok("cuLinkDestroy", again)
    # What is defined twice is said when the link is completed, and the size of the log with it.
    ok("cuLinkAddData_v2", state, 1, more, len(more), b"twice", 0, 0, 0)
    wants(call("cuLinkComplete", state, ctypes.byref(image), ctypes.byref(size)), 999, "twice")
    first = inputs[1].name
    said = f"error   : Multiple definition of 'more' in 'twice', first defined in '{first}'"
    wants((log.value.decode(), values[1]), (said, len(said)), "the log")
    ok("cuLinkDestroy", state)
    wants(call("cuLinkDestroy", state), INVALID_HANDLE, "destroyed twice")
    state = out_last("cuLinkCreate_v2", 0, 0, 0)
    ok("cuLinkAddData_v2", state, 0, b"cubin", 5, b"c", 0, 0, 0)
    wants(call("cuLinkComplete", state, ctypes.byref(image), ctypes.byref(size)), 209, "a cubin")
    ok("cuLinkDestroy", state)


def out_last(name, *arguments):
    value = ctypes.c_uint64()
    ok(name, *arguments, ctypes.byref(value))
    return value.value


def bad_ptx():
    start()
    log = ctypes.create_string_buffer(512)
    options = (ctypes.c_int * 2)(5, 6)
    values = (ctypes.c_void_p * 2)(ctypes.addressof(log), 512)
    image = PTX[: len(PTX) // 2]
    result = call("cuModuleLoadDataEx", ctypes.byref(ctypes.c_uint64()), image, 2, options, values)
    wants(call("cuModuleLoadData", ctypes.byref(ctypes.c_uint64()), b""), 200, "an empty image")
    wants(call("cuModuleLoad", ctypes.byref(ctypes.c_uint64()), b"/no/such/file"), 301, "no file")
    function(load())
    print(json.dumps({"result": result, "log": log.value.decode()}))


def graphs():
    start()
    kernel = function(load())
    address, copy = out("cuMemAlloc_v2", 16), out("cuMemAlloc_v2", 16)
    graph = out("cuGraphCreate", 0)

    def node(factor):
        kept = scale_params(address, factor, 4)
        block = ctypes.create_string_buffer(
            struct.pack(
                "<Q7I4xQQQQ", kernel, 1, 1, 1, 64, 1, 1, 0, ctypes.addressof(kept), 0, 0, 0
            )
        )
        block.kept = kept
        return block

    fill = ctypes.create_string_buffer(
        struct.pack("<QQIIQQ", address, 0, struct.unpack("<I", floats(1.0))[0], 4, 4, 1)
    )
    first = out("cuGraphAddMemsetNode", graph, 0, 0, fill, 0)
    before = (ctypes.c_uint64 * 1)(first)
    second = out("cuGraphAddKernelNode_v2", graph, before, 1, node(3.0))
    before = (ctypes.c_uint64 * 1)(second)
    straight = ctypes.create_string_buffer(
        struct.pack("<4Qi4x6Q", 0, 0, 0, 0, 2, 0, address, 0, 0, 0, 0)
        + struct.pack("<4Qi4x6Q", 0, 0, 0, 0, 2, 0, copy, 0, 0, 0, 0)
        + struct.pack("<3Q", 16, 1, 1)
    )
    third = out("cuGraphAddMemcpyNode", graph, before, 1, straight, 0)
    out("cuGraphAddEmptyNode", graph, (ctypes.c_uint64 * 2)(second, third), 2)
    other = out("cuGraphCreate", 0)
    stranger = (ctypes.c_uint64 * 1)(first)
    wants(call("cuGraphAddEmptyNode", ctypes.byref(ctypes.c_uint64()), other, stranger, 1),
          INVALID_VALUE, "a node of another graph")  # fmt: skip
    count = ctypes.c_size_t()
    ok("cuGraphGetNodes", graph, 0, ctypes.byref(count))
    wants(count.value, 4, "nodes")
    exec_ = out("cuGraphInstantiateWithFlags", graph, 0)
    ok("cuGraphLaunch", exec_, 0)
    wants(read(copy, 16), floats(3, 3, 3, 3), "first run")
    ok("cuGraphExecKernelNodeSetParams_v2", exec_, second, node(5.0))
    ok("cuGraphLaunch", exec_, 0)
    wants(read(copy, 16), floats(5, 5, 5, 5), "changed")
    wants(
        call("cuGraphExecKernelNodeSetParams_v2", exec_, first, node(5.0)), INVALID_VALUE, "kind"
    )
    ok("cuGraphExecDestroy", exec_)
    wants(call("cuGraphLaunch", exec_, 0), INVALID_HANDLE, "destroyed")
    ok("cuGraphDestroy", graph)
    wants(call("cuGraphNodeGetType", first, ctypes.byref(ctypes.c_int())), INVALID_HANDLE, "node")


def threads():
    """Several threads, each with its own memory and stream, then all results."""
    context = start()
    kernel = function(load())
    count, rounds = 4, 30
    problems = []

    def work(number):
        try:
            ok("cuCtxSetCurrent", context)
            stream = out("cuStreamCreate", 1)
            address = out("cuMemAlloc_v2", 4096)
            for turn in range(rounds):
                data = floats(*[number * 100 + turn + i / 8 for i in range(1024)])
                ok("cuMemcpyHtoDAsync_v2", address, data, 4096, stream)
                args = scale_params(address, 2.0, 1024)
                wants(launch(kernel, args, grid=(16, 1, 1), stream=stream), 0, "launch")
                target = ctypes.create_string_buffer(4096)
                ok("cuMemcpyDtoHAsync_v2", target, address, 4096, stream)
                wanted = floats(*[2 * v for v in struct.unpack("<1024f", data)])
                wants(target.raw == wanted, True, f"thread {number}, round {turn}")
        except BaseException as error:
            problems.append(repr(error))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    wants(problems, [], "problems")
    ok("cuCtxSynchronize")


def fork_child():
    start()
    out("cuMemAlloc_v2", 16)
    child = os.fork()
    if child == 0:
        pointer = ctypes.byref(ctypes.c_uint64())
        good = call("cuMemAlloc_v2", pointer, 4) == 3 and call("cuInit", 0) == 3
        os._exit(0 if good and call("cuCtxSynchronize") == 3 else 1)
    wants(os.waitpid(child, 0)[1], 0, "the child's exit")
    ok("cuCtxSynchronize")
    ok("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 16)


def symbols():
    pointer, status = ctypes.c_void_p(), ctypes.c_int()

    def address_of(name, version, flags=0):
        result = call("cuGetProcAddress_v2", name, ctypes.byref(pointer), version, flags,
                      ctypes.byref(status))  # fmt: skip
        return (result, status.value, pointer.value)

    def mine(name):
        return ctypes.cast(getattr(LIB, name), ctypes.c_void_p).value

    for name, version, flags, wanted in (
        (b"cuMemAlloc", 12000, 0, "cuMemAlloc_v2"),
        (b"cuMemAlloc", 3010, 0, "cuMemAlloc"),
        (b"cuCtxGetDevice", 12090, 0, "cuCtxGetDevice"),
        (b"cuCtxGetDevice", 13000, 0, "cuCtxGetDevice_v2"),
        (b"cuEventElapsedTime", 12080, 0, "cuEventElapsedTime_v2"),
        (b"cuCtxCreate", 12050, 0, "cuCtxCreate_v4"),
        (b"cuGetProcAddress", 12000, 0, "cuGetProcAddress_v2"),
        (b"cuLaunchKernel", 12000, 2, "cuLaunchKernel_ptsz"),
        (b"cuLaunchKernel", 12000, 1, "cuLaunchKernel"),
        (b"cuMemcpyHtoD", 12000, 2, "cuMemcpyHtoD_v2_ptds"),
        (b"cuMemAlloc", 12000, 2, "cuMemAlloc_v2"),
    ):
        wants(address_of(name, version, flags), (0, 0, mine(wanted)), f"{name} {version} {flags}")
    wants(address_of(b"cuNoSuchThing", 13000), (NOT_FOUND, 1, None), "unknown name")
    wants(address_of(b"", 13000), (NOT_FOUND, 1, None), "empty name")
    wants(address_of(b"cuLaunchKernelEx", 11000), (NOT_FOUND, 2, None), "version too low")
    wants(call("cuGetExportTable", ctypes.byref(pointer), bytes(16)), INVALID_VALUE, "a table")
    wants(pointer.value, None, "its pointer")
    name = ctypes.c_char_p()
    ok("cuGetErrorName", 801, ctypes.byref(name))
    wants(name.value, b"CUDA_ERROR_NOT_SUPPORTED", "name of 801")
    wants(call("cuGetErrorName", 12345, ctypes.byref(name)), INVALID_VALUE, "no such error")
    wants(call("cuMemAllocManaged", 0, 0, 0), NOT_SUPPORTED, "managed memory")


def wait_for_error():
    """Copies until a call fails; prints how long that took after the last that worked."""
    start()
    address = out("cuMemAlloc_v2", 16)
    data = ctypes.create_string_buffer(16)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    result = 0
    while not result and time.monotonic() - began < 30:
        result = call("cuMemcpyDtoH_v2", data, address, 16)
    seconds = time.monotonic() - began
    later = [call("cuCtxSynchronize"), call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4)]
    began = time.monotonic()
    call("cuCtxDestroy_v2", out("cuCtxGetCurrent"))
    seconds += time.monotonic() - began
    print(json.dumps({"result": result, "seconds": seconds, "later": later}))


def sticky_launch():
    start()
    kernel = function(load())
    address = out("cuMemAlloc_v2", 16)
    args = scale_params(address, 1.0, 4)
    first = launch(kernel, args)
    sync = call("cuCtxSynchronize")
    after = [launch(kernel, args), call("cuCtxSynchronize"),
             call("cuMemcpyDtoH_v2", ctypes.create_string_buffer(16), address, 16)]  # fmt: skip
    print(json.dumps({"first": first, "sync": sync, "after": after}))


def many_launches():
    start()
    kernel = function(load())
    address = out("cuMemAlloc_v2", 16)
    ok("cuMemcpyHtoD_v2", address, floats(1, 1, 1, 1), 16)
    args = scale_params(address, 1.0, 4)
    for _ in range(int(sys.argv[2])):
        wants(launch(kernel, args), 0, "launch")
    wants(read(address, 16), floats(1, 1, 1, 1), "the end")


def large_image():
    start()
    image = PTX + b"//" + b"x" * int(sys.argv[2])
    print(json.dumps({"result": call("cuModuleLoadData", ctypes.byref(ctypes.c_uint64()), image)}))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
