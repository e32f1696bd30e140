"""The checking device: each rule is broken on purpose and named; right calls are found right."""

import struct
from dataclasses import replace

import pytest
from support.ptx_texts import SCALE

from rrto_ros.devices.checking.device import CheckingDevice
from rrto_ros.devices.checking.findings import MOST_LINES
from rrto_ros.devices.mappings import GRANULE, READ
from rrto_ros.devices.null import NullDevice
from rrto_ros.devices.protocol import Device, Launch, MemcpyNode, MemsetNode
from rrto_ros.devices.registry import DeviceSettings, create_device
from rrto_ros.devices.textures import Texture
from rrto_ros.errors import CudaError
from rrto_ros.execution.executor import Executor
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.format import FLAG_REPLY, FLAG_WAITED

NON_BLOCKING, NO_TIMING = 1, 2
STREAM, OTHER = 5, 6


class Lax(NullDevice):
    """Executes whatever it is told, as a device that checks nothing would."""

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name.startswith("_") or not callable(method):
            return method

        def lax(*arguments):
            try:
                return method(*arguments)
            except CudaError:
                return bytes(arguments[1]) if name == "memcpy_dtoh" else 0

        return lax


class Bench:
    """A checking device with memory, a module, two streams and an event of each kind."""

    def __init__(self, inner=Lax):
        self.device = CheckingDevice(inner(limit_bytes=64 << 20, bytes_per_s=0, launch_s=0))
        self.base = self.device.info.arena_base
        self.kernel = self.device.module_load(1, SCALE).kernels[0]
        for stream in (STREAM, OTHER):
            self.device.stream_create(stream, NON_BLOCKING, 0)
        self.device.event_create(1, 0)
        self.device.event_create(2, NO_TIMING)
        self.device.mem_alloc(self.base, 4096, 0)

    def launch(self, **changed):
        """A launch that is right, or changed."""
        pointer = struct.pack("<Q", changed.pop("pointer", self.base))
        params = pointer.ljust(self.kernel.param_bytes, b"\0")
        return replace(Launch(1, 0, (1, 1, 1), (32, 1, 1), 0, params), **changed)

    def found(self):
        """Rule -> how often."""
        statistics = self.device.statistics()
        return {
            name.removeprefix("findings_"): count
            for name, count in statistics.items()
            if name.startswith("findings_")
        }


@pytest.fixture
def bench():
    return Bench()


def test_right_calls_are_found_right_and_answered_by_the_device_inside():
    bench = Bench(NullDevice)
    device, base = bench.device, bench.base
    assert isinstance(device, Device)
    device.memcpy_htod(base, b"x" * 4096, 0)
    device.mem_alloc(base + 8192, 4096, STREAM)
    device.event_record(1, STREAM)
    device.stream_wait_event(OTHER, 1, 0)
    device.memcpy_dtod(base + 8192, base, 4096, OTHER)
    device.launch(bench.launch(pointer=base + 8192 + 4096), OTHER)  # the end of an array
    device.launch(bench.launch(), 0)
    device.memset(MemsetNode(base, 64, 0, 4, 8, 64), 0)
    device.graph_create(1)
    device.graph_add_node(1, 1, (), bench.launch())
    device.graph_add_node(1, 2, (1,), MemcpyNode(base, base + 8192, 16))
    device.graph_add_node(1, 3, (1, 2), None)
    device.graph_instantiate(1, 1)
    device.graph_destroy(1)
    device.graph_exec_node_set(1, 2, MemcpyNode(base, base + 8192, 32))
    device.graph_launch(1, OTHER)
    device.stream_synchronize(OTHER)
    device.mem_free(base + 8192, STREAM)
    device.event_record(1, 0)
    device.event_synchronize(1)
    assert device.event_elapsed_ms(1, 1) == 0
    assert device.memcpy_dtoh(base, 4096, 0) == bytes(4096)
    device.mem_free(base, 0)
    device.graph_exec_destroy(1)
    device.module_unload(1)
    assert bench.found() == {}
    assert device.take_output() == (b"", b"")
    left = {name: count for name, count in device.left().items() if count}
    assert left == {"streams": 2, "events": 2}


BROKEN = {
    "a stream that is not live": ("handles", lambda b: b.device.stream_synchronize(9)),
    "a stream that was destroyed": ("handles", lambda b: (
        b.device.stream_destroy(STREAM), b.device.memcpy_htod(b.base, b"x", STREAM))),
    "a stream twice": ("handles", lambda b: b.device.stream_create(STREAM, 0, 0)),
    "an event that is not live": ("handles", lambda b: b.device.event_record(9, 0)),
    "an event destroyed twice": ("handles", lambda b: (
        b.device.event_destroy(1), b.device.event_destroy(1))),
    "a module that was unloaded": ("handles", lambda b: (
        b.device.module_unload(1), b.device.launch(b.launch(), 0))),
    "a kernel that is not in the module": ("handles", lambda b: b.device.launch(
        b.launch(kernel=7), 0)),
    "a graph that is not live": ("handles", lambda b: b.device.graph_launch(3, 0)),
    "a node that waits for none": ("handles", lambda b: (
        b.device.graph_create(1), b.device.graph_add_node(1, 1, (4,), None))),
    "a node that becomes another": ("handles", lambda b: (
        b.device.graph_create(1), b.device.graph_add_node(1, 1, (), None),
        b.device.graph_instantiate(1, 1),
        b.device.graph_exec_node_set(1, 1, MemcpyNode(b.base, b.base, 4)))),
    "a texture that is not live": ("handles", lambda b: b.device.texture_destroy(3)),
    "memory to map that is not live": ("handles", lambda b: b.device.mem_map(
        b.base + GRANULE, GRANULE, 4)),
    "a copy behind its allocation": ("memory", lambda b: b.device.memcpy_htod(
        b.base + 4000, b"x" * 97, 0)),
    "a copy from nowhere": ("memory", lambda b: b.device.memcpy_dtoh(b.base + 8192, 4, 0)),
    "a copy over two allocations": ("memory", lambda b: (
        b.device.mem_alloc(b.base + 4096, 4096, 0),
        b.device.memcpy_dtod(b.base + 1024, b.base + 4000, 200, 0))),
    "a fill of rows too far apart": ("memory", lambda b: b.device.memset(
        MemsetNode(b.base, 1024, 0, 4, 1, 6), 0)),
    "memory after it was freed": ("memory", lambda b: (
        b.device.mem_free(b.base, 0), b.device.memset(MemsetNode(b.base, 0, 0, 1, 4, 1), 0))),
    "an allocation over another": ("memory", lambda b: b.device.mem_alloc(b.base + 1024, 16, 0)),
    "a graph over memory that was freed": ("memory", lambda b: (
        b.device.graph_create(1),
        b.device.graph_add_node(1, 1, (), MemsetNode(b.base, 0, 0, 1, 64, 1)),
        b.device.graph_instantiate(1, 1), b.device.mem_free(b.base, 0),
        b.device.graph_launch(1, 0))),
    "a mapping that may only be read": ("memory", lambda b: (
        b.device.mem_create(1, GRANULE), b.device.mem_map(b.base + GRANULE, GRANULE, 1),
        b.device.mem_access(b.base + GRANULE, GRANULE, READ),
        b.device.memcpy_htod(b.base + GRANULE, b"x", 0))),
    "part of a mapping unmapped": ("memory", lambda b: (
        b.device.mem_create(1, 2 * GRANULE), b.device.mem_map(b.base + GRANULE, 2 * GRANULE, 1),
        b.device.mem_unmap(b.base + GRANULE, GRANULE))),
    "memory freed twice": ("frees", lambda b: (
        b.device.mem_free(b.base, 0), b.device.mem_free(b.base, 0))),
    "a free inside an allocation": ("frees", lambda b: b.device.mem_free(b.base + 256, 0)),
    "memory released while it is mapped": ("frees", lambda b: (
        b.device.mem_create(1, GRANULE), b.device.mem_map(b.base + GRANULE, GRANULE, 1),
        b.device.mem_release(1))),
    "memory freed under a texture": ("frees", lambda b: (
        b.device.texture_create(1, Texture(b.base, 64, 64, 1, 1, 64, 0, 1, 1, 0, 1, 0, 0, 0,
                                           (0.0,) * 4)),
        b.device.mem_free(b.base, 0))),
    "a kernel that its module has not": ("handles", lambda b: b.device.kernel_load(1, 99)),
    "a block that is too large": ("launches", lambda b: b.device.launch(
        b.launch(block=(64, 32, 1)), 0)),
    "an empty grid": ("launches", lambda b: b.device.launch(b.launch(grid=(1, 0, 1)), 0)),
    "shared memory that was not allowed": ("launches", lambda b: b.device.launch(
        b.launch(shared_bytes=64 << 10), 0)),
    "more shared memory than there is": ("launches", lambda b: b.device.function_set_attribute(
        1, 0, 8, 1 << 20)),
    "arguments that are too short": ("arguments", lambda b: b.device.launch(
        b.launch(params=b"\0" * 8), 0)),
    "arguments that are too long in a graph": ("arguments", lambda b: (
        b.device.graph_create(1),
        b.device.graph_add_node(1, 1, (), b.launch(params=b"\0" * 64)))),
    "an argument that points nowhere": ("pointers", lambda b: b.device.launch(
        b.launch(pointer=b.base + (1 << 20)), 0)),
    "an argument that points to freed memory": ("pointers", lambda b: (
        b.device.mem_free(b.base, 0), b.device.launch(b.launch(), 0))),
    "another stream's memory before it is there": ("order", lambda b: (
        b.device.mem_alloc(b.base + 8192, 64, STREAM),
        b.device.memset(MemsetNode(b.base + 8192, 0, 0, 1, 64, 1), OTHER))),
    "another stream's memory in a launch": ("order", lambda b: (
        b.device.mem_alloc(b.base + 8192, 64, STREAM),
        b.device.launch(b.launch(pointer=b.base + 8192), OTHER))),
    "a wait for an event that was recorded too early": ("order", lambda b: (
        b.device.event_record(1, STREAM), b.device.mem_alloc(b.base + 8192, 64, STREAM),
        b.device.stream_wait_event(OTHER, 1, 0),
        b.device.launch(b.launch(pointer=b.base + 8192), OTHER))),
    "memory freed that another stream uses": ("order", lambda b: (
        b.device.memset(MemsetNode(b.base, 0, 0, 1, 64, 1), OTHER),
        b.device.mem_free(b.base, STREAM))),
    "a wait for an event that was never recorded": ("events", lambda b: (
        b.device.stream_wait_event(STREAM, 2, 0))),
    "the time of an event without one": ("events", lambda b: (
        b.device.event_record(1, 0), b.device.event_record(2, 0),
        b.device.event_elapsed_ms(1, 2))),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_found_and_named_with_its_call(bench, what):
    rule, breaks = BROKEN[what]
    breaks(bench)
    assert bench.found() == {rule: 1}
    assert bench.device.statistics()["findings"] == 1
    errors = bench.device.take_output()[1].decode()
    assert errors.startswith("rrto check: call #")
    assert errors.count("\n") == 1
    assert errors[len("rrto check: ") : -1] == bench.device.statistics()["first_finding"]
    assert bench.device.take_output() == (b"", b"")


def test_streams_that_wait_for_each_other_may_use_each_others_memory(bench):
    device, place = bench.device, bench.base + 8192
    device.stream_create(7, 0, 0)  # a stream that the default stream waits for
    waits = (
        lambda: device.stream_synchronize(STREAM),
        device.ctx_synchronize,
        lambda: (device.event_record(1, STREAM), device.event_synchronize(1)),
        lambda: (device.event_record(1, STREAM), device.stream_wait_event(OTHER, 1, 0)),
    )
    for wait in waits:
        device.mem_alloc(place, 64, STREAM)
        wait()
        device.launch(bench.launch(pointer=place), OTHER)
        device.event_record(2, OTHER)
        device.stream_wait_event(STREAM, 2, 0)
        device.mem_free(place, STREAM)
    device.mem_alloc(place, 64, 7)
    device.launch(bench.launch(pointer=place), 0)
    device.mem_free(place, 7)
    assert bench.found() == {}


def test_a_kernel_that_is_loaded_after_its_module_has_its_limits_from_then_on():
    class Later(Lax):
        def module_load(self, module, image):
            info = super().module_load(module, image)
            return replace(info, kernels=tuple(replace(k, attributes={}) for k in info.kernels))

        def kernel_load(self, module, kernel):
            return replace(super().kernel_load(module, kernel), attributes={0: 16})

    bench = Bench(Later)
    assert bench.kernel.attributes == {}
    bench.device.launch(bench.launch(), 0)
    assert bench.found() == {}
    assert bench.device.kernel_load(1, 0).attributes == {0: 16}
    bench.device.launch(bench.launch(), 0)
    assert bench.found() == {"launches": 1}


def test_what_the_device_refuses_is_found_unless_it_is_an_answer():
    bench = Bench(NullDevice)
    with pytest.raises(CudaError):
        bench.device.mem_alloc(bench.base + 8192, 1 << 40, 0)
    with pytest.raises(CudaError):
        bench.device.mem_alloc(bench.base + (16 << 20), 65 << 20, 0)  # more than there is
    with pytest.raises(CudaError):
        bench.device.stream_destroy(9)
    assert bench.found() == {"refused": 1, "handles": 1}


def test_findings_are_bounded_where_they_are_told_and_counted_all_the_same(bench):
    for _ in range(3 * MOST_LINES):
        bench.device.stream_synchronize(9)
    assert bench.found() == {"handles": 3 * MOST_LINES}
    assert bench.device.take_output()[1].count(b"\n") == MOST_LINES + 1


def test_the_end_says_what_was_found_and_what_is_left(bench, capfd):
    bench.device.stream_synchronize(9)
    bench.device.graph_create(1)
    bench.device.close()
    errors = capfd.readouterr().err
    assert "call #9 the end: graph 1 was instantiated and not destroyed" in errors
    assert "8 calls, 2 findings (handles 1, left 1); left at the end: 1 allocations" in errors
    assert "2 streams, 2 events" in errors


def test_the_executor_names_a_call_by_the_sessions_number():
    device = create_device("null", DeviceSettings(1 << 20, check_calls=True))
    executor = Executor(device)
    flags = FLAG_REPLY | FLAG_WAITED
    results = executor.execute(
        pack_call("stream_synchronize", 41, record_flags=flags, stream=9), lambda _: None
    )
    assert b"rrto check: call #41 stream_synchronize: stream 9 is not live" in results
    assert str(device.statistics()["first_finding"]).startswith("call #41 stream_synchronize")
