"""A perception loop that now and then leaves its path.

    wander.py ITERATIONS [--pace] [--every N] [--cascade]

Every N-th iteration does one of the things in `DEVIATIONS`, in turn. With --cascade an iteration
waits, reads two outputs, computes on, and reads again; what deviates does so before or after it
has read. What each iteration computes is compared with NumPy. Prints one JSON line per iteration,
and one at the end with a digest of all results. With --pace it waits for a line on standard input
before each iteration.
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
        self.out = []

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

    def read(self, which, size=SIZE):
        got = np.empty(size // 4, np.float32)
        check(driver.cuMemcpyDtoH(got.ctypes.data, self.buffers[which], size))
        wanted = self.wanted[: size // 4]
        if not np.array_equal(got, wanted):
            say(wrong=True, worst=float(np.abs(got - wanted).max()))
            sys.exit(4)
        return got

    def work(self, which, odd, first=0):
        """The launches between two waits, from a step on; False where the program stops."""
        for step in range(first, first + LAUNCHES):
            if step == first + 3:
                if odd == "stop":
                    return False
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
            self.launch(which, step, 0.25 if odd == "argument" and step == first + 5 else None)
            if odd == "twice" and step == first + 4:
                self.launch(which, step)
        return True

    def infer(self, values, odd, *, cascade=False, late=False):
        """One iteration; returns what it read.

        Args:
            values: Input.
            odd: One of `DEVIATIONS`, or empty.
            cascade: It goes on after it has read.
            late: It deviates only then.
        """
        which = 1 if odd == "other" else 0
        self.out = out = []
        early = "" if late else odd
        self.upload(which, values)
        if not self.work(which, early):
            return out
        if cascade:
            check(driver.cuCtxSynchronize())
            out.append(self.read(which))
            out.append(self.read(which, SIZE // (4 if late and odd == "argument" else 2)))
            if not self.work(which, odd if late else "", LAUNCHES):
                return out
            check(driver.cuStreamSynchronize(0))
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
    parser.add_argument("--cascade", action="store_true")
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
            late = options.cascade and turn % 2 == 1
            results = loop.infer(values, kind, cascade=options.cascade, late=late)
        except StoppedError:
            results = loop.out
        for got in results:
            digest.update(got.tobytes())
        done.append(kind)
        say(iteration=iteration, odd=kind)
    say(done=True, digest=digest.hexdigest(), odd=sorted(set(done) - {""}))


if __name__ == "__main__":
    main()
