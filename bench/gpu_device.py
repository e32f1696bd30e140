"""What the device `gpu` costs by itself, in one process: mapping, launches, graphs, checkpoints.

python bench/gpu_device.py [--smoke]     # one JSON line, medians

Times are of the calling thread, with the work on the GPU waited for where the text says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rrto_ros.devices.gpu.device import GpuDevice
from rrto_ros.devices.protocol import Launch, MemcpyNode, MemsetNode, SegmentCall
from rrto_ros.errors import UnavailableError

MIB = 1 << 20
NO_GPU = 3
CALLS = 200
PTX = b"""
.version 7.5
.target sm_75
.address_size 64
.visible .entry add_word(.param .u64 pa, .param .u32 value)
{
    .reg .b64 %rd<2>; .reg .b32 %r<4>;
    ld.param.u64 %rd1, [pa]; ld.param.u32 %r1, [value];
    ld.global.u32 %r2, [%rd1]; add.u32 %r3, %r2, %r1; st.global.u32 [%rd1], %r3;
    ret;
}
"""


def median_us(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1e6 * (time.perf_counter() - started))
    return statistics.median(times)


def mapping(device: GpuDevice, repeats: int) -> dict[str, float]:
    """Backing new addresses with memory: small allocations, and one of 64 MiB."""
    at = device.info.arena_base + 512 * MIB

    def allocate(size: int) -> None:
        nonlocal at
        device.mem_alloc(at, size, 0)
        at += -(-size // (2 * MIB)) * 2 * MIB

    sizes = {"2 MiB": 2 * MIB, "64 MiB": 64 * MIB}
    out = {
        f"map {name}": median_us(lambda s=size: allocate(s), repeats)
        for name, size in sizes.items()
    }
    base = device.info.arena_base
    device.mem_alloc(base, 4096, 0)

    def again() -> None:
        device.mem_alloc(base + 8192, 512, 0)
        device.mem_free(base + 8192, 0)

    out["allocate and free where memory is mapped"] = median_us(again, repeats * 10)
    device.mem_free(base, 0)
    return out


def launching(device: GpuDevice, repeats: int) -> dict[str, float]:
    """200 launches one by one and as one graph, to the end of the work."""
    base = device.info.arena_base
    device.mem_alloc(base, MIB, 0)
    device.memset(MemsetNode(base, 0, 0, 4, 1, 1), 0)
    calls = [
        SegmentCall(Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, struct.pack("<QI", base, 1)), 0)
        for _ in range(CALLS)
    ]

    def singly() -> None:
        for call in calls:
            assert isinstance(call.work, Launch)
            device.launch(call.work, 0)
        device.stream_synchronize(0)

    segment = device.prepare_segment(calls)
    for _ in range(3):
        segment.run(0, CALLS, {}, 1, 0)
    device.stream_synchronize(0)
    number = 0

    def as_graph(changed: int) -> None:
        nonlocal number
        number += 1
        params = struct.pack("<QI", base, number)
        launch = Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, params)
        segment.run(0, CALLS, {k: SegmentCall(launch, 0) for k in range(changed)}, 1, 0)
        device.stream_synchronize(0)

    out = {
        f"{CALLS} launches one by one": median_us(singly, repeats),
        f"{CALLS} launches as a graph": median_us(lambda: as_graph(0), repeats),
        f"{CALLS} launches as a graph, 4 changed": median_us(lambda: as_graph(4), repeats),
    }
    got = struct.unpack("<I", bytes(device.memcpy_dtoh(base, 4, 0)))[0]
    # One by one and as a graph, with the arguments that the last changes left.
    unchanged = CALLS * (2 * repeats + 3)
    changed = sum(CALLS - 4 + 4 * n for n in range(repeats + 1, 2 * repeats + 1))
    if got != unchanged + changed:
        raise SystemExit(f"the counter is {got}, want {unchanged + changed}")
    device.mem_free(base, 0)
    return out


def mixed(device: GpuDevice, repeats: int) -> dict[str, float]:
    """Launches between fills and copies, across pieces of mapped memory, as one graph."""
    base, count = device.info.arena_base, 4 * MIB
    device.mem_alloc(base, MIB, 0)
    device.mem_alloc(base + MIB, 2 * count, 0)
    source, target = base + MIB, base + MIB + count
    add = Launch(1, 0, (1, 1, 1), (1, 1, 1), 0, struct.pack("<QI", source, 1))
    work = [MemsetNode(source, 0, 7, 4, count // 4, 1), add, MemcpyNode(target, source, count)]
    calls = [SegmentCall(item, 0) for item in work * 4]
    segment = device.prepare_segment(calls)

    def as_graph() -> None:
        segment.run(0, len(calls), {}, 1, 0)
        device.stream_synchronize(0)

    as_graph()
    out = {"4 fills, launches and copies of 4 MiB as a graph": median_us(as_graph, repeats)}
    if bytes(device.memcpy_dtoh(target, 12, 0)) != struct.pack("<3I", 8, 7, 7):
        raise SystemExit("wrong bytes after a graph of fills and copies")
    for at in (base, base + MIB):
        device.mem_free(at, 0)
    return out


def checkpoints(device: GpuDevice, repeats: int) -> dict[str, float]:
    """Checkpoints: taken and restored, to the end of the work."""
    base = device.info.arena_base
    device.mem_alloc(base, 256 * MIB, 0)
    out = {}
    for size in (1, 16, 64):

        def there_and_back(count: int = size * MIB) -> None:
            device.restore(device.checkpoint([(base, count)], 0))
            device.stream_synchronize(0)

        there_and_back()
        out[f"take and restore a checkpoint of {size} MiB"] = median_us(there_and_back, repeats)
    device.mem_free(base, 0)
    return out


def copies(device: GpuDevice, repeats: int) -> dict[str, float]:
    """An input of 600 KB up, 400 bytes down."""
    base = device.info.arena_base
    device.mem_alloc(base, MIB, 0)
    data = bytes(range(256)) * 2344

    def both() -> None:
        device.memcpy_htod(base, data, 0)
        if bytes(device.memcpy_dtoh(base, 400, 0)) != data[:400]:
            raise SystemExit("wrong bytes came back")

    out = {"600 KB up, 400 bytes down": median_us(both, repeats)}
    device.mem_free(base, 0)
    return out


def measure(repeats: int) -> dict[str, Any]:
    # Not all addresses: what is rehearsed over a shim keeps checkpoints beside the arena.
    device = GpuDevice(limit_bytes=2048 * MIB, arena_bytes=16 << 30)
    try:
        device.module_load(1, PTX)
        rows: dict[str, float] = {}
        for part in (launching, mixed, copies, checkpoints, mapping):
            rows |= part(device, min(repeats, 20) if part is mapping else repeats)
        told = device.statistics()
        refused = {key: told[key] for key in ("segments_declined", "segment_refusal")}
        return {"gpu": device.info.name, "unit": "us", "rows": rows, **refused}
    finally:
        device.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few repetitions")
    options = parser.parse_args()
    try:
        print(json.dumps(measure(5 if options.smoke else 200)))
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return NO_GPU
    return 0


if __name__ == "__main__":
    sys.exit(main())
