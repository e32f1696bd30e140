"""A random program that checks itself, one of many with the same name and other memory.

    strangers.py --seed N --inferences N

Its seed decides how many buffers it has and of which sizes, what an inference does with them, and
when it leaves its path: other arguments, calls left out or put in, early reads, buffers freed and
allocated anew. What it reads is compared with NumPy after every copy. Exits with 3 if a byte
differs, and says where.
"""

import argparse
import ctypes
import random
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from strangers_ptx import BODIES, PTX
from support import cuda_ctypes as cuda

SIZES = (1, 7, 64, 100, 257, 1000, 4096, 20000)
DEVIATIONS = ("argument", "extra", "missing", "read", "realloc", "sizes", "swapped", "anew")


class Buffer:
    """Words on the device, and what they should be."""

    def __init__(self, count):
        self.at = cuda.out("cuMemAlloc_v2", 4 * count)
        self.want = np.zeros(count, np.uint32)
        cuda.ok("cuMemsetD32_v2", self.at, 0, count)

    def __len__(self):
        return len(self.want)


class Stranger:
    """The program."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        cuda.start()
        module = cuda.load(PTX)
        self.kernels = {name: cuda.function(module, name.encode()) for name in BODIES}
        self.streams = [0, *(cuda.out("cuStreamCreate", 0) for _ in range(self.rng.randrange(2)))]
        # The first is the same in all programs, so that they begin alike.
        sizes = [64, *(self.rng.choice(SIZES) for _ in range(self.rng.randint(2, 5)))]
        self.buffers = [Buffer(count) for count in sizes]
        self.checked = 0

    def path(self):
        """What an inference does: (operation, a buffer, another, stream, number)."""
        steps = [self.step() for _ in range(self.rng.randint(4, 12))]
        begin = [("upload", 0, 0, 0, 0), ("read", 0, 0, 0, 0)][: self.rng.choice((1, 2, 2))]
        return [*begin, *steps, ("read", *self.step()[1:])]

    def step(self):
        rng, count = self.rng, len(self.buffers)
        kinds = ("upload", "step", "turn", "join", "leap", "sum", "copy", "fill", "read", "wait")
        kind = rng.choices(kinds, (3, 5, 4, 4, 4, 2, 2, 1, 3, 1))[0]
        return (kind, rng.randrange(count), rng.randrange(count), rng.choice(self.streams),
                rng.randrange(1 << 16))  # fmt: skip

    def infer(self, steps):
        for step in steps:
            self.do(*step)

    def do(self, kind, a, b, stream, number):
        x, y = self.buffers[a], self.buffers[b]
        common = min(len(x), len(y))
        if kind == "read":
            self.check(x)
        elif kind == "wait":
            cuda.ok("cuStreamSynchronize", stream)
        elif kind == "upload":
            data = np.full(len(x), self.rng.randrange(1 << 32), np.uint32)
            cuda.ok("cuMemcpyHtoD_v2", x.at, ctypes.c_void_p(data.ctypes.data), data.nbytes)
            x.want = data.copy()
        elif kind == "fill":
            cuda.ok("cuMemsetD32Async", x.at, number, len(x), stream)
            x.want[:] = number
        elif kind == "step":
            self.launch(kind, x, x, number, len(x), stream)
            x.want = x.want * np.uint32(1664525) + np.uint32(number)
        elif x is not y and kind == "copy":
            cuda.ok("cuMemcpyDtoDAsync_v2", y.at, x.at, 4 * common, stream)
            y.want[:common] = x.want[:common]
        elif x is not y:
            self.launch(kind, x, y, number, common, stream)
            data = x.want[:common]
            if kind == "leap":
                y.want[:common] = data ^ np.uint32(number)
            elif kind == "turn":
                y.want[:common] = (data ^ np.uint32(number))[::-1]
            elif kind == "join":
                y.want[:common] = y.want[:common] * np.uint32(number) + data
            else:
                total = int(y.want[0]) + int(data.sum(dtype=np.uint64)) + number * common
                y.want[0] = total % 2**32
        if stream:  # the next one may be on another
            cuda.ok("cuStreamSynchronize", stream)

    def launch(self, kind, x, y, number, count, stream):
        second = (y.at - x.at) % 2**64 if kind == "leap" else y.at
        words = cuda.params(*(struct.pack("<Q", v) for v in (x.at, second)),
                            struct.pack("<I", number), struct.pack("<I", count))  # fmt: skip
        grid = ((count + 63) // 64, 1, 1)
        assert cuda.launch(self.kernels[kind], words, grid=grid, stream=stream) == 0

    def check(self, buffer):
        got = np.frombuffer(cuda.read(buffer.at, 4 * len(buffer)), np.uint32)
        self.checked += 1
        if not np.array_equal(got, buffer.want):
            wrong = np.flatnonzero(got != buffer.want)
            print(f"read {self.checked}: {len(wrong)} of {len(got)} words differ, the first at "
                  f"{wrong[0]}: {got[wrong[0]]:#x}, not {buffer.want[wrong[0]]:#x}",
                  file=sys.stderr)  # fmt: skip
            sys.exit(3)

    def replace(self, number, count):
        cuda.ok("cuMemFree_v2", self.buffers[number].at)
        self.buffers[number] = Buffer(count)

    def deviate(self, paths, current):
        """The steps of an inference that does something else."""
        rng, steps = self.rng, list(paths[current])
        at, kind = rng.randrange(len(steps)), rng.choice(DEVIATIONS)
        if kind == "argument":
            steps[at] = (*steps[at][:4], rng.randrange(1 << 16))
        elif kind == "extra":
            steps[at:at] = self.path()[: rng.randint(1, 3)]
        elif kind == "missing":
            del steps[at]
        elif kind == "read":
            steps.insert(at, ("read", rng.randrange(len(self.buffers)), 0, 0, 0))
        elif kind == "swapped":
            other = rng.randrange(len(steps))
            steps[at], steps[other] = steps[other], steps[at]
        elif kind == "anew":
            paths[current] = self.path()
        else:
            number = rng.randrange(len(self.buffers))
            same = len(self.buffers[number])
            self.replace(number, same if kind == "realloc" else rng.choice(SIZES))
        return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--inferences", type=int, default=40)
    given = parser.parse_args()
    program = Stranger(given.seed)
    rng = program.rng
    paths = [program.path() for _ in range(rng.randint(1, 3))]
    current = 0
    for _ in range(given.inferences):
        if rng.random() < 0.1:
            current = rng.randrange(len(paths))
        if rng.random() < 0.15:
            program.infer(program.deviate(paths, current))
        else:
            program.infer(paths[current])
    for buffer in program.buffers:
        program.check(buffer)
    print(program.checked)


main()
