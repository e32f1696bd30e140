"""Atomic access to memory shared with another process, through the C helper of the shim.

Python has no fences; on a machine with weak ordering the ring would lose wake-ups and records
without them. The calls keep the GIL (`PyDLL`): each is a few instructions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from rrto_ros.shim.build import ensure_built


@dataclass(frozen=True, slots=True)
class Atomics:
    """Functions on absolute addresses; whoever calls owns the mapping behind them.

    Attributes:
        load_u64: Load with acquire.
        store_u64: (address, value), store with release.
        load_u32: Load with acquire.
        store_u32: (address, value), store with release.
        exchange_sleep: (address of a u32, value) -> old value, with a full fence after it.
    """

    load_u64: Callable[[int], int]
    store_u64: Callable[[int, int], None]
    load_u32: Callable[[int], int]
    store_u32: Callable[[int, int], None]
    exchange_sleep: Callable[[int, int], int]


@lru_cache(maxsize=1)
def recorder_library() -> ctypes.PyDLL:
    """Load the C code that the recorder shares with the shim, building it if need be.

    Raises:
        UnavailableError: It cannot be built.
    """
    # Each call is short, and to give up the GIL would cost more.
    return ctypes.PyDLL(str(ensure_built() / "librrto_recorder.so"))


@lru_cache(maxsize=1)
def atomics() -> Atomics:
    """The functions of the helper.

    Raises:
        UnavailableError: It cannot be built.
    """
    library = recorder_library()
    library.rrto_load_u64.argtypes = [ctypes.c_void_p]
    library.rrto_load_u64.restype = ctypes.c_uint64
    library.rrto_store_u64.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    library.rrto_store_u64.restype = None
    library.rrto_load_u32.argtypes = [ctypes.c_void_p]
    library.rrto_load_u32.restype = ctypes.c_uint32
    library.rrto_store_u32.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.rrto_store_u32.restype = None
    library.rrto_exchange_sleep.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.rrto_exchange_sleep.restype = ctypes.c_uint32
    return Atomics(
        library.rrto_load_u64,
        library.rrto_store_u64,
        library.rrto_load_u32,
        library.rrto_store_u32,
        library.rrto_exchange_sleep,
    )
