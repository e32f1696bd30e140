"""How busy the GPU is: its time for this session by events, and the whole GPU by NVML if present.

NVML comes with the driver, its Python package (nvidia-ml-py) is optional: without it the numbers
of the whole GPU are left out.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.driver import Driver

_NO_FLAGS = 0


class DeviceClock:
    """Time from the first work after a wait to the end of the work that is waited for.

    Work that is in several streams at once counts once; pauses in it count, too.

    Attributes:
        seconds: Sum so far.
        last_s: Of the last wait.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._start: Any = None
        self._end: Any = None
        self._running = False
        self.seconds = 0.0
        self.last_s = 0.0

    def work(self, stream: Any) -> None:
        """A stream is about to get work."""
        if self._running:
            return
        if self._start is None:
            self._start = self._driver.call("cuEventCreate", _NO_FLAGS)
            self._end = self._driver.call("cuEventCreate", _NO_FLAGS)
        self._driver.call("cuEventRecord", self._start, stream)
        self._running = True

    def wait_begins(self, stream: Any) -> None:
        """A stream is about to be waited for."""
        if self._running:
            self._driver.call("cuEventRecord", self._end, stream)

    def wait_ended(self) -> None:
        """It has been waited for."""
        if not self._running:
            return
        self._running = False
        code, *value = self._driver.call_anyway("cuEventElapsedTime", self._start, self._end)
        if code == CUresult.SUCCESS:
            # Events of two streams may be reached in either order.
            self.last_s = max(0.0, float(value[0]) / 1e3)
            self.seconds += self.last_s

    def close(self) -> None:
        for event in (self._start, self._end):
            if event is not None:
                self._driver.call_anyway("cuEventDestroy", event)
        self._start = self._end = None
        self._running = False


class Nvml:
    """The whole GPU's state, by NVML.

    Args:
        uuid: The GPU's 16 bytes.
        module: Stand-in for `pynvml`.
    """

    def __init__(self, uuid: bytes, module: Any = None) -> None:
        self._module: Any = None
        self._handle: Any = None
        with contextlib.suppress(Exception):  # not installed, no NVML, no right, a MIG device
            self._module = module or importlib.import_module("pynvml")
            self._module.nvmlInit()
            text = uuid.hex()
            parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
            self._handle = self._module.nvmlDeviceGetHandleByUUID("GPU-" + "-".join(parts))

    def counts(self) -> dict[str, int | float]:
        """Memory, utilisation, temperature and power, as far as the GPU tells."""
        if self._handle is None:
            return {}
        out: dict[str, int | float] = {}
        nvml, handle = self._module, self._handle
        with contextlib.suppress(Exception):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            out["gpu_memory_used_bytes"] = int(memory.used)
            out["gpu_memory_total_bytes"] = int(memory.total)
        with contextlib.suppress(Exception):
            rates = nvml.nvmlDeviceGetUtilizationRates(handle)
            out["gpu_utilisation_percent"] = int(rates.gpu)
            out["gpu_memory_utilisation_percent"] = int(rates.memory)
        with contextlib.suppress(Exception):
            sensor = nvml.NVML_TEMPERATURE_GPU
            out["gpu_temperature_c"] = int(nvml.nvmlDeviceGetTemperature(handle, sensor))
        with contextlib.suppress(Exception):
            out["gpu_power_w"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
        return out

    def close(self) -> None:
        if self._module is not None:
            with contextlib.suppress(Exception):
                self._module.nvmlShutdown()
        self._module = self._handle = None
