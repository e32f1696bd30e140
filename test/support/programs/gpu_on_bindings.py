"""The device `gpu` on the real `cuda.bindings.driver`, whatever libcuda this process has.

Interposed, its driver calls run on an offload server's cpu device: then every argument goes
through the real bindings, and the results are real. One JSON line: what was checked.
"""

import json
import struct

import numpy as np

from rrto_ros.api.results import CUresult
from rrto_ros.devices.gpu.device import GpuDevice
from rrto_ros.devices.gpu.segment_graphs import GraphCall
from rrto_ros.devices.protocol import Launch, MemcpyNode, MemsetNode
from rrto_ros.errors import CudaError, PtxError

PTX = b"""
.version 7.5
.target sm_75
.address_size 64
.visible .global .align 4 .u32 scale = 3;
.visible .entry step(.param .u64 pa, .param .u32 value)
{
    .reg .b64 %rd<3>; .reg .b32 %r<5>;
    ld.param.u64 %rd1, [pa]; ld.param.u32 %r1, [value];
    ld.global.u32 %r2, [%rd1]; ld.global.u32 %r3, [scale];
    mad.lo.u32 %r4, %r2, %r3, %r1; st.global.u32 [%rd1], %r4;
    ret;
}
.visible .entry nothing() { ret; }
"""


def step(at, value):
    return Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, struct.pack("<QI", at, value))


def chained(start, values):
    for value in values:
        start = (start * 3 + value) & 0xFFFFFFFF
    return start


def refused(result, call, *arguments):
    got = None
    try:
        call(*arguments)
    except CudaError as error:
        got = error.result
    assert got == result, (call, got)


def copies(device, base):
    data = np.random.default_rng(0).integers(0, 256, 9 << 20, np.uint8).tobytes()
    device.memcpy_htod(base, data, 0)
    device.memcpy_dtod(base + (10 << 20), base, len(data), 0)
    assert bytes(device.memcpy_dtoh(base + (10 << 20), len(data), 0)) == data
    for width in (1, 2, 4):
        for height in (1, 3):
            device.memset(MemsetNode(base, 0, 0, 1, 256, 1), 0)
            device.memset(MemsetNode(base, 64, 0x11223344, width, 5, height), 0)
            got = np.frombuffer(bytes(device.memcpy_dtoh(base, 256, 0)), f"<u{width}")
            want = np.zeros((4, 64 // width), f"<u{width}")
            want[:height, :5] = 0x11223344 & (1 << 8 * width) - 1
            assert (got.reshape(want.shape) == want).all()


def word(device, at, stream=0):
    return struct.unpack("<I", bytes(device.memcpy_dtoh(at, 4, stream)))[0]


def launches(device, base):
    device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
    for value in range(200):
        device.launch(step(base, value), 0)
    assert word(device, base) == chained(0, range(200))
    device.launch(Launch(1, 1, (1, 1, 1), (32, 1, 1), 0, b""), 0)
    cooperative = Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, step(base, 5).params, cooperative=True)
    before = word(device, base)
    device.launch(cooperative, 0)
    assert word(device, base) == chained(before, [5])
    refused(CUresult.INVALID_VALUE, device.launch, Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, b""), 0)


def streams_and_events(device, base):
    for stream in (5, 6):
        device.stream_create(stream, 1, 0)
    for event in (1, 2):
        device.event_create(event, 0)
    device.memset(MemsetNode(base, 0, 1, 4, 1, 1), 5)
    device.event_record(1, 5)
    device.launch(step(base, 1), 5)
    device.event_record(2, 5)
    device.stream_wait_event(6, 2, 0)
    device.launch(step(base, 2), 6)
    assert word(device, base, 6) == chained(1, [1, 2])
    device.event_synchronize(2)
    assert device.event_query(2)
    assert device.event_elapsed_ms(1, 2) >= 0
    assert device.stream_query(5)
    for name in (5, 6):
        device.stream_destroy(name)
    for name in (1, 2):
        device.event_destroy(name)


def graphs(device, base):
    device.graph_create(1)
    device.graph_add_node(1, 10, [], MemsetNode(base, 0, 2, 4, 1, 1))
    device.graph_add_node(1, 11, [10], step(base, 1))
    device.graph_add_node(1, 12, [11], MemcpyNode(base + 512, base, 4))
    device.graph_add_node(1, 13, [12], None)
    device.graph_instantiate(2, 1)
    device.graph_launch(2, 0)
    assert word(device, base + 512) == 7
    device.graph_exec_node_set(2, 10, MemsetNode(base, 0, 3, 4, 1, 1))
    device.graph_exec_node_set(2, 11, step(base, 4))
    device.graph_exec_node_set(2, 12, MemcpyNode(base + 1024, base, 4))
    device.graph_launch(2, 0)
    assert word(device, base + 1024) == 13
    device.graph_exec_destroy(2)
    device.graph_destroy(1)


def segments(device, base):
    calls = [GraphCall(MemsetNode(base, 0, 0, 4, 1, 1), 0)]
    calls += [GraphCall(step(base, value), 0) for value in range(20)]
    calls.append(GraphCall(Launch(1, 1, (1, 1, 1), (32, 1, 1), 0, b""), 0))
    calls.append(GraphCall(MemcpyNode(base + 512, base, 4), 0))
    segment = device.graphs.prepare(calls)
    for changed in range(100):
        assert segment.run({7: step(base, changed)})
        values = [*range(6), changed, *range(7, 20)]
        assert word(device, base + 512) == chained(0, values), changed
    assert device.statistics()["segment_builds"] == 1
    device.graphs.forget(segment)


def checkpoints(device, base):
    device.memcpy_htod(base, b"before" * 100, 0)
    held = device.checkpoint([(base, 300), (base + 200, 400)], 0)
    device.memset(MemsetNode(base, 0, 0, 1, 600, 1), 0)
    device.restore(held)
    assert bytes(device.memcpy_dtoh(base, 600, 0)) == b"before" * 100


def modules(device, base):
    info = device.module_load(3, PTX)
    (scale,) = info.globals
    assert (scale.name, scale.bytes) == ("scale", 4)
    assert word(device, scale.address) == 3
    device.function_set_attribute(3, 0, 8, 64 << 10)
    device.module_unload(3)
    try:
        device.module_load(4, PTX.replace(b"mad.lo.u32", b"mad.nonsense"))
    except PtxError:
        return
    raise AssertionError("a text with an instruction that does not exist was taken")


def main():
    device = GpuDevice(limit_bytes=1 << 26, arena_bytes=1 << 28, wait_limit_s=60.0)
    base = device.info.arena_base
    device.mem_alloc(base, 32 << 20, 0)
    device.module_load(1, PTX)
    parts = (copies, launches, streams_and_events, graphs, segments, checkpoints, modules)
    for part in parts:
        part(device, base)
        device.ctx_synchronize()
    statistics = dict(device.statistics())
    device.close()
    print(json.dumps({"checked": [part.__name__ for part in parts], "device": statistics}))


if __name__ == "__main__":
    main()
