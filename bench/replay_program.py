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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Array = npt.NDArray[np.float32]


def loaded(
    path: Path, *, jit: bool, contiguous: bool
) -> tuple[tuple[int, ...], Callable[[Array], list[Array]]]:
    """The shape of a model's input, and what runs it on tinygrad's default device."""
    from tinygrad import Device, Tensor, TinyJit
    from tinygrad.nn.onnx import OnnxRunner

    network = OnnxRunner(path)
    for name, value in network.graph_values.items():
        if isinstance(value, Tensor) and value.numel() > 1:
            network.graph_values[name] = value.to(Device.DEFAULT).contiguous().realize()
    ((given, spec),) = network.graph_inputs.items()
    names = list(network.graph_outputs)

    def run(x: Tensor) -> list[Tensor]:
        outputs = network({given: x})
        if contiguous:
            outputs = {n: outputs[n].contiguous() for n in names}
        # All at once: realised one by one, each output would run the layers before it again.
        Tensor.realize(*(outputs[n] for n in names))
        return [outputs[n] for n in names]

    infer = TinyJit(run) if jit else run
    return tuple(spec.shape), lambda x: [o.numpy() for o in infer(Tensor(x).realize())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--no-jit", action="store_true")
    parser.add_argument("--contiguous", action="store_true", help="outputs as they are read")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    if options.plain:
        from rrto_ros.devices.cpu.device import CpuDevice
        from rrto_ros.evaluation.local_device import LocalDevice

        LocalDevice(CpuDevice(), Path(os.environ["RRTO_SOCKET"]))
    shape, infer = loaded(
        options.model, jit=not options.no_jit, contiguous=options.contiguous
    )
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
