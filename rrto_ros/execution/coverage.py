"""Which bytes a launch writes for certain: found by executing it on two different fillings.

From a kernel's PTX only bounds of its stores are known (kernels/extents.py): within them bytes may
be left as they were. So what lies within the bounds is filled with zeros, the launch is executed,
then the same with ones in every bit. A byte that is not its filling after one of them was written.
A byte that was written and keeps both fillings (it was copied onto itself) counts as not written,
which makes a caller bring more than is needed and never less.

The answer holds for every later launch with the same arguments and geometry, since of a kernel
that is known nothing but these decides what it touches (kernels/writes.py). No such answer is
given for another kernel. What was in memory is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rrto_ros.devices.protocol import Device, MemsetNode
from rrto_ros.execution.dispatch import read_memory
from rrto_ros.wire.accesses import Range

MOST_BYTES = 512 << 20
"""Bounds of a launch that are looked at."""
MOST_RANGES = 1 << 14
"""A launch that writes more pieces is taken for one that writes none for certain."""
_FILLINGS = (0x00, 0xFF)


def covered(
    device: Device, launch: Callable[[], object], bounds: Sequence[Range]
) -> tuple[Range, ...]:
    """Ranges that a launch writes whole.

    Args:
        device: The session's, on which nothing else runs.
        launch: Executes it.
        bounds: Where it may write, each range once, in live memory.

    Returns:
        Ranges within the bounds by address; none if there would be too many.

    Raises:
        CudaError: As the device says.
    """
    if sum(end - start for start, end in bounds) > MOST_BYTES:
        return ()
    kept = [bytes(read_memory(device, start, end - start)) for start, end in bounds]
    written = [np.zeros(end - start, np.bool_) for start, end in bounds]
    try:
        for filling in _FILLINGS:
            for start, end in bounds:
                device.memset(MemsetNode(start, end - start, filling, 1, end - start, 1), 0)
            launch()
            device.ctx_synchronize()
            for (start, end), found in zip(bounds, written, strict=True):
                now = np.frombuffer(read_memory(device, start, end - start), np.uint8)
                found |= now != filling
    finally:
        for (start, _), content in zip(bounds, kept, strict=True):
            device.memcpy_htod(start, memoryview(content), 0)
        device.ctx_synchronize()
    out: list[Range] = []
    for (start, _), found in zip(bounds, written, strict=True):
        out += ((start + low, start + high) for low, high in runs(found))
        if len(out) > MOST_RANGES:
            return ()
    return tuple(out)


def runs(mask: npt.NDArray[np.bool_]) -> list[Range]:
    """(start, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
