"""A random program with host memory of every kind, which compares every byte with NumPy.

    host_memory.py --seed N --inferences N

Memory is page-locked, registered, pageable, or one file mapped twice; copies have one to three
dimensions, go each way, block or not, on several streams. What CUDA's order of streams and events
makes certain is certain for the model, and nothing else is done: an operation on another stream
than the last one of a buffer waits for an event or a synchronisation, the program looks only at
what it has waited for, or, at page-locked memory, until the last byte has changed. Exits with 3 if
a byte differs, and says where.
"""

import argparse
import ctypes
import mmap
import os
import random
import struct
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from strangers_ptx import PTX
from support import cuda_ctypes as cuda

BYTES = 1 << 14
HOST, DEVICE, UNIFIED = 1, 2, 4
WAIT_S = 80


class Place:
    """Memory: its address, what it should hold, the stream that still may use it."""

    def __init__(self, address, kind, view=None):
        self.address, self.kind, self.view = address, kind, view
        self.want = np.zeros(BYTES, np.uint8)
        self.busy = None
        self.twin = None

    @property
    def device(self):
        return self.kind == "device"

    @property
    def later(self):
        """Whether a copy into it may go on after the call."""
        return self.kind in ("page-locked", "registered", "first mapping")


def view_of(address):
    return np.ctypeslib.as_array((ctypes.c_uint8 * BYTES).from_address(address))


def host_places():
    """One or two of each kind."""
    places = []
    for _ in range(2):
        pointer = ctypes.c_void_p()
        cuda.ok("cuMemAllocHost_v2", ctypes.byref(pointer), BYTES)
        places.append(Place(pointer.value, "page-locked", view_of(pointer.value)))
        places[-1].view[:] = 0
    for kind in ("registered", "pageable"):
        data = np.zeros(BYTES, np.uint8)
        places.append(Place(data.ctypes.data, kind, data))
    cuda.ok("cuMemHostRegister_v2", places[-2].address, BYTES, 0)
    file = os.memfd_create("twice")
    os.truncate(file, BYTES)
    maps = [mmap.mmap(file, BYTES) for _ in range(2)]
    twins = []
    for kind, memory in zip(("first mapping", "second mapping"), maps, strict=True):
        data = np.frombuffer(memory, np.uint8)
        twins.append(Place(data.ctypes.data, kind, data))
    twins[0].twin, twins[1].twin = twins[1], twins[0]
    twins[1].want = twins[0].want
    cuda.ok("cuMemHostRegister_v2", twins[0].address, BYTES, 0)
    return [*places, *twins]


class Program:
    """What it does is chosen by its seed."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        cuda.start()
        self.step = cuda.function(cuda.load(PTX), b"step")
        self.streams = [0, *(cuda.out("cuStreamCreate", 1) for _ in range(2))]
        self.events = [cuda.out("cuEventCreate", 2) for _ in range(2)]
        self.device = [Place(cuda.out("cuMemAlloc_v2", BYTES), "device") for _ in range(3)]
        for place in self.device:
            cuda.ok("cuMemsetD8_v2", place.address, 0, BYTES)
        self.host = host_places()
        self.places = [*self.device, *self.host]
        self.looks = 0
        cuda.ok("cuCtxSynchronize")

    # ---- order

    def busy(self, place):
        both = [p.busy for p in (place, place.twin) if p is not None and p.busy is not None]
        return both[0] if both else None

    def set_busy(self, place, stream):
        place.busy = stream
        if place.twin is not None:
            place.twin.busy = stream

    def ready(self, place, stream):
        """What used the memory last comes before what is now put on a stream."""
        before = self.busy(place)
        if before is None or before == stream:
            return
        if self.rng.random() < 0.5:
            event = self.rng.choice(self.events)
            cuda.ok("cuEventRecord", event, before)
            cuda.ok("cuStreamWaitEvent", stream, event, 0)
        else:
            self.wait(before)

    def wait(self, stream):
        way = self.rng.random()
        if way < 0.4:
            cuda.ok("cuStreamSynchronize", stream)
        elif way < 0.6:
            event = self.rng.choice(self.events)
            cuda.ok("cuEventRecord", event, stream)
            cuda.ok("cuEventSynchronize", event)
        elif way < 0.7:
            end = time.monotonic() + WAIT_S
            while cuda.call("cuStreamQuery", stream):
                assert time.monotonic() < end, "the stream is never done"
        else:
            cuda.ok("cuCtxSynchronize")
            for place in self.places:
                place.busy = None
            return
        for place in self.places:
            if place.busy == stream:
                place.busy = None

    def settled(self, place):
        """Nothing is under way that uses it."""
        while (stream := self.busy(place)) is not None:
            self.wait(stream)

    # ---- steps

    def inference(self, steps):
        for step in steps:
            getattr(self, step[0])(*step[1:])

    def path(self):
        """The steps of an inference."""
        rng = self.rng
        kinds = ("write", "copy", "copy_rows", "kernel", "look", "fill", "through")
        steps = []
        for _ in range(rng.randint(5, 12)):
            kind = rng.choices(kinds, (3, 6, 3, 3, 3, 2, 3))[0]
            numbers = [rng.randrange(1 << 16) for _ in range(8)]
            steps.append((kind, numbers))
        return steps

    def write(self, numbers):
        """The program itself writes."""
        place = self.host[numbers[0] % len(self.host)]
        self.settled(place)
        start, end = sorted((numbers[1] % BYTES, numbers[2] % BYTES))
        data = np.random.default_rng(self.rng.randrange(1 << 30)).integers(
            0, 256, end - start, np.uint8
        )
        place.view[start:end] = data
        place.want[start:end] = data

    def copy(self, numbers):
        to, of = self.pair(numbers)
        size = numbers[2] % BYTES + 1 if numbers[2] % 3 else BYTES
        at, start = numbers[3] % (BYTES - size + 1), numbers[4] % (BYTES - size + 1)
        stream = self.streams[numbers[5] % len(self.streams)]
        later = bool(numbers[6] % 4)
        if not later:
            stream = 0
        for place in (to, of):
            self.ready(place, stream)
        name, words = self.named(to, at, of, start, size, unified=numbers[7] % 4 == 0)
        if later:
            cuda.ok(
                name.replace("_v2", "Async_v2") if "_v2" in name else name + "Async",
                *words,
                stream,
            )
        else:
            cuda.ok(name, *words)
        to.want[at : at + size] = of.want[start : start + size].copy()
        self.used(to, of, stream, later or "DtoD" in name)

    def through(self, numbers):
        """From device memory through the host's, and back from there at once."""
        of, to = self.rng.sample(self.device, 2)
        host = self.host[numbers[0] % len(self.host)]
        first, second = (self.streams[n % len(self.streams)] for n in numbers[1:3])
        size = numbers[3] % BYTES + 1
        self.kernel([self.device.index(of), numbers[1], BYTES, numbers[4]])
        for place in (of, host):
            self.ready(place, first)
        cuda.ok("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(host.address), of.address, size, first)
        host.want[:size] = of.want[:size]
        self.used(host, of, first, later=True)
        source, aliased = host, host.twin is not None and numbers[5] % 2
        if aliased:
            source = host.twin
        for place in (source, to):
            self.ready(place, second)
        name = "cuMemcpyHtoDAsync_v2" if numbers[6] % 3 else "cuMemcpyAsync"
        cuda.ok(name, ctypes.c_void_p(to.address), ctypes.c_void_p(source.address), size, second)
        to.want[:size] = host.want[:size]
        self.used(to, source, second, later=True)

    def named(self, to, at, of, start, size, *, unified):
        words = (ctypes.c_void_p(to.address + at), ctypes.c_void_p(of.address + start), size)
        if unified or not (to.device or of.device):
            return "cuMemcpy", words
        if size % 5 == 0 and all(place.device or place.later for place in (to, of)):
            return "cuMemcpyDtoD_v2", words  # one address space
        way = ("D" if of.device else "H") + "to" + ("D" if to.device else "H")
        return f"cuMemcpy{way}_v2", words

    def used(self, to, of, stream, later):
        if later:
            for place in (to, of):
                self.set_busy(place, stream)
            if not to.device and not to.later and of.device:
                # Into pageable memory: it is there when the call returns.
                self.set_busy(to, None)
        else:
            # A copy that blocks waits for its stream, except from device to device.
            both = to.device and of.device
            for place in (to, of):
                self.set_busy(place, 0 if both else None)

    def pair(self, numbers):
        to = self.places[numbers[0] % len(self.places)]
        others = [p for p in self.places if p is not to and p is not to.twin]
        of = others[numbers[1] % len(others)]
        if not to.device and not of.device and numbers[2] % 8:
            of = self.device[numbers[1] % len(self.device)]
        return to, of

    def copy_rows(self, numbers):
        to, of = self.pair(numbers)
        width, height = numbers[2] % 60 + 1, numbers[3] % 9 + 1
        depth = numbers[4] % 3 + 1
        stream, later = self.streams[numbers[5] % len(self.streams)], bool(numbers[6] % 3)
        if not later:
            stream = 0
        for place in (to, of):
            self.ready(place, stream)
        pitches = [width + (numbers[7] >> k) % 40 for k in (0, 3)]
        sides = []
        for place, pitch in zip((of, to), pitches, strict=True):
            kind = UNIFIED if numbers[7] % 5 == 0 else DEVICE if place.device else HOST
            address = place.address if kind != HOST else 0
            sides.append((kind, 0 if address else place.address, address, pitch))
        async_ = "Async" if later else ""
        words = (stream,) if later else ()
        if depth == 1:
            side = [
                struct.pack("<QQi4xQQQQ", 3, 1, kind, host, device, 0, pitch)
                for kind, host, device, pitch in sides
            ]
            record = b"".join(side) + struct.pack("<QQ", width, height)
            name, first = f"cuMemcpy2D{async_}_v2", [pitch + 3 for pitch in pitches]
        else:
            side = [
                struct.pack(
                    "<QQQQi4xQQQQQQ", 3, 1, 1, 0, kind, host, device, 0, 0, pitch, height + 2
                )
                for kind, host, device, pitch in sides
            ]
            record = b"".join(side) + struct.pack("<QQQ", width, height, depth)
            name = f"cuMemcpy3D{async_}_v2"
            first = [pitch * (height + 2) + pitch + 3 for pitch in pitches]
        cuda.ok(name, ctypes.create_string_buffer(record), *words)
        data = of.want.copy()
        for plane in range(depth):
            for row in range(height):
                starts = [
                    f + (plane * (height + 2) + row) * pitch
                    for f, pitch in zip(first, pitches, strict=True)
                ]
                to.want[starts[1] : starts[1] + width] = data[starts[0] : starts[0] + width]
        self.used(to, of, stream, later)

    def kernel(self, numbers):
        place = self.device[numbers[0] % len(self.device)]
        stream = self.streams[numbers[1] % len(self.streams)]
        self.ready(place, stream)
        count = numbers[2] % (BYTES // 4) + 1
        words = cuda.params(
            *(struct.pack("<Q", place.address),) * 2,
            struct.pack("<I", numbers[3]),
            struct.pack("<I", count),
        )
        assert cuda.launch(self.step, words, grid=((count + 63) // 64, 1, 1), stream=stream) == 0
        data = place.want.view(np.uint32)[:count]
        data[:] = data * np.uint32(1664525) + np.uint32(numbers[3])
        self.set_busy(place, stream)

    def fill(self, numbers):
        places = [*self.device, *(p for p in self.host if p.later)]
        place = places[numbers[0] % len(places)]
        stream = self.streams[numbers[1] % len(self.streams)]
        self.ready(place, stream)
        at = numbers[3] % BYTES
        cuda.ok("cuMemsetD8Async", place.address + at, numbers[2] & 255, BYTES - at, stream)
        place.want[at:] = numbers[2] & 255
        self.set_busy(place, stream)

    def look(self, numbers):
        """At memory of any kind; at page-locked memory sometimes without any call."""
        if numbers[1] % 3 == 0:
            return self.poll(numbers)
        place = self.host[numbers[0] % len(self.host)]
        self.settled(place)
        self.compare(place, place.view)
        if place.twin is not None:
            self.compare(place.twin, place.twin.view)
        return None

    def poll(self, numbers):
        """Wait for a copy by looking at what it changes last."""
        to, of = self.host[numbers[0] % 2], self.device[numbers[2] % len(self.device)]
        self.settled(to)
        stream = self.streams[numbers[3] % len(self.streams)]
        self.ready(of, stream)
        changes = (int(of.want[-1]) + 1) & 255
        to.view[-1] = changes
        cuda.ok("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(to.address), of.address, BYTES, stream)
        to.want[:] = of.want
        end = time.monotonic() + WAIT_S
        while to.view[-1] == changes:
            assert time.monotonic() < end, "page-locked memory never changes"
            time.sleep(0.0005)
        self.compare(to, to.view)
        self.set_busy(of, stream)
        self.set_busy(to, stream)

    def compare(self, place, got):
        self.looks += 1
        if not np.array_equal(got, place.want):
            wrong = np.flatnonzero(got != place.want)
            print(
                f"look {self.looks} at {place.kind}: {len(wrong)} bytes differ, the first at "
                f"{wrong[0]}: {got[wrong[0]]}, not {place.want[wrong[0]]}",
                file=sys.stderr,
            )
            sys.exit(3)

    def finish(self):
        for place in self.places:
            self.settled(place)
            data = cuda.read(place.address, BYTES) if place.device else place.view
            self.compare(place, np.frombuffer(data, np.uint8))
        for place in self.host:
            if place.kind == "page-locked":
                cuda.ok("cuMemFreeHost", ctypes.c_void_p(place.address))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--inferences", type=int, default=40)
    given = parser.parse_args()
    program = Program(given.seed)
    paths = [program.path() for _ in range(2)]
    for _ in range(given.inferences):
        if program.rng.random() < 0.1:
            paths[program.rng.randrange(2)] = program.path()
        program.inference(paths[program.rng.random() < 0.3])
    program.finish()
    print(program.looks)


main()
