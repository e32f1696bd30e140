"""CUdevice_attribute and CUfunction_attribute values of the virtual device."""

from __future__ import annotations

MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_BLOCKS_AT_ONCE = 24
"""On one multiprocessor; the least of what limits them (occupancy)."""
MAX_GRID = (2**31 - 1, 65535, 65535)
SHARED_BYTES = 48 * 1024
SHARED_OPTIN_BYTES = 227 * 1024
WARP = 32
REGISTERS = 65536
MAX_REGISTERS = 255
FUNCTION_MAX_DYNAMIC_SHARED = 8
FUNCTION_CARVEOUT = 9


def device_attributes(
    cores: int, compute_capability: tuple[int, int], clock_khz: int
) -> dict[int, int]:
    """CUdevice_attribute number -> value; numbers from cuda.h."""
    return {
        1: MAX_THREADS,
        2: MAX_BLOCK[0],
        3: MAX_BLOCK[1],
        4: MAX_BLOCK[2],
        5: MAX_GRID[0],
        6: MAX_GRID[1],
        7: MAX_GRID[2],
        8: SHARED_BYTES,
        9: 65536,
        10: WARP,
        11: 2**31 - 1,
        12: REGISTERS,
        13: clock_khz,
        14: 512,  # texture alignment
        15: 1,  # copies overlap with kernels
        16: cores,
        17: 0,
        18: 1,  # integrated
        19: 1,
        20: 0,
        # texture and surface limits
        21: 131072,
        22: 131072,
        23: 65536,
        24: 16384,
        25: 16384,
        26: 16384,
        27: 32768,
        28: 32768,
        29: 2048,
        30: 512,
        31: 1,
        32: 0,
        33: 0,
        34: 0,
        35: 0,
        36: clock_khz,
        37: 128,
        38: 4 << 20,
        39: 1536,
        40: 1,
        41: 1,
        42: 32768,
        43: 2048,
        44: 0,
        45: 32768,
        46: 32768,
        47: 8192,
        48: 8192,
        49: 32768,
        50: 0,
        51: 32,
        52: 32768,
        53: 2046,
        54: 32768,
        55: 32768,
        56: 32768,
        57: 32768,
        58: 32768,
        59: 16384,
        60: 32768,
        61: 2048,
        62: 32768,
        63: 2048,
        64: 32768,
        65: 32768,
        66: 2046,
        67: 32768,
        68: 2046,
        69: 268435456,
        70: 131072,
        71: 65000,
        72: 2097120,
        73: 32768,
        74: 32768,
        75: compute_capability[0],
        76: compute_capability[1],
        77: 32768,
        78: 1,
        79: 1,
        80: 1,
        81: SHARED_OPTIN_BYTES + 1024,
        82: REGISTERS,
        83: 0,  # managed memory is not offered
        84: 0,
        85: 0,
        86: 0,
        87: 32,
        88: 0,
        89: 0,
        90: 0,
        91: 0,
        92: 0,
        93: 0,
        94: 0,
        95: 1,  # cooperative launches
        96: 0,
        97: SHARED_OPTIN_BYTES,
        98: 0,
        99: 0,
        100: 0,
        101: 0,
        102: 1,  # virtual memory management
        103: 0,
        104: 0,
        105: 0,
        106: MAX_BLOCKS_AT_ONCE,
        107: 0,
        108: 0,
        109: 0,
        110: 0,
        111: 1024,
        112: 0,
        113: 1,
        114: 1,
        115: 1,  # stream-ordered memory pools
        116: 0,
        117: 0,
        118: 0,
        119: 0,
        120: 0,
        121: 0,
        122: 0,
        123: 0,
        124: 0,
        125: 0,
        126: 0,
        127: 0,
        128: 0,
        129: 0,
        130: 0,
        131: 0,
        132: 0,
        133: 0,
        134: -1,
        135: 0,
        136: 0,
        137: 0,
        138: 0,
        139: -1,
        140: 0,
    }


def function_attributes(
    architecture: tuple[int, int],
    compute_capability: tuple[int, int],
    max_threads: int,
    shared_bytes: int,
    const_bytes: int,
    local_bytes: int,
    registers: int,
) -> dict[int, int]:
    """CUfunction_attribute number -> value.

    Its "PTX version" is the virtual architecture, as drivers have it: CUB asks for that.
    The registers of a block of `max_threads` fit into a multiprocessor, as a compiler sees to.
    """
    whole_warps = -(-max(max_threads, 1) // WARP) * WARP
    most = min(MAX_REGISTERS, REGISTERS // whole_warps)
    return {
        0: max_threads,
        1: shared_bytes,
        2: const_bytes,
        3: local_bytes,
        4: max(1, min(registers, most)),
        5: architecture[0] * 10 + architecture[1],
        6: compute_capability[0] * 10 + compute_capability[1],
        7: 0,
        8: SHARED_BYTES - min(shared_bytes, SHARED_BYTES),
        9: -1,
        10: 0,
        11: 0,
        12: 0,
        13: 0,
        14: 0,
        15: 0,
    }
