"""Modules, launches, streams and events of the stand-in for the driver."""
# ruff: noqa: N802, N803 the bindings' names

import ctypes

from support.fake_cuda_check import (
    GRANULE,
    HANDLE,
    INVALID,
    NOT_FOUND,
    NOT_READY,
    OK,
    checked,
)

from rrto_ros.devices.ptx_scan import scan_ptx
from rrto_ros.errors import PtxError


class ExecutionCalls:
    """A part of `FakeCuda`."""

    # modules and launches

    @checked
    def cuModuleLoadDataEx(self, image, numOptions, options, optionValues):
        assert numOptions == len(options) == len(optionValues)
        if image[:4] == b"\x7fELF":
            return OK, self._new("CUmodule", (scan_ptx(".entry from_elf(.param .u64 a) {}"), {}))
        assert image.endswith(b"\0"), "PTX is not terminated"
        try:
            kernels = scan_ptx(image.rstrip(b"\0").decode())
        except PtxError as error:
            optionValues[0][: len(str(error))] = str(error).encode()
            return 218, None
        return OK, self._new("CUmodule", (kernels, {}))

    @checked
    def cuLinkCreate(self, numOptions, options, optionValues):
        assert numOptions == len(options) == len(optionValues)
        return OK, self._new("CUlinkState", ([], optionValues[0]))

    @checked
    def cuLinkAddData(
        self,
        state,
        type,  # noqa: A002
        data,
        size,
        name,
        numOptions,
        options,
        optionValues,
    ):
        assert len(data) == size
        texts, log = self._alive[state]
        if b".version" not in data:
            log[:3] = b"bad"
            return 218
        texts.append(data.rstrip(b"\0"))
        return OK

    @checked
    def cuLinkComplete(self, state):
        texts, log = self._alive[state]
        if any(b".extern .func" in text for text in texts) and len(texts) == 1:
            log[:19] = b"Undefined reference"
            return 999, None, None
        whole = ctypes.create_string_buffer(b"\n".join(texts))
        self._alive[state][0].append(whole)
        return OK, ctypes.addressof(whole), len(whole)

    @checked
    def cuLinkDestroy(self, state):
        del self._alive[state]
        return OK

    @checked
    def cuModuleUnload(self, hmod):
        # Nothing in CUDA's documentation says that this waits.
        assert self.queue.idle or self.broken, "unloaded while a kernel may run"
        for function in [
            f
            for f, about in self._alive.items()
            if type(f).__name__ == "CUfunction" and about[0] == hmod
        ]:
            del self._alive[function]
        for address in self._alive.pop(hmod)[1].values():
            self.memory.remove(address)
        return OK

    @checked
    def cuModuleGetFunctionCount(self, mod):
        return OK, len(self._alive[mod][0])

    @checked
    def cuModuleEnumerateFunctions(self, numFunctions, mod):
        # In no particular order, as the driver's.
        listed = sorted(self._alive[mod][0], key=lambda kernel: kernel.name[::-1])
        return OK, [self._new("CUfunction", (mod, kernel)) for kernel in listed[:numFunctions]]

    @checked
    def cuModuleGetGlobal(self, hmod, name):
        if name.decode() in self.aliases:
            whole, offset, size = self.aliases[name.decode()]
            _, start, _ = self.cuModuleGetGlobal(hmod, whole.encode())
            return OK, self.CUdeviceptr(int(start) + offset), size
        size = self.variables.get(name.decode())
        if size is None:
            return NOT_FOUND, None, None
        known = self._alive[hmod][1]
        if name not in known:
            known[name] = self._next_variable
            self._next_variable += GRANULE
            self.memory.add(known[name], bytearray(size))
        return OK, self.CUdeviceptr(known[name]), size

    @checked
    def cuFuncGetName(self, hfunc):
        return OK, self._alive[hfunc][1].name.encode()

    @checked
    def cuFuncGetParamInfo(self, func, paramIndex):
        params = self._alive[func][1].params
        return (OK, *params[paramIndex]) if paramIndex < len(params) else (INVALID, 0, 0)

    @checked
    def cuFuncGetAttribute(self, attrib, hfunc):
        return (OK, {0: 1024, 1: 16, 8: 48 << 10}[int(attrib)]) if attrib != 10 else (INVALID, 0)

    @checked
    def cuFuncSetAttribute(self, hfunc, attrib, value):
        return OK

    @checked
    def cuLaunchKernel(
        self,
        f,
        gridDimX,
        gridDimY,
        gridDimZ,
        blockDimX,
        blockDimY,
        blockDimZ,
        sharedMemBytes,
        hStream,
        kernelParams,
        extra,
    ):
        assert kernelParams == 0, "packed arguments only"
        block = (blockDimX, blockDimY, blockDimZ)
        if not 0 < blockDimX * blockDimY * blockDimZ <= 1024:
            return INVALID
        run = self._kernel(f, (gridDimX, gridDimY, gridDimZ), block, sharedMemBytes, extra)
        self._submit(hStream, run)
        return OK

    @checked
    def cuLaunchCooperativeKernel(
        self,
        f,
        gridDimX,
        gridDimY,
        gridDimZ,
        blockDimX,
        blockDimY,
        blockDimZ,
        sharedMemBytes,
        hStream,
        kernelParams,
    ):
        kernel = self._alive[f][1]
        packed = bytearray(kernel.param_bytes)
        pointers = (ctypes.c_void_p * len(kernel.params)).from_address(kernelParams)
        for pointer, (at, size) in zip(pointers, kernel.params, strict=True):
            packed[at : at + size] = ctypes.string_at(pointer, size)
        run = self._running(
            kernel,
            (gridDimX, gridDimY, gridDimZ),
            (blockDimX, blockDimY, blockDimZ),
            sharedMemBytes,
            bytes(packed),
        )
        self._submit(hStream, run)
        return OK

    def _kernel(self, function, grid, block, shared, extra):
        """What a launch does; takes its arguments now, as the driver does."""
        kernel = self._alive[function][1]
        if not extra:
            assert not kernel.params, "a kernel with parameters needs them"
            return self._running(kernel, grid, block, shared, b"")
        words = (ctypes.c_void_p * 5).from_address(extra)
        assert (words[0], words[2], words[4]) == (1, 2, None), "extra is not packed as it should"
        size = ctypes.c_size_t.from_address(words[3]).value
        assert size == kernel.param_bytes
        assert size, "no arguments are no buffer"
        return self._running(kernel, grid, block, shared, ctypes.string_at(words[1], size))

    def _running(self, kernel, grid, block, shared, params):
        def run():
            self.launched.append((kernel.name, grid, block, shared, params))
            effect = self.kernels.get(kernel.name)
            if effect is not None:
                effect(self.memory, params, grid, block)

        return run

    # streams and events

    @checked
    def cuStreamCreateWithPriority(self, flags, priority):
        stream = self._new("CUstream")
        self.queue.add_stream(int(stream), bool(flags & 1))
        return OK, stream

    @checked
    def cuStreamDestroy(self, hStream):
        self.queue.finish_stream(int(hStream))
        self.queue.remove_stream(int(hStream))
        del self._alive[hStream]
        return OK

    @checked
    def cuStreamSynchronize(self, hStream):
        self.queue.finish_stream(int(hStream))
        return OK

    @checked
    def cuStreamQuery(self, hStream):
        waits = self.queue.entry(int(hStream))
        if all(work.done for work in waits):
            return OK
        if int(hStream) not in self.slow and self.asked.issuperset(waits):
            self.queue.finish_stream(int(hStream))
            return OK
        self.asked.update(waits)
        return NOT_READY

    @checked
    def cuStreamWaitEvent(self, hStream, hEvent, Flags):
        recorded = self._alive[hEvent]
        self.queue.submit(int(hStream), None, [recorded] if recorded else [])
        return OK

    @checked
    def cuEventCreate(self, Flags):
        assert Flags & ~3 == 0
        return OK, self._new("CUevent")

    @checked
    def cuEventDestroy(self, hEvent):
        del self._alive[hEvent]
        return OK

    @checked
    def cuEventRecord(self, hEvent, hStream):
        self._alive[hEvent] = self.queue.submit(int(hStream))
        return OK

    @checked
    def cuEventSynchronize(self, hEvent):
        if self._alive[hEvent]:
            self.queue.finish(self._alive[hEvent])
        return OK

    @checked
    def cuEventQuery(self, hEvent):
        recorded = self._alive[hEvent]
        if recorded is None or recorded.done:
            return OK
        if recorded in self.asked:
            self.queue.finish(recorded)
            return OK
        self.asked.add(recorded)
        return NOT_READY

    @checked
    def cuEventElapsedTime(self, hStart, hEnd):
        works = self._alive[hStart], self._alive[hEnd]
        if None in works:
            return HANDLE, 0.0
        if not all(work.done for work in works):
            return NOT_READY, 0.0
        return OK, 2.5
