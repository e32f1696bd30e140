"""A program whose results depend on all that went before: state in memory, in a module variable.

    tracker.py STEPS [--graph] [--churn] [--named]

Each step uploads an input, updates the state with it, counts the step in a variable of the
module, reads the state and compares it with what it should be. With --graph an executable graph
updates it, whose argument changes from step to step. With --churn streams, events and buffers come
and go. With --named the module is large enough to be uploaded by its name. Prints a line of JSON
with the last state. Exits with 1 if a word differs.
"""

import argparse
import ctypes
import json
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shim_graphs import instantiate, kernel
from support import cuda_ctypes as cuda

COUNT = 20_000
PTX = b"""
.version 8.0
.target sm_80
.address_size 64
.global .u32 steps;
.visible .entry update(.param .u64 state, .param .u64 input, .param .u32 n, .param .u32 k)
{
  .reg .pred %p;
  .reg .b32 %r<12>;
  .reg .b64 %rd<8>;
  ld.param.u64 %rd1, [state];
  ld.param.u64 %rd2, [input];
  ld.param.u32 %r1, [n];
  ld.param.u32 %r9, [k];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.u32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p, %r5, %r1;
  @%p bra DONE;
  mul.wide.u32 %rd3, %r5, 4;
  add.u64 %rd4, %rd1, %rd3;
  add.u64 %rd5, %rd2, %rd3;
  ld.global.u32 %r6, [%rd4];
  ld.global.u32 %r7, [%rd5];
  ld.global.u32 %r8, [steps];
  mad.lo.u32 %r6, %r6, 2654435761, %r7;
  mad.lo.u32 %r6, %r8, %r9, %r6;
  st.global.u32 [%rd4], %r6;
DONE:
  ret;
}
.visible .entry count()
{
  .reg .b32 %r<2>;
  ld.global.u32 %r1, [steps];
  add.u32 %r1, %r1, 1;
  st.global.u32 [steps], %r1;
  ret;
}
"""


class Tracker:
    """State on the device, and what it should be."""

    def __init__(self, named=False):
        cuda.start()
        module = cuda.load(PTX.replace(b"ret;", b"// \n" * 1000 * named + b"ret;"))
        self.update = cuda.function(module, b"update")
        self.count = cuda.function(module, b"count")
        self.state, self.input = (cuda.out("cuMemAlloc_v2", 4 * COUNT) for _ in range(2))
        self.fixed = np.arange(COUNT, dtype=np.uint32)
        cuda.ok("cuMemcpyHtoD_v2", self.state, self.fixed.ctypes.data, 4 * COUNT)
        self.want = self.fixed.copy()
        self.steps = 0
        self.graph = None
        self.kept = []

    def arguments(self, factor):
        return cuda.params(
            struct.pack("<Q", self.state), struct.pack("<Q", self.input),
            struct.pack("<I", COUNT), struct.pack("<I", factor),
        )  # fmt: skip

    def launch(self, factor, use_graph):
        grid, block = (-(-COUNT // 128), 1, 1), (128, 1, 1)
        if not use_graph:
            assert cuda.launch(self.update, self.arguments(factor), grid=grid, block=block) == 0
            return
        node = kernel(self.update, self.arguments(factor), grid=grid, block=block)
        self.kept = [node]
        if self.graph is None:
            graph = cuda.out("cuGraphCreate", 0)
            self.node = cuda.out("cuGraphAddKernelNode_v2", graph, 0, 0, ctypes.byref(node))
            self.graph = instantiate(graph)
        cuda.ok("cuGraphExecKernelNodeSetParams_v2", self.graph, self.node, ctypes.byref(node))
        cuda.ok("cuGraphLaunch", self.graph, 0)

    def step(self, use_graph):
        factor = 7 + self.steps % 5
        given = self.fixed * np.uint32(self.steps + 1)
        cuda.ok("cuMemcpyHtoD_v2", self.input, given.ctypes.data, 4 * COUNT)
        assert cuda.launch(self.count, None, block=(1, 1, 1)) == 0
        self.steps += 1
        self.launch(factor, use_graph)
        self.want = self.want * np.uint32(2654435761) + given + np.uint32(self.steps * factor)
        got = np.frombuffer(cuda.read(self.state, 4 * COUNT), np.uint32)
        if not np.array_equal(got, self.want):
            at = int(np.flatnonzero(got != self.want)[0])
            print(f"step {self.steps}: word {at} is {got[at]}, not {self.want[at]}",
                  file=sys.stderr)  # fmt: skip
            sys.exit(1)


def churn(held):
    """Make a stream, an event and a buffer; drop those of three steps ago."""
    stream, event = cuda.out("cuStreamCreate", 1), cuda.out("cuEventCreate", 0)
    data = cuda.out("cuMemAlloc_v2", 1000)
    cuda.ok("cuMemsetD8Async", data, 5, 1000, stream)
    cuda.ok("cuEventRecord", event, stream)
    held.append((stream, event, data))
    if len(held) > 3:
        stream, event, data = held.pop(0)
        cuda.ok("cuStreamDestroy_v2", stream)
        cuda.ok("cuEventSynchronize", event)
        assert cuda.read(data, 1000) == bytes([5]) * 1000
        cuda.ok("cuEventDestroy_v2", event)
        cuda.ok("cuMemFree_v2", data)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", type=int)
    parser.add_argument("--graph", action="store_true")
    parser.add_argument("--churn", action="store_true")
    parser.add_argument("--named", action="store_true")
    chosen = parser.parse_args()
    tracker, held = Tracker(chosen.named), []
    for _ in range(chosen.steps):
        if chosen.churn:
            churn(held)
        tracker.step(chosen.graph)
    print(json.dumps({"last": int(tracker.want[-1])}))


if __name__ == "__main__":
    main()
