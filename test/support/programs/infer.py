"""A model of a perception loop: upload, several kernels, download, compare with NumPy.

    infer.py ITERATIONS [--seed N] [--count N] [--launches N] [--pace]

Prints one JSON line per iteration and one at the end with a digest of all results. With --pace
it waits for a line on standard input before each iteration, so that a test can act in between.
"""

import argparse
import hashlib
import os
import sys

import numpy as np
from cuda.bindings import driver
from kernels import affine, check, context, functions, name, say


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("iterations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--launches", type=int, default=8)
    parser.add_argument("--pace", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    context()
    kernel = functions("affine")
    size = options.count * 4
    data = check(driver.cuMemAlloc(size))
    say(ready=True, pid=os.getpid())
    digest = hashlib.sha256()
    for iteration in range(options.iterations):
        if options.pace and not sys.stdin.readline():
            break
        values = rng.standard_normal(options.count, np.float32)
        check(driver.cuMemcpyHtoD(data, values.ctypes.data, size))
        wanted = values.copy()
        for launch in range(options.launches):
            factor = np.float32(0.5 + launch / 16)
            result = affine(kernel, data, options.count, float(factor))
            if result:
                say(failed=name(result), code=int(result), call="cuLaunchKernel")
                sys.exit(3)
            wanted = wanted * factor + np.float32(1)
        got = np.empty_like(values)
        check(driver.cuMemcpyDtoH(got.ctypes.data, data, size))
        if not np.array_equal(got, wanted):
            say(wrong=iteration, worst=float(np.abs(got - wanted).max()))
            sys.exit(4)
        digest.update(got.tobytes())
        say(iteration=iteration)
    check(driver.cuMemFree(data))
    say(done=True, digest=digest.hexdigest())


if __name__ == "__main__":
    main()
