"""A loop of small kernels, as told: a line "COUNT" runs so many inferences; JSON answers."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from cuda.bindings import driver

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "support" / "programs"))

from kernels import affine, check, context, functions

COUNT = 5000


def main() -> None:
    context()
    kernel = functions("affine")
    size = COUNT * 4
    data = check(driver.cuMemAlloc(size))
    rng = np.random.default_rng(0)
    print(json.dumps({"loaded": True}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            values = rng.standard_normal(COUNT, np.float32)
            got = np.empty_like(values)
            began = time.perf_counter()
            check(driver.cuMemcpyHtoD(data, values.ctypes.data, size))
            for launch in range(8):
                affine(kernel, data, COUNT, 0.5 + launch / 16)
            check(driver.cuMemcpyDtoH(got.ctypes.data, data, size))
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
