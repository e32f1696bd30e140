"""cuda.core's graphs: captured streams that split and join, and graphs defined node by node.

Compared with NumPy. One JSON line for all; exits with 77 where cuda.core is not installed.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.ptx_texts import SCALE

try:
    from cuda.bindings import driver
    from cuda.core import Device, LaunchConfig, ObjectCode, launch
    from cuda.core.graph import GraphBuilder, GraphDefinition
except ImportError as error:
    print(f"skipped: {error}; pip install cuda-core", file=sys.stderr)
    sys.exit(77)

COUNT = 256
CONFIG = LaunchConfig(grid=COUNT // 64, block=64)


def check(answer):
    error, *values = answer
    if error:
        raise RuntimeError(f"{error!r}")
    return values[0] if values else None


class Arrays:
    """Device memory of COUNT floats each."""

    def __init__(self, count):
        self.at = [int(check(driver.cuMemAlloc(4 * COUNT))) for _ in range(count)]

    def write(self, which, data):
        check(driver.cuMemcpyHtoD(self.at[which], data.ctypes.data, data.nbytes))

    def read(self, which):
        data = np.empty(COUNT, np.float32)
        check(driver.cuMemcpyDtoH(data.ctypes.data, self.at[which], data.nbytes))
        return data

    def scale(self, which, factor):
        return (np.uint64(self.at[which]), np.float32(factor), np.uint32(COUNT))


def wants(got, wanted, what):
    if not np.array_equal(got, wanted):
        raise AssertionError(f"{what}: {got!r}, not {wanted!r}")


def captured(device, kernel, arrays):
    """Split, join, embed, callbacks, in every mode."""
    stream = device.create_stream()
    data = np.arange(COUNT, dtype=np.float32)
    for mode in ("global", "thread_local", "relaxed"):
        seen = []
        one = device.create_graph_builder().begin_building(mode=mode)
        launch(one, CONFIG, kernel, *arrays.scale(0, 2))
        one, two, three = one.split(3)
        launch(two, CONFIG, kernel, *arrays.scale(1, 3))
        launch(three, CONFIG, kernel, *arrays.scale(2, 5))
        launch(one, CONFIG, kernel, *arrays.scale(0, 7))
        one = GraphBuilder.join(one, two, three)
        one.callback(lambda seen=seen: seen.append(1))
        launch(one, CONFIG, kernel, *arrays.scale(0, 11))
        graph = one.end_building().complete()
        for which in range(3):
            arrays.write(which, data)
        graph.upload(stream)
        for _ in range(2):
            graph.launch(stream)
        stream.sync()
        for which, factor in ((0, 154), (1, 3), (2, 5)):
            wants(arrays.read(which), data * np.float32(factor) * np.float32(factor), f"{mode}")
        wants(len(seen), 2, "callbacks")
        graph.close()
    return "captured"


def embedded(device, kernel, arrays):
    """A graph in another, and an update."""
    stream = device.create_stream()
    data = np.arange(COUNT, dtype=np.float32)

    def build(factor):
        inner = device.create_graph_builder().begin_building()
        launch(inner, CONFIG, kernel, *arrays.scale(0, factor))
        inner.end_building()
        outer = device.create_graph_builder().begin_building()
        launch(outer, CONFIG, kernel, *arrays.scale(0, 2))
        outer.embed(inner)
        launch(outer, CONFIG, kernel, *arrays.scale(0, 3))
        return outer.end_building()

    graph = build(5).complete()
    arrays.write(0, data)
    graph.launch(stream)
    stream.sync()
    wants(arrays.read(0), data * np.float32(30), "embedded")
    graph.update(build(7))
    arrays.write(0, data)
    graph.launch(stream)
    stream.sync()
    wants(arrays.read(0), data * np.float32(42), "updated")
    return "embedded"


def defined(device, kernel, arrays):
    """A graph node by node, with an event and a callback."""
    stream = device.create_stream()
    data = np.arange(COUNT, dtype=np.float32)
    seen = []
    definition = GraphDefinition()
    event = device.create_event()
    first = definition.launch(CONFIG, kernel, *arrays.scale(0, 2))
    other = definition.launch(CONFIG, kernel, *arrays.scale(1, 3))
    both = definition.join(first, other)
    node = both.launch(CONFIG, kernel, *arrays.scale(1, 5))
    node = node.memcpy(arrays.at[2], arrays.at[1], 4 * COUNT)
    node = node.record(event)
    node = node.callback(lambda: seen.append(1))
    node.memset(arrays.at[1], 0, 4 * COUNT)
    graph = definition.instantiate()
    for which in range(3):
        arrays.write(which, data)
    graph.launch(stream)
    event.sync()
    stream.sync()
    wants(arrays.read(0), data * np.float32(2), "first")
    wants(arrays.read(1), np.zeros(COUNT, np.float32), "filled")
    wants(arrays.read(2), data * np.float32(15), "copied")
    wants((len(seen), len(definition.nodes()), len(definition.edges())), (1, 8, 7), "nodes")
    return "defined"


def main():
    device = Device()
    device.set_current()
    kernel = ObjectCode.from_ptx(SCALE).get_kernel("scale")
    arrays = Arrays(3)
    names = [part(device, kernel, arrays) for part in (captured, embedded, defined)]
    print(json.dumps({"ran": names}))


if __name__ == "__main__":
    main()
