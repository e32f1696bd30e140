"""What a program is told about the GPU: owns which of its abilities the shim can pass on.

The attributes are the GPU's own, so that programs choose kernels that fit it. An ability whose
driver calls do not travel (managed memory, IPC, clusters, ...) is reported as absent,
as the cpu device does: a program that believed in it would fail later.
"""

from __future__ import annotations

from typing import Any

from rrto_ros.api.info import DeviceInfo
from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.errors import CudaError

NEWEST_VERSION = 13000
"""Highest driver version that programs are told: newer ones use calls that do not travel."""
_MOST_ATTRIBUTES = 512
_LAST_ATTRIBUTE = 180
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76
ABSENT = frozenset(
    {
        83, 88, 89, 90, 91, 100, 101,  # managed memory, access to pageable memory
        92, 93, 94, 122, 123,  # stream memory operations
        99, 113,  # registering host memory that the device reads in place
        103, 104, 105, 107,  # handles of memory for other processes
        110, 116, 117, 118, 119, 124, 125, 128, 132,  # GPUDirect, pools and events of others
        120,  # clusters
        112, 114, 121, 127,  # sparse and deferred arrays, semaphores of others, tensor maps
        84, 85, 96, 98,  # several GPUs in one box, remote writes
    }
)  # fmt: skip
"""CUdevice_attribute numbers that are reported as 0."""
LAST_KNOWN = 134
PCI_IDENTITY = frozenset({139, 140})
"""Of the numbers behind the last known one, what is more than an ability."""


def device_attributes(driver: Driver, device: Any) -> dict[int, int]:
    """CUdevice_attribute number -> value, for all that the driver and the bindings know."""
    out: dict[int, int] = {}
    for attribute in list(driver.module.CUdevice_attribute)[:_MOST_ATTRIBUTES]:
        number = int(attribute)
        if not 0 < number <= _LAST_ATTRIBUTE or number in out:
            continue
        try:
            value = int(driver.call("cuDeviceGetAttribute", attribute, device))
        except CudaError:
            continue  # the driver is older than the bindings
        unknown = number > LAST_KNOWN and number not in PCI_IDENTITY
        out[number] = 0 if unknown or number in ABSENT else value
    return out


def has_virtual_memory(driver: Driver, device: Any) -> bool:
    """Whether addresses can be reserved and memory mapped there; integrated GPUs may not."""
    kinds = driver.module.CUdevice_attribute
    asked = kinds.CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    return bool(driver.call("cuDeviceGetAttribute", asked, device))


def device_uuid(driver: Driver, device: Any) -> bytes:
    """The GPU's 16 bytes."""
    newer = hasattr(driver.module, "cuDeviceGetUuid_v2")
    uuid = driver.call("cuDeviceGetUuid_v2" if newer else "cuDeviceGetUuid", device)
    return bytes(uuid.bytes)[:16].ljust(16, b"\0")


def device_info(
    driver: Driver, device: Any, total_bytes: int, arena_base: int, arena_bytes: int
) -> DeviceInfo:
    """The description that the robot gets when the session opens."""
    attributes = device_attributes(driver, device)
    name: bytes = driver.call("cuDeviceGetName", 256, device)
    return DeviceInfo(
        kind="gpu",
        name=name.split(b"\0")[0].decode(errors="replace")[:200] or "NVIDIA GPU",
        uuid=device_uuid(driver, device),
        compute_capability=(attributes[COMPUTE_MAJOR], attributes[COMPUTE_MINOR]),
        driver_version=min(int(driver.call("cuDriverGetVersion")), NEWEST_VERSION),
        total_bytes=total_bytes,
        arena_base=arena_base,
        arena_bytes=arena_bytes,
        attributes=attributes,
    )
