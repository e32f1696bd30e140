"""A program made of steps, for the tests of references by the shim: `steps.py STEPS` (JSON).

Prints a digest of everything that it read from the device, as one JSON line.
"""

import ctypes
import hashlib
import json
import os
import struct
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cuda_ctypes import LIB, function, launch, load, ok, out, read, scale_params, start

FLOATS = 16


class Walker:
    """What the steps work on: some buffers, a stream, an event."""

    def __init__(self, size):
        start()
        self.context = out("cuCtxGetCurrent")
        self.kernel = function(load())
        self.buffers = [out("cuMemAlloc_v2", size) for _ in range(3)]
        self.stream = out("cuStreamCreate", 0)
        self.event = out("cuEventCreate", 0)
        self.pinned = out("cuMemHostAlloc", size, 0)
        ctypes.memset(self.pinned, 0, size)
        self.seen = hashlib.sha256()
        self.extra = []

    def upload(self, buffer, size, value):
        data = (struct.pack("<f", value) * (size // 4 + 1))[:size]
        ok("cuMemcpyHtoD_v2", self.buffers[buffer], data, size)

    def launch(self, buffer, factor, stream=0):
        arguments = scale_params(self.buffers[buffer], factor, FLOATS)
        result = launch(self.kernel, arguments, stream=self.stream if stream else 0)
        assert result == 0, f"launch: {result}"

    def read(self, buffer, size):
        self.seen.update(read(self.buffers[buffer], size))

    def read_later(self, buffer, size):
        ok("cuMemcpyDtoHAsync_v2", self.pinned, self.buffers[buffer], size, self.stream)

    def sync(self):
        ok("cuCtxSynchronize")
        self.seen.update(ctypes.string_at(self.pinned, 4 * FLOATS))

    def fill(self, buffer, value):
        ok("cuMemsetD32_v2", self.buffers[buffer], value, FLOATS)

    def copy(self, to, source):
        ok("cuMemcpyDtoD_v2", self.buffers[to], self.buffers[source], 4 * FLOATS)

    def mark(self):
        ok("cuEventRecord", self.event, self.stream)
        ok("cuEventSynchronize", self.event)

    def allocate(self, size):
        self.extra.append(out("cuMemAlloc_v2", size))

    def free(self):
        if self.extra:
            ok("cuMemFree_v2", self.extra.pop())

    def free_pinned(self):
        """Waits for the copies into it."""
        ok("cuMemFreeHost", self.pinned)
        self.pinned = out("cuMemHostAlloc", 1 << 20, 0)
        ctypes.memset(self.pinned, 0, 1 << 20)

    def wait(self):
        """Until the test says so, with `ready` said."""
        print("ready", flush=True)
        sys.stdin.readline()

    def elsewhere(self, *steps):
        """These steps in another thread, and wait for it."""
        failed = []

        def work():
            try:
                ok("cuCtxSetCurrent", self.context)
                self.run(steps)
            except AssertionError as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert not failed, failed[0]

    def beside(self, *both):
        """Lists of steps, each in a thread of its own, at the same time."""
        threads = [threading.Thread(target=self.elsewhere, args=steps) for steps in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def fork(self):
        """A child that frees what it inherited and ends in order."""
        child = os.fork()
        if not child:
            LIB.cuMemFreeHost(ctypes.c_uint64(self.pinned))
            ctypes.CDLL(None).exit(0)
        assert os.waitpid(child, 0)[1] == 0

    def leave(self):
        """Without a word, as a killed program does."""
        os._exit(0)

    def run(self, steps):
        for name, *arguments in steps:
            getattr(self, name)(*arguments)


if __name__ == "__main__":
    steps = json.loads(sys.stdin.readline() if sys.argv[1] == "-" else sys.argv[1])
    walker = Walker(1 << 20)
    walker.run(steps)
    print(json.dumps({"seen": walker.seen.hexdigest()}), flush=True)
