"""What a driver call answers: call, arguments and the CUresult that CUDA documents.

The arguments are made by a function of `e`, what programs/shim_answers.py has prepared. No row
changes what another one asks. `SOFT` rows ask for what the shim does not offer and a driver does.
"""

import ctypes
import struct
from typing import NamedTuple

OK, VALUE, MEMORY, NOT_STARTED = 0, 1, 2, 3
DEVICE, IMAGE, CONTEXT, NO_BINARY, LIMIT, NO_PEER, PTX_BAD = 101, 200, 201, 209, 215, 217, 218
LATER, NO_FILE, HANDLE, MISSING, PEER_OFF = 222, 301, 400, 500, 705
TOO_LARGE, NOT_PERMITTED, UNSUPPORTED, CLUSTER = 720, 800, 801, 912
SYSTEM, ILLEGAL, NO_CAPTURE = 304, 401, 900
BAD = 0xDEAD0


class Row(NamedTuple):
    """One question."""

    name: str
    what: str
    arguments: object
    wanted: int


def u64(value=0):
    """A place for a result."""
    return ctypes.byref(ctypes.c_uint64(value))


def image(text):
    """A module image that ends with NUL."""
    return ctypes.create_string_buffer(text)


def copy2d(source=2, target=2, width=4, height=1, pitch=0, pointers=(0, 0)):
    """A CUDA_MEMCPY2D."""
    one = lambda kind, at: struct.pack("<QQi4xQQQQ", 0, 0, kind, at, at, 0, pitch)  # noqa: E731
    raw = one(source, pointers[0]) + one(target, pointers[1]) + struct.pack("<QQ", width, height)
    return ctypes.create_string_buffer(raw, len(raw))


def pool_props(kind=1, handles=0, location=1, number=0):
    """A CUmemPoolProps."""
    return ctypes.create_string_buffer(struct.pack("<4i", kind, handles, location, number), 88)


def kernel_node(e, grid=(1, 1, 1), block=(64, 1, 1), kernel=None):
    """A CUDA_KERNEL_NODE_PARAMS of `scale`."""
    args = ctypes.addressof(e.args)
    raw = struct.pack("<Q7I4x4Q", e.fn if kernel is None else kernel, *grid, *block, 0, args,
                      0, 0, 0)  # fmt: skip
    return ctypes.create_string_buffer(raw, len(raw))


def child_node(graph, ownership=0):
    """A CUgraphNodeParams of a child graph."""
    return ctypes.create_string_buffer(struct.pack("<4iQi", 4, 0, 0, 0, graph, ownership), 256)


def fill_node(address, size=4, width=1, height=1, pitch=0):
    """A CUDA_MEMSET_NODE_PARAMS."""
    raw = struct.pack("<QQIIQQ", address, pitch, 0, size, width, height)
    return ctypes.create_string_buffer(raw, len(raw))


def config(e, *attributes, stream=0):
    """A CUlaunchConfig of one block with attributes (number, 64 bytes)."""
    raw = b"".join(struct.pack("<i4x", a) + value.ljust(64, b"\0") for a, value in attributes)
    e.kept.append(kept := ctypes.create_string_buffer(raw, len(raw) + 1))
    head = struct.pack("<7I4xQQI4x", 1, 1, 1, 64, 1, 1, 0, stream, ctypes.addressof(kept),
                       len(attributes))  # fmt: skip
    return ctypes.create_string_buffer(head, len(head))


def cluster(x, y, z):
    """The launch attribute cluster dimension."""
    return (4, struct.pack("<3I", x, y, z))


def nodes(*handles):
    """An array of graph nodes."""
    return (ctypes.c_uint64 * len(handles))(*handles)


def _launch(e, grid=(1, 1, 1), block=(64, 1, 1), shared=0, stream=0, args=True, fn=None):
    return (e.fn if fn is None else fn, *grid, *block, shared, stream, e.args if args else 0, 0)


BEFORE = [
    Row(name, "before cuInit", lambda e: (0, 0, 0, 0), NOT_STARTED)
    for name in (
        "cuDeviceGet", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceTotalMem_v2",
        "cuDeviceGetAttribute", "cuCtxCreate_v2", "cuCtxGetCurrent", "cuCtxSetCurrent",
        "cuCtxPopCurrent_v2", "cuCtxSynchronize", "cuMemAlloc_v2", "cuMemFree_v2",
        "cuMemAllocHost_v2", "cuMemFreeHost", "cuModuleLoadData", "cuModuleUnload",
        "cuLibraryLoadData", "cuLibraryUnload", "cuStreamCreate", "cuStreamDestroy_v2",
        "cuEventCreate", "cuLaunchKernel", "cuProfilerStart", "cuProfilerStop",
        "cuGraphCreate", "cuPointerGetAttribute", "cuLinkCreate_v2",
        "cuDevicePrimaryCtxRetain", "cuModuleGetLoadingMode", "cuOccupancyMaxPotentialBlockSize",
    )
]  # fmt: skip
"""Asked before cuInit."""

START = [
    Row("cuInit", "flags", lambda e: (1,), VALUE),
    Row("cuDriverGetVersion", "NULL", lambda e: (0,), VALUE),
    Row("cuGetErrorName", "NULL", lambda e: (1, 0), VALUE),
    Row("cuGetErrorName", "no such error", lambda e: (12345, u64()), VALUE),
    Row("cuGetErrorString", "NULL", lambda e: (1, 0), VALUE),
    Row("cuGetErrorString", "no such error", lambda e: (-1, u64()), VALUE),
    Row("cuGetProcAddress", "NULL name", lambda e: (0, u64(), 12000, 0), VALUE),
    Row("cuGetProcAddress", "NULL place", lambda e: (b"cuInit", 0, 12000, 0), VALUE),
    Row("cuGetProcAddress", "flags", lambda e: (b"cuInit", u64(), 12000, 8), VALUE),
    Row("cuGetProcAddress", "unknown", lambda e: (b"cuNone", u64(), 12000, 0), MISSING),
    Row("cuGetExportTable", "NULL place", lambda e: (0, bytes(16)), VALUE),
    Row("cuGetExportTable", "NULL id", lambda e: (u64(), 0), VALUE),
    Row("cuGetExportTable", "unknown id", lambda e: (u64(), bytes(16)), VALUE),
    Row("cuProfilerStart", "no profiler", lambda e: (), OK),
    Row("cuProfilerStop", "no profiler", lambda e: (), OK),
    Row("cuModuleGetLoadingMode", "NULL", lambda e: (0,), VALUE),
]

DEVICES = [
    Row("cuDeviceGet", "NULL", lambda e: (0, 0), VALUE),
    Row("cuDeviceGet", "-1", lambda e: (u64(), -1), DEVICE),
    Row("cuDeviceGet", "64", lambda e: (u64(), 64), DEVICE),
    Row("cuDeviceGetCount", "NULL", lambda e: (0,), VALUE),
    Row("cuDeviceGetName", "NULL", lambda e: (0, 8, 0), VALUE),
    Row("cuDeviceGetName", "no room", lambda e: (image(b""), 0, 0), VALUE),
    Row("cuDeviceGetName", "device", lambda e: (image(b"12345678"), 8, 99), DEVICE),
    Row("cuDeviceGetUuid_v2", "NULL", lambda e: (0, 0), VALUE),
    Row("cuDeviceGetUuid_v2", "device", lambda e: (image(bytes(16)), 99), DEVICE),
    Row("cuDeviceTotalMem_v2", "NULL", lambda e: (0, 0), VALUE),
    Row("cuDeviceTotalMem_v2", "device", lambda e: (u64(), 99), DEVICE),
    Row("cuDeviceGetAttribute", "NULL", lambda e: (0, 1, 0), VALUE),
    Row("cuDeviceGetAttribute", "device", lambda e: (u64(), 1, 99), DEVICE),
    Row("cuDeviceGetAttribute", "0", lambda e: (u64(), 0, 0), VALUE),
    Row("cuDeviceGetAttribute", "9999", lambda e: (u64(), 9999, 0), VALUE),
    Row("cuDeviceGetAttribute", "-1", lambda e: (u64(), -1, 0), VALUE),
    Row("cuDeviceGetProperties", "NULL", lambda e: (0, 0), VALUE),
    Row("cuDeviceComputeCapability", "NULL", lambda e: (0, u64(), 0), VALUE),
    Row("cuDeviceComputeCapability", "device", lambda e: (u64(), u64(), 99), DEVICE),
    Row("cuDeviceGetPCIBusId", "NULL", lambda e: (0, 16, 0), VALUE),
    Row("cuDeviceGetPCIBusId", "device", lambda e: (image(bytes(16)), 16, 99), DEVICE),
    Row("cuDeviceGetByPCIBusId", "NULL", lambda e: (0, b"0:0:0.0"), VALUE),
    Row("cuDeviceGetByPCIBusId", "no id", lambda e: (u64(), b"nonsense"), VALUE),
    Row("cuDeviceGetByPCIBusId", "no device", lambda e: (u64(), b"00ff:1e:1f.0"), DEVICE),
    Row("cuDeviceCanAccessPeer", "NULL", lambda e: (0, 0, 0), VALUE),
    Row("cuDeviceCanAccessPeer", "device", lambda e: (u64(), 0, 99), DEVICE),
    Row("cuDeviceGetP2PAttribute", "NULL", lambda e: (0, 1, 0, 0), VALUE),
    Row("cuDeviceGetP2PAttribute", "attribute", lambda e: (u64(), 99, 0, 0), VALUE),
    Row("cuDeviceGetP2PAttribute", "one device", lambda e: (u64(), 1, 0, 0), DEVICE),
    Row("cuDeviceGetExecAffinitySupport", "type", lambda e: (u64(), 99, 0), VALUE),
    Row("cuDevicePrimaryCtxRetain", "NULL", lambda e: (0, 0), VALUE),
    Row("cuDevicePrimaryCtxRetain", "device", lambda e: (u64(), 99), DEVICE),
    Row("cuDevicePrimaryCtxRelease_v2", "device", lambda e: (99,), DEVICE),
    Row("cuDevicePrimaryCtxSetFlags_v2", "device", lambda e: (99, 0), DEVICE),
    Row("cuDevicePrimaryCtxSetFlags_v2", "flags", lambda e: (0, 1 << 20), VALUE),
    Row("cuDevicePrimaryCtxSetFlags_v2", "scheduling 3", lambda e: (0, 3), VALUE),
    Row("cuDevicePrimaryCtxGetState", "NULL", lambda e: (0, 0, u64()), VALUE),
    Row("cuDevicePrimaryCtxGetState", "device", lambda e: (99, u64(), u64()), DEVICE),
]

CONTEXTS = [
    Row("cuCtxCreate_v2", "NULL", lambda e: (0, 0, 0), VALUE),
    Row("cuCtxCreate_v2", "device", lambda e: (u64(), 0, 99), DEVICE),
    Row("cuCtxCreate_v2", "flags", lambda e: (u64(), 1 << 20, 0), VALUE),
    Row("cuCtxCreate_v2", "scheduling 3", lambda e: (u64(), 3, 0), VALUE),
    Row("cuCtxDestroy_v2", "no context", lambda e: (BAD,), CONTEXT),
    Row("cuCtxSetCurrent", "no context", lambda e: (BAD,), CONTEXT),
    Row("cuCtxPushCurrent_v2", "no context", lambda e: (BAD,), CONTEXT),
    Row("cuCtxGetCurrent", "NULL", lambda e: (0,), VALUE),
    Row("cuCtxGetDevice", "NULL", lambda e: (0,), VALUE),
    Row("cuCtxGetFlags", "NULL", lambda e: (0,), VALUE),
    Row("cuCtxSetFlags", "flags", lambda e: (1 << 20,), VALUE),
    Row("cuCtxGetApiVersion", "NULL", lambda e: (0, 0), VALUE),
    Row("cuCtxGetApiVersion", "no context", lambda e: (BAD, u64()), CONTEXT),
    Row("cuCtxGetId", "no context", lambda e: (BAD, u64()), CONTEXT),
    Row("cuCtxGetLimit", "NULL", lambda e: (0, 0), VALUE),
    Row("cuCtxGetLimit", "no such limit", lambda e: (u64(), 99), LIMIT),
    Row("cuCtxSetLimit", "no such limit", lambda e: (99, 1), LIMIT),
    Row("cuCtxSetLimit", "granularity over 128", lambda e: (5, 129), VALUE),
    Row("cuCtxGetCacheConfig", "NULL", lambda e: (0,), VALUE),
    Row("cuCtxSetCacheConfig", "4", lambda e: (4,), VALUE),
    Row("cuCtxGetSharedMemConfig", "NULL", lambda e: (0,), VALUE),
    Row("cuCtxSetSharedMemConfig", "3", lambda e: (3,), VALUE),
    Row("cuCtxEnablePeerAccess", "itself", lambda e: (e.ctx, 0), CONTEXT),
    Row("cuCtxEnablePeerAccess", "no context", lambda e: (BAD, 0), CONTEXT),
    Row("cuCtxEnablePeerAccess", "flags", lambda e: (e.other_ctx, 1), VALUE),
    Row("cuCtxEnablePeerAccess", "of one device", lambda e: (e.other_ctx, 0), NO_PEER),
    Row("cuCtxDisablePeerAccess", "not enabled", lambda e: (e.other_ctx,), PEER_OFF),
    Row("cuCtxDisablePeerAccess", "no context", lambda e: (BAD,), CONTEXT),
]

IMAGES = [
    Row("cuModuleLoadData", "NULL place", lambda e: (0, e.image), VALUE),
    Row("cuModuleLoadData", "NULL image", lambda e: (u64(), 0), VALUE),
    Row("cuModuleLoadData", "empty", lambda e: (u64(), image(b"")), IMAGE),
    Row("cuModuleLoadData", "prose", lambda e: (u64(), image(b"this is not ptx")), IMAGE),
    Row("cuModuleLoadData", "bytes", lambda e: (u64(), image(b"\x01\x02\x03\x04\x05")), IMAGE),
    Row("cuModuleLoadData", "not UTF-8", lambda e: (u64(), image(b"\xff\xfe\xfd\xfc")), IMAGE),
    Row("cuModuleLoadData", "C", lambda e: (u64(), image(b"// x\n__global__ void f(){}")), IMAGE),
    Row("cuModuleLoadData", "a syntax error",
        lambda e: (u64(), image(b".version 7.0\n.target sm_70\nnonsense\n")), PTX_BAD),
    Row("cuModuleLoadData", "after a comment",
        lambda e: (u64(), image(b"/* c */ // d\n.version 7.0\n.target sm_70\nx\n")), PTX_BAD),
    Row("cuModuleLoadData", "a later version",
        lambda e: (u64(), image(b".version 99.0\n.target sm_70\n.entry k() { ret; }\n")), LATER),
    Row("cuModuleLoadData", "nothing in it",
        lambda e: (u64(), image(b".version 7.0\n.target sm_70\n.address_size 64\n")), OK),
    Row("cuModuleLoadData", "no more",
        lambda e: (u64(), image(b".version 7.0\n")), PTX_BAD),
    Row("cuModuleLoadDataEx", "options missing", lambda e: (u64(), e.image, 1, 0, 0), VALUE),
    Row("cuModuleLoadFatBinary", "NULL", lambda e: (u64(), 0), VALUE),
    Row("cuModuleLoad", "no file", lambda e: (u64(), b"/no/such/file"), NO_FILE),
    Row("cuModuleLoad", "NULL", lambda e: (u64(), 0), VALUE),
    Row("cuModuleUnload", "no module", lambda e: (BAD,), HANDLE),
    Row("cuModuleGetFunction", "NULL place", lambda e: (0, e.module, b"scale"), VALUE),
    Row("cuModuleGetFunction", "NULL name", lambda e: (u64(), e.module, 0), VALUE),
    Row("cuModuleGetFunction", "no module", lambda e: (u64(), BAD, b"scale"), HANDLE),
    Row("cuModuleGetFunction", "no such kernel", lambda e: (u64(), e.module, b"no"), MISSING),
    Row("cuModuleGetFunctionCount", "NULL", lambda e: (0, e.module), VALUE),
    Row("cuModuleGetGlobal_v2", "NULL name", lambda e: (u64(), u64(), e.module, 0), VALUE),
    Row("cuModuleGetGlobal_v2", "no such", lambda e: (u64(), u64(), e.module, b"no"), MISSING),
    Row("cuLibraryLoadData", "NULL place", lambda e: (0, e.image, 0, 0, 0, 0, 0, 0), VALUE),
    Row("cuLibraryLoadData", "NULL image", lambda e: (u64(), 0, 0, 0, 0, 0, 0, 0), VALUE),
    Row("cuLibraryLoadData", "prose",
        lambda e: (u64(), image(b"this is not ptx"), 0, 0, 0, 0, 0, 0), IMAGE),
    Row("cuLibraryLoadFromFile", "no file",
        lambda e: (u64(), b"/no/such/file", 0, 0, 0, 0, 0, 0), NO_FILE),
    Row("cuLibraryUnload", "no library", lambda e: (BAD,), HANDLE),
    Row("cuLibraryGetKernel", "no such kernel", lambda e: (u64(), e.library, b"no"), MISSING),
    Row("cuLibraryGetKernel", "NULL name", lambda e: (u64(), e.library, 0), VALUE),
    Row("cuLibraryGetKernel", "no library", lambda e: (u64(), BAD, b"scale"), HANDLE),
    Row("cuLibraryGetGlobal", "no such", lambda e: (u64(), u64(), e.library, b"no"), MISSING),
    Row("cuLibraryGetManaged", "no such", lambda e: (u64(), u64(), e.library, b"no"), MISSING),
    Row("cuModuleUnload", "a library's", lambda e: (e.library_module,), NOT_PERMITTED),
    Row("cuKernelGetFunction", "NULL", lambda e: (0, e.kernel), VALUE),
    Row("cuKernelGetFunction", "no kernel", lambda e: (u64(), BAD), HANDLE),
    Row("cuKernelGetName", "NULL", lambda e: (0, e.kernel), VALUE),
    Row("cuKernelGetName", "NULL kernel", lambda e: (u64(), 0), VALUE),
    Row("cuKernelGetAttribute", "device", lambda e: (u64(), 0, e.kernel, 99), DEVICE),
    Row("cuKernelGetAttribute", "attribute", lambda e: (u64(), 99, e.kernel, 0), VALUE),
    Row("cuLinkCreate_v2", "NULL", lambda e: (0, 0, 0, 0), VALUE),
    Row("cuLinkAddData_v2", "no state", lambda e: (BAD, 1, b"x", 1, b"", 0, 0, 0), HANDLE),
    Row("cuLinkAddData_v2", "no data", lambda e: (e.link, 1, 0, 0, b"", 0, 0, 0), VALUE),
    Row("cuLinkAddFile_v2", "no file", lambda e: (e.link, 1, b"/no/such/f", 0, 0, 0), NO_FILE),
    Row("cuLinkComplete", "NULL", lambda e: (e.link, 0, 0), VALUE),
    Row("cuLinkDestroy", "no state", lambda e: (BAD,), HANDLE),
]  # fmt: skip

FUNCTIONS = [
    Row("cuFuncGetName", "NULL", lambda e: (0, e.fn), VALUE),
    Row("cuFuncGetName", "NULL function", lambda e: (u64(), 0), VALUE),
    Row("cuFuncGetName", "no function", lambda e: (u64(), BAD), HANDLE),
    Row("cuFuncGetModule", "no function", lambda e: (u64(), BAD), HANDLE),
    Row("cuFuncGetAttribute", "NULL", lambda e: (0, 0, e.fn), VALUE),
    Row("cuFuncGetAttribute", "99", lambda e: (u64(), 99, e.fn), VALUE),
    Row("cuFuncGetAttribute", "-1", lambda e: (u64(), -1, e.fn), VALUE),
    Row("cuFuncGetAttribute", "no function", lambda e: (u64(), 0, BAD), HANDLE),
    Row("cuFuncSetAttribute", "no function", lambda e: (BAD, 8, 0), HANDLE),
    Row("cuFuncSetAttribute", "threads", lambda e: (e.fn, 0, 1), VALUE),
    Row("cuFuncSetAttribute", "static shared bytes", lambda e: (e.fn, 1, 1), VALUE),
    Row("cuFuncSetAttribute", "registers", lambda e: (e.fn, 4, 1), VALUE),
    Row("cuFuncSetAttribute", "cluster must be set", lambda e: (e.fn, 10, 1), VALUE),
    Row("cuFuncSetAttribute", "99", lambda e: (e.fn, 99, 1), VALUE),
    Row("cuFuncSetAttribute", "-1 shared bytes", lambda e: (e.fn, 8, -1), VALUE),
    Row("cuFuncSetAttribute", "too many shared bytes", lambda e: (e.fn, 8, 1 << 30), VALUE),
    Row("cuFuncSetAttribute", "carve-out 101", lambda e: (e.fn, 9, 101), VALUE),
    Row("cuFuncSetAttribute", "carve-out -2", lambda e: (e.fn, 9, -2), VALUE),
    Row("cuFuncSetCacheConfig", "4", lambda e: (e.fn, 4), VALUE),
    Row("cuFuncSetCacheConfig", "no function", lambda e: (BAD, 0), HANDLE),
    Row("cuFuncSetSharedMemConfig", "3", lambda e: (e.fn, 3), VALUE),
    Row("cuFuncGetParamInfo", "index", lambda e: (e.fn, 3, u64(), u64()), VALUE),
    Row("cuFuncGetParamInfo", "NULL", lambda e: (e.fn, 0, 0, 0), VALUE),
    Row("cuFuncIsLoaded", "NULL", lambda e: (0, e.fn), VALUE),
    Row("cuFuncLoad", "no function", lambda e: (BAD,), HANDLE),
    Row("cuOccupancyMaxActiveBlocksPerMultiprocessor", "NULL", lambda e: (0, e.fn, 64, 0), VALUE),
    Row("cuOccupancyMaxActiveBlocksPerMultiprocessor", "block 0",
        lambda e: (u64(), e.fn, 0, 0), VALUE),
    Row("cuOccupancyMaxActiveBlocksPerMultiprocessor", "no function",
        lambda e: (u64(), BAD, 64, 0), HANDLE),
    Row("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", "flags",
        lambda e: (u64(), e.fn, 64, 0, 2), VALUE),
    Row("cuOccupancyMaxPotentialBlockSize", "NULL", lambda e: (0, 0, e.fn, 0, 0, 0), VALUE),
    Row("cuOccupancyAvailableDynamicSMemPerBlock", "NULL", lambda e: (0, e.fn, 1, 64), VALUE),
    Row("cuOccupancyMaxActiveClusters", "NULL", lambda e: (0, e.fn, config(e)), VALUE),
    Row("cuOccupancyMaxActiveClusters", "NULL config", lambda e: (u64(), e.fn, 0), VALUE),
    Row("cuOccupancyMaxActiveClusters", "no function",
        lambda e: (u64(), BAD, config(e, cluster(1, 1, 1))), HANDLE),
    Row("cuOccupancyMaxActiveClusters", "no cluster", lambda e: (u64(), e.fn, config(e)), CLUSTER),
    Row("cuOccupancyMaxActiveClusters", "cluster 0",
        lambda e: (u64(), e.fn, config(e, cluster(0, 1, 1))), VALUE),
    Row("cuOccupancyMaxActiveClusters", "cluster of one",
        lambda e: (u64(), e.fn, config(e, cluster(1, 1, 1))), OK),
    Row("cuOccupancyMaxPotentialClusterSize", "NULL", lambda e: (0, e.fn, config(e)), VALUE),
    Row("cuOccupancyMaxPotentialClusterSize", "any", lambda e: (u64(), e.fn, config(e)), OK),
    Row("cuLaunchKernel", "no function", lambda e: _launch(e, fn=BAD), HANDLE),
    Row("cuLaunchKernel", "NULL function", lambda e: _launch(e, fn=0), HANDLE),
    Row("cuLaunchKernel", "grid 0", lambda e: _launch(e, grid=(0, 1, 1)), VALUE),
    Row("cuLaunchKernel", "grid z 0", lambda e: _launch(e, grid=(1, 1, 0)), VALUE),
    Row("cuLaunchKernel", "block 0", lambda e: _launch(e, block=(1, 0, 1)), VALUE),
    Row("cuLaunchKernel", "too many threads", lambda e: _launch(e, block=(1024, 2, 1)), VALUE),
    Row("cuLaunchKernel", "too deep a block", lambda e: _launch(e, block=(1, 1, 65)), VALUE),
    Row("cuLaunchKernel", "too high a grid", lambda e: _launch(e, grid=(1, 65536, 1)), VALUE),
    Row("cuLaunchKernel", "shared bytes", lambda e: _launch(e, shared=1 << 30), VALUE),
    Row("cuLaunchKernel", "no stream", lambda e: _launch(e, stream=BAD), HANDLE),
    Row("cuLaunchKernel", "no arguments", lambda e: _launch(e, args=False), VALUE),
    Row("cuLaunchCooperativeKernel", "grid 0", lambda e: _launch(e, grid=(0, 1, 1))[:-1], VALUE),
    Row("cuLaunchCooperativeKernel", "more blocks than fit",
        lambda e: _launch(e, grid=(1 << 20, 1, 1))[:-1], TOO_LARGE),
    Row("cuLaunchCooperativeKernel", "more than 64 bits",
        lambda e: _launch(e, grid=(0x7FFFFFFF, 65535, 65535))[:-1], TOO_LARGE),
    Row("cuLaunchCooperativeKernel", "one block", lambda e: _launch(e)[:-1], OK),
    Row("cuLaunchKernelEx", "NULL", lambda e: (0, e.fn, e.args, 0), VALUE),
    Row("cuLaunchKernelEx", "no attributes", lambda e: (config(e), e.fn, e.args, 0), OK),
    Row("cuLaunchKernelEx", "cluster of one",
        lambda e: (config(e, cluster(1, 1, 1)), e.fn, e.args, 0), OK),
    Row("cuLaunchKernelEx", "cluster 0",
        lambda e: (config(e, cluster(0, 0, 0)), e.fn, e.args, 0), VALUE),
    Row("cuLaunchKernelEx", "cluster y 0",
        lambda e: (config(e, cluster(1, 0, 1)), e.fn, e.args, 0), VALUE),
    Row("cuLaunchKernelEx", "cluster 2 and 0",
        lambda e: (config(e, cluster(2, 1, 0)), e.fn, e.args, 0), VALUE),
]  # fmt: skip

MEMORY_CALLS = [
    Row("cuMemAlloc_v2", "NULL", lambda e: (0, 4), VALUE),
    Row("cuMemAlloc_v2", "0 bytes", lambda e: (u64(), 0), VALUE),
    Row("cuMemAlloc_v2", "everything", lambda e: (u64(), 1 << 62), MEMORY),
    Row("cuMemAllocPitch_v2", "element 3", lambda e: (u64(), u64(), 4, 1, 3), VALUE),
    Row("cuMemAllocPitch_v2", "no height", lambda e: (u64(), u64(), 4, 0, 4), VALUE),
    Row("cuMemAllocAsync", "NULL", lambda e: (0, 4, 0), VALUE),
    Row("cuMemAllocAsync", "0 bytes", lambda e: (u64(), 0, 0), VALUE),
    Row("cuMemAllocAsync", "no stream", lambda e: (u64(), 4, BAD), HANDLE),
    Row("cuMemFree_v2", "not a start", lambda e: (e.memory + 8,), VALUE),
    Row("cuMemFree_v2", "no memory", lambda e: (BAD,), VALUE),
    Row("cuMemFree_v2", "0", lambda e: (0,), OK),
    Row("cuMemFreeAsync", "no stream", lambda e: (e.memory, BAD), HANDLE),
    Row("cuMemFreeAsync", "no memory", lambda e: (BAD, 0), VALUE),
    Row("cuMemGetInfo_v2", "NULL", lambda e: (0, u64()), VALUE),
    Row("cuMemGetAddressRange_v2", "no memory", lambda e: (u64(), u64(), BAD), MISSING),
    Row("cuMemcpyHtoD_v2", "over the end", lambda e: (e.memory, e.host, 1025), VALUE),
    Row("cuMemcpyDtoH_v2", "over the end", lambda e: (e.host, e.memory, 1025), VALUE),
    Row("cuMemcpyDtoD_v2", "over the end", lambda e: (e.memory, e.memory, 1025), VALUE),
    Row("cuMemcpyHtoD_v2", "no memory", lambda e: (BAD, e.host, 4), VALUE),
    Row("cuMemcpyHtoD_v2", "NULL host", lambda e: (e.memory, 0, 4), VALUE),
    Row("cuMemcpyHtoD_v2", "no bytes", lambda e: (e.memory, e.host, 0), OK),
    Row("cuMemcpyHtoDAsync_v2", "no stream", lambda e: (e.memory, e.host, 4, BAD), HANDLE),
    Row("cuMemcpyDtoHAsync_v2", "no stream", lambda e: (e.host, e.memory, 4, BAD), HANDLE),
    Row("cuMemcpy2D_v2", "NULL", lambda e: (0,), VALUE),
    Row("cuMemcpy2D_v2", "memory type 9",
        lambda e: (copy2d(9, pointers=(e.memory, e.memory)),), VALUE),
    Row("cuMemcpy2D_v2", "pitch below width",
        lambda e: (copy2d(width=8, height=2, pitch=4, pointers=(e.memory, e.memory)),), VALUE),
    Row("cuMemcpy3D_v2", "NULL", lambda e: (0,), VALUE),
    Row("cuMemsetD8_v2", "over the end", lambda e: (e.memory, 0, 1025), VALUE),
    Row("cuMemsetD16_v2", "misaligned", lambda e: (e.memory + 1, 0, 1), VALUE),
    Row("cuMemsetD32_v2", "misaligned", lambda e: (e.memory + 2, 0, 1), VALUE),
    Row("cuMemsetD2D8_v2", "pitch below width", lambda e: (e.memory, 4, 0, 8, 2), VALUE),
    Row("cuMemsetD8Async", "no stream", lambda e: (e.memory, 0, 4, BAD), HANDLE),
    Row("cuMemAllocHost_v2", "NULL", lambda e: (0, 4), VALUE),
    Row("cuMemHostAlloc", "flags", lambda e: (u64(), 4, 1 << 20), VALUE),
    Row("cuPointerGetAttribute", "NULL", lambda e: (0, 2, e.memory), VALUE),
    Row("cuPointerGetAttribute", "0", lambda e: (u64(), 0, e.memory), VALUE),
    Row("cuPointerGetAttribute", "9999", lambda e: (u64(), 9999, e.memory), VALUE),
    Row("cuPointerGetAttribute", "-1", lambda e: (u64(), -1, e.memory), VALUE),
    Row("cuPointerGetAttribute", "no memory", lambda e: (u64(), 2, BAD), VALUE),
    Row("cuPointerGetAttributes", "NULL", lambda e: (1, 0, 0, e.memory), VALUE),
    Row("cuPointerGetAttributes", "9999",
        lambda e: (1, (ctypes.c_int * 1)(9999), (ctypes.c_void_p * 1)(e.memory), e.memory), VALUE),
    Row("cuPointerSetAttribute", "NULL", lambda e: (0, 6, e.memory), VALUE),
    Row("cuPointerSetAttribute", "memory type", lambda e: (u64(1), 2, e.memory), VALUE),
    Row("cuPointerSetAttribute", "9999", lambda e: (u64(1), 9999, e.memory), VALUE),
    Row("cuPointerSetAttribute", "no memory", lambda e: (u64(1), 6, BAD), VALUE),
    Row("cuMemAdvise", "not managed", lambda e: (e.memory, 1024, 1, 0), VALUE),
    Row("cuMemAdvise_v2", "not managed", lambda e: (e.memory, 1024, 1, 1), VALUE),
    Row("cuMemPrefetchAsync", "not managed", lambda e: (e.memory, 1024, 0, 0), VALUE),
    Row("cuMemPrefetchAsync_v2", "not managed", lambda e: (e.memory, 1024, 1, 0, 0), VALUE),
    Row("cuMemPrefetchAsync_v2", "no stream", lambda e: (e.memory, 1024, 1, 0, BAD), HANDLE),
    Row("cuStreamAttachMemAsync", "not managed", lambda e: (e.stream, e.memory, 0, 1), VALUE),
    Row("cuStreamAttachMemAsync", "no stream", lambda e: (BAD, e.memory, 0, 1), HANDLE),
    Row("cuMemRangeGetAttribute", "not managed", lambda e: (u64(), 4, 1, e.memory, 1024), VALUE),
    Row("cuDeviceGetDefaultMemPool", "device", lambda e: (u64(), 99), DEVICE),
    Row("cuDeviceGetMemPool", "NULL", lambda e: (0, 0), VALUE),
    Row("cuDeviceSetMemPool", "device", lambda e: (99, e.pool), VALUE),
    Row("cuMemPoolCreate", "NULL", lambda e: (0, pool_props()), VALUE),
    Row("cuMemPoolCreate", "allocation type 9", lambda e: (u64(), pool_props(kind=9)), VALUE),
    Row("cuMemPoolCreate", "device", lambda e: (u64(), pool_props(number=99)), VALUE),
    Row("cuMemPoolGetAttribute", "99", lambda e: (e.pool, 99, u64()), VALUE),
    Row("cuMemPoolSetAttribute", "99", lambda e: (e.pool, 99, u64()), VALUE),
    Row("cuMemPoolSetAttribute", "high mark 5", lambda e: (e.pool, 6, u64(5)), VALUE),
]  # fmt: skip

STREAMS = [
    Row("cuStreamCreate", "NULL", lambda e: (0, 0), VALUE),
    Row("cuStreamCreate", "flags", lambda e: (u64(), 2), VALUE),
    Row("cuStreamDestroy_v2", "no stream", lambda e: (BAD,), HANDLE),
    Row("cuStreamSynchronize", "no stream", lambda e: (BAD,), HANDLE),
    Row("cuStreamQuery", "no stream", lambda e: (BAD,), HANDLE),
    Row("cuStreamGetFlags", "NULL", lambda e: (e.stream, 0), VALUE),
    Row("cuStreamGetFlags", "no stream", lambda e: (BAD, u64()), HANDLE),
    Row("cuStreamGetPriority", "NULL", lambda e: (e.stream, 0), VALUE),
    Row("cuStreamGetCtx", "NULL", lambda e: (e.stream, 0), VALUE),
    Row("cuStreamGetId", "no stream", lambda e: (BAD, u64()), HANDLE),
    Row("cuStreamGetAttribute", "NULL", lambda e: (e.stream, 3, 0), VALUE),
    Row("cuStreamGetAttribute", "99", lambda e: (e.stream, 99, image(bytes(64))), VALUE),
    Row("cuStreamGetAttribute", "a launch's", lambda e: (e.stream, 2, image(bytes(64))), VALUE),
    Row("cuStreamGetAttribute", "no stream", lambda e: (BAD, 3, image(bytes(64))), HANDLE),
    Row("cuStreamSetAttribute", "NULL", lambda e: (e.stream, 3, 0), VALUE),
    Row("cuStreamSetAttribute", "policy 0", lambda e: (e.stream, 3, image(bytes(64))), VALUE),
    Row("cuStreamSetAttribute", "policy 9",
        lambda e: (e.stream, 3, image(b"\x09" + bytes(63))), VALUE),
    Row("cuStreamSetAttribute", "hit ratio 2",
        lambda e: (e.stream, 1, image(struct.pack("<QQfii", 0, 0, 2.0, 0, 0) + bytes(36))), VALUE),
    Row("cuStreamSetAttribute", "no stream", lambda e: (BAD, 3, image(bytes(64))), HANDLE),
    Row("cuStreamCopyAttributes", "no stream", lambda e: (e.stream, BAD), HANDLE),
    Row("cuStreamWaitEvent", "no event", lambda e: (e.stream, BAD, 0), HANDLE),
    Row("cuStreamWaitEvent", "no stream", lambda e: (BAD, e.event, 0), HANDLE),
    Row("cuStreamWaitEvent", "flags", lambda e: (e.stream, e.event, 8), VALUE),
    Row("cuStreamWaitEvent", "external", lambda e: (e.stream, e.event, 1), VALUE),
    Row("cuStreamIsCapturing", "NULL", lambda e: (e.stream, 0), VALUE),
    Row("cuThreadExchangeStreamCaptureMode", "9", lambda e: (u64(9),), VALUE),
    Row("cuStreamBeginCapture_v2", "mode 3", lambda e: (e.stream, 3), VALUE),
    Row("cuStreamBeginCapture_v2", "no stream", lambda e: (BAD, 0), HANDLE),
    Row("cuStreamBeginCapture_v2", "legacy", lambda e: (0, 0), NO_CAPTURE),
    Row("cuStreamBeginCaptureToGraph", "NULL", lambda e: (e.stream, 0, 0, 0, 0, 0), VALUE),
    Row("cuStreamBeginCaptureToGraph", "another graph's",
        lambda e: (e.stream, e.graph, nodes(e.stranger), 0, 1, 0), VALUE),
    Row("cuStreamEndCapture", "NULL", lambda e: (e.stream, 0), VALUE),
    Row("cuStreamEndCapture", "not capturing", lambda e: (e.stream, u64()), ILLEGAL),
    Row("cuStreamGetCaptureInfo_v3", "NULL", lambda e: (e.stream, 0, 0, 0, 0, 0, 0), VALUE),
    Row("cuStreamGetCaptureInfo_v3", "no stream", lambda e: (BAD, u64(), 0, 0, 0, 0, 0), HANDLE),
    Row("cuStreamGetCaptureInfo_v3", "data alone",
        lambda e: (e.stream, u64(), 0, 0, 0, u64(), 0), VALUE),
    Row("cuStreamUpdateCaptureDependencies_v2", "flags",
        lambda e: (e.stream, nodes(e.node), 0, 1, 2), VALUE),
    Row("cuEventCreate", "NULL", lambda e: (0, 0), VALUE),
    Row("cuEventCreate", "flags", lambda e: (u64(), 16), VALUE),
    Row("cuEventCreate", "shared and timed", lambda e: (u64(), 4), VALUE),
    Row("cuEventDestroy_v2", "no event", lambda e: (BAD,), HANDLE),
    Row("cuEventRecord", "no event", lambda e: (BAD, 0), HANDLE),
    Row("cuEventRecord", "no stream", lambda e: (e.event, BAD), HANDLE),
    Row("cuEventRecordWithFlags", "flags", lambda e: (e.event, e.stream, 8), VALUE),
    Row("cuEventSynchronize", "no event", lambda e: (BAD,), HANDLE),
    Row("cuEventQuery", "never recorded", lambda e: (e.event,), OK),
    Row("cuEventElapsedTime_v2", "NULL", lambda e: (0, e.event, e.event), VALUE),
    Row("cuEventElapsedTime_v2", "never recorded", lambda e: (u64(), e.event, e.event), HANDLE),
    Row("cuEventElapsedTime_v2", "no timing", lambda e: (u64(), e.untimed, e.untimed), HANDLE),
]  # fmt: skip

GRAPHS = [
    Row("cuGraphCreate", "NULL", lambda e: (0, 0), VALUE),
    Row("cuGraphCreate", "flags", lambda e: (u64(), 1), VALUE),
    Row("cuGraphDestroy", "NULL", lambda e: (0,), VALUE),
    Row("cuGraphAddEmptyNode", "NULL place", lambda e: (0, e.graph, 0, 0), VALUE),
    Row("cuGraphAddEmptyNode", "NULL graph", lambda e: (u64(), 0, 0, 0), VALUE),
    Row("cuGraphAddEmptyNode", "no dependencies", lambda e: (u64(), e.graph, 0, 1), VALUE),
    Row("cuGraphAddEmptyNode", "another graph's",
        lambda e: (u64(), e.graph, nodes(e.stranger), 1), VALUE),
    Row("cuGraphAddEmptyNode", "twice the same",
        lambda e: (u64(), e.graph, nodes(e.node, e.node), 2), VALUE),
    Row("cuGraphAddKernelNode_v2", "NULL", lambda e: (u64(), e.graph, 0, 0, 0), VALUE),
    Row("cuGraphAddKernelNode_v2", "too many threads",
        lambda e: (u64(), e.graph, 0, 0, kernel_node(e, block=(1024, 2, 1))), VALUE),
    Row("cuGraphAddMemsetNode", "element 3",
        lambda e: (u64(), e.graph, 0, 0, fill_node(e.memory, size=3), e.ctx), VALUE),
    Row("cuGraphAddMemsetNode", "over the end",
        lambda e: (u64(), e.graph, 0, 0, fill_node(e.memory, width=999), e.ctx), VALUE),
    Row("cuGraphAddMemcpyNode", "NULL", lambda e: (u64(), e.graph, 0, 0, 0, e.ctx), VALUE),
    Row("cuGraphKernelNodeSetParams_v2", "kind",
        lambda e: (e.empty, kernel_node(e)), VALUE),
    Row("cuGraphInstantiateWithFlags", "NULL", lambda e: (0, e.graph, 0), VALUE),
    Row("cuGraphInstantiateWithFlags", "flags", lambda e: (u64(), e.graph, 1 << 20), VALUE),
    Row("cuGraphInstantiateWithParams", "NULL", lambda e: (u64(), e.graph, 0), VALUE),
    Row("cuGraphLaunch", "no stream", lambda e: (e.exec, BAD), HANDLE),
    Row("cuGraphGetNodes", "NULL", lambda e: (e.graph, 0, 0), VALUE),
    Row("cuGraphNodeGetType", "NULL", lambda e: (e.node, 0), VALUE),
    Row("cuGraphNodeGetType", "NULL node", lambda e: (0, u64()), VALUE),
    Row("cuGraphGetRootNodes", "NULL", lambda e: (e.graph, 0, 0), VALUE),
    Row("cuGraphGetEdges", "NULL", lambda e: (e.graph, 0, 0, 0), VALUE),
    Row("cuGraphGetEdges", "one side", lambda e: (e.graph, nodes(0, 0), 0, u64(2)), VALUE),
    Row("cuGraphGetEdges_v2", "data alone",
        lambda e: (e.graph, 0, 0, image(bytes(16)), u64(2)), VALUE),
    Row("cuGraphNodeGetDependencies", "NULL", lambda e: (e.node, 0, 0), VALUE),
    Row("cuGraphNodeGetDependentNodes", "NULL node", lambda e: (0, 0, u64()), VALUE),
    Row("cuGraphKernelNodeGetParams_v2", "NULL", lambda e: (e.node, 0), VALUE),
    Row("cuGraphKernelNodeGetParams_v2", "kind", lambda e: (e.empty, image(bytes(72))), VALUE),
    Row("cuGraphMemsetNodeGetParams", "kind", lambda e: (e.node, image(bytes(72))), VALUE),
    Row("cuGraphAddNode_v2", "NULL", lambda e: (u64(), e.graph, 0, 0, 0, 0), VALUE),
    Row("cuGraphAddNode_v2", "type 99",
        lambda e: (u64(), e.graph, 0, 0, 0, image(b"\x63" + bytes(255))), VALUE),
    Row("cuGraphAddNode_v2", "reserved",
        lambda e: (u64(), e.graph, 0, 0, 0, image(b"\x05" + bytes(3) + b"\1" * 252)), VALUE),
    Row("cuGraphNodeSetParams", "NULL", lambda e: (e.node, 0), VALUE),
    Row("cuGraphExecNodeSetParams", "NULL", lambda e: (e.exec, e.node, 0), VALUE),
    Row("cuGraphExecKernelNodeSetParams_v2", "kind",
        lambda e: (e.exec, e.empty, kernel_node(e)), VALUE),
    Row("cuGraphExecKernelNodeSetParams_v2", "another graph's",
        lambda e: (e.exec, e.stranger_kernel, kernel_node(e)), VALUE),
    Row("cuDeviceGetGraphMemAttribute", "attribute 4", lambda e: (0, 4, u64()), VALUE),
    Row("cuDeviceGetGraphMemAttribute", "used", lambda e: (0, 0, u64()), OK),
    Row("cuDeviceSetGraphMemAttribute", "used", lambda e: (0, 0, u64()), VALUE),
    Row("cuDeviceSetGraphMemAttribute", "high watermark", lambda e: (0, 1, u64()), OK),
    Row("cuDeviceGraphMemTrim", "device 7", lambda e: (7,), DEVICE),
    Row("cuGraphClone", "NULL", lambda e: (0, e.graph), VALUE),
    Row("cuGraphClone", "NULL graph", lambda e: (u64(), 0), VALUE),
    Row("cuGraphNodeFindInClone", "no clone", lambda e: (u64(), e.node, e.graph), VALUE),
    Row("cuGraphDestroyNode", "NULL", lambda e: (0,), VALUE),
    Row("cuGraphAddDependencies", "there already",
        lambda e: (e.graph, nodes(e.node), nodes(e.empty), 1), VALUE),
    Row("cuGraphAddDependencies", "on itself",
        lambda e: (e.graph, nodes(e.node), nodes(e.node), 1), VALUE),
    Row("cuGraphAddDependencies", "another graph's",
        lambda e: (e.graph, nodes(e.stranger), nodes(e.node), 1), VALUE),
    Row("cuGraphAddDependencies", "NULL", lambda e: (e.graph, 0, 0, 1), VALUE),
    Row("cuGraphAddDependencies", "none", lambda e: (e.graph, 0, 0, 0), OK),
    Row("cuGraphRemoveDependencies", "not there",
        lambda e: (e.graph, nodes(e.empty), nodes(e.node), 1), VALUE),
    Row("cuGraphAddHostNode", "NULL", lambda e: (u64(), e.graph, 0, 0, 0), VALUE),
    Row("cuGraphAddHostNode", "no function",
        lambda e: (u64(), e.graph, 0, 0, image(bytes(16))), VALUE),
    Row("cuGraphAddChildGraphNode", "NULL", lambda e: (u64(), e.graph, 0, 0, 0), VALUE),
    Row("cuGraphAddEventRecordNode", "no event", lambda e: (u64(), e.graph, 0, 0, BAD), HANDLE),
    Row("cuGraphAddEventWaitNode", "no event", lambda e: (u64(), e.graph, 0, 0, BAD), HANDLE),
    Row("cuGraphAddMemcpyNode", "no bytes",
        lambda e: (u64(), e.graph, 0, 0, image(bytes(200)), e.ctx), VALUE),
    Row("cuGraphNodeGetParams", "NULL", lambda e: (e.node, 0), VALUE),
    Row("cuGraphNodeGetContainingGraph", "NULL", lambda e: (e.node, 0), VALUE),
    Row("cuGraphGetId", "NULL", lambda e: (e.graph, 0), VALUE),
    Row("cuGraphKernelNodeGetAttribute", "kind", lambda e: (e.empty, 2, image(bytes(64))), VALUE),
    Row("cuGraphKernelNodeSetAttribute", "NULL", lambda e: (e.node, 2, 0), VALUE),
    Row("cuGraphKernelNodeSetAttribute", "attribute 99",
        lambda e: (e.node, 99, image(bytes(64))), VALUE),
    Row("cuGraphNodeSetEnabled", "kind", lambda e: (e.exec, e.empty, 0), VALUE),
    Row("cuGraphNodeSetEnabled", "another graph's",
        lambda e: (e.exec, e.stranger_kernel, 0), VALUE),
    Row("cuGraphNodeGetEnabled", "NULL", lambda e: (e.exec, e.node, 0), VALUE),
    Row("cuGraphExecUpdate_v2", "NULL", lambda e: (e.exec, e.graph, 0), VALUE),
    Row("cuGraphExecUpdate_v2", "no graph", lambda e: (BAD, e.graph, image(bytes(24))), HANDLE),
    Row("cuGraphDebugDotPrint", "NULL", lambda e: (e.graph, 0, 0), VALUE),
    Row("cuGraphDebugDotPrint", "no folder",
        lambda e: (e.graph, image(b"/no/folder/g.dot"), 0), SYSTEM),
    Row("cuUserObjectCreate", "NULL", lambda e: (0, 0, 1, 1, 1), VALUE),
    Row("cuUserObjectCreate", "flags", lambda e: (u64(), 0, 1, 1, 0), VALUE),
    Row("cuUserObjectRetain", "no object", lambda e: (BAD, 1), VALUE),
    Row("cuGraphRetainUserObject", "no object", lambda e: (e.graph, BAD, 1, 0), VALUE),
    Row("cuGraphExecGetFlags", "NULL", lambda e: (e.exec, 0), VALUE),
    Row("cuArrayCreate_v2", "empty", lambda e: (u64(), image(bytes(64))), VALUE),
    Row("cuTexObjectCreate", "nothing", lambda e: (u64(), 0, 0, 0), VALUE),
    Row("cuSurfObjectDestroy", "none", lambda e: (4242,), VALUE),
    Row("cuSurfObjectCreate", "linear", lambda e: (u64(), image(b"\x02" + bytes(143))), VALUE),
    Row("cuTexObjectDestroy", "none", lambda e: (4242,), VALUE),
    Row("cuArrayDestroy", "none", lambda e: (4242,), HANDLE),
    Row("cuMemRelease", "none", lambda e: (4242,), VALUE),
    Row("cuMemUnmap", "allocated", lambda e: (e.memory, 64), VALUE),
    Row("cuMemRetainAllocationHandle", "allocated",
        lambda e: (u64(), ctypes.c_void_p(e.memory)), VALUE),
    Row("cuMemcpy2D_v2", "no array", lambda e: (copy2d(3, pointers=(0, e.memory)),), HANDLE),
]  # fmt: skip

SOFT = [
    Row("cuMemAllocManaged", "any", lambda e: (u64(), 4, 1), UNSUPPORTED),
    Row("cuIpcGetMemHandle", "any", lambda e: (image(bytes(64)), e.memory), UNSUPPORTED),
    Row("cuEventCreate", "shared", lambda e: (u64(), 6), UNSUPPORTED),
    Row("cuMemPoolCreate", "shared", lambda e: (u64(), pool_props(handles=1)), UNSUPPORTED),
    Row("cuLaunchKernelEx", "cluster of two",
        lambda e: (config(e, cluster(2, 1, 1)), e.fn, e.args, 0), UNSUPPORTED),
    Row("cuLaunchKernelEx", "event",
        lambda e: (config(e, (7, bytes(64))), e.fn, e.args, 0), UNSUPPORTED),
    Row("cuGraphAddNode_v2", "an allocation",
        lambda e: (u64(), e.graph, 0, 0, 0, image(b"\x0a" + bytes(255))), UNSUPPORTED),
    Row("cuGraphAddNode_v2", "a moved graph",
        lambda e: (u64(), e.graph, 0, 0, 0, child_node(e.graph, 1)), UNSUPPORTED),
    Row("cuGraphInstantiateWithFlags", "device", lambda e: (u64(), e.graph, 4), UNSUPPORTED),
]  # fmt: skip

STARTED = [
    *START, *DEVICES, *CONTEXTS, *IMAGES, *FUNCTIONS, *MEMORY_CALLS, *STREAMS, *GRAPHS, *SOFT,
]  # fmt: skip


def identity(row):
    """A row's name in a report."""
    return f"{row.name}: {row.what}"
