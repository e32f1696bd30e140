"""The null device: accepts what CUDA accepts, refuses the rest, and says what it is."""

import pytest

from rrto_ros.api.results import CUresult
from rrto_ros.devices.mappings import GRANULE
from rrto_ros.devices.null import NullDevice
from rrto_ros.devices.protocol import Device, Launch, MemsetNode
from rrto_ros.devices.ptx_scan import scan_ptx
from rrto_ros.devices.registry import DeviceSettings, check_available, create_device
from rrto_ros.devices.textures import Texture
from rrto_ros.errors import ConfigError, CudaError, PtxError

PTX = """
.version 7.5
.visible .entry first(
    .param .u64 a,
    .param .u32 n,
    .param .align 16 .b8 block[40],
    .param .f64 x
)
.maxntid 256
{ ret; }
.entry second { ret; }
"""


@pytest.fixture
def device():
    return NullDevice(limit_bytes=1 << 20, bytes_per_s=0, launch_s=0)


def test_its_name_says_that_it_has_no_results(device):
    assert isinstance(device, Device)
    assert "no results" in device.info.name
    assert device.info.kind == "null"
    assert device.info.arena_base % (2 << 20) == 0
    assert device.info.arena_bytes >= device.info.total_bytes


@pytest.mark.parametrize(
    ("capability", "shared_kib"), [((7, 5), 64), ((8, 0), 164), ((8, 9), 100), ((9, 0), 228)]
)
def test_programs_are_told_every_attribute_that_libraries_choose_kernels_by(
    capability, shared_kib
):
    attributes = NullDevice(limit_bytes=1, compute_capability=capability).info.attributes
    assert (attributes[75], attributes[76]) == capability
    assert attributes[81] == shared_kib << 10
    assert attributes[8] < attributes[97] <= attributes[81]
    positive = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 14, 16, 36, 37, 38, 39, 82, 106)
    assert [number for number in positive if attributes[number] <= 0] == []


def test_kernels_and_parameter_offsets_are_read_from_ptx():
    first, second = scan_ptx(PTX)
    assert (first.name, second.name) == ("first", "second")
    assert first.params == ((0, 8), (8, 4), (16, 40), (56, 8))
    assert first.param_bytes == 64
    assert second.params == ()


@pytest.mark.parametrize(
    "text", ["", ".version 7.0", ".entry k(.param .u64 a", ".entry k(.param .q9 a) {}", ".entry k"]
)
def test_text_that_is_no_ptx_is_refused(text):
    with pytest.raises(PtxError):
        scan_ptx(text)


def test_binaries_are_refused(device):
    with pytest.raises(CudaError) as caught:
        device.module_load(1, b"\x7fELF" + bytes(60))
    assert caught.value.result is CUresult.NO_BINARY_FOR_GPU


def test_memory_is_counted_and_bounds_are_checked(device):
    base = device.info.arena_base
    device.mem_alloc(base, 4096, 0)
    device.memcpy_htod(base, b"x" * 4096, 0)
    assert device.memcpy_dtoh(base, 4096, 0) == bytes(4096)
    for work in (
        lambda: device.mem_alloc(base + 100, 16, 0),
        lambda: device.memcpy_dtoh(base + 1, 4096, 0),
        lambda: device.mem_free(base + 8, 0),
        lambda: device.memset(MemsetNode(base, 0, 0, 4, 2048, 1), 0),
        lambda: device.mem_alloc(16, 16, 0),
    ):
        with pytest.raises(CudaError) as caught:
            work()
        assert caught.value.result is CUresult.INVALID_VALUE
    with pytest.raises(CudaError) as caught:
        device.mem_alloc(base + 8192, 1 << 20, 0)
    assert caught.value.result is CUresult.OUT_OF_MEMORY
    device.mem_free(base, 0)
    assert device.statistics()["used_bytes"] == 0


def test_launches_take_modelled_time():
    device = NullDevice(limit_bytes=1 << 20, launch_s=0.02, bytes_per_s=0)
    device.module_load(1, PTX.encode())
    device.event_create(1, 0)
    device.event_create(2, 0)
    device.event_record(1, 0)
    for _ in range(3):
        device.launch(Launch(1, 1, (1, 1, 1), (32, 1, 1), 0, b""), 0)
    device.event_record(2, 0)
    assert not device.stream_query(0)
    device.stream_synchronize(0)
    assert device.stream_query(0)
    assert device.event_elapsed_ms(1, 2) == pytest.approx(60, abs=1)


def test_an_unknown_device_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match="cpu, gpu, null"):
        check_available("tpu")


def test_the_registry_makes_a_null_device_at_the_wanted_base():
    device = create_device(
        "null", DeviceSettings(limit_bytes=1 << 20, arena_base=1 << 40, compute_capability=(7, 5))
    )
    assert device.info.arena_base == 1 << 40
    assert device.info.compute_capability == (7, 5)


def test_memory_that_is_mapped_is_checked_as_a_device_does(device):
    with pytest.raises(CudaError) as caught:
        device.mem_create(1, GRANULE)
    assert caught.value.result is CUresult.OUT_OF_MEMORY
    device = NullDevice(limit_bytes=4 * GRANULE, bytes_per_s=0, launch_s=0)
    at = device.info.arena_base + 5 * GRANULE
    device.mem_create(1, 2 * GRANULE)
    device.mem_map(at, 2 * GRANULE, 1)
    for flags, result in ((0, CUresult.INVALID_VALUE), (1, CUresult.INVALID_VALUE), (3, None)):
        device.mem_access(at, 2 * GRANULE, flags)
        if result is None:
            device.memcpy_htod(at + GRANULE - 4, b"12345678", 0)
        else:
            with pytest.raises(CudaError) as caught:
                device.memcpy_htod(at + GRANULE - 4, b"12345678", 0)
            assert caught.value.result is result
    with pytest.raises(CudaError):
        device.mem_release(1)
    device.mem_unmap(at, 2 * GRANULE)
    with pytest.raises(CudaError):
        device.memcpy_dtoh(at, 4, 0)
    device.mem_release(1)
    assert device.statistics()["used_bytes"] == 0


def test_textures_need_their_memory(device):
    base = device.info.arena_base
    texture = Texture(base, 40, 10, 1, 1, 40, 1, 0x20, 1, 0, 0, 1, 1, 1, (0.0,) * 4)
    with pytest.raises(CudaError):
        device.texture_create(1, texture)
    device.mem_alloc(base, 40, 0)
    device.texture_create(1, texture)
    with pytest.raises(CudaError):
        device.texture_create(1, texture)
    device.texture_destroy(1)
    with pytest.raises(CudaError):
        device.texture_destroy(1)
