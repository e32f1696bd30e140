"""Textures and surfaces of the virtual device: descriptions in memory; kernels get their address.

A kernel reads the description (codegen/texture.py has its layout). One that was destroyed is
zero, and what a kernel reads by it is zero.
"""

from __future__ import annotations

import struct

from rrto_ros.api.ops import READ_WRITE
from rrto_ros.api.results import CUresult
from rrto_ros.devices.cpu.codegen.texture import DESCRIPTION, DESCRIPTION_BYTES
from rrto_ros.devices.cpu.memory import Arena
from rrto_ros.devices.mappings import READ
from rrto_ros.devices.textures import (
    AS_INTEGER,
    BORDER,
    LINEAR,
    NORMALISED,
    OVER_BYTES,
    SURFACE,
    Texture,
    check_texture,
)
from rrto_ros.errors import CudaError

_BLOCK = 32


class Textures:
    """One session's.

    Args:
        arena: Where the descriptions lie, and what textures read.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._places: dict[int, int] = {}
        self._free: list[int] = []

    def create(self, texture: int, what: Texture) -> int:
        """Make a texture; returns the number by which kernels know it.

        Raises:
            CudaError: INVALID_VALUE for what is no texture or has no memory.
        """
        if texture in self._places:
            raise CudaError(CUresult.INVALID_HANDLE, f"texture {texture} exists already")
        check_texture(what)
        self._arena.check(what.address, what.size, READ_WRITE if what.flags == SURFACE else READ)
        if not self._free:
            block = self._arena.allocate_module(_BLOCK * DESCRIPTION_BYTES, DESCRIPTION_BYTES)
            self._free = [block + k * DESCRIPTION_BYTES for k in reversed(range(_BLOCK))]
        place = self._places[texture] = self._free.pop()
        self._write(place, _description(what))
        return place

    def destroy(self, texture: int) -> None:
        """A texture goes (INVALID_HANDLE)."""
        place = self._places.pop(texture, None)
        if place is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"texture {texture} is unknown")
        self._write(place, bytes(DESCRIPTION_BYTES))
        self._free.append(place)

    def _write(self, place: int, content: bytes) -> None:
        self._arena.view(place, len(content)).data[:] = content


def _description(t: Texture) -> bytes:
    border, mode = t.border, t.mode_x
    if t.kind == OVER_BYTES:  # outside is zero
        border, mode = (0.0, 0.0, 0.0, 0.0), BORDER
    flags = t.flags & (AS_INTEGER | NORMALISED) | (4 if t.filter == LINEAR else 0)
    row = min(t.width * t.element_bytes, (1 << 31) - 1)
    packed = struct.pack(
        DESCRIPTION, t.address, t.pitch, t.width, t.height, t.depth, t.format, t.channels, flags,
        mode, t.mode_y, t.mode_z, row, 0, *border,
    )  # fmt: skip
    return packed.ljust(DESCRIPTION_BYTES, b"\0")
