"""Programs with host functions in their streams: `shim_host_calls.py NAME` runs one."""

import ctypes
import json
import os
import struct
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import (
    call,
    floats,
    function,
    launch,
    load,
    ok,
    out,
    read,
    scale_params,
    start,
    wants,
)

HOST = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
NOT_READY, NOT_PERMITTED, INVALID_HANDLE = 600, 800, 400


def order():
    """It sees what came before it, and what comes after it sees what it did."""
    start()
    stream = out("cuStreamCreate", 1)
    address, copy = out("cuMemAlloc_v2", 16), out("cuMemAlloc_v2", 16)
    pinned = out("cuMemHostAlloc", 16, 0)
    seen, problems = [], []

    @HOST
    def step(data):
        try:
            seen.append((data, ctypes.string_at(pinned, 16)))
            time.sleep(0.2)  # whoever does not wait is here before it
            ctypes.memmove(pinned, floats(9, 8, 7, 6), 16)
        except BaseException as error:
            problems.append(repr(error))

    kernel = function(load())
    ok("cuMemcpyHtoDAsync_v2", address, floats(1, 2, 3, 4), 16, stream)
    wants(launch(kernel, scale_params(address, 2.0, 4), stream=stream), 0, "launch")
    ok("cuMemcpyDtoHAsync_v2", pinned, address, 16, stream)
    ok("cuLaunchHostFunc", stream, step, 77)
    ok("cuMemcpyHtoDAsync_v2", copy, pinned, 16, stream)
    wants(read(copy, 16), floats(9, 8, 7, 6), "what it left")
    wants((seen, problems), ([(77, floats(2, 4, 6, 8))], []), "what it saw")
    other = out("cuMemHostAlloc", 16, 0)
    ctypes.memset(pinned, 0, 16)
    ok("cuLaunchHostFunc", stream, step, 78)
    ok("cuMemcpyAsync", other, pinned, 16, stream)
    ok("cuStreamSynchronize", stream)
    wants(ctypes.string_at(other, 16), floats(9, 8, 7, 6), "between two places of the program")


def returns_at_once():
    """The call does not wait for the function, and the stream is busy until it has returned."""
    start()
    stream, event = out("cuStreamCreate", 1), out("cuEventCreate", 2)
    go, threads = threading.Event(), []
    ok("cuEventRecord", event, stream)
    ok("cuStreamSynchronize", stream)

    @HOST
    def wait(_):
        threads.append(threading.get_native_id())
        go.wait(30)

    ok("cuLaunchHostFunc", stream, wait, 0)
    wants(call("cuStreamQuery", stream), NOT_READY, "the stream while it runs")
    wants(call("cuEventQuery", event), NOT_READY, "an event while it runs")
    go.set()
    ok("cuStreamSynchronize", stream)
    wants(len(threads), 1, "calls")
    wants(threads[0] == threading.get_native_id(), False, "in the program's thread")
    ok("cuStreamQuery", stream)
    ok("cuEventQuery", event)


def clock_is_set():
    """While a function runs somebody sets the clock by an hour."""
    start()
    stream, waits = out("cuStreamCreate", 1), threading.Event()

    @HOST
    def sets(_):
        waits.wait(30)
        time.sleep(0.2)  # by now the program waits
        Path(os.environ["CLOCK_JUMP"]).write_bytes(struct.pack("<d", 3600.0))
        time.sleep(0.5)

    ok("cuLaunchHostFunc", stream, sets, 0)
    before = time.time()
    waits.set()
    ok("cuStreamSynchronize", stream)
    wants(time.time() - before > 3000, True, "the clock was set")


def callbacks():
    start()
    context, stream = out("cuCtxGetCurrent"), out("cuStreamCreate", 0)
    address = out("cuMemAlloc_v2", 16)
    told, results = [], {}

    @CALLBACK
    def step(stream, status, data):
        told.append((stream, status, data))
        results.update(
            alloc=call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4),
            free=call("cuMemFree_v2", address),
            context=call("cuCtxSetCurrent", context),
            wait=call("cuStreamSynchronize", stream),
            name=call("cuGetErrorName", 1, ctypes.byref(ctypes.c_char_p())),
        )

    ok("cuStreamAddCallback", stream, step, 5, 0)
    ok("cuStreamSynchronize", stream)
    wants(told, [(stream, 0, 5)], "what it was told")
    wants(results, {"alloc": NOT_PERMITTED, "free": NOT_PERMITTED, "context": NOT_PERMITTED,
                    "wait": NOT_PERMITTED, "name": 0}, "CUDA inside of it")  # fmt: skip
    ok("cuMemFree_v2", address)
    for name, arguments, wanted in (
        ("cuStreamAddCallback", (stream, 0, 0, 0), 1),
        ("cuStreamAddCallback", (stream, step, 0, 1), 1),
        ("cuStreamAddCallback", (0xDEAD0, step, 0, 0), INVALID_HANDLE),
        ("cuLaunchHostFunc", (stream, 0, 0), 1),
        ("cuLaunchHostFunc_v2", (stream, step, 0, 2), 1),
        ("cuLaunchHostFunc", (0xDEAD0, step, 0), INVALID_HANDLE),
    ):
        wants(call(name, *arguments), wanted, f"{name}{arguments}")
    ok("cuStreamSynchronize", stream)
    wants(len(told), 1, "calls")


def many():
    """Threads with streams of their own; each function reads what its thread just computed."""
    context = start()
    kernel = function(load())
    problems = []

    def work(number):
        try:
            ok("cuCtxSetCurrent", context)
            stream, address = out("cuStreamCreate", 1), out("cuMemAlloc_v2", 16)
            pinned = out("cuMemHostAlloc", 16, 0)
            seen = []
            step = HOST(lambda data: seen.append((data, ctypes.string_at(pinned, 16))))
            wanted = []
            value = struct.unpack("<f", floats(number + 1))[0]
            ok("cuMemcpyHtoDAsync_v2", address, floats(*[value] * 4), 16, stream)
            for turn in range(40):
                args = scale_params(address, 1.5 if turn % 2 else 2.0, 4)
                value *= 1.5 if turn % 2 else 2.0
                wants(launch(kernel, args, stream=stream), 0, "launch")
                ok("cuMemcpyDtoHAsync_v2", pinned, address, 16, stream)
                ok("cuLaunchHostFunc", stream, step, turn + 1)
                wanted.append((turn + 1, floats(*[value] * 4)))
            ok("cuStreamSynchronize", stream)
            wants(seen == wanted, True, f"thread {number}")
        except BaseException as error:
            problems.append(repr(error))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    wants(problems, [], "problems")


def after_an_error():
    """What precedes it fails: a host function is not called, a callback is told."""
    start()
    stream = out("cuStreamCreate", 1)
    called = []
    function_ = HOST(lambda data: called.append("function"))
    callback = CALLBACK(lambda stream, status, data: called.append(status))
    first = call("cuStreamAddCallback", stream, callback, 0, 0)
    second = call("cuLaunchHostFunc", stream, function_, 0)
    deadline = time.monotonic() + 30
    while not called and time.monotonic() < deadline:
        time.sleep(0.01)
    print(json.dumps({"first": first, "second": second, "called": called}))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
