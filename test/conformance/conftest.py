"""Devices that the conformance cases run on, and the harness that runs one launch.

A case is a PTX text, one launch and its arguments: NumPy arrays are copied to the device, passed
by address and copied back; NumPy scalars and bytes are passed by value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import Device, Launch
from rrto_ros.devices.registry import DeviceSettings, check_available, create_device
from rrto_ros.errors import UnavailableError

Argument = np.ndarray | np.generic | bytes
RunKernel = Callable[..., list[np.ndarray]]


class Harness:
    """Places arguments in a device's arena and runs kernels by name."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._next_module = 1
        self._next_address = device.info.arena_base

    def load(
        self, ptx: str | bytes
    ) -> tuple[int, dict[str, int], list[tuple[tuple[int, int], ...]]]:
        image = ptx if isinstance(ptx, bytes) else ptx.encode() + b"\0"
        wanted = re.search(rb"^\.target\s+sm_(\d+)", image, re.MULTILINE)
        own = self.device.info.compute_capability
        if self.device.info.kind == "gpu" and wanted and divmod(int(wanted[1]), 10) > own:
            pytest.skip(f"needs sm_{int(wanted[1])}, this GPU has {own[0]}{own[1]}")
        module = self._next_module
        self._next_module += 1
        info = self.device.module_load(module, image)
        names = {k.name: i for i, k in enumerate(info.kernels)}
        return module, names, [k.params for k in info.kernels]

    def launch(
        self,
        loaded: tuple[int, dict[str, int], list[tuple[tuple[int, int], ...]]],
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[Argument],
        shared: int = 0,
        *,
        cooperative: bool = False,
    ) -> list[np.ndarray]:
        """Runs a kernel and returns the arrays as they are afterwards."""
        module, names, params = loaded
        layout = params[names[kernel]]
        assert len(layout) == len(args)
        packed = bytearray(max((o + s for o, s in layout), default=0))
        arrays: list[tuple[int, np.ndarray]] = []
        for (offset, size), arg in zip(layout, args, strict=True):
            if isinstance(arg, np.ndarray):
                address = self._next_address
                self._next_address += -(-max(arg.nbytes, 1) // 512) * 512
                self.device.mem_alloc(address, arg.nbytes, 0)
                self.device.memcpy_htod(address, np.ascontiguousarray(arg).tobytes(), 0)
                arrays.append((address, arg))
                value = np.uint64(address).tobytes()
            else:
                value = arg if isinstance(arg, bytes) else arg.tobytes()
            assert len(value) == size
            packed[offset : offset + size] = value
        self.device.launch(
            Launch(module, names[kernel], grid, block, shared, bytes(packed), cooperative), 0
        )
        self.device.ctx_synchronize()
        results = []
        for address, arg in arrays:
            data = bytes(self.device.memcpy_dtoh(address, arg.nbytes, 0))
            results.append(np.frombuffer(data, arg.dtype).reshape(arg.shape))
            self.device.mem_free(address, 0)
        return results


DEVICES = ["cpu", "cpu-scalar", pytest.param("gpu", marks=pytest.mark.gpu)]
"""The virtual device with and without vector code, and a GPU where there is one."""


@pytest.fixture(scope="session", params=DEVICES)
def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    """One harness per device."""
    device: Device
    if request.param == "gpu":
        try:
            check_available("gpu")
        except UnavailableError as error:
            pytest.skip(str(error))
        device = create_device("gpu", DeviceSettings(limit_bytes=1 << 28))
        yield Harness(device)
        device.close()
        return
    device = CpuDevice(
        threads=2,
        cache_dir=tmp_path_factory.mktemp("kernels"),
        vector_lanes=1 if request.param == "cpu-scalar" else 0,
    )
    yield Harness(device)
    device.close()
