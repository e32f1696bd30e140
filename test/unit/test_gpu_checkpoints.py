"""Checkpoints and rollback of speculative calls: on the GPU, and on the host for other devices."""

import pytest
from support.gpu import MIB, gpu
from support.memory_device import MemoryDevice

from rrto_ros.devices.protocol import CheckpointDevice
from rrto_ros.errors import CudaError
from rrto_ros.execution.checkpoints import Checkpoints


@pytest.fixture(params=["gpu", "host"])
def device(request):
    """A device with 4 KiB of `old` at its base, and how often memory came to the host."""
    if request.param == "gpu":
        with gpu() as (made, cuda):
            yield prepared(made), lambda: cuda.count("cuMemcpyDtoHAsync")
    else:
        yield prepared(MemoryDevice(64 * MIB)), None


def prepared(device):
    base = device.info.arena_base
    device.mem_alloc(base, 4096, 0)
    device.memcpy_htod(base, b"old-" * 1024, 0)
    return device


def nothing():
    """A call that is not made again."""


def content(device, size=16):
    return bytes(device.memcpy_dtoh(device.info.arena_base, size, 0))


def test_calls_are_rolled_back_newest_first(device):
    device, reads = device
    base, checkpoints = device.info.arena_base, Checkpoints(device)
    checkpoints.take(10, [(base, base + 8)], 0, nothing)
    device.memcpy_htod(base, b"first---", 0)
    checkpoints.take(11, [(base + 4, base + 12)], 0, nothing)
    device.memcpy_htod(base + 4, b"second--", 0)
    assert checkpoints.pending
    if reads:
        assert reads() == 0  # nothing left the GPU
    checkpoints.roll_back()
    assert content(device) == b"old-old-old-old-"
    assert not checkpoints.pending
    assert (checkpoints.rollbacks, checkpoints.rolled_back_calls, checkpoints.restored_bytes) == (
        1,
        2,
        16,
    )
    assert checkpoints.room(256 << 20)


def test_confirmed_calls_stay_done_and_the_newest_may_be_rolled_back_alone(device):
    device, _ = device
    base, checkpoints = device.info.arena_base, Checkpoints(device)
    for index, text in ((10, b"one-"), (11, b"two-"), (12, b"six-"), (13, b"ten-")):

        def write(text=text):
            device.memcpy_htod(base, text, 0)

        checkpoints.take(index, [(base, base + 4)], 0, write)
        write()
        if index == 11:
            checkpoints.seal()  # it was read
    assert checkpoints.roll_back_newest() == 1, "the other one of its group"
    assert content(device, 4) == b"two-"
    checkpoints.confirm(11)
    checkpoints.roll_back()
    assert content(device, 4) == b"one-", "the call of the group that was made was made again"
    assert checkpoints.rolled_back_calls == 1
    assert checkpoints.room(256 << 20)


def test_what_a_group_overwrites_several_times_is_copied_once(device):
    device, _ = device
    base, checkpoints = device.info.arena_base, Checkpoints(device)
    for index in range(5):
        checkpoints.take(index, [(base, base + 4), (base, base + 4)], 0, nothing)
    assert checkpoints.taken_bytes == 4
    checkpoints.seal()
    checkpoints.take(5, [(base, base + 4)], 0, nothing)
    assert checkpoints.taken_bytes == 8


def test_what_is_confirmed_or_forgotten_holds_no_memory(device):
    device, reads = device
    base, checkpoints = device.info.arena_base, Checkpoints(device)
    for index in range(40):
        checkpoints.take(index, [(base, base + 4096)], 0, nothing)
        checkpoints.confirm(index + 1)
    checkpoints.take(50, [(base, base + 4096)], 0, nothing)
    checkpoints.forget()
    assert not checkpoints.pending
    assert checkpoints.room(256 << 20)
    if reads:
        assert isinstance(device, CheckpointDevice)
        found = device.statistics()
        assert (found["checkpoints"], found["checkpoints_memory_bytes"]) == (0, 4096)


def test_a_range_that_is_not_there_is_refused_and_nothing_is_kept(device):
    device, _ = device
    checkpoints = Checkpoints(device)
    with pytest.raises(CudaError):
        checkpoints.take(1, [(64, 128)], 0, nothing)
    assert not checkpoints.pending
