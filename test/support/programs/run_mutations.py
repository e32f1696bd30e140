"""Runs broken and random kernels on a virtual device that looks up every access.

    run_mutations.py SEED COUNT LISTING...

Executes the first COUNT cases that the device accepts; prints one JSON line each: the number of
the case, how it ended, seconds.
"""

import json
import sys
import time
from pathlib import Path

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.devices.protocol import Launch
from rrto_ros.errors import CudaError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from support.ptx_mutations import cases

BYTES = 1 << 16


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    listings = [Path(name).read_text() for name in sys.argv[3:]]
    device = CpuDevice(threads=1, cache_bytes=0, memcheck=True, launch_timeout_s=0.2)
    base = device.info.arena_base
    device.mem_alloc(base, BYTES, 0)
    for number, text in cases(listings, seed, 1000 * count):
        try:
            info = device.module_load(number + 1, text.encode())
        except CudaError:
            continue
        started = time.perf_counter()
        ended = "no kernel"
        for index, kernel in enumerate(info.kernels[:1]):
            params = bytearray(max((o + s for o, s in kernel.params), default=0))
            for place, (offset, size) in enumerate(kernel.params):
                value = base + 4096 * place if size == 8 else 33
                params[offset : offset + size] = value.to_bytes(8, "little")[:size].ljust(size)
            launch = Launch(number + 1, index, (2, 1, 1), (64, 1, 1), 256, bytes(params))
            try:
                device.launch(launch, 0)
                ended = "done"
            except CudaError as error:
                ended = error.result.name
        device.module_unload(number + 1)
        print(json.dumps([number, ended, round(time.perf_counter() - started, 3)]), flush=True)
        count -= 1
        if not count:
            break
    device.close()


if __name__ == "__main__":
    main()
