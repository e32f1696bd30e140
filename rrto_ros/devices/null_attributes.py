"""What programs are told of the null device: the whole table of attributes of a GPU.

Libraries choose kernels by these numbers, and some divide by them (cuBLAS, for one, by the size of
the L2 cache), so none that a GPU has may be missing. What architectures share is as on the cpu
device; what a multiprocessor has is the CUDA programming guide's, by compute capability.
"""

from __future__ import annotations

from rrto_ros.devices.cpu import attributes as shared

_CLOCK_KHZ, _MEMORY_CLOCK_KHZ = 1_500_000, 8_000_000
_MULTIPROCESSORS = 16
_KIB = 1 << 10
_MULTIPROCESSOR = {
    (7, 0): (2048, 32, 96),
    (7, 5): (1024, 16, 64),
    (8, 0): (2048, 32, 164),
    (8, 6): (1536, 16, 100),
    (8, 7): (1536, 16, 164),
    (8, 9): (1536, 24, 100),
    (9, 0): (2048, 32, 228),
    (11, 0): (1536, 24, 228),
    (12, 0): (1536, 24, 100),
}
"""Least compute capability -> threads, blocks, KiB of shared memory of a multiprocessor."""


def device_attributes(compute_capability: tuple[int, int]) -> dict[int, int]:
    """CUdevice_attribute number -> value of a GPU of that compute capability."""
    known = [key for key in _MULTIPROCESSOR if key <= compute_capability]
    threads, blocks, kib = _MULTIPROCESSOR[max(known, default=min(_MULTIPROCESSOR))]
    # From 8.0 on the system keeps 1 KiB of each block.
    most = kib * _KIB - (_KIB if compute_capability >= (8, 0) else 0)
    return {
        **shared.device_attributes(_MULTIPROCESSORS, compute_capability, _CLOCK_KHZ),
        18: 0,  # not integrated
        36: _MEMORY_CLOCK_KHZ,
        37: 256,  # bits of the memory's bus
        38: 4 << 20,  # L2 cache
        39: threads,
        40: 2,  # engines that copy
        81: kib * _KIB,
        97: most,
        106: blocks,
    }
