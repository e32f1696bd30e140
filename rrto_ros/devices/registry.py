"""Device names to devices: owns which kinds exist and imports each only when it is asked for."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rrto_ros.api.choices import DEVICES
from rrto_ros.devices.protocol import Device
from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.store_link import EntryStore

AUTO = "auto"
"""The GPU if there is one that can be used, the cpu device otherwise."""
DEFAULT_CACHE_BYTES = 512 << 20
DEFAULT_LAUNCH_TIMEOUT_S = 30.0
_CPU_ARENA_BYTES = 64 << 30


@dataclass(frozen=True)
class DeviceSettings:
    """What a session's device is made with.

    Attributes:
        limit_bytes: Device memory that the session may allocate.
        arena_base: Wanted first address of the arena, 0 for the device's choice. A device that
            cannot have it takes another.
        compute_capability: (major, minor) that the device reports, None for its own.
        threads: Threads that execute kernels, 0 for one per core.
        multiprocessors: What the cpu device says that it has, 0 for one per thread.
        cache_directory: Where compiled kernels are kept, None for the default place.
        cache_bytes: Size limit of that cache, 0 to keep nothing.
        launch_timeout_s: Seconds after which a launch on the cpu device is ended, and a wait for
            the GPU given up; 0 for never.
        memcheck: Whether the cpu device looks up every access of a kernel, to name a stray one.
        check_calls: Whether every call is checked before the device executes it.
    """

    limit_bytes: int
    arena_base: int = 0
    compute_capability: tuple[int, int] | None = None
    threads: int = 0
    cache_directory: Path | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    launch_timeout_s: float = DEFAULT_LAUNCH_TIMEOUT_S
    memcheck: bool = False
    check_calls: bool = False
    multiprocessors: int = 0


DeviceFactory = Callable[[DeviceSettings, EntryStore | None], Device]


def _cpu(settings: DeviceSettings, kernels: EntryStore | None) -> Device:
    module = importlib.import_module("rrto_ros.devices.cpu.device")
    options: dict[str, object] = {
        "limit_bytes": settings.limit_bytes,
        "arena_bytes": max(_CPU_ARENA_BYTES, 8 * settings.limit_bytes),
        "cache_bytes": settings.cache_bytes,
        "launch_timeout_s": settings.launch_timeout_s,
        "memcheck": settings.memcheck,
    }
    if settings.arena_base:
        options["arena_base"] = settings.arena_base
    if settings.compute_capability is not None:
        options["compute_capability"] = settings.compute_capability
    if settings.threads:
        options["threads"] = settings.threads
    if settings.multiprocessors:
        options["multiprocessors"] = settings.multiprocessors
    if settings.cache_directory is not None:
        options["cache_dir"] = settings.cache_directory
    if kernels is not None:
        options["kernels"] = kernels
    device: Device = module.CpuDevice(**options)
    return device


def _null(settings: DeviceSettings, _: EntryStore | None) -> Device:
    module = importlib.import_module("rrto_ros.devices.null")
    device: Device = module.NullDevice(
        limit_bytes=settings.limit_bytes,
        arena_base=settings.arena_base,
        compute_capability=settings.compute_capability,
    )
    return device


def _gpu(settings: DeviceSettings, _: EntryStore | None) -> Device:
    module = importlib.import_module("rrto_ros.devices.gpu.device")
    device: Device = module.GpuDevice(
        limit_bytes=settings.limit_bytes,
        arena_base=settings.arena_base,
        wait_limit_s=settings.launch_timeout_s,
    )
    return device


_FACTORIES: dict[str, DeviceFactory] = {"cpu": _cpu, "gpu": _gpu, "null": _null}
_MODULES = {
    "cpu": "rrto_ros.devices.cpu.device",
    "gpu": "rrto_ros.devices.gpu.device",
    "null": "rrto_ros.devices.null",
}


def check_available(name: str) -> None:
    """Say now, before any session opens, if a device cannot be had.

    Raises:
        ConfigError: There is no such device.
        UnavailableError: This installation does not have it.
    """
    if name not in _FACTORIES:
        raise ConfigError(
            f"device {name!r} is none of {', '.join(DEVICES)}; set the parameter 'device'"
        )
    if name == "gpu":
        importlib.import_module("rrto_ros.devices.gpu.driver").check_available()
    if name == "cpu" and importlib.util.find_spec("llvmlite") is None:
        raise UnavailableError(
            "device 'cpu' needs the Python package llvmlite: pip install llvmlite"
        )


def resolve(name: str) -> tuple[str, str]:
    """A device name with `auto` decided.

    Returns:
        (device, why): `why` says what decided where the name was `auto`, else it is empty.
    """
    if name != AUTO:
        return name, ""
    try:
        found = importlib.import_module("rrto_ros.devices.gpu.driver").check_available()
    except UnavailableError as error:
        return "cpu", str(error)
    return "gpu", f"found {found}"


def start_compilers(name: str, confinement: str) -> None:
    """Start what a device compiles with, in a worker that has no other thread and no secret yet.

    Args:
        name: Kind of device.
        confinement: As the parameter of the server.
    """
    if name == "cpu":
        importlib.import_module("rrto_ros.devices.cpu.compile_starter").begin(confinement)


def end_compilers(name: str) -> None:
    """End what `start_compilers` started."""
    if name == "cpu":
        importlib.import_module("rrto_ros.devices.cpu.compile_starter").end()


def preload(name: str) -> None:
    """Import a device's modules ahead of its creation, so that a session opens faster."""
    if name in _MODULES:
        importlib.import_module(_MODULES[name])
    if name == "gpu":
        # The bindings start programs to find libraries, which a confined process cannot.
        with contextlib.suppress(UnavailableError):
            importlib.import_module("rrto_ros.devices.gpu.driver").load()


def start_driver(name: str) -> None:
    """Start a GPU's driver ahead: with several GPUs that takes seconds, and no memory."""
    if name == "gpu":
        with contextlib.suppress(UnavailableError):  # said when the device is made
            importlib.import_module("rrto_ros.devices.gpu.driver").check_available()


def create_device(
    name: str, settings: DeviceSettings, kernels: EntryStore | None = None
) -> Device:
    """Make a device.

    Args:
        name: Its kind.
        settings: What it is made with.
        kernels: Where another process keeps compiled kernels; None: as the settings say.

    Raises:
        ConfigError: There is no such device, or a setting cannot be used.
        UnavailableError: This installation does not have it.
    """
    factory = _FACTORIES.get(name)
    if factory is None:
        raise ConfigError(f"device {name!r} is none of {', '.join(DEVICES)}")
    device = factory(settings, kernels)
    if not settings.check_calls:
        return device
    module = importlib.import_module("rrto_ros.devices.checking.device")
    checking: Device = module.CheckingDevice(device)
    return checking
