"""Programs that map memory themselves: `virtual_memory.py NAME` fails where CUDA would differ."""

import ctypes
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import (
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

GRANULE = 2 << 20
INVALID_VALUE, OUT_OF_MEMORY, INVALID_DEVICE, NOT_SUPPORTED = 1, 2, 101, 801
NONE, READ, READ_WRITE = 0, 1, 3
DEVICE, HOST = 1, 2


def properties(kind=1, handles=0, location=DEVICE, number=0):
    """CUmemAllocationProp."""
    return ctypes.create_string_buffer(struct.pack("<iiiiQ8x", kind, handles, location, number, 0))


def access(flags=READ_WRITE, location=DEVICE, number=0):
    """CUmemAccessDesc."""
    return ctypes.create_string_buffer(struct.pack("<iii", location, number, flags))


def create(size=GRANULE):
    return out("cuMemCreate", size, properties(), 0)


def reserve(size, alignment=0, hint=0):
    return out("cuMemAddressReserve", size, alignment, hint, 0)


def free_bytes():
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ok("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value


def usable(address, size, memory):
    ok("cuMemMap", address, size, 0, memory, 0)
    ok("cuMemSetAccess", address, size, access(), 1)


def grows():
    """A segment that grows piece by piece, as PyTorch's expandable segments do."""
    start()
    before = free_bytes()
    where = reserve(8 * GRANULE)
    offered = ctypes.c_int()
    ok("cuDeviceGetAttribute", ctypes.byref(offered), 102, 0)
    wants(offered.value, 1, "whether the device has virtual memory management")
    wants(where % GRANULE, 0, "alignment of a reservation")
    wants(free_bytes(), before, "free memory after a reservation")
    scale = function(load())
    pieces = []
    for k in range(3):
        pieces.append(create())
        usable(where + k * GRANULE, GRANULE, pieces[-1])
    wants(free_bytes(), before - 3 * GRANULE, "free memory after three pieces")
    # An upload, a launch and a download across the seam of two pieces.
    at = where + GRANULE - 8
    ok("cuMemcpyHtoD_v2", at, floats(1, 2, 3, 4), 16)
    wants(launch(scale, scale_params(at, 3.0, 4)), 0, "a launch across two pieces")
    wants(read(at, 16), floats(3, 6, 9, 12), "what it wrote")
    ok("cuMemsetD8_v2", where + GRANULE - 4, 7, 8)
    wants(read(at, 16), floats(3) + b"\7" * 8 + floats(12), "a fill across two pieces")
    ok("cuMemcpyDtoD_v2", where, at, 16)
    wants(read(where, 16), floats(3) + b"\7" * 8 + floats(12), "a copy across two pieces")
    for address, size in ((where + 3 * GRANULE - 8, 16), (where + 3 * GRANULE, 1)):
        wants(call("cuMemcpyDtoH_v2", ctypes.create_string_buffer(16), address, size),
              INVALID_VALUE, "a copy behind the pieces")  # fmt: skip
    # The middle goes, and another comes.
    ok("cuMemUnmap", where + GRANULE, GRANULE)
    wants(call("cuMemcpyHtoD_v2", at, floats(1, 2, 3, 4), 16), INVALID_VALUE, "a copy over a hole")
    ok("cuMemRelease", pieces[1])
    wants(free_bytes(), before - 2 * GRANULE, "free memory after one was given back")
    fresh = create()
    usable(where + GRANULE, GRANULE, fresh)
    ok("cuMemcpyHtoD_v2", at, floats(5, 6, 7, 8), 16)
    wants(read(at, 16), floats(5, 6, 7, 8), "across a new piece")
    ok("cuMemUnmap", where, 3 * GRANULE)
    for piece in (pieces[0], fresh, pieces[2]):
        ok("cuMemRelease", piece)
    ok("cuMemAddressFree", where, 8 * GRANULE)
    wants(free_bytes(), before, "free memory at the end")
    wants(reserve(8 * GRANULE), where, "the same addresses again")


def keeps():
    """Memory keeps its bytes when it is mapped elsewhere, and is one where it is mapped twice."""
    start()
    first, second = reserve(GRANULE), reserve(2 * GRANULE)
    memory = create()
    usable(first, GRANULE, memory)
    ok("cuMemcpyHtoD_v2", first + 64, floats(1, 2), 8)
    ok("cuMemUnmap", first, GRANULE)
    usable(second, GRANULE, memory)
    wants(read(second + 64, 8), floats(1, 2), "what was written elsewhere")
    usable(second + GRANULE, GRANULE, memory)
    ok("cuMemcpyHtoD_v2", second + GRANULE + 64, floats(3), 4)
    wants(read(second + 64, 8), floats(3, 2), "what was written through another mapping")
    scale = function(load())
    wants(launch(scale, scale_params(second + 64, 2.0, 2)), 0, "a launch")
    wants(read(second + GRANULE + 64, 8), floats(6, 4), "what a kernel wrote to the other")


def lifetimes():
    """Memory that was released lives as long as it is mapped."""
    start()
    before = free_bytes()
    where = reserve(GRANULE)
    memory = create()
    usable(where, GRANULE, memory)
    ok("cuMemcpyHtoD_v2", where, b"here", 4)
    ok("cuMemRelease", memory)
    wants(call("cuMemRelease", memory), INVALID_VALUE, "released twice")
    wants(call("cuMemMap", where, GRANULE, 0, memory, 0), INVALID_VALUE, "mapped when released")
    wants(read(where, 4), b"here", "memory without a handle")
    wants(free_bytes(), before - GRANULE, "free memory while it is mapped")
    again = out("cuMemRetainAllocationHandle", ctypes.c_void_p(where + 100))
    wants(again, memory, "the handle of mapped memory")
    ok("cuMemUnmap", where, GRANULE)
    usable(where, GRANULE, again)
    wants(read(where, 4), b"here", "memory that was retained")
    ok("cuMemRelease", again)
    ok("cuMemUnmap", where, GRANULE)
    wants(free_bytes(), before, "free memory at the end")
    wants(call("cuMemRetainAllocationHandle", ctypes.byref(ctypes.c_uint64()),
               ctypes.c_void_p(where)), INVALID_VALUE, "nothing is mapped")  # fmt: skip


def rights():
    """Mapped memory has no access before it is given, and what is read alone is not written."""
    start()
    where, memory = reserve(2 * GRANULE), create(2 * GRANULE)
    data = ctypes.create_string_buffer(8)
    place = ctypes.create_string_buffer(struct.pack("<ii", DEVICE, 0))

    def flags():
        return out("cuMemGetAccess", place, where)

    ok("cuMemMap", where, 2 * GRANULE, 0, memory, 0)
    wants(flags(), NONE, "the access of a new mapping")
    wants(call("cuMemcpyDtoH_v2", data, where, 8), INVALID_VALUE, "reading without access")
    ok("cuMemSetAccess", where, 2 * GRANULE, access(), 1)
    ok("cuMemcpyHtoD_v2", where, b"whatever", 8)
    ok("cuMemSetAccess", where, 2 * GRANULE, access(READ), 1)
    wants((flags(), read(where, 8)), (READ, b"whatever"), "reading")
    wants(call("cuMemcpyHtoD_v2", where, data, 8), INVALID_VALUE, "a copy to what is only read")
    wants(call("cuMemsetD8_v2", where, 0, 8), INVALID_VALUE, "a fill of what is only read")
    ok("cuMemSetAccess", where, 2 * GRANULE, access(NONE), 1)
    wants(call("cuMemcpyDtoH_v2", data, where, 8), INVALID_VALUE, "reading when it was taken")
    for address, size in ((where, GRANULE), (where + GRANULE, GRANULE), (where, 3 * GRANULE)):
        wants(call("cuMemSetAccess", address, size, access(), 1), INVALID_VALUE, "half a mapping")
        wants(call("cuMemUnmap", address, size), INVALID_VALUE, "half a mapping unmapped")
    wants(call("cuMemSetAccess", where, 2 * GRANULE, access(2), 1), INVALID_VALUE, "flags 2")
    wants(call("cuMemSetAccess", where, 2 * GRANULE, access(number=1), 1), INVALID_DEVICE,
          "another device")  # fmt: skip
    wants(call("cuMemSetAccess", where, 2 * GRANULE, access(location=HOST), 1), NOT_SUPPORTED,
          "access of the host")  # fmt: skip
    wants(call("cuMemFree_v2", where), INVALID_VALUE, "freeing a mapping")
    value = ctypes.c_uint(9)
    ok("cuPointerGetAttribute", ctypes.byref(value), 2, where)
    wants(value.value, 2, "the memory type of a mapping")


def refusals():
    start()
    word = ctypes.c_uint64()
    back = ctypes.byref(word)
    for size, alignment, flags in (
        (0, 0, 0), (GRANULE + 1, 0, 0), (GRANULE, 3, 0), (GRANULE, 0, 1)
    ):  # fmt: skip
        wants(call("cuMemAddressReserve", back, size, alignment, 0, flags), INVALID_VALUE,
              f"a reservation of {size}, {alignment}, {flags}")  # fmt: skip
    wants(call("cuMemAddressReserve", back, 1 << 50, 0, 0, 0), OUT_OF_MEMORY, "too many addresses")
    wants(call("cuMemCreate", back, 1000, properties(), 0), INVALID_VALUE, "a size of 1000")
    wants(call("cuMemCreate", back, GRANULE, properties(), 1), INVALID_VALUE, "flags")
    wants(call("cuMemCreate", back, 1 << 40, properties(), 0), OUT_OF_MEMORY, "a tebibyte")
    wants(call("cuMemCreate", back, GRANULE, properties(kind=7), 0), INVALID_VALUE, "type 7")
    wants(call("cuMemCreate", back, GRANULE, properties(number=1), 0), INVALID_DEVICE, "device 1")
    for asked in (properties(location=HOST), properties(handles=8)):
        wants(call("cuMemCreate", back, GRANULE, asked, 0), NOT_SUPPORTED, "what is not offered")
    for option in (0, 1):
        wants(out("cuMemGetAllocationGranularity", properties(), option), GRANULE, "granularity")
    wants(call("cuMemGetAllocationGranularity", back, properties(), 2), INVALID_VALUE, "option 2")
    where = reserve(4 * GRANULE, alignment=8 * GRANULE)
    wants(where % (8 * GRANULE), 0, "an alignment that was asked for")
    hinted = where - 64 * GRANULE
    wants(reserve(GRANULE, hint=hinted), hinted, "a hint that is free")
    assert reserve(GRANULE, hint=hinted) != hinted, "a hint that is taken"
    memory = out("cuMemCreate", 2 * GRANULE, properties(handles=1), 0)
    told = ctypes.create_string_buffer(32)
    ok("cuMemGetAllocationPropertiesFromHandle", told, memory)
    wants(struct.unpack_from("<iiii", told), (1, 1, 1, 0), "properties")
    wants(call("cuMemExportToShareableHandle", back, memory, 1, 0), NOT_SUPPORTED, "an export")
    wants(call("cuMemImportFromShareableHandle", back, 3, 1), NOT_SUPPORTED, "an import")
    for at, size, offset, handle in (
        (where, 2 * GRANULE, GRANULE, memory), (where + 4096, GRANULE, 0, memory),
        (where, 4 * GRANULE, 0, memory), (where + 3 * GRANULE, 2 * GRANULE, 0, memory),
        (where, GRANULE, 0, memory + 16), (where - 8 * GRANULE, GRANULE, 0, memory),
    ):  # fmt: skip
        wants(call("cuMemMap", at, size, offset, handle, 0), INVALID_VALUE, "a mapping")
    usable(where, 2 * GRANULE, memory)
    wants(call("cuMemMap", where + GRANULE, GRANULE, 0, memory, 0), INVALID_VALUE, "on another")
    wants(call("cuMemAddressFree", where, 4 * GRANULE), INVALID_VALUE, "while it is mapped")
    ok("cuMemUnmap", where, 2 * GRANULE)
    wants(call("cuMemAddressFree", where, GRANULE), INVALID_VALUE, "half a reservation")
    ok("cuMemAddressFree", where, 4 * GRANULE)
    wants(call("cuMemMap", where, GRANULE, 0, memory, 0), INVALID_VALUE, "what is not reserved")
    wants(call("cuMemRelease", memory + 16), INVALID_VALUE, "memory that is none")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
