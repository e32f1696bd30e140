"""The program of `torch_link`: a ResNet in PyTorch that makes inferences as it is told.

A line "COUNT" on standard input runs so many, each of another picture whose result is read; a JSON
line says how long they took and the processor time of this process. The first line's first
inference includes all that a start has: the device, the weights, the kernels.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "clients"))

import torch
from run_torch import GPU, image, resnet


def main() -> None:
    model = resnet().eval()
    pictures = [torch.from_numpy(image(number)) for number in range(8)]
    print("ready", flush=True)
    there = None
    for line in sys.stdin:
        seconds, cpu = [], time.process_time()
        for number in range(int(line)):
            started = time.perf_counter()
            with torch.inference_mode():
                there = there or model.to(GPU)
                there(pictures[number % len(pictures)].to(GPU)).cpu()
            seconds.append(time.perf_counter() - started)
        cpu = time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "cpu_s": cpu}), flush=True)


if __name__ == "__main__":
    main()
