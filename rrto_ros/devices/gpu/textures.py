"""Texture objects on the GPU, over memory of the arena.

An array is rows with a pitch here as everywhere (the shim made it so), and a texture of rows is
read as one of an array is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.allocations import Allocations
from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.devices.textures import (
    OVER_BYTES,
    OVER_PLANES,
    OVER_ROW,
    SURFACE,
    Texture,
    check_texture,
)
from rrto_ros.errors import CudaError

_LINEAR, _PITCH2D = 2, 3


class Textures:
    """One session's.

    Args:
        driver: With a current context.
        allocations: Checks what textures read.
        settle: Waits until the GPU is idle; called before a texture goes.
    """

    def __init__(
        self, driver: Driver, allocations: Allocations, settle: Callable[[], None]
    ) -> None:
        self._driver = driver
        self._allocations = allocations
        self._settle = settle
        self._objects: dict[int, Any] = {}

    def create(self, texture: int, what: Texture) -> int:
        """Make a texture; returns the driver's number of it.

        Raises:
            CudaError: INVALID_VALUE; NOT_SUPPORTED for arrays of one row and of planes, which the
                GPU reads by other instructions than rows.
        """
        if texture in self._objects:
            raise CudaError(CUresult.INVALID_HANDLE, f"texture {texture} exists already")
        check_texture(what)
        self._allocations.check(what.address, what.size)
        if what.kind in (OVER_ROW, OVER_PLANES) or what.flags == SURFACE:
            raise CudaError(CUresult.NOT_SUPPORTED, "textures of 1D and 3D arrays, surfaces")
        made = self._driver.call(
            "cuTexObjectCreate", self._resource(what), self._sampling(what), None
        )
        self._objects[texture] = made
        return int(made)

    def destroy(self, texture: int) -> None:
        """A texture goes when no kernel reads it any more (INVALID_HANDLE)."""
        if texture not in self._objects:
            raise CudaError(CUresult.INVALID_HANDLE, f"texture {texture} is unknown")
        self._settle()
        self._driver.call("cuTexObjectDestroy", self._objects.pop(texture))

    def close(self) -> None:
        """All of them go; errors of a dead context are passed by."""
        for made in self._objects.values():
            self._driver.call_anyway("cuTexObjectDestroy", made)
        self._objects.clear()

    def _resource(self, what: Texture) -> Any:
        cuda = self._driver.module
        made = cuda.CUDA_RESOURCE_DESC()
        made.resType = cuda.CUresourcetype(_LINEAR if what.kind == OVER_BYTES else _PITCH2D)
        part = made.res.linear if what.kind == OVER_BYTES else made.res.pitch2D
        part.devPtr = cuda.CUdeviceptr(what.address)
        part.format = cuda.CUarray_format(what.format)
        part.numChannels = what.channels
        if what.kind == OVER_BYTES:
            part.sizeInBytes = what.size
        else:
            part.width, part.height, part.pitchInBytes = what.width, what.height, what.pitch
        made.flags = 0
        return made

    def _sampling(self, what: Texture) -> Any:
        cuda = self._driver.module
        made = cuda.CUDA_TEXTURE_DESC()
        made.addressMode = [
            cuda.CUaddress_mode(mode) for mode in (what.mode_x, what.mode_y, what.mode_z)
        ]
        made.filterMode = cuda.CUfilter_mode(what.filter)
        made.flags = what.flags
        made.borderColor = list(what.border)
        return made
