"""What a texture is, and whether it can be: shared by the devices."""

from __future__ import annotations

from dataclasses import dataclass

from rrto_ros.api.ops import SURFACE as SURFACE
from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError

OVER_BYTES, OVER_ROW, OVER_ROWS, OVER_PLANES = range(4)
"""Kinds: linear memory; one row; rows with a pitch; planes of such rows."""
AS_INTEGER, NORMALISED = 1, 2
"""Flags: elements are read as integers; coordinates run from 0 to 1. SURFACE is one alone: its
bytes are read and written."""
POINT, LINEAR = 0, 1
WRAP, CLAMP, MIRROR, BORDER = range(4)
FORMAT_BYTES = {0x01: 1, 0x02: 2, 0x03: 4, 0x08: 1, 0x09: 2, 0x0A: 4, 0x10: 2, 0x20: 4}
"""CUarray_format: 8, 16, 32 bits without sign (1, 2, 3) and with (8, 9, 10), half, float."""
_FLOATS = frozenset((0x10, 0x20))
_WHOLE = frozenset((0x03, 0x0A))


@dataclass(frozen=True)
class Texture:
    """What a kernel reads by a texture, and how.

    Attributes:
        address: First byte.
        size: Bytes from the first to the last.
        width: Elements of a row.
        height: Rows of a plane.
        depth: Planes, one behind the other.
        pitch: Bytes from row to row.
        kind: OVER_BYTES, OVER_ROW, OVER_ROWS or OVER_PLANES.
        format: CUarray_format of a channel.
        channels: 1, 2 or 4 in an element.
        filter: POINT or LINEAR.
        flags: AS_INTEGER, NORMALISED; SURFACE alone.
        mode_x: What coordinates outside mean: WRAP, CLAMP, MIRROR or BORDER.
        mode_y: The same for rows.
        mode_z: The same for planes.
        border: The element that is outside, in mode BORDER.
    """

    address: int
    size: int
    width: int
    height: int
    depth: int
    pitch: int
    kind: int
    format: int
    channels: int
    filter: int
    flags: int
    mode_x: int
    mode_y: int
    mode_z: int
    border: tuple[float, float, float, float]

    @property
    def element_bytes(self) -> int:
        """Of an element."""
        return FORMAT_BYTES[self.format] * self.channels


def check_texture(texture: Texture) -> None:
    """INVALID_VALUE for what is no texture; whether its memory is there is the device's to say."""
    t = texture
    fine = (
        t.format in FORMAT_BYTES
        and t.channels in (1, 2, 4)
        and t.kind in range(4)
        and t.filter in (POINT, LINEAR)
        and (t.flags == SURFACE or not t.flags & ~(AS_INTEGER | NORMALISED))
        and t.mode_x in range(4)
        and t.mode_y in range(4)
        and t.mode_z in range(4)
        and 0 < t.width < 1 << 31
        and 0 < t.height < 1 << 31
        and 0 < t.depth < 1 << 31
        and (t.height == 1 or t.kind >= OVER_ROWS)
        and (t.depth == 1 or t.kind == OVER_PLANES)
        and t.width * t.element_bytes <= t.pitch
        and t.size == t.pitch * (t.height * t.depth - 1) + t.width * t.element_bytes
    )
    if fine and t.flags == SURFACE:
        fine = t.kind != OVER_BYTES and t.filter == POINT
    elif fine and t.kind == OVER_BYTES:
        fine = t.filter == POINT and not t.flags & NORMALISED
    if fine and t.flags != SURFACE and (t.format in _WHOLE or t.flags & AS_INTEGER):
        # Filtered values are no integers, and 32 bits are never made numbers from 0 to 1.
        fine = t.filter == POINT and bool(t.flags & AS_INTEGER) and t.format not in _FLOATS
    if not fine:
        raise CudaError(CUresult.INVALID_VALUE, f"bad texture {texture}")
