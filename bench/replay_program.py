"""The program of `replay_models`: runs an ONNX model as it is told, and tells what came out.

    replay_program.py MODEL [--no-jit] [--contiguous] [--plain]

A line "COUNT" on standard input runs so many inferences, each on other random values, and reads
the outputs one after the other; a JSON line answers. With --plain the device is in this process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from onnx_network import loaded

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--no-jit", action="store_true")
    parser.add_argument("--contiguous", action="store_true", help="outputs as they are read")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    if options.plain:
        from local_device import LocalDevice

        from rrto_ros.devices.cpu.device import CpuDevice

        LocalDevice(CpuDevice(), Path(os.environ["RRTO_SOCKET"]))
    shape, infer = loaded(options.model, jit=not options.no_jit, contiguous=options.contiguous)
    print(json.dumps({"loaded": True}), flush=True)
    for line in sys.stdin:
        digests, seconds = [], []
        for number in range(int(line)):
            x = np.random.default_rng(number).standard_normal(shape, dtype=np.float32)
            started = time.perf_counter()
            outputs = infer(x)
            seconds.append(time.perf_counter() - started)
            whole = b"".join(o.tobytes() for o in outputs)
            digests.append(hashlib.sha256(whole).hexdigest()[:16])
        print(json.dumps({"digests": digests, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
