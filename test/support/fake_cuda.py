"""A recording stand-in for `cuda.bindings.driver`, without a GPU.

It has the functions that the device `gpu` calls, with the bindings' parameters. Each call is
noted, its arguments are checked against the C prototype in the project's own table, and handles
against what is alive. Memory is simple bytes, work runs late (`fake_cuda_queue`), kernels are
Python functions that a test gives by name. Errors are put in with `fail` and `break_context`.
"""

# ruff: noqa: N802, N803 the bindings' names

import ctypes

from support.fake_cuda_check import (
    BLOCKS,
    ELSEWHERE,
    GRANULE,
    ILLEGAL,
    MEMORY,
    OK,
    VARIABLES,
    checked,
)
from support.fake_cuda_execution import ExecutionCalls
from support.fake_cuda_graphs import GraphCalls
from support.fake_cuda_memory import FakeMemory, FaultError
from support.fake_cuda_queue import FakeQueue
from support.fake_cuda_types import ENUMS, HANDLES, STRUCTS


class FakeCuda(ExecutionCalls, GraphCalls):
    """The stand-in; an instance is used as the module.

    Args:
        virtual_memory: Whether addresses can be reserved.
        memory_bytes: Of the GPU.
        version: As cuDriverGetVersion.

    Attributes:
        calls: (name, arguments) of every call.
        kernels: Kernel name -> function(memory, argument bytes, grid, block).
        variables: Module variable name -> bytes.
        aliases: Further name of a variable -> (its name, offset, bytes).
        taken: Bases that cannot be reserved.
        launched: (kernel name, grid, block, shared bytes, argument bytes), when it runs.
        broken: CUresult that everything gets, 0 while the context is sound.
        slow: Streams whose work never ends.
        asked: Work that was asked for once; the second question finds it done.
        nameless: What a CUresult without a name raises: KeyError in cuda-bindings 12.9.0 to
            13.0.3, ValueError in those before and after.
    """

    def __init__(self, *, virtual_memory=True, memory_bytes=8 << 30, version=12080):
        for name, kind in (HANDLES | ENUMS | STRUCTS).items():
            setattr(self, name, kind)
        self.calls, self.launched = [], []
        self.kernels, self.variables, self.aliases = {}, {}, {}
        self.taken = set()
        self.broken = 0
        self.contexts = 0
        self.slow = set()
        self.asked = set()
        self.nameless = ValueError
        self.memory = FakeMemory()
        self.queue = FakeQueue()
        self._virtual, self._bytes, self._version = virtual_memory, memory_bytes, version
        self._results = frozenset(map(int, ENUMS["CUresult"]))
        self._alive = {}
        self._next = 0x1000
        self._next_block, self._next_variable = BLOCKS, VARIABLES
        self._failures = {}
        self._reserved = {}
        self._blocks, self._handles, self._mapped = set(), {}, {}
        self._pinned = {}
        self._milliseconds = 0.0

    # what tests say and ask

    def fail(self, name, code, after=0):
        """Let a later call of a function, the first or that after some, give a CUresult."""
        self._failures.setdefault(name, []).append([after, code])

    def break_context(self, code=ILLEGAL):
        """Everything gets this CUresult from now on."""
        self.broken = code

    def count(self, name):
        """How often a function was called."""
        return sum(called == name for called, _ in self.calls)

    def names(self):
        return [name for name, _ in self.calls]

    def alive(self):
        """What exists, by type; empty when everything was given back."""
        out = {}
        for handle in self._alive:
            kind = type(handle).__name__
            out[kind] = out.get(kind, 0) + 1
        rest = {
            "contexts": self.contexts, "reservations": len(self._reserved),
            "mappings": len(self._mapped), "blocks": len(self._blocks),
            "pinned": len(self._pinned), "physical": len(self._handles),
        }  # fmt: skip
        return out | {name: count for name, count in rest.items() if count}

    # the machinery

    def _injected(self, name):
        waiting = self._failures.get(name)
        if waiting:
            waiting[0][0] -= 1
            if waiting[0][0] < 0:
                return waiting.pop(0)[1]
        return None

    def _result(self, code):
        code = code or self.broken
        if code not in self._results:
            raise self.nameless(
                code if self.nameless is KeyError else f"{code} is not a valid CUresult"
            )
        return ENUMS["CUresult"](code)

    def _check_alive(self, name, value):
        for item in value if isinstance(value, list) else (value,):
            kind = type(item).__name__
            if kind not in HANDLES or kind in ("CUdeviceptr", "CUdevice", "CUcontext"):
                continue
            if kind == "CUstream" and int(item) in (0, 1, 2):
                continue
            assert item in self._alive, f"{name} got {item}, which is not alive"

    def _new(self, kind, about=None):
        self._next += 16
        made = HANDLES[kind](self._next)
        self._alive[made] = about
        return made

    def _submit(self, stream, run):
        return self.queue.submit(int(stream), self._contained(run))

    def _contained(self, run):
        def contained():
            if run is not None and not self.broken:
                try:
                    run()
                except FaultError:
                    self.broken = ILLEGAL

        return contained

    # start, devices, context

    @checked
    def cuInit(self, Flags):
        return OK

    @checked
    def cuDriverGetVersion(self):
        return OK, self._version

    @checked
    def cuGetErrorName(self, error):
        return OK, error.name.encode()

    @checked
    def cuGetErrorString(self, error):
        return OK, b"text of " + error.name.encode()

    @checked
    def cuDeviceGetCount(self):
        return OK, 1

    @checked
    def cuDeviceGet(self, ordinal):
        return OK, self.CUdevice(ordinal)

    @checked
    def cuDeviceGetName(self, length, dev):
        return OK, b"Fake GPU\0" + bytes(length - 9)

    @checked
    def cuDeviceGetUuid(self, dev):
        uuid = self.CUuuid()
        uuid.bytes = bytes(range(16))
        return OK, uuid

    @checked
    def cuDeviceGetAttribute(self, attrib, dev):
        known = {1: 1024, 10: 32, 16: 20, 75: 9, 76: 0, 83: 1, 102: int(self._virtual), 115: 1}
        return OK, known[int(attrib)]

    @checked
    def cuDevicePrimaryCtxRetain(self, dev):
        self.contexts += 1
        return OK, self.CUcontext(0xC0)

    @checked
    def cuDevicePrimaryCtxRelease(self, dev):
        self.contexts -= 1
        return OK

    @checked
    def cuCtxSetCurrent(self, ctx):
        return OK

    @checked
    def cuCtxSynchronize(self):
        self.queue.finish_all()
        return OK

    @checked
    def cuMemGetInfo(self):
        return OK, self._bytes - self.memory.total(), self._bytes

    # memory

    @checked
    def cuMemGetAllocationGranularity(self, prop, option):
        assert (prop.type, prop.location.type, prop.location.id) == (1, 1, 0)
        return OK, GRANULE

    @checked
    def cuMemAddressReserve(self, size, alignment, addr, flags):
        assert size % GRANULE == 0
        assert int(addr) % GRANULE == 0
        base = int(addr)
        if not base or base in self.taken:
            base = ELSEWHERE
        self._reserved[base] = size
        return OK, self.CUdeviceptr(base)

    @checked
    def cuMemAddressFree(self, ptr, size):
        assert self._reserved.pop(int(ptr)) == size
        inside = [start for start in self._mapped if int(ptr) <= start < int(ptr) + size]
        assert not inside, "addresses freed while memory is mapped there"
        return OK

    def _physical_bytes(self):
        whole = [*self._handles.values(), *(data for _, data, _ in self._mapped.values())]
        seen = sum(size for size, _, flags in self._mapped.values() if flags)
        return sum({id(data): len(data) for data in whole}.values()) - seen

    @checked
    def cuMemCreate(self, size, prop, flags):
        assert size % GRANULE == 0
        if self.memory.total() + self._physical_bytes() + size > self._bytes:
            return MEMORY, None
        handle = self._new("CUmemGenericAllocationHandle")
        self._handles[handle] = bytearray(b"\xee") * size
        return OK, handle

    @checked
    def cuMemRelease(self, handle):
        del self._handles[handle], self._alive[handle]
        return OK

    @checked
    def cuMemMap(self, ptr, size, offset, handle, flags):
        start = int(ptr)
        assert offset == 0
        assert any(b <= start and start + size <= b + s for b, s in self._reserved.items())
        assert all(
            start + size <= at or at + held[0] <= start for at, held in self._mapped.items()
        ), "mapped over a mapping"
        data = self._handles[handle]
        assert len(data) == size
        self._mapped[start] = (size, data, 0)  # not readable before cuMemSetAccess
        return OK

    @checked
    def cuMemSetAccess(self, ptr, size, desc, count):
        assert count == len(desc) == 1
        assert (desc[0].location.type, desc[0].location.id) == (1, 0)
        at = int(ptr)
        while at < int(ptr) + size:
            held, data, before = self._mapped[at]
            if before:
                self.memory.remove(at)
            if desc[0].flags:
                self.memory.add(at, data)
            self._mapped[at] = (held, data, int(desc[0].flags))
            at += held
        assert at == int(ptr) + size
        return OK

    @checked
    def cuMemUnmap(self, ptr, size):
        held, _, flags = self._mapped.pop(int(ptr))
        assert held == size, "unmapped in part"
        assert self.queue.idle or self.broken, "unmapped while the GPU may use it"
        if flags:
            self.memory.remove(int(ptr))
        return OK

    @checked
    def cuMemAlloc(self, bytesize):
        if self.memory.total() + bytesize > self._bytes:
            return MEMORY, None
        start = self._next_block + 512
        self._next_block = start + bytesize
        self.memory.add(start, bytearray(b"\xee") * bytesize)
        self._blocks.add(start)
        return OK, self.CUdeviceptr(start)

    @checked
    def cuMemFree(self, dptr):
        self.queue.finish_all()  # as CUDA does
        self._blocks.remove(int(dptr))
        self.memory.remove(int(dptr))
        return OK

    @checked
    def cuMemHostAlloc(self, bytesize, Flags):
        buffer = ctypes.create_string_buffer(bytesize)
        self._pinned[ctypes.addressof(buffer)] = buffer
        return OK, ctypes.addressof(buffer)

    @checked
    def cuMemFreeHost(self, p):
        del self._pinned[p]
        return OK

    @checked
    def cuMemcpyHtoDAsync(self, dstDevice, srcHost, ByteCount, hStream):
        self._check_pinned(srcHost, ByteCount)
        self._submit(
            hStream,
            lambda: self.memory.write(int(dstDevice), ctypes.string_at(srcHost, ByteCount)),
        )
        return OK

    @checked
    def cuMemcpyDtoHAsync(self, dstHost, srcDevice, ByteCount, hStream):
        self._check_pinned(dstHost, ByteCount)
        self._submit(
            hStream,
            lambda: ctypes.memmove(
                dstHost, self.memory.read(int(srcDevice), ByteCount), ByteCount
            ),
        )
        return OK

    @checked
    def cuMemcpyDtoDAsync(self, dstDevice, srcDevice, ByteCount, hStream):
        self._submit(hStream, lambda: self._copy(int(dstDevice), int(srcDevice), ByteCount))
        return OK

    @checked
    def cuMemsetD8Async(self, dstDevice, uc, N, hStream):
        return self._fill(hStream, dstDevice, 0, uc, 1, N, 1)

    @checked
    def cuMemsetD16Async(self, dstDevice, us, N, hStream):
        return self._fill(hStream, dstDevice, 0, us, 2, N, 1)

    @checked
    def cuMemsetD32Async(self, dstDevice, ui, N, hStream):
        return self._fill(hStream, dstDevice, 0, ui, 4, N, 1)

    @checked
    def cuMemsetD2D8Async(self, dstDevice, dstPitch, uc, Width, Height, hStream):
        return self._fill(hStream, dstDevice, dstPitch, uc, 1, Width, Height)

    @checked
    def cuMemsetD2D16Async(self, dstDevice, dstPitch, us, Width, Height, hStream):
        return self._fill(hStream, dstDevice, dstPitch, us, 2, Width, Height)

    @checked
    def cuMemsetD2D32Async(self, dstDevice, dstPitch, ui, Width, Height, hStream):
        return self._fill(hStream, dstDevice, dstPitch, ui, 4, Width, Height)

    def _check_pinned(self, address, size):
        assert any(
            start <= address and address + size <= start + len(buffer)
            for start, buffer in self._pinned.items()
        ), "copy from or to memory that is not pinned"

    def _copy(self, dst, src, size):
        self.memory.write(dst, self.memory.read(src, size))

    def _fill(self, stream, dst, pitch, value, width, count, rows):
        row = int(value).to_bytes(width, "little") * count

        def run():
            for number in range(rows):
                self.memory.write(int(dst) + number * pitch, row)

        self._submit(stream, run)
        return OK
