"""Programs that ask what a graph is made of, and build it in other ways: `shim_graphs.py NAME`."""

import ctypes
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import (
    PTX,
    call,
    floats,
    function,
    load,
    ok,
    out,
    read,
    scale_params,
    start,
    wants,
)

VALUE = 1


class Kernel(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS."""

    _fields_ = (
        ("func", ctypes.c_uint64),
        *((name, ctypes.c_uint) for name in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
        ("params", ctypes.c_uint64), ("extra", ctypes.c_uint64),
        ("kern", ctypes.c_uint64), ("ctx", ctypes.c_uint64),
    )  # fmt: skip


def kernel(handle, arguments, *, grid=(1, 1, 1), block=(64, 1, 1), kern=0):
    made = Kernel(handle, *grid, *block, 0, ctypes.addressof(arguments), 0, kern, 0)
    made.kept = arguments
    return made


def many(name, *arguments, width=1, room=None):
    """A call that lists nodes: asked for the number, then for the nodes."""
    count = ctypes.c_size_t()
    ok(name, *arguments, *[0] * width, ctypes.byref(count))
    room = count.value if room is None else room
    arrays = [(ctypes.c_uint64 * (room + 1))(*[99] * (room + 1)) for _ in range(width)]
    asked = ctypes.c_size_t(room)
    ok(name, *arguments, *arrays, ctypes.byref(asked))
    wants([array[room] for array in arrays], [99] * width, "what lies behind the room")
    wants(asked.value, min(room, count.value), "how many were given")
    return count.value, [tuple(a[i] for a in arrays) for i in range(room)]


def nodes(*handles):
    return (ctypes.c_uint64 * len(handles))(*handles)


def lists():
    start()
    graph, other = out("cuGraphCreate", 0), out("cuGraphCreate", 0)
    out("cuGraphAddEmptyNode", other, 0, 0)
    a = out("cuGraphAddEmptyNode", graph, 0, 0)
    b = out("cuGraphAddEmptyNode", graph, 0, 0)
    c = out("cuGraphAddEmptyNode", graph, nodes(a, b), 2)
    d = out("cuGraphAddEmptyNode", graph, nodes(c, a), 2)
    wants(many("cuGraphGetNodes", graph), (4, [(a,), (b,), (c,), (d,)]), "nodes")
    wants(many("cuGraphGetRootNodes", graph), (2, [(a,), (b,)]), "roots")
    edges = [(a, c), (b, c), (c, d), (a, d)]
    wants(many("cuGraphGetEdges", graph, width=2), (4, edges), "edges")
    wants(many("cuGraphGetEdges", graph, width=2, room=2), (4, edges[:2]), "two edges")
    wants(many("cuGraphGetEdges", graph, width=2, room=6), (4, [*edges, (0, 0), (0, 0)]), "six")
    wants(many("cuGraphNodeGetDependencies", d), (2, [(c,), (a,)]), "what d waits for")
    wants(many("cuGraphNodeGetDependencies", a), (0, []), "what a waits for")
    wants(many("cuGraphNodeGetDependentNodes", a), (2, [(c,), (d,)]), "what waits for a")
    wants(many("cuGraphNodeGetDependentNodes", d), (0, []), "what waits for d")
    data = ctypes.create_string_buffer(b"\xff" * 40, 40)
    number = ctypes.c_size_t(4)
    from_, to = nodes(*[0] * 4), nodes(*[0] * 4)
    ok("cuGraphGetEdges_v2", graph, from_, to, data, ctypes.byref(number))
    wants((list(zip(from_, to, strict=True)), number.value), (edges, 4), "edges with data")
    wants(data.raw, bytes(32) + b"\xff" * 8, "their data")
    ok("cuGraphNodeGetDependencies_v2", d, from_, data, ctypes.byref(ctypes.c_size_t(2)))
    wants(list(from_[:2]), [c, a], "dependencies with data")
    ok("cuGraphNodeGetDependentNodes_v2", a, from_, 0, ctypes.byref(ctypes.c_size_t(2)))
    wants(list(from_[:2]), [c, d], "dependent nodes")
    ok("cuGraphDestroy", graph)
    wants(call("cuGraphNodeGetDependencies", d, 0, ctypes.byref(number)), 400, "a destroyed node")


def values_of(given):
    table = (ctypes.c_uint64 * 3).from_address(given.params)
    sizes = (8, 4, 4)
    return b"".join(ctypes.string_at(at, size) for at, size in zip(table, sizes, strict=True))


def parameters():
    start()
    scale = function(load())
    address = out("cuMemAlloc_v2", 16)
    graph = out("cuGraphCreate", 0)
    args = scale_params(address, 3.0, 4)
    node = out("cuGraphAddKernelNode_v2", graph, 0, 0,
               ctypes.byref(kernel(scale, args, block=(32, 1, 1))))  # fmt: skip
    ctypes.memset(args.kept[1], 0, 4)  # the node has its own
    got = Kernel()
    ok("cuGraphKernelNodeGetParams_v2", node, ctypes.byref(got))
    wants((got.func, got.kern, got.gx, got.bx, got.extra), (scale, 0, 1, 32, 0), "what was added")
    wants(values_of(got), struct.pack("<QfI", address, 3.0, 4), "arguments")
    table = (ctypes.c_uint64 * 3).from_address(got.params)
    factor = ctypes.c_float(5.0)
    for set_, target in (("cuGraphKernelNodeSetParams_v2", None), ("cuGraphExec", 7.0)):
        if target:
            executable = out("cuGraphInstantiateWithFlags", graph, 0)
            factor.value = target
            table[1] = ctypes.addressof(factor)
            ok("cuGraphExecKernelNodeSetParams_v2", executable, node, ctypes.byref(got))
        else:
            table[1] = ctypes.addressof(factor)
            ok(set_, node, ctypes.byref(got))
            wants(values_of(got), struct.pack("<QfI", address, 5.0, 4), "in the same place")
    ok("cuMemcpyHtoD_v2", address, floats(1, 2, 3, 4), 16)
    ok("cuGraphLaunch", executable, 0)
    wants(read(address, 16), floats(7, 14, 21, 28), "with what the executable graph was given")
    ok("cuGraphLaunch", out("cuGraphInstantiateWithFlags", graph, 0), 0)
    wants(read(address, 16), floats(35, 70, 105, 140), "with what the node was given")
    packed = ctypes.create_string_buffer(struct.pack("<QfI", address, 2.0, 4), 16)
    size = ctypes.c_size_t(16)
    extra = (ctypes.c_uint64 * 5)(1, ctypes.addressof(packed), 2, ctypes.addressof(size), 0)
    first = Kernel(scale, 1, 1, 1, 64, 1, 1, 0, 0, ctypes.addressof(extra), 0, 0)
    ok("cuGraphKernelNodeSetParams", node, ctypes.byref(first))
    ok("cuGraphKernelNodeGetParams", node, ctypes.byref(got))
    given = (ctypes.c_uint64 * 5).from_address(got.extra)
    wants((got.params, given[0], given[2], given[4]), (0, 1, 2, 0), "as it was given last")
    wants(ctypes.string_at(given[1], 16), packed.raw, "packed arguments")
    wants(ctypes.c_size_t.from_address(given[3]).value, 16, "their size")
    library = out("cuLibraryLoadData", ctypes.create_string_buffer(PTX), 0, 0, 0, 0, 0, 0)
    kern = out("cuLibraryGetKernel", library, b"limited")
    from support.cuda_ctypes import params

    ok("cuGraphKernelNodeSetParams_v2", node,
       ctypes.byref(kernel(0, params(bytes(8)), kern=kern)))  # fmt: skip
    ok("cuGraphKernelNodeGetParams_v2", node, ctypes.byref(got))
    wants((got.func, got.kern), (0, kern), "another kernel, of a library")


def node_params(kind, raw):
    """A CUgraphNodeParams."""
    head = struct.pack("<4i", kind, 0, 0, 0)
    return ctypes.create_string_buffer(head + raw.ljust(232, b"\0") + bytes(8), 256)


def copy_raw(target, source, size):
    one = lambda at: struct.pack("<4Qi4x6Q", 0, 0, 0, 0, 2, 0, at, 0, 0, 0, 0)  # noqa: E731
    return one(source) + one(target) + struct.pack("<3Q", size, 1, 1)


def any_kind():
    start()
    scale = function(load())
    address, copy = out("cuMemAlloc_v2", 16), out("cuMemAlloc_v2", 16)
    graph = out("cuGraphCreate", 0)
    one = struct.unpack("<I", floats(1.0))[0]
    fill_raw = struct.pack("<QQIIQQQ", address, 0, one, 4, 4, 1, 0)
    fill = out("cuGraphAddNode_v2", graph, 0, 0, 0, node_params(2, fill_raw))
    args = scale_params(address, 3.0, 4)
    multiply = out("cuGraphAddNode_v2", graph, nodes(fill), ctypes.create_string_buffer(8), 1,
                   node_params(0, bytes(kernel(scale, args))))  # fmt: skip
    copied = struct.pack("<iiQ", 0, 0, 0) + copy_raw(copy, address, 16)
    last = out("cuGraphAddNode", graph, nodes(multiply), 1, node_params(1, copied))
    out("cuGraphAddNode_v3", graph, nodes(last), 0, 1, node_params(5, b""))
    wants(call("cuGraphAddNode_v2", ctypes.byref(ctypes.c_uint64()), graph, nodes(fill),
               ctypes.create_string_buffer(b"\x01" + bytes(7)), 1, node_params(5, b"")), 801,
          "an edge that begins early")  # fmt: skip
    wants(many("cuGraphGetEdges", graph, width=2)[0], 3, "edges")
    executable = out("cuGraphInstantiateWithFlags", graph, 0)
    ok("cuGraphLaunch", executable, 0)
    wants(read(copy, 16), floats(3, 3, 3, 3), "filled, multiplied, copied")
    got = ctypes.create_string_buffer(200)
    ok("cuGraphMemcpyNodeGetParams", last, got)
    wants(got.raw, copy_raw(copy, address, 16), "what the copy does")
    ok("cuGraphMemsetNodeGetParams", fill, got)
    wants(got.raw[:40], fill_raw[:40], "what the fill does")
    args = scale_params(address, 5.0, 4)
    changed = node_params(0, bytes(kernel(scale, args)))
    ok("cuGraphExecNodeSetParams", executable, multiply, changed)
    two = struct.unpack("<I", floats(2.0))[0]
    changed = struct.pack("<QQIIQQQ", address, 0, two, 4, 4, 1, 0)
    ok("cuGraphExecNodeSetParams", executable, fill, node_params(2, changed))
    ok("cuGraphLaunch", executable, 0)
    wants(read(copy, 16), floats(10, 10, 10, 10), "changed in the executable graph")
    ok("cuGraphNodeSetParams", multiply, node_params(0, bytes(kernel(scale, args))))
    ok("cuGraphLaunch", out("cuGraphInstantiateWithFlags", graph, 0), 0)
    wants(read(copy, 16), floats(5, 5, 5, 5), "changed in the graph")
    wants(call("cuGraphNodeSetParams", multiply, node_params(2, changed)), VALUE, "another kind")


def set_later():
    """A kernel node may be added without blocks; the graph is not instantiated so."""
    start()
    scale = function(load())
    address = out("cuMemAlloc_v2", 16)
    graph = out("cuGraphCreate", 0)
    args = scale_params(address, 3.0, 4)
    for wrong in ({"grid": (0, 0, 0)}, {"grid": (1, 0, 1)}, {"block": (0, 1, 1)}):
        empty, whole = kernel(scale, args, **wrong), kernel(scale, args)
        node = out("cuGraphAddKernelNode_v2", graph, 0, 0, ctypes.byref(empty))
        got = Kernel()
        ok("cuGraphKernelNodeGetParams_v2", node, ctypes.byref(got))
        wants(bytes(got)[8:36], bytes(empty)[8:36], "sizes read back")
        wants(call("cuGraphInstantiateWithFlags", ctypes.byref(ctypes.c_uint64()), graph, 0),
              VALUE, "instantiated without blocks")  # fmt: skip
        ok("cuGraphKernelNodeSetParams_v2", node, ctypes.byref(whole))
        executable = out("cuGraphInstantiateWithFlags", graph, 0)
        wants(call("cuGraphExecKernelNodeSetParams_v2", executable, node, ctypes.byref(empty)),
              VALUE, "an executable graph's node")  # fmt: skip
        ok("cuGraphKernelNodeSetParams_v2", node, ctypes.byref(empty))
        ok("cuMemcpyHtoD_v2", address, floats(1, 1, 1, 1), 16)
        ok("cuGraphLaunch", executable, 0)
        ok("cuCtxSynchronize")
        ok("cuGraphDestroy", graph)
        graph = out("cuGraphCreate", 0)
        wants(read(address, 16), floats(3, 3, 3, 3), "what was instantiated before")


def last(name, *arguments, kind=ctypes.c_uint64):
    """Call with a result pointer after the arguments."""
    value = kind()
    ok(name, *arguments, ctypes.byref(value))
    return value.value


def instantiate(graph):
    return out("cuGraphInstantiateWithFlags", graph, 0)


class Numbers:
    """A kernel that multiplies and one float in device memory, which nodes change."""

    def __init__(self):
        start()
        self.scale = function(load())
        self.at = out("cuMemAlloc_v2", 64)
        self.kept = []

    def node(self, graph, factor, *dependencies):
        given = self.params(factor)
        return out("cuGraphAddKernelNode_v2", graph, nodes(*dependencies), len(dependencies),
                   ctypes.byref(given))  # fmt: skip

    def params(self, factor, count=1):
        given = kernel(self.scale, scale_params(self.at, factor, count))
        self.kept.append(given)
        return given

    def run(self, executable, stream=0):
        """What the number is after a launch that finds 1."""
        ok("cuMemcpyHtoD_v2", self.at, floats(1.0), 4)
        ok("cuGraphLaunch", executable, stream)
        return struct.unpack("<f", read(self.at, 4))[0]


def edited():
    """Clones, edges and nodes that come and go."""
    n = Numbers()
    graph = out("cuGraphCreate", 0)
    a = n.node(graph, 2.0)
    b = n.node(graph, 3.0, a)
    c = n.node(graph, 5.0, b)
    clone = out("cuGraphClone", graph)
    wants(len({last("cuGraphGetId", g, kind=ctypes.c_uint) for g in (graph, clone)}), 2, "ids")
    a2, b2, c2 = (out("cuGraphNodeFindInClone", node, clone) for node in (a, b, c))
    wants(many("cuGraphGetEdges", clone, width=2)[1], [(a2, b2), (b2, c2)], "edges of the clone")
    wants(last("cuGraphNodeGetContainingGraph", b2), clone, "where a node is")
    wants([last("cuGraphNodeGetLocalId", x, kind=ctypes.c_uint) for x in (a, b, c)], [1, 2, 3],
          "local ids")  # fmt: skip
    tools = {last("cuGraphNodeGetToolsId", x) for x in (a, b, c, a2, b2, c2)}
    wants(len(tools), 6, "ids for tools")
    ok("cuGraphKernelNodeSetParams_v2", b2, ctypes.byref(n.params(7.0)))
    ok("cuGraphDestroyNode", c2)
    wants(call("cuGraphNodeGetType", c2, ctypes.byref(ctypes.c_int())), 400, "a destroyed node")
    wants((n.run(instantiate(graph)), n.run(instantiate(clone))), (30, 14), "each for itself")
    ok("cuGraphDestroyNode", b)
    wants(many("cuGraphGetEdges", graph, width=2), (0, []), "its edges are gone too")
    wants(many("cuGraphGetRootNodes", graph), (2, [(a,), (c,)]), "roots")
    d = out("cuGraphAddMemsetNode", graph, 0, 0, fill_at(n.at, floats(10.0)), 0)
    ok("cuGraphAddDependencies", graph, nodes(d, d), nodes(a, c), 2)
    wants(
        call("cuGraphAddDependencies", graph, nodes(a, d), nodes(c, a), 2), VALUE, "one is there"
    )
    wants(many("cuGraphGetEdges", graph, width=2)[1], [(d, a), (d, c)], "none was added")
    ok("cuGraphAddDependencies_v2", graph, nodes(a), nodes(c), 0, 1)
    wants(n.run(instantiate(graph)), 100, "an edge to an earlier node")
    ok("cuGraphRemoveDependencies", graph, nodes(d), nodes(c), 1)
    wants(n.run(instantiate(graph)), 100, "by way of another")
    wants(call("cuGraphRemoveDependencies", graph, nodes(a, d), nodes(c, c), 2), VALUE,
          "one is not there")  # fmt: skip
    wants(many("cuGraphGetEdges", graph, width=2)[1], [(d, a), (a, c)], "none was removed")
    ok("cuGraphAddDependencies", graph, nodes(c), nodes(d), 1)
    wants(call("cuGraphInstantiateWithFlags", ctypes.byref(ctypes.c_uint64()), graph, 0), VALUE,
          "a cycle")  # fmt: skip
    ok("cuGraphRemoveDependencies_v2", graph, nodes(c), nodes(d), 0, 1)
    ok("cuGraphDestroy", graph)
    wants(n.run(instantiate(clone)), 14, "a clone outlives its graph")


def fill_at(address, value):
    return struct.pack("<QQIIQQ", address, 0, struct.unpack("<I", value)[0], 4, 1, 1)


def children():
    """A graph in another, at any depth; what waits for it waits for all of it."""
    n = Numbers()
    inner = out("cuGraphCreate", 0)
    first = n.node(inner, 2.0)
    n.node(inner, 3.0, first)
    middle = out("cuGraphCreate", 0)
    out("cuGraphAddChildGraphNode", middle, 0, 0, inner)
    outer = out("cuGraphCreate", 0)
    fill = out("cuGraphAddMemsetNode", outer, 0, 0, fill_at(n.at, floats(1.0)), 0)
    child = out("cuGraphAddChildGraphNode", outer, nodes(fill), 1, middle)
    empty = out("cuGraphAddChildGraphNode", outer, nodes(child), 1, out("cuGraphCreate", 0))
    result = n.at + 16
    copied = node_params(1, struct.pack("<iiQ", 0, 0, 0) + copy_raw(result, n.at, 4))
    out("cuGraphAddNode", outer, nodes(empty), 1, copied)
    own = last("cuGraphChildGraphNodeGetGraph", child)
    wants(own not in (middle, inner, outer), True, "a graph of its own")
    wants(call("cuGraphDestroy", own), VALUE, "which is its node's")
    got = ctypes.create_string_buffer(256)
    ok("cuGraphNodeGetParams", child, got)
    wants(struct.unpack_from("<i12xQ", got), (4, own), "what the node is")
    executable = instantiate(outer)
    ok("cuGraphLaunch", executable, 0)
    wants(read(result, 4), floats(6.0), "inner nodes, between those around them")
    ((deep,),) = many("cuGraphGetNodes", own)[1]
    deepest = last("cuGraphChildGraphNodeGetGraph", deep)
    (one,), _ = many("cuGraphGetNodes", deepest)[1]
    ok("cuGraphExecKernelNodeSetParams_v2", executable, one, ctypes.byref(n.params(5.0)))
    ok("cuGraphLaunch", executable, 0)
    wants(read(result, 4), floats(15.0), "a node deep inside, changed")
    ok("cuGraphKernelNodeSetParams_v2", first, ctypes.byref(n.params(11.0)))
    other = out("cuGraphCreate", 0)
    out("cuGraphAddChildGraphNode", other, 0, 0, inner)
    ok("cuGraphExecChildGraphNodeSetParams", executable, child, other)
    ok("cuGraphLaunch", executable, 0)
    wants(read(result, 4), floats(33.0), "the whole child, changed")
    wants(call("cuGraphExecChildGraphNodeSetParams", executable, child, inner), VALUE,
          "another shape")  # fmt: skip


def robots():
    """Nodes that the robot does: host functions, events, copies from and to host memory."""
    n = Numbers()
    stream, event, again = (
        out("cuStreamCreate", 1),
        out("cuEventCreate", 0),
        out("cuEventCreate", 0),
    )
    values = (ctypes.c_float * 4)(1, 2, 3, 4)
    results = (ctypes.c_float * 4)()
    seen = []
    note = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append((data, results[0])))
    noted = ctypes.cast(note, ctypes.c_void_p).value
    graph = out("cuGraphCreate", 0)
    up = to_or_from(ctypes.addressof(values), n.at, to_host=False)
    source = out("cuGraphAddMemcpyNode", graph, 0, 0, up, 0)
    work = out("cuGraphAddKernelNode_v2", graph, nodes(source), 1, ctypes.byref(n.params(2.0, 4)))
    recorded = out("cuGraphAddEventRecordNode", graph, nodes(work), 1, event)
    down = to_or_from(ctypes.addressof(results), n.at, to_host=True)
    target = out("cuGraphAddMemcpyNode", graph, nodes(recorded), 1, down, 0)
    host = out("cuGraphAddHostNode", graph, nodes(target), 1, struct.pack("<QQ", noted, 5))
    waits = out("cuGraphAddEventWaitNode", graph, nodes(host), 1, again)
    n.node(graph, 10.0, waits)
    wants([last("cuGraphEventRecordNodeGetEvent", recorded),
           last("cuGraphEventWaitNodeGetEvent", waits)], [event, again], "events")  # fmt: skip
    got = ctypes.create_string_buffer(200)
    ok("cuGraphHostNodeGetParams", host, got)
    wants(struct.unpack_from("<QQ", got), (noted, 5), "a host function")
    ok("cuGraphMemcpyNodeGetParams", target, got)
    wants(got.raw, down, "a copy")
    executable = instantiate(graph)
    for factor in (1.0, 3.0):
        values[0] = factor
        ok("cuGraphLaunch", executable, stream)
        ok("cuStreamSynchronize", stream)
        wants((list(results), seen[-1]), ([2 * factor, 4, 6, 8], (5, 2 * factor)), "results")
        wants(struct.unpack("<f", read(n.at, 4))[0], 20 * factor, "what came last")
    wants(call("cuEventQuery", event), 0, "an event that the graph recorded")
    wants(last("cuGraphNodeGetEnabled", executable, source, kind=ctypes.c_uint), 1, "enabled")
    ok("cuGraphNodeSetEnabled", executable, source, 0)
    ok("cuGraphLaunch", executable, stream)
    wants(struct.unpack("<f", read(n.at, 4))[0], 1200, "a copy that is switched off")
    ok("cuGraphNodeSetEnabled", executable, source, 1)
    third = out("cuEventCreate", 0)
    more = (ctypes.c_float * 4)(100, 0, 0, 0)
    ok("cuGraphExecHostNodeSetParams", executable, host, struct.pack("<QQ", noted, 6))
    ok("cuGraphExecEventRecordNodeSetEvent", executable, recorded, third)
    ok("cuGraphExecEventWaitNodeSetEvent", executable, waits, event)
    up = to_or_from(ctypes.addressof(more), n.at, to_host=False)
    ok("cuGraphExecMemcpyNodeSetParams", executable, source, up, 0)
    wants(call("cuGraphExecMemcpyNodeSetParams", executable, source, down, 0), VALUE,
          "the other direction")  # fmt: skip
    wants(call("cuGraphExecMemcpyNodeSetParams", executable, source,
               copy_raw(n.at, n.at + 16, 4), 0), VALUE, "another kind of memory")  # fmt: skip
    ok("cuGraphLaunch", executable, stream)
    ok("cuStreamSynchronize", stream)
    wants((results[0], seen[-1]), (200, (6, 200)), "changed")
    ok("cuEventSynchronize", third)
    ok("cuGraphHostNodeSetParams", host, struct.pack("<QQ", noted, 9))
    ok("cuGraphEventRecordNodeSetEvent", recorded, third)
    ok("cuGraphEventWaitNodeSetEvent", waits, third)
    ok("cuGraphMemcpyNodeSetParams", source, up)
    ok("cuGraphLaunch", instantiate(graph), stream)
    ok("cuStreamSynchronize", stream)
    wants(seen[-1], (9, 200), "changed in the graph")


def to_or_from(host, device, *, to_host, size=16):
    """A CUDA_MEMCPY3D between host and device."""
    one = lambda kind, h, d: struct.pack("<4Qi4x6Q", 0, 0, 0, 0, kind, h, d, 0, 0, 0, 0)  # noqa: E731
    h, d = one(1, host, 0), one(2, 0, device)
    return (d + h if to_host else h + d) + struct.pack("<3Q", size, 1, 1)


def switched():
    """Nodes of the server's part that are switched off, and a copy whose rows change."""
    n = Numbers()
    graph = out("cuGraphCreate", 0)
    fill = out("cuGraphAddMemsetNode", graph, 0, 0, fill_at(n.at, floats(2.0)), 0)
    work = n.node(graph, 3.0, fill)
    n.node(graph, 5.0, work)
    executable = instantiate(graph)
    wants(n.run(executable), 30, "all")
    ok("cuGraphNodeSetEnabled", executable, work, 0)
    wants(last("cuGraphNodeGetEnabled", executable, work, kind=ctypes.c_uint), 0, "disabled")
    wants(n.run(executable), 10, "without one")
    ok("cuGraphExecKernelNodeSetParams_v2", executable, work, ctypes.byref(n.params(7.0)))
    ok("cuGraphNodeSetEnabled", executable, fill, 0)
    wants(n.run(executable), 5, "without two")
    ok("cuGraphNodeSetEnabled", executable, work, 1)
    wants(n.run(executable), 35, "with what it was changed to meanwhile")
    rows = out("cuMemAlloc_v2", 256)
    ok("cuMemcpyHtoD_v2", rows, floats(*range(64)), 256)
    shape = lambda pitch, width, height: (  # noqa: E731
        struct.pack("<4Qi4x6Q", 0, 0, 0, 0, 2, 0, rows, 0, 0, pitch, height)
        + struct.pack("<4Qi4x6Q", 0, 0, 0, 0, 2, 0, n.at, 0, 0, width, height)
        + struct.pack("<3Q", width, height, 1))  # fmt: skip
    graph = out("cuGraphCreate", 0)
    copied = out("cuGraphAddMemcpyNode", graph, 0, 0, shape(64, 16, 4), 0)
    doubled = kernel(n.scale, scale_params(n.at, 2.0, 16))
    out("cuGraphAddKernelNode_v2", graph, nodes(copied), 1, ctypes.byref(doubled))
    executable = instantiate(graph)
    ok("cuGraphLaunch", executable, 0)
    expected = [2.0 * (16 * y + x) for y in range(4) for x in range(4)]
    wants(struct.unpack("<16f", read(n.at, 64)), tuple(expected), "four rows")
    for pitch, width, height in ((32, 32, 2), (64, 8, 4), (128, 32, 2)):
        ok("cuGraphExecMemcpyNodeSetParams", executable, copied, shape(pitch, width, height), 0)
        ok("cuGraphLaunch", executable, 0)
        wide = width // 4
        expected = [2.0 * (pitch // 4 * y + x) for y in range(height) for x in range(wide)]
        got = struct.unpack(f"<{len(expected)}f", read(n.at, 4 * len(expected)))
        wants(got, tuple(expected), f"{height} rows of {width} bytes")


def updated():
    """An executable graph takes over a graph of its shape, and says what does not fit."""
    n = Numbers()

    def build(*factors, extra=0):
        graph = out("cuGraphCreate", 0)
        fill = out("cuGraphAddMemsetNode", graph, 0, 0, fill_at(n.at, floats(factors[0])), 0)
        made = [fill]
        for factor in factors[1:]:
            made.append(n.node(graph, factor, made[-1]))
        made += [out("cuGraphAddEmptyNode", graph, nodes(fill), 1) for _ in range(extra)]
        return graph, made

    def update(executable, graph):
        info = (ctypes.c_uint64 * 3)(99, 99, 99)
        code = call("cuGraphExecUpdate_v2", executable, graph, info)
        return code, info[0] & 0xFFFFFFFF, info[1], info[2]

    graph, made = build(2.0, 3.0, 5.0)
    executable = instantiate(graph)
    wants(n.run(executable), 30, "as it was made")
    wants(update(executable, graph), (0, 0, 0, 0), "the same")
    other, _ = build(7.0, 3.0, 11.0)
    wants(update(executable, other), (0, 0, 0, 0), "another of its shape")
    ok("cuGraphDestroy", other)
    wants(n.run(executable), 231, "what that does")
    ok("cuGraphExecKernelNodeSetParams_v2", executable, made[1], ctypes.byref(n.params(1.0)))
    wants(n.run(executable), 77, "its nodes are still those of its graph")
    wants(update(executable, build(2.0, 3.0)[0]), (910, 2, 0, 0), "fewer nodes")
    shape, (_, *rest) = build(2.0, 3.0, extra=1)
    wants(update(executable, shape), (910, 2, rest[-1], 0), "two ends")
    kinds = out("cuGraphCreate", 0)
    one = out("cuGraphAddEmptyNode", kinds, 0, 0)
    n.node(kinds, 3.0, n.node(kinds, 2.0, one))
    wants(update(executable, kinds), (910, 3, one, 0), "another kind")
    bare, nodes_ = build(2.0, 3.0, 5.0)
    empty = n.params(1.0)
    empty.gx = 0
    ok("cuGraphKernelNodeSetParams_v2", nodes_[1], ctypes.byref(empty))
    wants(update(executable, bare), (910, 5, nodes_[1], 0), "a grid of 0")
    wants(n.run(executable), 77, "nothing was changed")
    # Pairs are found from the end back, whatever the order of creation.
    split = out("cuGraphCreate", 0)
    a, b = out("cuGraphAddEmptyNode", split, 0, 0), n.node(split, 2.0)
    n.node(split, 3.0, b, a)
    executable = instantiate(split)
    turned = out("cuGraphCreate", 0)
    b, a = n.node(turned, 5.0), out("cuGraphAddEmptyNode", turned, 0, 0)
    n.node(turned, 7.0, b, a)
    first = ctypes.c_uint64()
    result = ctypes.c_int()
    ok("cuGraphExecUpdate", executable, turned, ctypes.byref(first), ctypes.byref(result))
    wants((first.value, result.value, n.run(executable)), (0, 0, 35), "created in another order")


def attributes():
    """Attributes of kernel nodes read back; a cooperative node is launched as one."""
    n = Numbers()
    graph = out("cuGraphCreate", 0)
    a = n.node(graph, 2.0)
    b = n.node(graph, 3.0, a)
    n.node(graph, 5.0, b)
    value = ctypes.create_string_buffer(64)

    def read_back(node, which):
        ok("cuGraphKernelNodeGetAttribute", node, which, value)
        return struct.unpack_from("<i", value)[0]

    def set_(node, which, number):
        value = ctypes.create_string_buffer(struct.pack("<iii", number, 1, 1), 64)
        return call("cuGraphKernelNodeSetAttribute", node, which, value)

    wants(read_back(b, 8), 0, "a priority that was not set")
    wants([set_(b, 8, -2), set_(b, 2, 1)], [0, 0], "set")
    wants([read_back(b, 8), read_back(b, 2)], [-2, 1], "read back")
    wants(set_(b, 4, 2), 801, "a cluster of two")
    wants(set_(b, 4, 1), 0, "a cluster of one")
    wants(set_(b, 13, 1), 801, "updated by the device")
    ok("cuGraphKernelNodeCopyAttributes", a, b)
    wants([read_back(a, 8), read_back(a, 2), read_back(a, 4)], [-2, 1, 1], "copied")
    executable = instantiate(graph)
    wants(n.run(executable), 30, "result")
    ok("cuGraphExecKernelNodeSetParams_v2", executable, b, ctypes.byref(n.params(7.0)))
    wants(n.run(executable), 70, "a cooperative node, changed")
    wants(set_(a, 2, 0), 0, "cooperative no more")
    info = (ctypes.c_uint64 * 3)()
    wants(call("cuGraphExecUpdate_v2", executable, graph, info), 910, "an update")
    wants((info[0] & 0xFFFFFFFF, info[1]), (8, a), "says that an attribute changed")


def picture(path):
    """cuGraphDebugDotPrint writes nodes and edges."""
    n = Numbers()
    graph, inner = out("cuGraphCreate", 0), out("cuGraphCreate", 0)
    out("cuGraphAddEmptyNode", inner, 0, 0)
    a = n.node(graph, 2.0)
    b = out("cuGraphAddMemsetNode", graph, nodes(a), 1, fill_at(n.at, floats(2.0)), 0)
    out("cuGraphAddChildGraphNode", graph, nodes(a, b), 2, inner)
    out("cuGraphAddMemcpyNode", graph, 0, 0, to_or_from(n.at, n.at, to_host=True), 0)
    ok("cuGraphDebugDotPrint", graph, str(path).encode(), 1)


def users():
    """A user object's function is called when the last graph that has it is gone."""
    n = Numbers()
    called = []
    gone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(called.append)
    user = out("cuUserObjectCreate", ctypes.c_void_p(5), gone, 2, 1)
    graph = out("cuGraphCreate", 0)
    n.node(graph, 2.0)
    ok("cuGraphRetainUserObject", graph, user, 1, 1)
    ok("cuGraphRetainUserObject", graph, user, 2, 0)
    wants(call("cuGraphReleaseUserObject", graph, user, 4), VALUE, "more than it has")
    ok("cuGraphReleaseUserObject", graph, user, 2)
    ok("cuUserObjectRetain", user, 1)
    ok("cuUserObjectRelease", user, 2)
    executable = instantiate(graph)
    clone = out("cuGraphClone", graph)
    ok("cuGraphDestroy", graph)
    wants(n.run(executable), 2, "a launch")
    ok("cuGraphDestroy", clone)
    ok("cuCtxSynchronize")
    wants(called, [], "an executable graph still has it")
    ok("cuGraphExecDestroy", executable)
    ok("cuCtxSynchronize")
    wants(called, [5], "nobody has it")
    wants(call("cuUserObjectRetain", user, 1), VALUE, "it is gone")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
