"""Asks the driver every question of support/driver_answers.py; prints {row: result} as JSON."""

import ctypes
import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import PTX, call, function, ok, out, scale_params
from support.driver_answers import BEFORE, STARTED, identity, kernel_node, nodes


def prepared():
    """What the rows name."""
    e = SimpleNamespace(kept=[], image=ctypes.create_string_buffer(PTX))
    e.ctx = out("cuDevicePrimaryCtxRetain", 0)
    e.other_ctx = out("cuCtxCreate_v2", 0, 0)
    ok("cuCtxSetCurrent", e.ctx)
    e.memory, e.host = out("cuMemAlloc_v2", 1024), ctypes.create_string_buffer(2048)
    e.module = out("cuModuleLoadData", e.image)
    e.fn = function(e.module)
    e.args = scale_params(e.memory, 1.0, 4)
    e.library = out("cuLibraryLoadData", e.image, 0, 0, 0, 0, 0, 0)
    e.kernel = out("cuLibraryGetKernel", e.library, b"scale")
    e.library_module = out("cuLibraryGetModule", e.library)
    state = ctypes.c_uint64()
    ok("cuLinkCreate_v2", 0, 0, 0, ctypes.byref(state))
    e.link = state.value
    e.stream, e.event = out("cuStreamCreate", 1), out("cuEventCreate", 0)
    e.untimed = out("cuEventCreate", 2)
    ok("cuEventRecord", e.untimed, e.stream)
    e.pool = out("cuDeviceGetDefaultMemPool", 0)
    e.graph, other = out("cuGraphCreate", 0), out("cuGraphCreate", 0)
    e.node = out("cuGraphAddKernelNode_v2", e.graph, 0, 0, kernel_node(e))
    e.empty = out("cuGraphAddEmptyNode", e.graph, nodes(e.node), 1)
    e.stranger = out("cuGraphAddEmptyNode", other, 0, 0)
    e.stranger_kernel = out("cuGraphAddKernelNode_v2", other, 0, 0, kernel_node(e))
    e.exec = out("cuGraphInstantiateWithFlags", e.graph, 0)
    return e


def main():
    answers = {identity(row): call(row.name, *row.arguments(None)) for row in BEFORE}
    ok("cuInit", 0)
    e = prepared()
    for row in STARTED:
        answers[identity(row)] = call(row.name, *row.arguments(e))
    ok("cuCtxSynchronize")
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
