"""The program of bench/flow.py: `flow_program.py WHAT BYTES IDLE_S`, interposed.

What it copies is allocated, filled and touched before it says {"ready": true} and waits for a
line, so that whatever grows afterwards is not its own. It checks every byte, and prints how long
each copy took.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import numpy as np

PART = 256 << 10
SLOTS = 64
BLOCK = 1 << 18
LIB = ctypes.CDLL("libcuda.so.1")


def ok(name: str, *arguments: Any) -> None:
    """Call and insist on success."""
    words = [ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(LIB, name)(*words)
    if result:
        raise SystemExit(f"{name} returned {result}")


def out(name: str, *arguments: Any) -> int:
    """Call with a result pointer first; gives the result."""
    value = ctypes.c_uint64()
    ok(name, ctypes.byref(value), *arguments)
    return value.value


def host(size: int) -> tuple[int, np.ndarray[Any, Any]]:
    """Page-locked memory, touched: its address, and its bytes."""
    address = out("cuMemHostAlloc", size, 0)
    view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    view[:] = 0
    return address, view


def fill(view: np.ndarray[Any, Any]) -> None:
    """Every 8-byte word its number."""
    words = view.view(np.uint64)
    for start in range(0, len(words), BLOCK):
        stop = min(start + BLOCK, len(words))
        words[start:stop] = np.arange(start, stop, dtype=np.uint64)


def filled(view: np.ndarray[Any, Any]) -> bool:
    """Whether `fill` made it."""
    words = view.view(np.uint64)
    return all(
        (words[i : i + BLOCK] == np.arange(i, min(i + BLOCK, len(words)), dtype=np.uint64)).all()
        for i in range(0, len(words), BLOCK)
    )


def go() -> None:
    """Everything is there; wait until the measurement begins."""
    print(json.dumps({"ready": True}), flush=True)
    input()


def copy(size: int, idle_s: float) -> dict[str, float]:
    """One upload, one download, and one that is taken late."""
    device, stream = out("cuMemAlloc_v2", size), out("cuStreamCreate", 1)
    ok("cuMemsetD8_v2", device, 1, size)
    ok("cuCtxSynchronize")
    address, view = host(size)
    fill(view)
    go()
    begun = time.monotonic()
    ok("cuMemcpyHtoD_v2", device, address, size)
    ok("cuCtxSynchronize")
    up = time.monotonic() - begun
    view[:] = 0
    begun = time.monotonic()
    ok("cuMemcpyDtoH_v2", address, device, size)
    down = time.monotonic() - begun
    right = filled(view)
    view[:] = 0
    ok("cuMemcpyDtoHAsync_v2", address, device, size, stream)
    ok("cuMemsetD8Async", device, 0, size, stream)
    time.sleep(idle_s)
    begun = time.monotonic()
    ok("cuStreamSynchronize", stream)
    late = time.monotonic() - begun
    right = right and filled(view)
    return {"right": right, "up_s": up, "down_s": down, "late_s": late}


def many(size: int, idle_s: float) -> dict[str, float]:
    """Copies queued both ways without a wait: what a download brings is overwritten after it."""
    count = size // PART
    device, stream = out("cuMemAlloc_v2", PART * 2), out("cuStreamCreate", 1)
    ok("cuMemsetD8_v2", device, 1, PART * 2)
    ok("cuCtxSynchronize")
    back, view = host(PART * SLOTS)
    go()
    begun = time.monotonic()
    for i in range(count):
        if i % 2:
            data = ctypes.create_string_buffer(bytes([i & 0xFF]) * PART, PART)
            ok("cuMemcpyHtoDAsync_v2", device, data, PART, stream)
        else:
            ok("cuMemsetD8Async", device, i & 0xFF, PART, stream)
        ok("cuMemcpyDtoHAsync_v2", back + i % SLOTS * PART, device, PART, stream)
    queued = time.monotonic() - begun
    time.sleep(idle_s)
    ok("cuStreamSynchronize", stream)
    whole = time.monotonic() - begun
    last = range(max(count - SLOTS, 0), count)
    slots = view.reshape(SLOTS, PART)
    right = all(bool((slots[i % SLOTS] == i & 0xFF).all()) for i in last)
    return {"right": right, "queued_s": queued, "all_s": whole}


def main() -> None:
    what, size, idle_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    ok("cuInit", 0)
    out("cuCtxCreate_v2", 0, 0)
    print(json.dumps({"copy": copy, "many": many}[what](size, idle_s)), flush=True)


if __name__ == "__main__":
    main()
