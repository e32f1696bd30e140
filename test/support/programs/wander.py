"""A perception loop that now and then leaves its path.

    wander.py ITERATIONS [--pace] [--every N]

Every N-th iteration does one of the things in `DEVIATIONS`, in turn. What each iteration computes
is compared with NumPy. Prints one JSON line per iteration, and one at the end with a digest of all
results. With --pace it waits for a line on standard input before each iteration.
"""

import argparse
import hashlib
import os
import sys

import numpy as np
from cuda.bindings import driver
from kernels import affine, check, context, functions, name, say

COUNT = 3000
SIZE = 4 * COUNT
LAUNCHES = 8
DEVIATIONS = (
    "branch", "stop", "argument", "allocation", "freed", "exception", "twice", "other", "query",
)  # fmt: skip


class StoppedError(Exception):
    """Raised between two driver calls, as a program's own error would be."""


class Loop:
    """Two models that share a kernel, their buffers, and what NumPy says of them."""

    def __init__(self):
        context()
        self.kernel = functions("affine")
        self.buffers = [check(driver.cuMemAlloc(SIZE)) for _ in range(2)]
        self.event = check(driver.cuEventCreate(0))
        self.wanted = None

    def upload(self, which, values):
        check(driver.cuMemcpyHtoD(self.buffers[which], values.ctypes.data, SIZE))
        self.wanted = values.copy()

    def launch(self, which, step, factor=None, where=None):
        factor = np.float32(0.5 + step / 16 if factor is None else factor)
        data = self.buffers[which] if where is None else where
        result = affine(self.kernel, data, COUNT, float(factor))
        if result:
            say(failed=name(result), code=int(result), call="cuLaunchKernel")
            sys.exit(3)
        if where is None:
            self.wanted = self.wanted * factor + np.float32(1)

    def read(self, which):
        got = np.empty(COUNT, np.float32)
        check(driver.cuMemcpyDtoH(got.ctypes.data, self.buffers[which], SIZE))
        if not np.array_equal(got, self.wanted):
            say(wrong=True, worst=float(np.abs(got - self.wanted).max()))
            sys.exit(4)
        return got

    def infer(self, values, odd):
        """One iteration; returns what it read."""
        which = 1 if odd == "other" else 0
        out = []
        self.upload(which, values)
        for step in range(LAUNCHES):
            if step == 3:
                if odd == "stop":
                    return out
                if odd == "exception":
                    raise StoppedError
                if odd == "allocation":
                    extra = check(driver.cuMemAlloc(SIZE))
                    check(driver.cuMemsetD32(extra, 0, COUNT))
                    self.launch(which, step, where=extra)
                    check(driver.cuMemFree(extra))
                if odd == "query":
                    check(driver.cuEventRecord(self.event, 0))
                    driver.cuEventQuery(self.event)
            self.launch(which, step, 0.25 if odd == "argument" and step == 5 else None)
            if odd == "twice" and step == 4:
                self.launch(which, step)
        out.append(self.read(which))
        if odd == "branch":
            # As a cascade does: how it goes on depends on what it read.
            for step in range(2 + int(out[0][0] > out[0][1])):
                self.launch(which, step)
            out.append(self.read(which))
        if odd == "freed":
            check(driver.cuMemFree(self.buffers[0]))
            self.buffers[0] = check(driver.cuMemAlloc(2 * SIZE))
        return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("iterations", type=int)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--pace", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(3)
    loop = Loop()
    say(ready=True, pid=os.getpid())
    digest = hashlib.sha256()
    done = []
    for iteration in range(options.iterations):
        if options.pace and not sys.stdin.readline():
            break
        turn, odd = divmod(iteration, options.every)
        kind = DEVIATIONS[turn % len(DEVIATIONS)] if odd == options.every - 1 else ""
        values = rng.standard_normal(COUNT, np.float32)
        try:
            results = loop.infer(values, kind)
        except StoppedError:
            results = []
        for got in results:
            digest.update(got.tobytes())
        done.append(kind)
        say(iteration=iteration, odd=kind)
    say(done=True, digest=digest.hexdigest(), odd=sorted(set(done) - {""}))


if __name__ == "__main__":
    main()
