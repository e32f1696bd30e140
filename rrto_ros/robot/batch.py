"""How the parts of a batch become one buffer: owns that a large upload is not copied for it.

Records come out of the ring by one copy, into a buffer with room before and behind them. A large
payload stays there, and what leaves with it is written around it: headers of references, small
calls, what was pending.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

from rrto_ros.wire.format import Buffer

LARGE_BYTES = 256 << 10
"""A payload from here on ends its reference, so that it can stay where it is: a copy costs more
than another reference."""
ROOM = bytes(4096)
"""Before the records, and behind them."""


def joined(parts: Sequence[Buffer]) -> Buffer:
    """The parts as one buffer, made around the largest if that is large and lies in an array.

    Args:
        parts: None is empty. What else is in such an array may be overwritten.
    """
    if len(parts) == 1:
        return parts[0]
    first = max(range(len(parts)), key=lambda k: len(parts[k]), default=0)
    whole = getattr(parts[first], "obj", None) if parts else None
    if not isinstance(whole, array) or len(parts[first]) < LARGE_BYTES:
        return b"".join(parts)
    start, last = _place(parts[first], whole), first + 1
    end = start + len(parts[first])
    # Neighbours that are in their place.
    while first and _place(parts[first - 1], whole) == start - len(parts[first - 1]):
        first -= 1
        start -= len(parts[first])
    while last < len(parts) and _place(parts[last], whole) == end:
        end += len(parts[last])
        last += 1
    before, after = b"".join(parts[:first]), b"".join(parts[last:])
    if len(before) > start or len(after) > len(whole) - end:
        return b"".join(parts)
    view = memoryview(whole)
    view[start - len(before) : start] = before
    view[end : end + len(after)] = after
    return view[start - len(before) : end + len(after)]


def _place(part: Buffer, whole: array[int]) -> int:
    """Where a view of an array begins in it; -1 if it is none."""
    if not isinstance(part, memoryview) or part.obj is not whole:
        return -1
    return ctypes.addressof(ctypes.c_char.from_buffer(part)) - whole.buffer_info()[0]
