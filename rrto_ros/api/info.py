"""What a device and a module say about themselves: values that cross the wire as descriptions.

They live beside the codec because both ends need them; `rrto_ros.devices.protocol` re-exports
them for those who implement a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DRIVER_VERSION = 13050
"""CUDA version of the driver that devices say they have which are no GPU: the one whose header the
shim's calls are from. Programs that make PTX hand it to a driver that is as new as their compiler,
and make machine code for an older one."""


@dataclass(frozen=True)
class DeviceInfo:
    """What a program may ask about the device, sent to the robot when a session opens.

    Attributes:
        kind: "cpu", "gpu" or "null".
        name: Device name, at most 255 bytes of UTF-8.
        uuid: 16 bytes.
        compute_capability: (major, minor).
        driver_version: As cuDriverGetVersion returns it, for example 13000.
        total_bytes: Device memory that this session may allocate.
        arena_base: First address of the session's arena, 2 MiB aligned.
        arena_bytes: Size of the arena's address range (at least total_bytes).
        attributes: CUdevice_attribute number -> value.
    """

    kind: str
    name: str
    uuid: bytes
    compute_capability: tuple[int, int]
    driver_version: int
    total_bytes: int
    arena_base: int
    arena_bytes: int
    attributes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelInfo:
    """One kernel of a loaded module.

    Attributes:
        name: The entry's (mangled) name.
        params: (offset_bytes, size_bytes) of each parameter in the packed argument buffer.
        attributes: CUfunction_attribute number -> value (0 max threads, 1 static shared bytes,
            2 const bytes, 3 local bytes, 4 registers, 5 PTX version, 6 binary version, ...).
            Empty: the device has not looked at the kernel yet; `kernel_load` says them.
    """

    name: str
    params: tuple[tuple[int, int], ...]
    attributes: Mapping[int, int]

    @property
    def param_bytes(self) -> int:
        """Size of the packed argument buffer in bytes."""
        return max((offset + size for offset, size in self.params), default=0)


@dataclass(frozen=True)
class GlobalInfo:
    """One device variable of a loaded module: where it lies and its size in bytes."""

    name: str
    address: int
    bytes: int


@dataclass(frozen=True)
class ModuleInfo:
    """What the robot learns from a module load."""

    kernels: tuple[KernelInfo, ...]
    globals: tuple[GlobalInfo, ...] = ()
