"""Programs that capture streams into graphs: `shim_capture.py NAME`."""

import ctypes
import struct
import sys
import threading
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
from support.programs.shim_graphs import kernel, many, nodes

NON_BLOCKING, GLOBAL, THREAD_LOCAL, RELAXED = 1, 0, 1, 2
NONE, ACTIVE, INVALID = 0, 1, 2
UNSUPPORTED, INVALIDATED, MERGE, UNMATCHED, UNJOINED = 900, 901, 902, 903, 904
ISOLATION, IMPLICIT, CAPTURED_EVENT, WRONG_THREAD = 905, 906, 907, 908
ILLEGAL_STATE, NOT_SUPPORTED = 401, 801
KERNEL, COPY, FILL, HOST, CHILD, EMPTY, WAIT, RECORD = range(8)
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def stream(flags=NON_BLOCKING):
    return out("cuStreamCreate", flags)


def event(flags=0):
    return out("cuEventCreate", flags)


def begin(on, mode=GLOBAL):
    ok("cuStreamBeginCapture_v2", on, mode)


def end(on):
    """The captured graph."""
    graph = ctypes.c_uint64()
    ok("cuStreamEndCapture", on, ctypes.byref(graph))
    assert graph.value, "no graph"
    return graph.value


def failed(on):
    """What ending an invalid sequence returns; there is no graph."""
    graph = ctypes.c_uint64(99)
    code = call("cuStreamEndCapture", on, ctypes.byref(graph))
    wants(graph.value, 0, "graph of a sequence that failed")
    wants(state(on), NONE, "state after it")
    return code


def state(on):
    return out_last("cuStreamIsCapturing", on)


def out_last(name, *arguments, kind=ctypes.c_int):
    value = kind(99)
    ok(name, *arguments, ctypes.byref(value))
    return value.value


def instantiate(graph):
    return out("cuGraphInstantiateWithFlags", graph, 0)


def kinds(graph):
    found = many("cuGraphGetNodes", graph)[1]
    return [out_last("cuGraphNodeGetType", node) for (node,) in found]


def edges(graph):
    """(from, to) by the nodes' places in the graph's list."""
    place = {node: i for i, (node,) in enumerate(many("cuGraphGetNodes", graph)[1])}
    return sorted((place[a], place[b]) for a, b in many("cuGraphGetEdges", graph, width=2)[1])


class Buffers:
    """A kernel, device memory of four floats each, and page-locked memory."""

    def __init__(self, count=2):
        start()
        self.scale = function(load())
        self.at = [out("cuMemAlloc_v2", 16) for _ in range(count)]
        for address in self.at:
            self.write(address, 1, 2, 3, 4)

    def write(self, address, *values):
        ok("cuMemcpyHtoD_v2", address, floats(*values), 16)

    def multiply(self, on, factor, which=0):
        arguments = scale_params(self.at[which], factor, 4)
        return launch(self.scale, arguments, stream=on)

    def read(self, which=0):
        return struct.unpack("<4f", read(self.at[which], 16))


def pinned(size=16):
    address = out("cuMemHostAlloc", size, 0)
    return address, (ctypes.c_float * (size // 4)).from_address(address)


def simple():
    """Calls are captured and not executed; the graph does them, as often as it is launched."""
    b = Buffers()
    s = stream()
    begin(s)
    wants(state(s), ACTIVE, "state")
    ok("cuMemsetD32Async", b.at[1], struct.unpack("<I", floats(2.0))[0], 4, s)
    wants(b.multiply(s, 3.0), 0, "a launch")
    wants(b.multiply(s, 5.0, which=1), 0, "a launch")
    ok("cuMemcpyDtoDAsync_v2", b.at[0] + 8, b.at[1], 8, s)
    graph = end(s)
    wants(state(s), NONE, "state after it")
    wants(b.read(), (1, 2, 3, 4), "nothing was executed")
    wants(kinds(graph), [FILL, KERNEL, KERNEL, COPY], "nodes")
    wants(edges(graph), [(0, 1), (1, 2), (2, 3)], "edges")
    executable = instantiate(graph)
    wants(b.read(), (1, 2, 3, 4), "nothing was executed yet")
    ok("cuGraphLaunch", executable, s)
    wants(b.read(), (3, 6, 10, 10), "once")
    ok("cuGraphDestroy", graph)
    ok("cuGraphLaunch", executable, s)
    ok("cuGraphLaunch", executable, 0)
    wants(b.read(), (27, 54, 10, 10), "three times")
    wants(b.multiply(s, 2.0), 0, "a launch after it")
    wants(b.read(), (54, 108, 20, 20), "which is executed")
    ok("cuGraphExecDestroy", executable)
    begin(s)
    wants(kinds(end(s)), [], "an empty sequence")


def empty_launch():
    b = Buffers()
    s = stream()
    begin(s)
    executable = instantiate(end(s))
    ok("cuGraphLaunch", executable, s)
    ok("cuStreamSynchronize", s)
    wants(b.read(), (1, 2, 3, 4), "nothing happened")


def forks():
    """Other streams join by waiting for an event, and are joined in the same way."""
    b = Buffers(3)
    s, t, u = stream(), stream(), stream(0)
    fork, join, again = event(), event(), event()
    begin(s)
    wants(b.multiply(s, 2.0, 0), 0, "a launch")
    ok("cuEventRecord", fork, s)
    ok("cuStreamWaitEvent", t, fork, 0)
    ok("cuStreamWaitEvent", u, fork, 0)
    wants([state(t), state(u)], [ACTIVE, ACTIVE], "states of those that joined")
    ids = set()
    for one in (s, t, u):
        status, number = ctypes.c_int(), ctypes.c_uint64()
        ok("cuStreamGetCaptureInfo", one, ctypes.byref(status), ctypes.byref(number))
        ids.add(number.value)
    wants(len(ids), 1, "one sequence")
    wants(b.multiply(t, 3.0, 1), 0, "a launch")
    wants(b.multiply(u, 5.0, 2), 0, "a launch")
    ok("cuEventRecord", join, t)
    ok("cuEventRecord", again, u)
    wants(b.multiply(s, 7.0, 0), 0, "a launch")
    ok("cuStreamWaitEvent", s, join, 0)
    ok("cuStreamWaitEvent", s, again, 0)
    ok("cuMemcpyDtoDAsync_v2", b.at[0], b.at[1], 8, s)
    ok("cuMemcpyDtoDAsync_v2", b.at[0] + 8, b.at[2], 8, s)
    graph = end(s)
    wants([state(t), state(u)], [NONE, NONE], "states of those that joined")
    wants(kinds(graph), [KERNEL] * 4 + [COPY] * 2, "nodes")
    wants(edges(graph), [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4), (4, 5)], "edges")
    ok("cuGraphLaunch", instantiate(graph), s)
    wants(b.read(), (3, 6, 5, 10), "result")
    wants(b.multiply(t, 2.0, 1), 0, "a launch in a stream that had joined")
    wants(b.read(1), (6, 12, 18, 24), "is executed")


def robots():
    """What needs the robot is done when the graph is launched, in the order of the nodes."""
    b = Buffers()
    s = stream()
    source, values = pinned()
    target, results = pinned()
    seen = []
    note = HOST_FUNCTION(lambda data: seen.append((data, list(results))))
    begin(s, THREAD_LOCAL)
    ok("cuMemcpyHtoDAsync_v2", b.at[0], ctypes.c_void_p(source), 16, s)
    wants(b.multiply(s, 3.0), 0, "a launch")
    wants(b.multiply(s, 2.0), 0, "a launch")
    ok("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(target), b.at[0], 16, s)
    ok("cuLaunchHostFunc", s, note, ctypes.c_void_p(7))
    ok("cuMemcpyAsync", b.at[1], target, 16, s)
    wants(b.multiply(s, 10.0, 1), 0, "a launch")
    graph = end(s)
    wants(seen, [], "not called yet")
    wants(kinds(graph), [COPY, KERNEL, KERNEL, COPY, HOST, COPY, KERNEL], "nodes")
    executable = instantiate(graph)
    for round_ in range(1, 4):
        values[:] = [round_, round_ + 1, 0, -1]
        ok("cuGraphLaunch", executable, s)
        ok("cuStreamSynchronize", s)
        expected = [6.0 * v for v in values]
        wants(list(results), expected, "in host memory")
        wants(seen[-1], (7, expected), "what the host function saw")
        wants(list(b.read(1)), [10 * v for v in expected], "what came after it")
    wants(len(seen), 3, "calls of the host function")


def rows():
    """Copies of rows: one node each; inside the device they are the server's."""
    start()
    s = stream()
    wide, narrow = out("cuMemAlloc_v2", 256), out("cuMemAlloc_v2", 64)
    source, values = pinned(256)
    target, results = pinned(64)
    values[:] = list(range(64))
    plain = struct.Struct("<2Qi4x4Q2Qi4x4Q2Q")
    host_in = plain.pack(4, 0, 1, source, 0, 0, 32, 0, 0, 2, 0, wide, 0, 64, 16, 4)
    inside = plain.pack(0, 0, 2, 0, wide, 0, 64, 0, 0, 2, 0, narrow, 0, 16, 16, 4)
    host_out = plain.pack(0, 0, 2, 0, narrow, 0, 16, 0, 0, 1, target, 0, 0, 16, 16, 4)
    begin(s)
    for raw in (host_in, inside, host_out):
        ok("cuMemcpy2DAsync_v2", raw, s)
    graph = end(s)
    wants(kinds(graph), [COPY] * 3, "nodes")
    ok("cuGraphLaunch", instantiate(graph), s)
    ok("cuStreamSynchronize", s)
    expected = [float(8 * row + 1 + i) for row in range(4) for i in range(4)]
    wants(list(results), expected, "rows through the device")
    array = out("cuArrayCreate_v2", struct.pack("<2QiI", 4, 4, 0x20, 1))
    into = plain.pack(0, 0, 2, 0, wide, 0, 64, 0, 0, 3, 0, 0, array, 0, 16, 4)
    out_of = plain.pack(0, 0, 3, 0, 0, array, 0, 0, 0, 1, target, 0, 0, 16, 16, 4)
    begin(s)
    for raw in (into, out_of):
        ok("cuMemcpy2DAsync_v2", raw, s)
    graph = end(s)
    wants(kinds(graph), [COPY] * 2, "nodes")
    results[:] = [0] * 16
    ok("cuGraphLaunch", instantiate(graph), s)
    ok("cuStreamSynchronize", s)
    wants(list(results), expected, "rows through an array")


def nested():
    """A graph that is launched into a captured stream is a child graph."""
    b = Buffers()
    s = stream()
    begin(s)
    wants(b.multiply(s, 2.0), 0, "a launch")
    inner = instantiate(end(s))
    begin(s)
    wants(b.multiply(s, 3.0), 0, "a launch")
    ok("cuGraphLaunch", inner, s)
    ok("cuGraphLaunch", inner, s)
    ok("cuMemcpyDtoDAsync_v2", b.at[1], b.at[0], 16, s)
    graph = end(s)
    wants(kinds(graph), [KERNEL, CHILD, CHILD, COPY], "nodes")
    ok("cuGraphExecDestroy", inner)
    ok("cuGraphLaunch", instantiate(graph), 0)
    wants(b.read(1), (12, 24, 36, 48), "result")


def into():
    """Capture into a graph that there is, with what the next call waits for set by hand."""
    b = Buffers()
    s = stream()
    graph = out("cuGraphCreate", 0)
    first = out("cuGraphAddEmptyNode", graph, 0, 0)
    second = out("cuGraphAddEmptyNode", graph, 0, 0)
    ok("cuStreamBeginCaptureToGraph", s, graph, nodes(first), 0, 1, RELAXED)
    wants(call("cuGraphDestroy", graph), 1, "destroyed meanwhile")
    wants(call("cuGraphDestroyNode", first), 1, "a node destroyed meanwhile")
    status, number, count = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_size_t()
    where, waits = ctypes.c_uint64(), ctypes.POINTER(ctypes.c_uint64)()
    data = ctypes.POINTER(ctypes.c_uint64)()

    def info():
        ok("cuStreamGetCaptureInfo_v3", s, *map(ctypes.byref, (status, number, where, waits, data,
                                                               count)))  # fmt: skip
        wants((status.value, where.value), (ACTIVE, graph), "what is captured into")
        wants([data[i] for i in range(count.value)], [0] * count.value, "data of the edges")
        return [waits[i] for i in range(count.value)]

    wants(info(), [first], "what the next waits for")
    wants(b.multiply(s, 2.0), 0, "a launch")
    (launched,) = info()
    ok("cuStreamUpdateCaptureDependencies", s, nodes(second), 1, 0)
    wants(info(), [launched, second], "one more")
    wants(b.multiply(s, 3.0), 0, "a launch")
    (third,) = info()
    ok("cuStreamUpdateCaptureDependencies_v2", s, nodes(first), 0, 1, 1)
    wants(info(), [first], "another instead")
    wants(b.multiply(s, 5.0, 1), 0, "a launch")
    own = out("cuGraphAddKernelNode_v2", graph, nodes(third), 1,
              ctypes.byref(kernel(b.scale, scale_params(b.at[0], 7.0, 4))))  # fmt: skip
    other = out("cuGraphCreate", 0)
    foreign = out("cuGraphAddEmptyNode", other, 0, 0)
    wants(call("cuStreamUpdateCaptureDependencies", s, nodes(foreign), 1, 1), 1, "a foreign node")
    wants(call("cuStreamUpdateCaptureDependencies", s, nodes(own), 1, 2), 1, "a wrong flag")
    wants(end(s), graph, "the same graph")
    wants(edges(graph), [(0, 2), (0, 4), (1, 3), (2, 3), (3, 5)], "edges")
    ok("cuGraphLaunch", instantiate(graph), s)
    wants((b.read(0), b.read(1)), ((42, 84, 126, 168), (5, 10, 15, 20)), "results")
    wants(call("cuStreamUpdateCaptureDependencies", s, nodes(first), 1, 0), ILLEGAL_STATE,
          "not captured")  # fmt: skip


def broken(code, on, action, ended=INVALIDATED):
    """Begin, do what is forbidden, end."""
    begin(on)
    wants(action(), code, "the forbidden call")
    wants(state(on), INVALID, "state")
    wants(call("cuMemsetD8Async", broken.address, 0, 16, on), INVALIDATED, "a call after it")
    wants(failed(on), ended, "the end")


def rules():
    """Each rule that is broken has its code, and invalidates the sequence."""
    b = Buffers()
    broken.address = b.at[0]
    s, t, blocking = stream(), stream(), stream(0)
    e, f, never = event(), event(), event()
    status = ctypes.byref(ctypes.c_int())
    for legacy in (0, 1):
        wants(call("cuStreamBeginCapture_v2", legacy, GLOBAL), UNSUPPORTED, "the legacy stream")
    wants(call("cuStreamBeginCapture_v2", s, 3), 1, "a wrong mode")
    wants(call("cuStreamEndCapture", s, status), ILLEGAL_STATE, "the end of nothing")
    begin(s)
    wants(call("cuStreamBeginCapture_v2", s, GLOBAL), ILLEGAL_STATE, "begun twice")
    wants(state(s), ACTIVE, "is harmless")
    end(s)
    # The stream itself
    broken(UNSUPPORTED, s, lambda: call("cuStreamSynchronize", s))
    broken(UNSUPPORTED, s, lambda: call("cuStreamQuery", s))
    broken(UNSUPPORTED, s, lambda: call("cuCtxSynchronize"))
    wrote = HOST_FUNCTION(lambda data: None)
    broken(UNSUPPORTED, s, lambda: call("cuStreamAddCallback", s, wrote, 0, 0))
    broken(NOT_SUPPORTED, s, lambda: call("cuMemAllocAsync", status, 16, s))
    broken(NOT_SUPPORTED, s, lambda: call("cuMemFreeAsync", b.at[0], s))
    broken(1, s, lambda: launch(b.scale, scale_params(b.at[0], 1.0, 4), block=(0, 1, 1), stream=s))
    broken(1, s, lambda: call("cuMemcpyDtoDAsync_v2", b.at[0], b.at[1], 1 << 20, s))
    # Unsafe calls
    broken(UNSUPPORTED, s, lambda: call("cuMemAlloc_v2", status, 16))
    broken(UNSUPPORTED, s, lambda: call("cuMemHostAlloc", status, 16, 0))
    broken(UNSUPPORTED, s, lambda: call("cuStreamSynchronize", t))
    ok("cuEventRecord", f, t)
    broken(UNSUPPORTED, s, lambda: call("cuEventQuery", f))
    # The legacy stream beside a blocking one
    broken(IMPLICIT, blocking, lambda: call("cuMemcpyHtoD_v2", b.at[0], floats(1, 2, 3, 4), 16))
    broken(IMPLICIT, blocking, lambda: b.multiply(0, 1.0))
    broken(IMPLICIT, blocking, lambda: call("cuEventRecord", e, 0))
    begin(blocking)
    wants(call("cuStreamIsCapturing", 0, status), IMPLICIT, "a question about the legacy stream")
    wants(state(blocking), ACTIVE, "is harmless")
    end(blocking)
    begin(s)
    ok("cuMemcpyHtoD_v2", b.at[0], floats(1, 2, 3, 4), 16)
    wants(b.multiply(0, 2.0), 0, "the legacy stream beside another one")
    end(s)

    # Events
    def captured_event(action):
        def act():
            ok("cuEventRecord", e, s)
            return action()

        return act

    broken(CAPTURED_EVENT, s, captured_event(lambda: call("cuEventQuery", e)))
    broken(CAPTURED_EVENT, s, captured_event(lambda: call("cuEventSynchronize", e)))
    wants(call("cuEventQuery", e), CAPTURED_EVENT, "an event of a sequence that has ended")
    wants(call("cuStreamWaitEvent", t, e, 0), CAPTURED_EVENT, "waited for")
    ok("cuEventRecord", e, t)
    ok("cuEventSynchronize", e)
    broken(ISOLATION, s, lambda: call("cuStreamWaitEvent", s, f, 0))
    begin(s)
    ok("cuStreamWaitEvent", s, never, 0)
    wants(kinds(end(s)), [], "an event that was never recorded")
    begin(s)
    begin(t)
    ok("cuEventRecord", e, t)
    wants(call("cuStreamWaitEvent", s, e, 0), MERGE, "two sequences")
    wants((failed(s), failed(t)), (INVALIDATED, INVALIDATED), "are both invalid")
    begin(s)
    ok("cuEventRecord", e, s)
    ok("cuStreamWaitEvent", t, e, 0)
    wants(call("cuStreamEndCapture", t, status), UNMATCHED, "ended where it did not begin")
    wants(failed(s), INVALIDATED, "the end")
    begin(s)
    ok("cuEventRecord", e, s)
    ok("cuStreamWaitEvent", t, e, 0)
    wants(b.multiply(t, 1.0), 0, "a launch")
    wants(failed(s), UNJOINED, "a fork that was not joined")
    wants(state(t), NONE, "it has left")
    begin(s)
    ok("cuEventRecord", e, s)
    ok("cuStreamWaitEvent", t, e, 0)
    wants(b.multiply(t, 1.0), 0, "a launch")
    ok("cuEventRecord", e, t)
    ok("cuStreamWaitEvent", s, e, 0)
    ok("cuStreamDestroy_v2", t)
    wants(len(kinds(end(s))), 1, "a stream that is gone when it has been joined")
    t = stream()
    begin(s)
    ok("cuEventRecord", e, s)
    ok("cuStreamWaitEvent", t, e, 0)
    wants(b.multiply(t, 1.0), 0, "a launch")
    ok("cuStreamDestroy_v2", t)
    wants(failed(s), UNJOINED, "a stream that is gone and was not joined")
    begin(s)
    ok("cuStreamDestroy_v2", s)
    s = stream()
    wants(state(s), NONE, "another of the same name")
    # External events
    wants(call("cuEventRecordWithFlags", e, s, 1), 1, "an external record, not captured")
    wants(call("cuStreamWaitEvent", s, e, 1), 1, "an external wait, not captured")
    begin(s)
    ok("cuStreamWaitEvent", s, f, 1)
    wants(b.multiply(s, 2.0), 0, "a launch")
    ok("cuEventRecordWithFlags", e, s, 1)
    graph = end(s)
    wants(kinds(graph), [WAIT, KERNEL, RECORD], "nodes")
    ok("cuGraphLaunch", instantiate(graph), s)
    ok("cuEventSynchronize", e)
    wants(call("cuEventQuery", e), 0, "recorded by the graph")


def in_thread(action):
    """What `action` returns in another thread, with the same context."""
    context = out("cuCtxGetCurrent")
    results = []

    def run():
        ok("cuCtxSetCurrent", context)
        results.append(action())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return results[0]


def modes():
    """Modes say whom a sequence keeps from unsafe calls."""
    b = Buffers()
    s = stream()

    def alloc():
        value = ctypes.c_uint64()
        code = call("cuMemAlloc_v2", ctypes.byref(value), 16)
        if not code:
            ok("cuMemFree_v2", value)
        return code

    def with_mode(mode, action):
        def act():
            value = ctypes.c_int(mode)
            ok("cuThreadExchangeStreamCaptureMode", ctypes.byref(value))
            code = action()
            ok("cuThreadExchangeStreamCaptureMode", ctypes.byref(value))
            wants(value.value, mode, "the mode that was set")
            return code

        return act

    table = [
        # mode of the sequence, mode of a thread -> in its own thread, in another
        (GLOBAL, GLOBAL, UNSUPPORTED, UNSUPPORTED),
        (GLOBAL, THREAD_LOCAL, UNSUPPORTED, 0),
        (GLOBAL, RELAXED, 0, 0),
        (THREAD_LOCAL, GLOBAL, UNSUPPORTED, 0),
        (THREAD_LOCAL, THREAD_LOCAL, UNSUPPORTED, 0),
        (THREAD_LOCAL, RELAXED, 0, 0),
        (RELAXED, GLOBAL, 0, 0),
    ]
    for sequence, thread, own, other in table:
        for where, wanted in ((lambda f: f(), own), (in_thread, other)):
            begin(s, sequence)
            wants(where(with_mode(thread, alloc)), wanted, f"modes {sequence}, {thread}")
            wants(state(s), INVALID if wanted else ACTIVE, "state")
            failed(s) if wanted else end(s)
    for mode, wanted in ((GLOBAL, WRONG_THREAD), (THREAD_LOCAL, WRONG_THREAD), (RELAXED, 0)):
        begin(s, mode)
        graph = ctypes.c_uint64()
        wants(in_thread(lambda g=graph: call("cuStreamEndCapture", s, ctypes.byref(g))), wanted,
              f"ended by another thread, mode {mode}")  # fmt: skip
        if wanted:
            end(s)
    begin(s, THREAD_LOCAL)
    wants(in_thread(lambda: b.multiply(s, 3.0)), 0, "a launch by another thread")
    ok("cuGraphLaunch", instantiate(end(s)), s)
    wants(b.read(), (3, 6, 9, 12), "is captured")


def per_thread():
    """The stream that each thread has is captured under its handle, and by its exports."""
    b = Buffers()
    begin(2)
    wants(b.multiply(2, 3.0), 0, "a launch")
    wants(in_thread(lambda: state(2)), NONE, "another thread's is another stream")
    ok("cuGraphLaunch", instantiate(end(2)), 0)
    wants(b.read(), (3, 6, 9, 12), "by its handle")
    ok("cuStreamBeginCapture_v2_ptsz", 0, RELAXED)
    arguments = scale_params(b.at[0], 2.0, 4)
    ok("cuLaunchKernel_ptsz", b.scale, 1, 1, 1, 64, 1, 1, 0, 0, arguments, 0)
    config = struct.pack("<7I4xQQI4x", 1, 1, 1, 64, 1, 1, 0, 0, 0, 0)
    ok("cuLaunchKernelEx_ptsz", config, b.scale, arguments, 0)
    graph = ctypes.c_uint64()
    ok("cuStreamEndCapture_ptsz", 0, ctypes.byref(graph))
    wants(kinds(graph.value), [KERNEL, KERNEL], "nodes")
    ok("cuGraphLaunch_ptsz", instantiate(graph.value), 0)
    wants(b.read(), (12, 24, 36, 48), "by its exports")


def cooperative():
    """A cooperative launch is captured, and launched as one."""
    b = Buffers()
    s = stream()
    arguments = scale_params(b.at[0], 2.0, 4)
    begin(s)
    wants(b.multiply(s, 5.0), 0, "a launch")
    ok("cuLaunchCooperativeKernel", b.scale, 1, 1, 1, 64, 1, 1, 0, s, arguments)
    wants(b.multiply(s, 7.0), 0, "a launch")
    graph = end(s)
    value = ctypes.create_string_buffer(64)
    second = many("cuGraphGetNodes", graph)[1][1][0]
    ok("cuGraphKernelNodeGetAttribute", second, 2, value)
    wants(struct.unpack_from("<i", value)[0], 1, "its attribute")
    ok("cuGraphLaunch", instantiate(graph), s)
    wants(b.read(), (70, 140, 210, 280), "result")
    attribute = ctypes.create_string_buffer(struct.pack("<i4xi", 8, -3), 72)
    config = struct.pack("<7I4xQQI4x", 1, 1, 1, 64, 1, 1, 0, s, ctypes.addressof(attribute), 1)
    begin(s)
    ok("cuLaunchKernelEx", config, b.scale, arguments, 0)
    ((only,),) = many("cuGraphGetNodes", end(s))[1]
    ok("cuGraphKernelNodeGetAttribute", only, 8, value)
    wants(struct.unpack_from("<i", value)[0], -3, "the priority of another launch")


def repeated(rounds):
    """A loop that a search finds: new input, one launch of a captured graph, the result."""
    b = Buffers()
    s = stream()
    source, values = pinned()
    target, results = pinned()
    begin(s, RELAXED)
    ok("cuMemcpyHtoDAsync_v2", b.at[0], ctypes.c_void_p(source), 16, s)
    for factor in (2.0, 3.0, 5.0):
        wants(b.multiply(s, factor), 0, "a launch")
    ok("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(target), b.at[0], 16, s)
    executable = instantiate(end(s))
    for i in range(int(rounds)):
        values[:] = [i, i + 1, i + 2, i + 3]
        ok("cuGraphLaunch", executable, s)
        ok("cuStreamSynchronize", s)
        wants(list(results), [30.0 * v for v in values], f"round {i}")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
