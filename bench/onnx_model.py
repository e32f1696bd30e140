"""An ONNX model by tinygrad, compared with onnxruntime; one JSON line.

    onnx_model.py MODEL [--frames N] [--threads N]

tinygrad takes its device from the environment, for example DEV=CUDA:PTX. Times are medians in ms
over the frames behind the first three (which compile and capture). Exit code 1: a result is not
onnxruntime's.
"""

import argparse
import json
import statistics
import sys
import time

import numpy as np
import onnxruntime
from onnx_network import loaded

WARM_UP = 3


def timed(run, x, frames):
    times = []
    for _ in range(frames + WARM_UP):
        started = time.perf_counter()
        result = run(x)
        times.append(1e3 * (time.perf_counter() - started))
    return result, times[0], statistics.median(times[WARM_UP:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime, 0 for all cores")
    options = parser.parse_args()
    setup = onnxruntime.SessionOptions()
    setup.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(
        options.model, setup, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    x = np.random.default_rng(0).standard_normal(given.shape).astype(np.float32)
    names = [o.name for o in session.get_outputs()]
    wanted, _, reference_ms = timed(
        lambda v: session.run(names, {given.name: v}), x, options.frames
    )

    from tinygrad import Device

    _, run = loaded(options.model)
    got, first_ms, ms = timed(run, x, options.frames)
    worst = max(
        float(np.abs(g - w).max() / max(1.0, np.abs(w).max()))
        for g, w in zip(got, wanted, strict=True)
    )
    print(
        json.dumps(
            {
                "device": Device.DEFAULT,
                "first_ms": first_ms,
                "frame_ms": ms,
                "onnxruntime_ms": reference_ms,
                "ratio": ms / reference_ms,
                "worst": worst,
            }
        )
    )
    return 0 if worst < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
