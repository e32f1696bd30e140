"""Random driver calls with hostile arguments: `shim_fuzz.py fuzz SEED COUNT`.

Handles are of other kinds, freed, or no handles; sizes, counts and attributes are impossible;
pointers for results may be null. What no library could survive is left out: host memory that is
smaller than the size that is passed with it, and arrays that are shorter than their counts.
"""

import collections
import ctypes
import json
import os
import random
import struct
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import LIB, PTX, call

PROTOTYPES = (
    Path(__file__).resolve().parents[3] / "rrto_ros" / "api" / "_generated" / "prototypes.json"
)
HANDLES = {
    "CUstream", "CUevent", "CUcontext", "CUmodule", "CUfunction", "CUkernel", "CUlibrary",
    "CUgraph", "CUgraphNode", "CUgraphExec", "CUarray", "CUmemoryPool", "CUlinkState",
    "CUtexObject", "CUsurfObject", "CUuserObject", "CUmemGenericAllocationHandle", "CUgreenCtx",
    "CUdevice", "CUdeviceptr",
}  # fmt: skip
NUMBERS = {
    "size_t", "unsigned int", "int", "unsigned long long", "cuuint64_t", "cuuint32_t", "unsigned",
    "unsigned char", "unsigned short",
}  # fmt: skip
SAFE_STRUCTS = {
    "CUDA_ARRAY_DESCRIPTOR", "CUDA_ARRAY3D_DESCRIPTOR", "CUDA_RESOURCE_DESC", "CUDA_TEXTURE_DESC",
    "CUDA_RESOURCE_VIEW_DESC", "CUDA_MEMSET_NODE_PARAMS", "CUmemLocation", "CUmemAllocationProp",
    "CUmemAccessDesc", "CUmemPoolProps", "CUgraphEdgeData", "CUuuid", "CUstreamAttrValue",
    "CUkernelNodeAttrValue", "CUDA_GRAPH_INSTANTIATE_PARAMS", "CUgraphNode",
}  # fmt: skip
"""Without pointers into host memory."""
LEFT_OUT = ("WaitValue", "BatchMemOp")
"""They wait for what nobody writes."""
CUDA_INVALID_CONTEXT = 201
UNIFIED = ("cuMemcpy_", "cuMemcpyAsync")
BUFFER_BYTES = 1 << 16
TRACE = os.environ.get("FUZZ_TRACE")
HOSTILE = (0, 1, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 8, (1 << 64) - 1)  # fmt: skip
REFILLS = (("CUdeviceptr", "cuMemAlloc_v2", 4096), ("CUstream", "cuStreamCreate", 0),
           ("CUevent", "cuEventCreate", 0), ("CUgraph", "cuGraphCreate", 0))  # fmt: skip
ROWS = {"CUDA_MEMCPY2D": ((2, 3, 4, 5, 6), (9, 10, 11, 12, 13)),
        "CUDA_MEMCPY3D": ((4, 5, 6, 7, 9), (14, 15, 16, 17, 19))}  # fmt: skip
"""Memory type, host, device, array and pitch of source and destination, in words."""
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Fuzz:
    """Makes the calls of one seed."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.known = collections.defaultdict(list)
        self.kept = []
        self.results = collections.Counter()
        self.function = HOST_FUNCTION(lambda _: None)
        self.callback = CALLBACK(lambda *_: None)
        self.image = ctypes.create_string_buffer(PTX)
        prototypes = json.loads(PROTOTYPES.read_text())["exports"]
        supported = json.loads(sys.argv[4]) if len(sys.argv) > 4 else sorted(prototypes)
        self.calls = [
            (name, prototypes[name]) for name in supported
            if name in prototypes and not any(word in name for word in LEFT_OUT)
        ]  # fmt: skip

    def run(self, count):
        for name in ("cuInit", "cuCtxCreate_v2", "cuModuleLoadData"):
            self.one(name)
        for _ in range(count):
            name, parameters = self.rng.choice(self.calls)
            self.one(name, parameters)
            if self.rng.random() < 0.02 or not self.known["CUdeviceptr"]:
                self.refill()

    def refill(self):
        """Something to work with, since most calls fail."""
        value = ctypes.c_uint64()
        if call("cuStreamQuery", 0) == CUDA_INVALID_CONTEXT:
            self.one("cuCtxCreate_v2")
        for kind, name, size in REFILLS:
            if not call(name, ctypes.byref(value), size):
                self.known[kind].append(value.value)
        for module in self.known["CUmodule"][-2:]:
            if not call("cuModuleGetFunction", ctypes.byref(value), module, b"scale"):
                self.known["CUfunction"].append(value.value)

    def one(self, name, parameters=None):
        if parameters is None:
            value = ctypes.c_uint64()
            if name == "cuInit":
                assert call(name, 0) == 0
            elif name == "cuCtxCreate_v2":
                call(name, ctypes.byref(value), 0, 0)
                self.known["CUcontext"].append(value.value)
            else:
                assert call(name, ctypes.byref(value), self.image) == 0
                self.known["CUmodule"].append(value.value)
            return
        reads_host = any("*" in kind and kind.startswith("const") for kind, _ in parameters)
        reads_host |= any(kind in ("void*", "void**", "char*") for kind, _ in parameters)
        arrays = any("*" in kind for kind, _ in parameters[1:])
        unified = name == "cuMemcpy" or name.startswith(UNIFIED)
        words, outs = [], []
        for kind, what in parameters:
            if unified and kind == "CUdeviceptr":
                words.append(ctypes.c_uint64(self.address()))
            else:
                words.append(self.word(kind, what, outs, unified or reads_host or arrays))
        if TRACE:
            print(name, words, file=sys.stderr, flush=True)
        result = getattr(LIB, name)(*words)
        self.results[result] += 1
        if result == 0:
            for kind, buffer in outs:
                value = struct.unpack_from("<Q", buffer)[0]
                if kind in HANDLES and len(self.known[kind]) < 200:
                    self.known[kind].append(value)
        if len(self.kept) > 4000:
            # Copies may still be queued into the newest.
            del self.kept[:2000]

    def word(self, kind, what, outs, bounded):
        rng = self.rng
        base = kind.removeprefix("const ").rstrip("*")
        if kind in HANDLES:
            return ctypes.c_uint64(self.handle(kind))
        if kind in NUMBERS:
            return ctypes.c_uint64(self.number(what, bounded))
        if kind == "CUhostFn":
            return self.function if rng.random() < 0.9 else ctypes.c_void_p()
        if kind == "CUstreamCallback":
            return self.callback if rng.random() < 0.9 else ctypes.c_void_p()
        if kind == "CUoccupancyB2DSize":
            return ctypes.c_void_p()
        if "*" not in kind:
            return ctypes.c_uint64(rng.choice((0, 1, 2, 3, 5, 8, 99, 0xFFFFFFFF)))
        if rng.random() < 0.06:
            return ctypes.c_void_p()
        if kind == "const char*":
            names = (
                b"scale",
                b"limited",
                b"",
                b"x" * 5000,
                b"\xff\xfe",
                b"cuMemAlloc",
                b"../../x",
            )
            text = ctypes.create_string_buffer(rng.choice(names))
            self.kept.append(text)
            return text
        if base == "void" and (
            "image" in what.lower() or "code" in what.lower() or what == "data"
        ):
            return self.image
        buffer = ctypes.create_string_buffer(BUFFER_BYTES)
        self.kept.append(buffer)
        if kind == "void**" and what == "kernelParams":
            address = ctypes.addressof(buffer)
            struct.pack_into("<32Q", buffer, 0, *[address + 1024 + 64 * k for k in range(32)])
            for k in range(32):
                struct.pack_into("<Q", buffer, 1024 + 64 * k, self.handle("CUdeviceptr"))
        elif kind == "void**" and what == "extra":
            return ctypes.c_void_p()
        elif base == "CUDA_MEMCPY2D" or base == "CUDA_MEMCPY3D":
            self.copy(buffer, base)
        elif base in SAFE_STRUCTS:
            for at in range(0, 256, 4):
                if rng.random() < 0.3:
                    struct.pack_into(
                        "<I", buffer, at, rng.choice((1, 2, 3, 4, 16, 64, 0xFFFFFFFF))
                    )
            if rng.random() < 0.5:
                value = self.handle(rng.choice(("CUarray", "CUdeviceptr")))
                struct.pack_into("<Q", buffer, 8 * rng.randrange(4), value)
        elif not kind.startswith("const") and kind.endswith("*"):
            outs.append((base, buffer))
        return buffer

    def handle(self, kind):
        rng = self.rng
        draw = rng.random()
        if draw < 0.75 and self.known[kind]:
            value = rng.choice(self.known[kind])
            if kind == "CUdeviceptr" and rng.random() < 0.3:
                value += rng.choice((1, 4, 100, 4095, 4096, 1 << 20))
            return value & ((1 << 64) - 1)
        if draw < 0.85:
            others = [values for values in self.known.values() if values]
            return rng.choice(rng.choice(others)) if others else 0
        return rng.choice(
            (0, 1, 2, 3, rng.getrandbits(8), rng.getrandbits(32), rng.getrandbits(64))
        )

    def address(self):
        """Of the device, or of the host's memory: which it is, is told by the address alone."""
        known = self.known["CUdeviceptr"]
        arena = [value for value in known if value >> 40]
        if arena and self.rng.random() < 0.7:
            return self.rng.choice(arena) + self.rng.choice((0, 0, 4, 4095, 4096, 1 << 20))
        buffer = ctypes.create_string_buffer(BUFFER_BYTES)
        self.kept.append(buffer)
        return ctypes.addressof(buffer)

    def number(self, what, bounded):
        rng = self.rng
        if not bounded and rng.random() < 0.5:
            return rng.choice(HOSTILE)
        return rng.choice((0, 0, 1, 1, 2, 3, 4, 8, 16, 31, 32))

    def copy(self, buffer, base):
        """A description of a copy of rows whose host memory is there."""
        rng, host = self.rng, ctypes.create_string_buffer(1 << 18)
        self.kept.append(host)
        address = ctypes.addressof(host)
        words = [rng.choice((0, 0, 1, 2, 16, 64)) for _ in range(32)]
        end = 25 if base == "CUDA_MEMCPY3D" else 16
        struct.pack_into(f"<{end}Q", buffer, 0, *words[:end])
        for kind, host_at, device, array, pitch in ROWS[base]:
            where = rng.choice((1, 2, 2, 3, 4, 99))
            at = self.address() if where == 4 else self.handle("CUdeviceptr")
            struct.pack_into("<Q", buffer, 8 * kind, where)
            struct.pack_into("<Q", buffer, 8 * host_at, address)
            struct.pack_into("<Q", buffer, 8 * device, at)
            struct.pack_into("<Q", buffer, 8 * array, self.handle("CUarray"))
            struct.pack_into("<Q", buffer, 8 * pitch, rng.choice((0, 64, 128, 256)))


def fuzz():
    made = Fuzz(int(sys.argv[2]))
    # Some calls write files, by whatever names.
    with tempfile.TemporaryDirectory() as folder:
        below = Path(folder) / "a" / "b"
        below.mkdir(parents=True)
        os.chdir(below)
        made.run(int(sys.argv[3]))
        os.chdir("/")
    print(json.dumps({str(key): count for key, count in made.results.items()}))


{"fuzz": fuzz}[sys.argv[1]]()
