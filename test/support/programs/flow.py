"""Queues more than any buffer holds; checks every byte itself. Arguments: what, MiB, seconds idle.

Prints JSON lines: {"queued": seconds}, then {"ok": checks} or {"wrong": text}.
"""

import ctypes
import json
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import call, ok, out, start

PART = 300_000
CHECKS = 0


def say(**fields):
    print(json.dumps(fields), flush=True)


def check(same, text):
    global CHECKS
    CHECKS += 1
    if not same:
        say(wrong=text)
        sys.exit(1)


def pinned(size):
    return out("cuMemHostAlloc", size, 0)


def holds(address, size, value):
    return ctypes.string_at(address, size) == bytes([value & 0xFF]) * size


def queued(total, idle):
    """Downloads of memory that the next call overwrites, one after the other, unwaited."""
    count = total // PART
    device, stream = out("cuMemAlloc_v2", PART), out("cuStreamCreate", 1)
    host = pinned(count * PART)
    begun = time.monotonic()
    for i in range(count):
        ok("cuMemsetD8Async", device, i & 0xFF, PART, stream)
        ok("cuMemcpyDtoHAsync_v2", host + i * PART, device, PART, stream)
    ok("cuMemsetD8Async", device, 0xEE, PART, stream)
    say(queued=time.monotonic() - begun)
    time.sleep(idle)
    ok("cuStreamSynchronize", stream)
    for i in range(count):
        check(holds(host + i * PART, PART, i), f"download {i}")


def both(total, idle):
    """Two threads queue uploads and downloads in turn; then a third waits for all."""
    context = out("cuCtxGetCurrent")
    count = max(total // PART // 4, 1)
    streams = [out("cuStreamCreate", 1) for _ in range(2)]
    hosts = [pinned(count * PART) for _ in range(2)]

    def queue(k):
        ok("cuCtxSetCurrent", context)
        device = out("cuMemAlloc_v2", PART)
        for i in range(count):
            data = ctypes.create_string_buffer(bytes([(7 * k + i) & 0xFF]) * PART, PART)
            ok("cuMemcpyHtoDAsync_v2", device, data, PART, streams[k])
            ok("cuMemcpyDtoHAsync_v2", hosts[k] + i * PART, device, PART, streams[k])

    threads = [threading.Thread(target=queue, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(queued=0)
    time.sleep(idle)
    ok("cuCtxSynchronize")
    for k in range(2):
        for i in range(count):
            check(holds(hosts[k] + i * PART, PART, 7 * k + i), f"thread {k}, download {i}")


def one(total, idle):
    """One upload and one download of the whole size."""
    device = out("cuMemAlloc_v2", total)
    pattern = os.urandom(65536) + b"odd"
    data = (pattern * (total // len(pattern) + 1))[:total]
    ok("cuMemcpyHtoD_v2", device, data, total)
    say(queued=0)
    time.sleep(idle)
    back = ctypes.create_string_buffer(total)
    ok("cuMemcpyDtoH_v2", back, device, total)
    check(back.raw == data, "one large copy")


def known(total, idle):
    """Uploads that the server may know by name, with unwaited downloads between."""
    say(ready=True)
    input()
    count = max(total // PART // 2, 1)
    device, stream = out("cuMemAlloc_v2", count * PART), out("cuStreamCreate", 1)
    host = pinned(count * PART)
    for i in range(count):
        ok("cuMemcpyDtoHAsync_v2", host + i * PART, device + i * PART, PART, stream)
        data = ctypes.create_string_buffer(bytes([i + 1 & 0xFF]) * PART, PART)
        ok("cuMemcpyHtoDAsync_v2", device + i * PART, data, PART, stream)
    for i in range(count):
        ok("cuMemcpyDtoHAsync_v2", host + i * PART, device + i * PART, PART, stream)
    say(queued=0)
    time.sleep(idle)
    ok("cuStreamSynchronize", stream)
    for i in range(count):
        check(holds(host + i * PART, PART, i + 1), f"upload {i}")


def behind(total, idle):
    """Gives the device long work, and uploads meanwhile."""
    large = out("cuMemAlloc_v2", 128 << 20)
    device, stream = out("cuMemAlloc_v2", PART), out("cuStreamCreate", 1)
    for i in range(60):
        ok("cuMemsetD8Async", large, i, 128 << 20, stream)
    for i in range(total // PART):
        data = ctypes.create_string_buffer(bytes([i & 0xFF]) * PART, PART)
        ok("cuMemcpyHtoDAsync_v2", device, data, PART, stream)
    back = ctypes.create_string_buffer(PART)
    ok("cuMemcpyDtoH_v2", back, device, PART)
    check(back.raw == bytes([total // PART - 1 & 0xFF]) * PART, "the last upload")


def dies(total, idle):
    """Queues, says so, and waits to be killed."""
    count = total // PART
    device, stream = out("cuMemAlloc_v2", PART), out("cuStreamCreate", 1)
    host = pinned(PART)
    for _ in range(count):
        ok("cuMemcpyDtoHAsync_v2", host, device, PART, stream)
    say(queued=0)
    time.sleep(idle)


def fails(total, idle):
    """Fills both directions; the end of the recorder must wake it. Prints the last result."""
    device, stream = out("cuMemAlloc_v2", PART), out("cuStreamCreate", 1)
    data = ctypes.create_string_buffer(PART)
    say(queued=0)
    result = 0
    for _ in range(total // PART):
        if result := call("cuMemcpyHtoDAsync_v2", device, data, PART, stream):
            break
    say(result=result)
    sys.exit(0)


if __name__ == "__main__":
    start()
    globals()[sys.argv[1]](int(float(sys.argv[2]) * (1 << 20)), float(sys.argv[3]))
    say(ok=CHECKS)
