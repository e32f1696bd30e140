"""The driver API through ctypes, for programs under test: no binding between test and shim."""

import ctypes
import struct

try:
    from support.ptx_texts import SCALE
except ModuleNotFoundError:  # of a program outside this tree, which has this folder on its path
    from ptx_texts import SCALE

LIB = ctypes.CDLL("libcuda.so.1")
PTX = (
    SCALE
    + b""".visible .entry limited(.param .u64 p) .maxntid 64, 1, 1
{
  ret;
}
"""
)


def call(name, *arguments):
    """Call an export; integers go as 64-bit words, everything else as it is. Gives a CUresult."""
    words = [ctypes.c_uint64(a & (1 << 64) - 1) if isinstance(a, int) else a for a in arguments]
    return getattr(LIB, name)(*words)


def ok(name, *arguments):
    """Call and insist on success."""
    result = call(name, *arguments)
    assert result == 0, f"{name} returned {result}"


def out(name, *arguments, kind=ctypes.c_uint64):
    """Call with a result pointer before the arguments, insist on success, give the result."""
    value = kind()
    ok(name, ctypes.byref(value), *arguments)
    return value.value


def start():
    """Initialise and make a context current."""
    ok("cuInit", 0)
    return out("cuCtxCreate_v2", 0, 0)


def load(image=PTX):
    """A module with the kernels of `PTX`."""
    return out("cuModuleLoadData", image)


def function(module, name=b"scale"):
    """A kernel of it."""
    return out("cuModuleGetFunction", module, name)


def params(*values):
    """A kernelParams array; keep the result alive until the launch."""
    kept = [ctypes.create_string_buffer(v) for v in values]
    array = (ctypes.c_void_p * len(kept))(*[ctypes.addressof(k) for k in kept])
    array.kept = kept
    return array


def scale_params(address, factor, count):
    """Arguments of `scale`."""
    return params(struct.pack("<Q", address), struct.pack("<f", factor), struct.pack("<I", count))


def launch(kernel, arguments, *, grid=(1, 1, 1), block=(64, 1, 1), shared=0, stream=0, extra=0):
    """cuLaunchKernel; gives its result."""
    return call("cuLaunchKernel", kernel, *grid, *block, shared, stream, arguments, extra)


def read(address, size):
    """Bytes from the device by a synchronous copy."""
    data = ctypes.create_string_buffer(size)
    ok("cuMemcpyDtoH_v2", data, address, size)
    return data.raw


def floats(*values):
    """Packed float32."""
    return struct.pack(f"<{len(values)}f", *values)


def wants(got, wanted, what):
    """A check that says what was got."""
    assert got == wanted, f"{what}: {got}, not {wanted}"
