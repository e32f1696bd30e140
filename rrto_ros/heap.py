"""Gives memory back to the system that the C library keeps after it was freed.

Nodes keep much on purpose (`bringup.environment`), because buffers of messages come and go; what a
large session used is given back when it ends.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import cast

_lock = threading.Lock()


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int] | None:
    # glibc's; musl has none, and keeps less.
    found = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if found is None:
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    return cast("Callable[[int], int]", found)


def give_back() -> bool:
    """Return free memory of all of malloc's arenas; takes some milliseconds per 100 MB.

    Returns:
        Whether there was any. One thread does it at a time, others leave it to that one.
    """
    trim = _malloc_trim()
    if trim is None or not _lock.acquire(blocking=False):
        return False
    try:
        return bool(trim(0))
    finally:
        _lock.release()
