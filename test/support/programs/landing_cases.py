"""Programs with a queued copy that lands late: `landing_cases.py NAME [GATE]`.

The device takes its time over copies to the host; with a GATE, until that file is there.
"""

import ctypes
import mmap
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import call, floats, function, launch, load, ok, out, read, start, wants

SIZE = 8192
CLONE_NEWIPC = 0x08000000
C = ctypes.CDLL(None, use_errno=True)
C.shmat.restype = C.mmap.restype = ctypes.c_void_p
C.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


def filled(value):
    """Device memory."""
    address = out("cuMemAlloc_v2", SIZE)
    ok("cuMemsetD8_v2", address, value, SIZE)
    return address


def queue(to, address, size=SIZE):
    ok("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(to), address, size, 0)


def system_v():
    """A System V segment attached twice; the first one of a machine has inode 0."""
    C.unshare(CLONE_NEWIPC)  # without the right to: any segment
    start()
    name = C.shmget(0, SIZE, 0o600 | 0o1000)
    first, second = (C.shmat(name, None, 0) for _ in range(2))
    C.shmctl(name, 0, None)
    ok("cuMemHostRegister_v2", ctypes.c_void_p(first), SIZE, 0)
    address, other = filled(5), filled(0)
    queue(first, address)
    ok("cuMemcpyHtoDAsync_v2", other, ctypes.c_void_p(second), SIZE, 0)
    wants(set(read(other, SIZE)), {5}, "what the second address had")


def arguments():
    """A kernel's arguments lie where a copy has yet to land."""
    start()
    scale = function(load())
    data, source = out("cuMemAlloc_v2", 16), out("cuMemAlloc_v2", 16)
    ok("cuMemcpyHtoD_v2", data, floats(1, 2, 3, 4), 16)
    for turn, packed in enumerate((False, True)):
        pinned = out("cuMemHostAlloc", 64, 0)
        ctypes.memset(pinned, 0, 64)
        ok("cuMemcpyHtoD_v2", source, struct.pack("<QfI", data, 2.0, 4), 16)
        queue(pinned, source, 16)
        size = ctypes.c_size_t(16)
        extra = (ctypes.c_void_p * 5)(1, pinned, 2, ctypes.addressof(size), 0)
        words = (ctypes.c_void_p * 3)(pinned, pinned + 8, pinned + 12)
        wants(launch(scale, None, extra=extra) if packed else launch(scale, words), 0, "launch")
        factor = 2 << turn
        wants(read(data, 16), floats(*(n * factor for n in (1, 2, 3, 4))), f"packed {packed}")


def blocking():
    """A copy that blocks waits for its stream: what is queued before it has landed then."""
    start()
    data, other = bytes(64), out("cuMemAlloc_v2", 64)
    memory = ctypes.create_string_buffer(data)
    at = ctypes.addressof(memory)
    rows = struct.pack("<QQi4xQQQQ", 0, 0, 1, at, 0, 0, 8)
    rows += struct.pack("<QQi4xQQQQ", 0, 0, 2, 0, other, 0, 8) + struct.pack("<QQ", 8, 8)
    planes = struct.pack("<QQQQi4xQQQQQQ", 0, 0, 0, 0, 1, at, 0, 0, 0, 8, 4)
    planes += struct.pack("<QQQQi4xQQQQQQ", 0, 0, 0, 0, 2, 0, other, 0, 0, 8, 4)
    planes += struct.pack("<QQQ", 8, 4, 2)
    for value, (name, *words) in enumerate(
        (
            ("cuMemcpyHtoD_v2", other, memory, 64),
            ("cuMemcpy", other, ctypes.c_void_p(at), 64),
            ("cuMemcpy", ctypes.c_void_p(at), ctypes.c_void_p(at), 64),
            ("cuMemcpy2D_v2", rows),
            ("cuMemcpy2DUnaligned_v2", rows),
            ("cuMemcpy3D_v2", planes),
        ),
        start=1,
    ):
        pinned = out("cuMemHostAlloc", SIZE, 0)
        ctypes.memset(pinned, 0, SIZE)
        queue(pinned, filled(value))
        ok(name, *words)
        wants(set(ctypes.string_at(pinned, SIZE)), {value}, f"page-locked memory after {name}")


def overlap():
    """Memory is registered once, whichever part of it."""
    start()
    pages = mmap.mmap(-1, 4 * 4096)
    base = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    ok("cuMemHostRegister_v2", ctypes.c_void_p(base + 4096), 4096, 0)
    for at, size, wanted in ((0, 4097, 712), (0, 4 * 4096, 712), (8191, 4096, 712),
                             (0, 4096, 0), (8192, 8192, 0)):  # fmt: skip
        got = call("cuMemHostRegister_v2", ctypes.c_void_p(base + at), ctypes.c_size_t(size), 0)
        wants(got, wanted, f"registering {size} bytes from {at}")
    whole = ctypes.c_size_t(-1)
    wants(call("cuMemHostRegister_v2", ctypes.c_void_p(base), whole, 0), 1, "beyond all memory")


def unmapped(gate):
    """Registered memory that is gone before the copy lands is nobody's end but its own."""
    start()
    address = filled(7)
    gone = C.mmap(None, SIZE, mmap.PROT_READ | mmap.PROT_WRITE,
                  mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)  # fmt: skip
    kept = out("cuMemHostAlloc", SIZE, 0)
    ok("cuMemHostRegister_v2", ctypes.c_void_p(gone), SIZE, 0)
    queue(gone, address)
    queue(kept, address)
    C.munmap(ctypes.c_void_p(gone), SIZE)
    Path(gate).touch()
    ok("cuCtxSynchronize")
    wants(set(ctypes.string_at(kept, SIZE)), {7}, "the copy behind it")


def forked(gate):
    """A child has its own memory and waits for nothing that its parent queued."""
    start()
    address, pinned = filled(9), out("cuMemHostAlloc", SIZE, 0)
    ctypes.memset(pinned, 0, SIZE)
    queue(pinned, address)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if call("cuCtxSynchronize") == 3 else 1)
    wants(os.waitpid(child, 0)[1], 0, "the child's exit")
    Path(gate).touch()
    ok("cuCtxSynchronize")
    wants(set(ctypes.string_at(pinned, SIZE)), {9}, "the parent's memory")


def exits():
    """A program may end while a copy is queued and a thread polls for it."""
    start()
    address, pinned = filled(9), out("cuMemHostAlloc", SIZE, 0)
    queue(pinned, address)
    threading.Thread(target=ctypes.string_at, args=(pinned, SIZE)).start()


def signals():
    """A handler never runs in the thread that makes copies land."""
    start()
    address, pinned = filled(9), out("cuMemHostAlloc", SIZE, 0)
    queue(pinned, address)
    end, masks = time.monotonic() + 20, {}
    while "rrto-courier" not in masks:  # it gives itself its name
        assert time.monotonic() < end, f"no courier among {list(masks)}"
        for thread in Path("/proc/self/task").iterdir():
            text = (thread / "status").read_text()
            lines = dict(line.split(":", 1) for line in text.splitlines())
            masks[lines["Name"].strip()] = int(lines["SigBlk"], 16)
    usual = 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGALRM - 1 | 1 << signal.SIGINT - 1
    wants(masks["rrto-courier"] & usual, usual, "signals that it blocks")
    ok("cuCtxSynchronize")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
