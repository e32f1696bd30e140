"""Memory that is mapped at addresses: means the same on every device."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.ptx_texts import ADD

from rrto_ros.api.results import CUresult
from rrto_ros.devices.mappings import GRANULE
from rrto_ros.devices.protocol import Launch, MemsetNode
from rrto_ros.errors import CudaError


@pytest.fixture
def memory(harness):
    """A device, and addresses of its arena that no allocation has."""
    info = harness.device.info
    made = Memory(harness.device, info.arena_base + info.arena_bytes // 2 // GRANULE * GRANULE)
    yield made
    made.close()


class Memory:
    def __init__(self, device, at):
        self.device, self.at = device, at
        self.handles, self.places = [], []

    def create(self, handle, granules=1):
        self.device.mem_create(handle, granules * GRANULE)
        self.handles.append(handle)

    def map(self, at, handle, granules=1, flags=3):
        self.device.mem_map(at, granules * GRANULE, handle)
        self.places.append((at, granules * GRANULE))
        if flags:
            self.device.mem_access(at, granules * GRANULE, flags)

    def unmap(self, at):
        (place,) = [place for place in self.places if place[0] == at]
        self.places.remove(place)
        self.device.mem_unmap(*place)

    def write(self, at, *words):
        self.device.memcpy_htod(at, np.array(words, np.uint32).tobytes(), 0)

    def words(self, at, count):
        return np.frombuffer(bytes(self.device.memcpy_dtoh(at, 4 * count, 0)), np.uint32).tolist()

    def close(self):
        for at, size in self.places:
            self.device.mem_unmap(at, size)
        for handle in self.handles:
            self.device.mem_release(handle)


def add(harness, loaded, at, value):
    module, names, _ = loaded
    params = np.uint64(at).tobytes() + np.uint32(value).tobytes()
    harness.device.launch(Launch(module, names["add"], (1, 1, 1), (4, 1, 1), 0, params), 0)


def test_memory_keeps_its_bytes_when_it_is_mapped_elsewhere(memory):
    memory.create(1)
    memory.map(memory.at, 1)
    memory.write(memory.at + 8, 1, 2, 3)
    memory.unmap(memory.at)
    memory.map(memory.at + 5 * GRANULE, 1)
    assert memory.words(memory.at + 5 * GRANULE + 8, 3) == [1, 2, 3]


def test_two_mappings_of_memory_are_the_same_bytes(harness, memory):
    loaded = harness.load(ADD)
    memory.create(1)
    memory.map(memory.at, 1)
    memory.map(memory.at + GRANULE, 1)
    memory.write(memory.at, 10, 20, 30, 40)
    add(harness, loaded, memory.at + GRANULE, 5)
    add(harness, loaded, memory.at, 100)
    assert memory.words(memory.at + GRANULE, 4) == [115, 125, 135, 145]


def test_pieces_beside_each_other_are_used_as_one(harness, memory):
    loaded = harness.load(ADD)
    for k in range(3):
        memory.create(k + 1)
    for k in range(3):
        memory.map(memory.at + k * GRANULE, 3 - k)  # mapped in another order than made
    seam = memory.at + GRANULE - 8
    memory.write(seam, 1, 2, 3, 4)
    add(harness, loaded, seam, 1)
    assert memory.words(seam, 4) == [2, 3, 4, 5]
    memory.device.memset(MemsetNode(memory.at + 2 * GRANULE - 4, 0, 9, 4, 2, 1), 0)
    memory.device.memcpy_dtod(memory.at, memory.at + 2 * GRANULE - 8, 16, 0)
    assert memory.words(memory.at, 4)[1:3] == [9, 9]


def test_only_what_is_mapped_with_access_is_read_and_written(memory):
    memory.create(1, 2)
    memory.map(memory.at, 1, 2, flags=0)

    def refused(method, *arguments):
        with pytest.raises(CudaError) as caught:
            method(*arguments)
        assert caught.value.result is CUresult.INVALID_VALUE

    device, size = memory.device, 2 * GRANULE
    refused(device.memcpy_dtoh, memory.at, 4, 0)
    device.mem_access(memory.at, size, 3)
    memory.write(memory.at, 7)
    refused(memory.write, memory.at + size - 4, 1, 2)
    device.mem_access(memory.at, size, 1)
    assert memory.words(memory.at, 1) == [7]
    refused(memory.write, memory.at, 8)
    device.mem_access(memory.at, size, 3)
    refused(device.mem_access, memory.at, GRANULE, 3)
    refused(device.mem_access, memory.at, size, 2)
    refused(device.mem_unmap, memory.at + GRANULE, GRANULE)
    refused(device.mem_map, memory.at + GRANULE, GRANULE, 1)
    refused(device.mem_map, memory.at + 4096, GRANULE, 1)
    refused(device.mem_map, device.info.arena_base + device.info.arena_bytes, GRANULE, 1)
    refused(device.mem_create, 2, 4096)
    refused(device.mem_alloc, memory.at, 512, 0)
    device.mem_alloc(memory.at + size, 512, 0)
    refused(device.mem_map, memory.at + size, GRANULE, 1)
    device.mem_free(memory.at + size, 0)
    memory.unmap(memory.at)
    refused(device.memcpy_dtoh, memory.at, 4, 0)


def test_memory_counts_against_the_limit_until_it_is_released(memory):
    device = memory.device
    free = device.info.total_bytes - device.statistics()["memory_bytes"]
    granules = free // GRANULE
    device.mem_create(1, GRANULE)
    for handle, result in ((1, CUresult.INVALID_HANDLE), (2, CUresult.OUT_OF_MEMORY)):
        with pytest.raises(CudaError) as caught:
            device.mem_create(handle, granules * GRANULE)
        assert caught.value.result is result
    device.mem_map(memory.at, GRANULE, 1)
    with pytest.raises(CudaError):
        device.mem_release(1)
    device.mem_unmap(memory.at, GRANULE)
    device.mem_release(1)
    assert device.info.total_bytes - device.statistics()["memory_bytes"] == free


STRAY = f"""
import sys
import numpy as np
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.mappings import GRANULE
from rrto_ros.devices.protocol import Launch
device = CpuDevice(threads=1, cache_bytes=0, arena_base=0x6600_0000_0000)
at = device.info.arena_base + device.info.arena_bytes // 2
device.module_load(1, {ADD.encode() + bytes(1)!r})
device.mem_create(1, GRANULE)
params = np.uint64(at).tobytes() + np.uint32(1).tobytes()
run = lambda: device.launch(Launch(1, 0, (1, 1, 1), (4, 1, 1), 0, params), 0)
device.mem_map(at, GRANULE, 1)
if sys.argv[1] != "mapped":
    device.mem_access(at, GRANULE, 3)
    run()
if sys.argv[1] == "unmapped":
    device.mem_unmap(at, GRANULE)
if sys.argv[1] == "read":
    device.mem_access(at, GRANULE, 1)
print("before", flush=True)
run()
print("after", flush=True)
"""


@pytest.mark.parametrize("case", ["mapped", "unmapped", "read"])
def test_a_kernel_faults_where_nothing_is_mapped_and_where_it_has_no_access(case):
    """The worker dies as with freed memory, and its session gets ILLEGAL_ADDRESS."""
    done = subprocess.run(
        [sys.executable, "-c", STRAY, case], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (-11, ["before"]), done.stderr
