"""What the tests of the device `gpu` share: a device on the stand-in, and a few kernels."""

import contextlib
import struct

import pytest
from support.fake_cuda import FakeCuda

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.device import GpuDevice
from rrto_ros.devices.gpu.segment_graphs import GraphCall
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

PTX = b"""
.version 7.5
.target sm_75
.address_size 64
.visible .entry write_word(.param .u64 at, .param .u32 value) { ret; }
.visible .entry add_word(.param .u64 at, .param .u32 value) { ret; }
.visible .entry no_arguments() { ret; }
"""
WRITE, ADD, NONE = 0, 1, 2
MIB = 1 << 20


def write_word(memory, params, grid, block):
    at, value = struct.unpack_from("<QI", params)
    memory.write(at, struct.pack("<I", value))


def add_word(memory, params, grid, block):
    at, value = struct.unpack_from("<QI", params)
    (old,) = struct.unpack("<I", memory.read(at, 4))
    memory.write(at, struct.pack("<I", (old * 3 + value) & 0xFFFFFFFF))


@contextlib.contextmanager
def gpu(cuda=None, **settings):
    """A device on a stand-in; everything must have been given back at the end."""
    cuda = cuda or FakeCuda()
    cuda.kernels.update(write_word=write_word, add_word=add_word)
    device = GpuDevice(**{"limit_bytes": 64 * MIB, "module": cuda, **settings})
    try:
        yield device, cuda
    finally:
        device.close()
    if not cuda.broken:
        assert cuda.alive() == {}


@contextlib.contextmanager
def loaded_gpu(cuda=None):
    """A device with `PTX` and 1 MiB at the arena's base; gives it, the stand-in and the base."""
    with gpu(cuda) as (device, cuda):
        device.module_load(1, PTX)
        device.mem_alloc(device.info.arena_base, MIB, 0)
        yield device, cuda, device.info.arena_base


def kernel(number, at=0, value=0, module=1, **more):
    """A launch of one of the kernels of `PTX`."""
    params = struct.pack("<QI", at, value) if number != NONE else b""
    values = {"grid": (1, 1, 1), "block": (32, 1, 1), "shared_bytes": 0, **more}
    return Launch(module, number, params=params, **values)


def chain(base, values, stream=0):
    """Each kernel's result depends on the one before: word = 3 * word + value."""
    return [GraphCall(kernel(ADD, base, v), stream) for v in values]


def chained(start, values):
    """The word that a `chain` makes of `start`."""
    for v in values:
        start = (start * 3 + v) & 0xFFFFFFFF
    return start


def word(device, at, stream=0):
    return struct.unpack("<I", bytes(device.memcpy_dtoh(at, 4, stream)))[0]


def refused(result, call, *arguments):
    """Call must raise CudaError with this result; returns the text."""
    with pytest.raises(CudaError) as caught:
        call(*arguments)
    assert caught.value.result is CUresult(result), caught.value
    return str(caught.value)
