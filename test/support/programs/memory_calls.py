"""Arrays, textures, batches of copies, memory operations of streams: fails where CUDA differs.

`memory_calls.py NAME` runs one case.
"""

import ctypes
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import call, floats, function, load, ok, out, params, read, start, wants

INVALID_VALUE, INVALID_DEVICE, INVALID_HANDLE, NOT_SUPPORTED = 1, 101, 400, 801
HOST, DEVICE, ARRAY, UNIFIED = 1, 2, 3, 4
UINT8, FLOAT = 0x01, 0x20
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry look(.param .u64 tex, .param .u64 out, .param .f32 x, .param .f32 y)
{
  .reg .b64 %rd<4>; .reg .f32 %f<8>;
  ld.param.u64 %rd1, [tex]; ld.param.u64 %rd2, [out];
  ld.param.f32 %f1, [x]; ld.param.f32 %f2, [y];
  tex.2d.v4.f32.f32 {%f3, %f4, %f5, %f6}, [%rd1, {%f1, %f2}];
  st.global.v4.f32 [%rd2], {%f3, %f4, %f5, %f6};
  ret;
}
"""


def descriptor(width, height, depth=None, form=FLOAT, channels=1, flags=0):
    """CUDA_ARRAY_DESCRIPTOR, or with a depth CUDA_ARRAY3D_DESCRIPTOR."""
    sizes = (width, height) if depth is None else (width, height, depth)
    tail = (form, channels) if depth is None else (form, channels, flags, 0)
    return ctypes.create_string_buffer(struct.pack(f"<{len(sizes)}Q{len(tail)}I", *sizes, *tail))


def array(*sizes, **more):
    name = "cuArrayCreate_v2" if len(sizes) == 2 else "cuArray3DCreate_v2"
    return out(name, descriptor(*sizes, **more))


def side(kind, at, x=0, y=0, pitch=0):
    """One half of CUDA_MEMCPY2D."""
    places = [at if kind == HOST else 0, at if kind in (DEVICE, UNIFIED) else 0,
              at if kind == ARRAY else 0]  # fmt: skip
    return struct.pack("<QQi4xQQQQ", x, y, kind, *places, pitch)


def copy_2d(to, source, width, height):
    whole = ctypes.create_string_buffer(
        side(*source) + side(*to) + struct.pack("<QQ", width, height)
    )
    return call("cuMemcpy2D_v2", whole)


def words(count, start=0):
    return b"".join(struct.pack("<I", start + k) for k in range(count))


def held(data):
    """Host memory with these bytes, and its address."""
    buffer = ctypes.create_string_buffer(data, len(data))
    return buffer, ctypes.addressof(buffer)


def arrays():
    """Copies to, from and between arrays, in rows, planes and bytes."""
    start()
    ten = array(10, 6)
    back = ctypes.create_string_buffer(24)
    ok("cuArrayGetDescriptor_v2", back, ten)
    wants(struct.unpack("<QQII", back.raw), (10, 6, FLOAT, 1), "an array's descriptor")
    source, at = held(words(60))
    wants(copy_2d((ARRAY, ten), (HOST, at, 0, 0, 40), 40, 6), 0, "host to array")
    got, into = held(bytes(240))
    wants(copy_2d((HOST, into, 0, 0, 40), (ARRAY, ten), 40, 6), 0, "array to host")
    wants(got.raw, source.raw, "what came back")
    device = out("cuMemAlloc_v2", 4096)
    wants(
        copy_2d((DEVICE, device, 0, 0, 64), (ARRAY, ten, 8, 2), 16, 3), 0, "a part to the device"
    )
    rows = [read(device + 64 * row, 16) for row in range(3)]
    wants(rows, [words(4, 10 * (row + 2) + 2) for row in range(3)], "the part")
    other = array(10, 6)
    wants(copy_2d((ARRAY, other, 4, 1), (ARRAY, ten, 0, 0), 20, 2), 0, "between arrays")
    wants(copy_2d((HOST, into, 0, 0, 20), (ARRAY, other, 4, 1), 20, 2), 0, "and back")
    wants(got.raw[:40], words(5) + words(5, 10), "what was copied between arrays")
    for x, y, width, height in ((0, 0, 44, 6), (0, 1, 40, 6), (2, 0, 4, 1), (0, 0, 6, 1)):
        wants(copy_2d((ARRAY, ten, x, y), (HOST, at, 0, 0, 44), width, height), INVALID_VALUE,
              f"a copy of {width}x{height} to {x}, {y}")  # fmt: skip
    wants(copy_2d((ARRAY, ten + 1600), (HOST, at), 4, 1), INVALID_HANDLE, "an array that is none")
    line = array(8, 0)
    ok("cuMemcpyHtoA_v2", line, 4, source, 24)
    ok("cuMemcpyAtoH_v2", got, line, 8, 12)
    wants(got.raw[:12], words(3, 1), "a 1D array")
    ok("cuMemcpyAtoD_v2", device, line, 4, 24)
    ok("cuMemcpyDtoA_v2", line, 0, device + 8, 8)
    ok("cuMemcpyAtoA_v2", line, 24, line, 0, 8)
    ok("cuMemcpyAtoHAsync_v2", got, line, 0, 32, 0)
    wants(got.raw[:8] + got.raw[24:32], 2 * words(2, 2), "copies of 1D arrays")
    for offset, size in ((0, 36), (2, 4), (0, 6)):
        wants(call("cuMemcpyHtoA_v2", line, offset, source, size), INVALID_VALUE, "bytes")
    wants(call("cuMemcpyHtoA_v2", ten, 0, source, 4), INVALID_VALUE, "bytes of a 2D array")
    cube = array(4, 3, 2, flags=2)
    ok("cuMemcpy3D_v2", memcpy_3d((ARRAY, cube, 0), (HOST, at, 16, 3), 16, 3, 2))
    ok("cuMemcpy3D_v2", memcpy_3d((HOST, into, 16, 1), (ARRAY, cube, 1), 16, 1, 1))
    wants(got.raw[:16], words(4, 12), "a plane of a 3D array")
    for a in (ten, other, line, cube):
        ok("cuArrayDestroy", a)
    wants(call("cuArrayDestroy", ten), INVALID_HANDLE, "an array destroyed twice")


def memcpy_3d(to, source, width, height, depth):
    """CUDA_MEMCPY3D; an end is (ARRAY, array, plane) or (HOST, address, pitch, plane's rows)."""
    halves = []
    for end in (source, to):
        if end[0] == ARRAY:
            halves.append(struct.pack("<QQQQi4xQQQQQQ", 0, 0, end[2], 0, ARRAY, 0, 0, end[1],
                                      0, 0, 0))  # fmt: skip
        else:
            halves.append(struct.pack("<QQQQi4xQQQQQQ", 0, 0, 0, 0, HOST, end[1], 0, 0, 0,
                                      end[2], end[3]))  # fmt: skip
    tail = struct.pack("<QQQ", width, height, depth)
    return ctypes.create_string_buffer(b"".join(halves) + tail)


def array_refusals():
    start()
    word = ctypes.byref(ctypes.c_uint64())
    for wrong in (descriptor(0, 4), descriptor(1 << 20, 4), descriptor(4, 4, channels=3),
                  descriptor(4, 4, form=7)):  # fmt: skip
        wants(call("cuArrayCreate_v2", word, wrong), INVALID_VALUE, "an array")
    for flags in (1, 4, 0x40):
        wants(call("cuArray3DCreate_v2", word, descriptor(4, 4, 0, flags=flags)), NOT_SUPPORTED,
              f"flags {flags}")  # fmt: skip
    wants(call("cuArrayCreate_v2", word, descriptor(4, 4, form=0xC0)), NOT_SUPPORTED, "a format")
    plain, fit = resource(0, array=array(4, 4)), resource(0, array=array(4, 4, 0, flags=2))
    wants(call("cuSurfObjectCreate", word, plain), INVALID_VALUE, "an array not made for it")
    surface = out("cuSurfObjectCreate", fit)
    told = ctypes.create_string_buffer(144)
    ok("cuSurfObjectGetResourceDesc", told, surface)
    wants(told.raw, fit.raw[:144], "the resource of a surface")
    wants(call("cuTexObjectDestroy", surface), INVALID_VALUE, "a surface is no texture")
    ok("cuSurfObjectDestroy", surface)
    wants(call("cuSurfObjectDestroy", surface), INVALID_VALUE, "a surface destroyed twice")
    wants(call("cuTexRefCreate", word), NOT_SUPPORTED, "a texture reference")


def resource(kind, *, array=0, at=0, form=FLOAT, channels=1, sizes=()):
    """CUDA_RESOURCE_DESC."""
    body = struct.pack("<Q", array) if kind == 0 else struct.pack(
        f"<QII{len(sizes)}Q", at, form, channels, *sizes
    )  # fmt: skip
    return ctypes.create_string_buffer(
        struct.pack("<i4x", kind) + body.ljust(128, b"\0") + bytes(8)
    )


def sampling(mode=1, linear=0, flags=0, border=(0, 0, 0, 0)):
    """CUDA_TEXTURE_DESC."""
    values = (mode, mode, mode, linear, flags, 0, 0, 0, 0, 0, *border)
    return ctypes.create_string_buffer(struct.pack("<4iIIi3f4f48x", *values))


def textures():
    """A kernel reads an array and rows of memory by texture objects."""
    start()
    image = array(4, 2)
    _, at = held(floats(0, 1, 2, 3, 10, 11, 12, 13))
    wants(copy_2d((ARRAY, image), (HOST, at, 0, 0, 16), 16, 2), 0, "the image")
    look, result = function(load(PTX), b"look"), out("cuMemAlloc_v2", 16)

    def looks(texture, x, y):
        values = [struct.pack("<Q", v) for v in (texture, result)] + [floats(x), floats(y)]
        ok("cuLaunchKernel", look, 1, 1, 1, 1, 1, 1, 0, 0, params(*values), 0)
        return struct.unpack("<4f", read(result, 16))[0]

    nearest = out("cuTexObjectCreate", resource(0, array=image), sampling(), 0)
    smooth = out("cuTexObjectCreate", resource(0, array=image), sampling(linear=1), 0)
    wants([looks(nearest, 1.5, 0.5), looks(nearest, 9, 9)], [1, 13], "elements")
    wants([looks(smooth, 1.0, 0.5), looks(smooth, 2, 1)], [0.5, 6.5], "between elements")
    _, at = held(floats(5, 6, 7, 8))
    wants(copy_2d((ARRAY, image, 0, 1), (HOST, at), 16, 1), 0, "another row")
    wants(looks(smooth, 2, 1), (1 + 2 + 6 + 7) / 4, "what the array holds now")
    rows = out("cuMemAlloc_v2", 1024)
    ok("cuMemcpyHtoD_v2", rows + 512, bytes([255, 51]), 2)
    bytes_ = out("cuTexObjectCreate", resource(3, at=rows, form=UINT8, sizes=(2, 2, 512)),
                 sampling(), 0)  # fmt: skip
    wants([looks(bytes_, 0, 1), looks(bytes_, 1, 1)], [1.0, struct.unpack("<f", floats(0.2))[0]],
          "bytes as numbers up to 1")  # fmt: skip
    told = ctypes.create_string_buffer(144)
    ok("cuTexObjectGetResourceDesc", told, bytes_)
    wants(told.raw, resource(3, at=rows, form=UINT8, sizes=(2, 2, 512)).raw[:144], "a resource")
    told = ctypes.create_string_buffer(104)
    ok("cuTexObjectGetTextureDesc", told, smooth)
    wants(told.raw, sampling(linear=1).raw[:104], "how it is read")
    wants(call("cuTexObjectGetResourceViewDesc", told, smooth), INVALID_VALUE, "no view")
    word = ctypes.byref(ctypes.c_uint64())
    for what, how, wanted in (
        (resource(3, at=rows + 4, form=UINT8, sizes=(2, 2, 512)), sampling(), INVALID_VALUE),
        (resource(3, at=rows, form=UINT8, sizes=(2, 2, 500)), sampling(), INVALID_VALUE),
        (resource(3, at=rows, form=UINT8, sizes=(2, 3, 512)), sampling(), INVALID_VALUE),
        (resource(2, at=rows, form=UINT8, sizes=(2048,)), sampling(), INVALID_VALUE),
        (resource(0, array=image + 1600), sampling(), INVALID_HANDLE),
        (resource(3, at=rows, form=UINT8, sizes=(2, 2, 512)), sampling(linear=1, flags=1),
         INVALID_VALUE),
        (resource(0, array=image), sampling(flags=0x10), NOT_SUPPORTED),
        (resource(9), sampling(), INVALID_VALUE),
    ):  # fmt: skip
        wants(call("cuTexObjectCreate", word, what, how, 0), wanted, "a texture")
    cube = out("cuTexObjectCreate", resource(0, array=array(4, 3, 2)), sampling(linear=1), 0)
    line = out("cuTexObjectCreate", resource(0, array=array(4, 0)), sampling(linear=1), 0)
    for texture in (nearest, smooth, bytes_, cube, line):
        ok("cuTexObjectDestroy", texture)
    wants(call("cuTexObjectDestroy", smooth), INVALID_VALUE, "a texture destroyed twice")
    wants(out("cuDeviceGetTexture1DLinearMaxWidth", FLOAT, 1, 0), 1 << 28, "the longest texture")


def attributes(order=1, flags=0):
    """CUmemcpyAttributes."""
    return struct.pack("<i4iI", order, 0, 0, 0, 0, flags)


def batches():
    """Many copies in one call, and what makes a batch wrong."""
    start()
    device = out("cuMemAlloc_v2", 4096)
    source, at = held(words(64))
    got, into = held(bytes(64))
    fail = ctypes.c_size_t(7)

    def batch(name, copies, attrs, indices, *tail):
        columns = [
            (ctypes.c_uint64 * len(copies))(*column) for column in zip(*copies, strict=True)
        ]
        return call(name, *columns, len(copies), ctypes.create_string_buffer(b"".join(attrs)),
                    (ctypes.c_size_t * len(indices))(*indices), len(indices), *tail)  # fmt: skip

    copies = [(device, at, 64), (device + 512, at + 64, 16), (device + 1024, at + 128, 4)]
    wants(batch("cuMemcpyBatchAsync", copies, [attributes(1), attributes(3, 1)], [0, 2],
                ctypes.byref(fail), 0), 0, "uploads")  # fmt: skip
    wants(batch("cuMemcpyBatchAsync_v2", [(device + 2048, device + 512, 16), (into, device, 32)],
                [attributes(2)], [0], 0), 0, "a copy and a download")  # fmt: skip
    ok("cuCtxSynchronize")
    wants(got.raw[:32], words(8), "the download")
    wants(read(device + 2048, 16), words(4, 16), "the copy")
    before = read(device, 64)
    wrong = [(device, into, 16), (device + 4090, at, 16)]
    wants(batch("cuMemcpyBatchAsync", wrong, [attributes()], [0], ctypes.byref(fail), 0),
          INVALID_VALUE, "a copy behind the end")  # fmt: skip
    wants((fail.value, read(device, 64)), (1, before), "which copy failed, and nothing was done")
    good = attributes()
    for attrs, indices in (
        ([attributes(0)], [0]), ([attributes(1, 2)], [0]), ([good], [1]), ([good] * 2, [0, 0]),
        ([good] * 2, [0, 3]),
    ):  # fmt: skip
        wants(batch("cuMemcpyBatchAsync", copies, attrs, indices, ctypes.byref(fail), 0),
              INVALID_VALUE, f"attributes from {indices}")  # fmt: skip
        wants(fail.value, (1 << 64) - 1, "no single copy's error")
    one = ctypes.create_string_buffer(attributes())
    ok("cuMemcpyWithAttributesAsync", device + 3072, at, 8, one, 0)
    wants(read(device + 3072, 8), words(2), "one copy with attributes")
    wants(call("cuMemcpyWithAttributesAsync", device, at, 8, 0, 0), INVALID_VALUE, "none")
    plane = array(4, 4)

    def operation(source_end, to_end, extent, order=1):
        ends = b""
        for kind, *values in (source_end, to_end):
            ends += struct.pack("<i4x4Q", kind, *values)
        return ends + struct.pack("<3QiI", *extent, order, 0)

    pointer, in_array = (1, at, 8, 0, 0), (2, plane, 1, 1, 0)
    two = operation(pointer, in_array, (2, 3, 1))
    two += operation(pointer, (1, device, 4, 0, 0), (4, 2, 1))
    ok("cuMemcpy3DBatchAsync", 2, ctypes.create_string_buffer(two), ctypes.byref(fail), 0, 0)
    back = ctypes.create_string_buffer(operation(in_array, (1, into, 0, 0, 0), (2, 3, 1)))
    ok("cuMemcpy3DWithAttributesAsync", back, 0, 0)
    ok("cuCtxSynchronize")
    wants(got.raw[:24], words(2) + words(2, 8) + words(2, 16), "rows through an array")
    wants(read(device, 8), source.raw[:4] + source.raw[8:12], "bytes as elements")
    for wrong in (operation(pointer, in_array, (2, 0, 1)), operation(pointer, in_array, (4, 1, 1)),
                  operation(pointer, in_array, (2, 3, 1), order=0),
                  operation((1, at, 1, 0, 0), in_array, (2, 3, 1))):  # fmt: skip
        wants(call("cuMemcpy3DBatchAsync_v2", 1, ctypes.create_string_buffer(wrong), 0, 0),
              INVALID_VALUE, "an operation")  # fmt: skip
    sizes = (ctypes.c_size_t * 1)(64)
    where = (ctypes.c_uint64 * 1)(device)
    wants(call("cuMemDiscardBatchAsync", where, sizes, 1, 0, 0), INVALID_VALUE, "not managed")
    wants(call("cuMemPrefetchBatchAsync", where, sizes, 1, 0, 0, 0, 0, 0), INVALID_VALUE, "not it")


def stream_memory():
    """Values that streams write and wait for."""
    start()
    stream = out("cuStreamCreate", 1)
    device = out("cuMemAlloc_v2", 64)
    pinned = out("cuMemHostAlloc", 64, 0)
    ok("cuStreamWriteValue32_v2", stream, device, 0x11223344, 0)
    ok("cuStreamWriteValue64_v2", stream, device + 8, 0x1122334455667788, 1)
    ok("cuStreamWriteValue32", stream, pinned, 77, 0)
    wants(ctypes.c_uint32.from_address(pinned).value, 77, "what was written to the program")
    ok("cuStreamSynchronize", stream)
    wants(read(device, 16), struct.pack("<IIQ", 0x11223344, 0, 0x1122334455667788), "values")
    for value, flags in ((0x11223344, 0), (0x11223344, 1), (0x11, 0), (0x40, 2), (0x1, 3)):
        ok("cuStreamWaitValue32_v2", stream, device, value, flags)
    ok("cuStreamWaitValue64_v2", stream, device + 8, 0x1122334455667788, 1)
    ok("cuStreamWaitValue32_v2", stream, pinned, 77, 1)
    for value, flags in ((0x11223345, 0), (5, 1), (0x8, 2)):
        wants(call("cuStreamWaitValue32_v2", stream, device, value, flags), NOT_SUPPORTED,
              "a value that nothing brought")  # fmt: skip
    wants(call("cuStreamWaitValue32_v2", stream, device, 0, 1 << 30), NOT_SUPPORTED, "a flush")
    wants(call("cuStreamWaitValue32_v2", stream, device, 0, 4), INVALID_VALUE, "flags")
    wants(call("cuStreamWriteValue32_v2", stream, device + 2, 0, 0), INVALID_VALUE, "an address")
    wants(call("cuStreamWriteValue64_v2", stream, device + 4, 0, 0), INVALID_VALUE, "an address")
    wants(call("cuStreamWriteValue32_v2", stream, device + 64, 0, 0), INVALID_VALUE, "an address")

    def value(kind, at, number, flags=0):
        return struct.pack("<i4xQQI4xQ8x", kind, at, number, flags, 0)

    def batch(*operations):
        return call("cuStreamBatchMemOp_v2", stream, len(operations),
                    ctypes.create_string_buffer(b"".join(operations)), 0)  # fmt: skip

    wants(batch(value(2, device + 16, 9), value(5, device + 24, 10), struct.pack("<iI40x", 6, 0),
                value(1, device + 16, 9, 1), value(4, device + 24, 10, 1)),
          0, "a batch")  # fmt: skip
    wants(read(device + 16, 16), struct.pack("<IIQ", 9, 0, 10), "what the batch wrote")
    wants(batch(value(2, device + 16, 1), value(2, device + 17, 1)), INVALID_VALUE, "half wrong")
    wants(read(device + 16, 4), struct.pack("<I", 9), "nothing of a batch that is wrong")
    wants(batch(value(8, device, 1)), NOT_SUPPORTED, "an atomic")
    wants(batch(value(77, device, 1)), INVALID_VALUE, "an operation that is none")


def contexts_events():
    """Events of a whole context."""
    context = start()
    event = out("cuEventCreate", 0)
    stream = out("cuStreamCreate", 1)
    device = out("cuMemAlloc_v2", 64)
    ok("cuMemsetD32Async", device, 3, 16, stream)
    ok("cuCtxRecordEvent", context, event)
    ok("cuEventQuery", event)
    ok("cuCtxWaitEvent", context, event)
    wants(read(device, 4), struct.pack("<I", 3), "what the event came after")
    wants(call("cuCtxRecordEvent", context, event + 16), INVALID_HANDLE, "an event that is none")
    wants(call("cuCtxWaitEvent", context + 16, event), 201, "a context that is none")


def abilities():
    """Questions whose answer is that something is not there."""
    start()
    mask = ctypes.byref(ctypes.c_uint())
    wants(
        call("cuDeviceGetLuid", ctypes.create_string_buffer(8), mask, 0), NOT_SUPPORTED, "a LUID"
    )
    capabilities = (ctypes.c_uint * 2)(9, 9)
    operations = (ctypes.c_int * 2)(0, 12)
    ok("cuDeviceGetHostAtomicCapabilities", capabilities, operations, 2, 0)
    wants(list(capabilities), [0, 0], "atomics on the host's memory")
    wants(call("cuDeviceGetHostAtomicCapabilities", capabilities, (ctypes.c_int * 1)(13), 1, 0),
          INVALID_VALUE, "operation 13")  # fmt: skip
    wants(call("cuDeviceGetP2PAtomicCapabilities", capabilities, operations, 2, 0, 0),
          INVALID_DEVICE, "atomics between one device")  # fmt: skip
    value = ctypes.c_uint64(5)
    for attribute in range(4):
        ok("cuDeviceGetGraphMemAttribute", 0, attribute, ctypes.byref(value))
        wants(value.value, 0, "memory of graphs")
        settable = call("cuDeviceSetGraphMemAttribute", 0, attribute, ctypes.byref(value))
        wants(settable, 0 if attribute in (1, 3) else INVALID_VALUE, "a watermark set back")
    ok("cuDeviceGraphMemTrim", 0)


def pools():
    """Pools have their own accounts, however many there were."""
    start()

    def pool(most=0):
        properties = struct.pack("<iiiiQQ56x", 1, 0, 1, 0, 0, most)
        return out("cuMemPoolCreate", ctypes.create_string_buffer(properties))

    def used(p):
        value = ctypes.c_uint64()
        ok("cuMemPoolGetAttribute", p, 7, ctypes.byref(value))
        return value.value

    kept = pool()
    first = out("cuMemAllocFromPoolAsync", 1024, kept, 0)
    for _ in range(100):
        p = pool()
        at = out("cuMemAllocFromPoolAsync", 512, p, 0)
        wants(used(p), 512, "what was taken from a pool")
        ok("cuMemPoolDestroy", p)
        ok("cuMemFreeAsync", at, 0)
    wants(used(kept), 1024, "what another pool holds")
    ok("cuMemFreeAsync", first, 0)
    wants(used(kept), 0, "what it holds at the end")
    small = pool(most=1 << 20)
    value = ctypes.c_uint64()
    ok("cuMemPoolGetAttribute", small, 13, ctypes.byref(value))
    wants(value.value, 1 << 20, "the largest size of a pool")
    out("cuMemAllocFromPoolAsync", 1 << 19, small, 0)
    wants(call("cuMemAllocFromPoolAsync", ctypes.byref(value), (1 << 19) + 1, small, 0), 2,
          "more than a pool may hold")  # fmt: skip
    for attribute, wanted in ((9, 1), (10, 0), (11, 0), (12, 1), (14, 0)):
        narrow = ctypes.c_int(-1)
        ok("cuMemPoolGetAttribute", small, attribute, ctypes.byref(narrow))
        wants(narrow.value, wanted, f"attribute {attribute} of a pool")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
