"""Bytes in ROS messages: owns how a uint8 field gets them without one look at each."""

from __future__ import annotations

import array
from typing import Any

import numpy as np

from rrto_ros.wire.format import Buffer


def set_bytes(message: Any, field: str, data: Buffer) -> None:
    """Give a message's uint8[] field its bytes, which must not change before it is published.

    Publishing reads any buffer. The field's setter takes an array only, and copies it; making that
    array is another copy: 0.5 ms for 600 KB.
    """
    if f"_{field}" in message.__slots__:
        setattr(message, f"_{field}", data)
    else:
        setattr(message, field, byte_array(data))


def byte_array(data: Buffer) -> array.array[int]:
    """Bytes as the array that a uint8[] field takes without looking at every item."""
    out = array.array("B")
    out.frombytes(data)
    return out


def id_array(session: bytes) -> Any:
    """A session id as the NumPy array of a uint8[16] field."""
    return np.frombuffer(session, np.uint8)
