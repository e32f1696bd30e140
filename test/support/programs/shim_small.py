"""Programs that read back what they set, and ask for logs and times: `shim_small.py NAME`."""

import ctypes
import json
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import (
    PTX,
    call,
    floats,
    function,
    launch,
    load,
    ok,
    out,
    read,
    scale_params,
    start,
    wants,
)

INT = ctypes.c_int


def function_attributes():
    start()
    kernel, other = function(load()), function(load(), b"limited")
    for attribute, value in ((8, 1000), (8, 200 << 10), (9, 25), (9, -1), (9, 100), (11, 1),
                             (12, 1), (13, 1), (14, 1), (15, 2)):  # fmt: skip
        before = out("cuFuncGetAttribute", attribute, other, kind=INT)
        ok("cuFuncSetAttribute", kernel, attribute, value)
        wants(out("cuFuncGetAttribute", attribute, kernel, kind=INT), value, f"{attribute}")
        wants(out("cuFuncGetAttribute", attribute, other, kind=INT), before, "another kernel")
    wants(call("cuFuncSetAttribute", kernel, 11, 2), 801, "clusters")
    wants(out("cuFuncGetAttribute", 11, kernel, kind=INT), 1, "what was refused")
    address = out("cuMemAlloc_v2", 16)
    ok("cuMemcpyHtoD_v2", address, floats(1, 2, 3, 4), 16)
    wants(launch(kernel, scale_params(address, 2.0, 4), shared=100 << 10), 0, "launch")
    wants(read(address, 16), floats(2, 4, 6, 8), "scaled")


def limits():
    mine = start()
    for limit, value in ((0, 4096), (1, 1 << 21), (2, 32 << 20), (4, 100), (5, 32), (6, 0)):
        ok("cuCtxSetLimit", limit, value)
        wants(out("cuCtxGetLimit", limit), value, f"limit {limit}")
    for limit in (7, 8, 9):  # of a context inside graphics, which can only be asked for
        wants(out("cuCtxGetLimit", limit), 0, f"limit {limit}: there is none")
        wants(call("cuCtxSetLimit", limit, 1), 215, f"limit {limit}")
    for config in (1, 2, 3, 0):
        ok("cuCtxSetCacheConfig", config)
        wants(out("cuCtxGetCacheConfig", kind=INT), config, "cache")
    ok("cuCtxSetFlags", 0x80)
    wants(out("cuCtxGetFlags", kind=INT), 0x80, "flags")
    out("cuCtxCreate_v2", 4, 0)
    wants(out("cuCtxGetLimit", 0) == 4096, False, "another context's limit")
    wants(out("cuCtxGetFlags", kind=INT), 4, "another context's flags")
    ok("cuCtxSetCurrent", mine)
    wants(out("cuCtxGetLimit", 0), 4096, "the limit")


def streams():
    start()
    stream, other = out("cuStreamCreate", 1), out("cuStreamCreate", 0)

    def value(stream, attribute):
        place = ctypes.create_string_buffer(b"\xff" * 64, 64)
        ok("cuStreamGetAttribute", stream, attribute, place)
        return place.raw

    window = struct.pack("<QQfii", 0x1000, 4096, 0.5, 2, 1)
    for attribute, raw in ((1, window), (3, struct.pack("<i", 4)), (8, struct.pack("<i", -3)),
                           (9, b"\x01\x00"), (10, struct.pack("<i", 1))):  # fmt: skip
        wanted = raw.ljust(64, b"\0")
        before = value(other, attribute)
        ok("cuStreamSetAttribute", stream, attribute, ctypes.create_string_buffer(wanted, 64))
        wants(value(stream, attribute), wanted, f"attribute {attribute}")
        wants(value(other, attribute), before, "another stream's")
    wants(out_last("cuStreamGetPriority", stream), -3, "priority")
    ok("cuStreamCopyAttributes", other, stream)
    for attribute in (1, 3, 8, 9, 10):
        wants(value(other, attribute), value(stream, attribute), f"copied {attribute}")
    wants(value(0, 3), struct.pack("<i", 1).ljust(64, b"\0"), "the default stream's")
    ok("cuStreamSetAttribute", 0, 3, ctypes.create_string_buffer(struct.pack("<i", 2), 64))
    wants(value(0, 3), value(1, 3), "the legacy stream's")
    ok("cuStreamDestroy_v2", stream)
    fresh = out("cuStreamCreate", 0)
    wants(value(fresh, 3), struct.pack("<i", 1).ljust(64, b"\0"), "a new stream of the old name")


def out_last(name, *arguments):
    value = INT()
    ok(name, *arguments, ctypes.byref(value))
    return value.value


def pointers():
    start()
    first, second = out("cuMemAlloc_v2", 100), out("cuMemAlloc_v2", 100)

    def flag(address):
        return out("cuPointerGetAttribute", 6, address, kind=ctypes.c_uint8)

    ok("cuPointerSetAttribute", ctypes.byref(ctypes.c_uint(1)), 6, first + 50)
    wants((flag(first), flag(second)), (1, 0), "set")
    ok("cuMemFree_v2", first)
    wants(flag(out("cuMemAlloc_v2", 100)), 0, "of new memory in its place")


def registers():
    """A small kernel and one with many words alive."""
    start()
    body = "ld.param.u64 %rd1, [p];" + "".join(
        f"ld.global.u32 %r{i}, [%rd1+{4 * i}];" for i in range(30)
    )
    body += "".join(f"add.u32 %r0, %r0, %r{i};" for i in range(1, 30))
    image = (
        b".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry big(.param .u64 p) {"
        b".reg .b64 %rd<2>; .reg .b32 %r<30>;"
        + body.encode()
        + b"st.global.u32 [%rd1], %r0; ret;}"
        b".visible .entry small(.param .u64 p) { ret; }"
    )
    module = load(image)
    big, small = function(module, b"big"), function(module, b"small")
    numbers = [out("cuFuncGetAttribute", 4, kernel, kind=INT) for kernel in (big, small)]
    blocks = [out("cuOccupancyMaxActiveBlocksPerMultiprocessor", kernel, 1024, 0, kind=INT)
              for kernel in (big, small)]  # fmt: skip
    module = out("cuModuleLoadDataEx", image, 1, (INT * 1)(0), (ctypes.c_void_p * 1)(16))
    limited = out("cuFuncGetAttribute", 4, function(module, b"big"), kind=INT)
    state, linked, size = ctypes.c_uint64(), ctypes.c_void_p(), ctypes.c_size_t()
    ok("cuLinkCreate_v2", 1, (INT * 1)(0), (ctypes.c_void_p * 1)(20), ctypes.byref(state))
    ok("cuLinkAddData_v2", state, 1, image, len(image), b"a.ptx", 0, 0, 0)
    ok("cuLinkComplete", state, ctypes.byref(linked), ctypes.byref(size))
    linked = ctypes.create_string_buffer(ctypes.string_at(linked.value, size.value), size.value)
    ok("cuLinkDestroy", state)
    kernels = [function(load(linked), name) for name in (b"big", b"small")]
    linked = [out("cuFuncGetAttribute", 4, kernel, kind=INT) for kernel in kernels]
    print(json.dumps({"registers": numbers, "blocks": blocks, "limited": limited,
                      "linked": linked}))  # fmt: skip


def cooperative():
    """As many blocks as the occupancy says are there at once, and no more."""
    start()
    image = (
        b".version 7.0\n.target sm_70\n.address_size 64\n"
        b".visible .entry k() { .shared .b32 s[3000]; st.shared.u32 [s], 1; ret; }"
    )
    kernel = function(load(image), b"k")
    wants(out("cuDeviceGetAttribute", 95, 0, kind=INT), 1, "cooperative launches")
    cores = out("cuDeviceGetAttribute", 16, 0, kind=INT)
    for threads, shared in ((32, 0), (1024, 0), (64, 30000)):
        most = cores * out("cuOccupancyMaxActiveBlocksPerMultiprocessor", kernel, threads,
                           ctypes.c_size_t(shared), kind=INT)  # fmt: skip
        for grid, wanted in ((most, 0), (most + 1, 720)):
            got = call("cuLaunchCooperativeKernel", kernel, grid, 1, 1, threads, 1, 1, shared,
                       None, None)  # fmt: skip
            wants(got, wanted, f"{grid} blocks of {threads}")
    ok("cuCtxSynchronize")


def clusters():
    """Clusters of one block are what a launch without clusters is; there are no others."""
    start()
    kernel = function(load())

    def config(*dims, threads=64):
        raw = struct.pack("<i4x3I", 4, *dims).ljust(72, b"\0") if dims else b""
        kept = ctypes.create_string_buffer(raw, 73)
        made = ctypes.create_string_buffer(
            struct.pack("<7I4xQQI4x", 8, 1, 1, threads, 1, 1, 0, 0, ctypes.addressof(kept),
                        bool(dims)))  # fmt: skip
        made.kept = kept
        return made

    name = "cuOccupancyMaxActiveClusters"
    per_sm = out("cuOccupancyMaxActiveBlocksPerMultiprocessor", kernel, 64, 0, kind=INT)
    cores = out("cuDeviceGetAttribute", 16, 0, kind=INT)
    wants(out(name, kernel, config(1, 1, 1), kind=INT), per_sm * cores, "of one block")
    wants(out(name, kernel, config(2, 1, 1), kind=INT), 0, "of two blocks")
    wants(out(name, kernel, config(1, 1, 1, threads=2048), kind=INT), 0, "of too many threads")
    wants(call(name, ctypes.byref(INT()), kernel, config()), 912, "not said")
    for attribute in (11, 12, 13):
        ok("cuFuncSetAttribute", kernel, attribute, 1)
    wants(out(name, kernel, config(), kind=INT), per_sm * cores, "said by the function")
    wants(call(name, ctypes.byref(INT()), kernel, config(2, 1, 1)), 912, "said in two ways")
    wants(out("cuOccupancyMaxPotentialClusterSize", kernel, config(), kind=INT), 1, "largest")


def launches():
    start()
    kernel, address = function(load()), out("cuMemAlloc_v2", 16)
    for _ in range(2):
        wants(launch(kernel, scale_params(address, 2.0, 4)), 0, "launch")


def options(**values):
    """JIT options: (number of options, their numbers, their values)."""
    numbers = {"wall": 2, "info": 3, "info_bytes": 4, "error": 5, "error_bytes": 6, "verbose": 12}
    names = (INT * len(values))(*[numbers[name] for name in values])
    slots = (ctypes.c_void_p * len(values))(
        *[v if isinstance(v, int) else ctypes.addressof(v) for v in values.values()]
    )
    return len(values), names, slots


def slot(options_, index, kind=ctypes.c_uint):
    return kind.from_address(ctypes.addressof(options_[2]) + 8 * index).value


def logs():
    start()
    info, error = ctypes.create_string_buffer(512), ctypes.create_string_buffer(b"x" * 511)
    asked = options(wall=0, info=info, info_bytes=512, error=error, error_bytes=512, verbose=1)
    ok("cuModuleLoadDataEx", ctypes.byref(ctypes.c_uint64()), PTX, *asked)
    wants(0 < slot(asked, 0, ctypes.c_float) < 60_000, True, "milliseconds")
    wants(b"scale" in info.value, True, "the kernel's name")
    wants(b"limited" in info.value, True, "the other kernel's name")
    wants((slot(asked, 2), slot(asked, 4)), (len(info.value), 0), "bytes written")
    wants(error.value, b"", "errors")
    quiet = options(info=info, info_bytes=512)
    ok("cuModuleLoadDataEx", ctypes.byref(ctypes.c_uint64()), PTX, *quiet)
    wants((info.value, slot(quiet, 1)), (b"", 0), "not verbose")
    bad = PTX.replace(b"mul.f32", b"mulch.f32")
    for room in (512, 20, 1):
        asked = options(error=error, error_bytes=room, wall=0)
        wants(call("cuModuleLoadDataEx", ctypes.byref(ctypes.c_uint64()), bad, *asked), 218, "bad")
        wants(slot(asked, 1), min(len(error.value), room - 1), f"bytes of {room}")
        wants(0 < slot(asked, 2, ctypes.c_float) < 60_000, True, "milliseconds")
    wants(call("cuModuleLoadDataEx", ctypes.byref(ctypes.c_uint64()), bad,
               *options(error_bytes=512)), 218, "a size without a buffer")  # fmt: skip


def link_logs():
    start()
    info, error = ctypes.create_string_buffer(512), ctypes.create_string_buffer(512)
    asked = options(wall=0, info=info, info_bytes=512, error=error, error_bytes=512, verbose=1)
    state = ctypes.c_uint64()
    ok("cuLinkCreate_v2", *asked, ctypes.byref(state))
    wants(call("cuLinkAddData_v2", state, 5, b"x", 1, b"x", 0, 0, 0), 801, "bitcode")
    wants(slot(asked, 4), len(error.value), "bytes of the error")
    wants(len(error.value) > 20, True, "an error is told")
    ok("cuLinkAddData_v2", state, 1, PTX, len(PTX), b"a.ptx", 0, 0, 0)
    image, size = ctypes.c_void_p(), ctypes.c_size_t()
    ok("cuLinkComplete", state, ctypes.byref(image), ctypes.byref(size))
    wants(0 < slot(asked, 0, ctypes.c_float) < 60_000, True, "milliseconds")
    wants((error.value, slot(asked, 4)), (b"", 0), "no error any more")
    wants((len(info.value) > 10, slot(asked, 2)), (True, len(info.value)), "what was linked")
    ok("cuLinkDestroy", state)


def no_context():
    """A library is loaded, asked and unloaded before there is a context, then used in one."""
    ok("cuInit", 0)
    image = ctypes.create_string_buffer(PTX)
    library = out("cuLibraryLoadData", image, 0, 0, 0, 0, 0, 0)
    kernel = out("cuLibraryGetKernel", library, b"scale")
    wants(out("cuLibraryGetKernelCount", library, kind=ctypes.c_uint), 2, "kernels")
    name = ctypes.c_char_p()
    ok("cuKernelGetName", ctypes.byref(name), kernel)
    wants(name.value, b"scale", "name")
    wants(out("cuKernelGetAttribute", 0, kernel, 0, kind=INT), 1024, "threads")
    ok("cuKernelSetAttribute", 8, 1000, kernel, 0)
    wants(out("cuKernelGetAttribute", 8, kernel, 0, kind=INT), 1000, "shared bytes")
    wants(out("cuKernelGetLibrary", kernel), library, "library")
    for name, *rest in (("cuKernelGetFunction", kernel), ("cuLibraryGetModule", library)):
        wants(call(name, ctypes.byref(ctypes.c_uint64()), *rest), 201, name)
    pool = out("cuDeviceGetDefaultMemPool", 0)
    ok("cuMemPoolGetAttribute", pool, 7, ctypes.byref(ctypes.c_uint64()))
    graph = out("cuGraphCreate", 0)
    out("cuGraphAddEmptyNode", graph, 0, 0)
    ok("cuGraphDestroy", graph)
    wants(call("cuModuleLoadData", ctypes.byref(ctypes.c_uint64()), image), 201, "a module")
    out("cuCtxCreate_v2", 0, 0)
    address = out("cuMemAlloc_v2", 16)
    ok("cuMemcpyHtoD_v2", address, floats(1, 2, 3, 4), 16)
    wants(launch(kernel, scale_params(address, 3.0, 4)), 0, "launch")
    wants(read(address, 16), floats(3, 6, 9, 12), "scaled")
    ok("cuCtxPopCurrent_v2", 0)
    ok("cuLibraryUnload", library)
    wants(call("cuLibraryGetKernel", ctypes.byref(ctypes.c_uint64()), library, b"scale"), 400,
          "unloaded")  # fmt: skip


if __name__ == "__main__":
    globals()[sys.argv[1]]()
