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


if __name__ == "__main__":
    globals()[sys.argv[1]]()
