"""Synthetic programs: streams of driver calls whose inference sequences are known.

Tests and benchmarks of the search use them. A `Model` writes one inference after another into a
`Program`; the program remembers which calls belong to which inference, so that a search can be
judged call by call.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rrto_ros.wire.codec import pack_call

ARENA = 0x7F00_0000_0000


@dataclass(frozen=True, slots=True)
class Call:
    """One call to be: operation, fields, payload, thread."""

    name: str
    fields: dict[str, Any]
    payload: bytes = b""
    thread: int = 1


@dataclass
class Program:
    """Calls in order, and the truth about them.

    Attributes:
        calls: The calls so far.
        truth: Label -> one list of positions per inference of that kind.
        thread: The thread that makes the next calls.
    """

    calls: list[Call] = field(default_factory=list)
    truth: dict[str, list[list[int]]] = field(default_factory=dict)
    thread: int = 1
    _heap: int = ARENA
    _open: str | None = None

    def call(self, name: str, payload: bytes = b"", **fields: Any) -> None:
        self.calls.append(Call(name, fields, payload, self.thread))

    @contextmanager
    def inference(self, label: str) -> Iterator[None]:
        """The calls made inside are one inference of this kind."""
        start = len(self.calls)
        yield
        self.truth.setdefault(label, []).append(list(range(start, len(self.calls))))

    def alloc(self, size: int = 4096) -> int:
        """Allocate device memory."""
        address = self._heap
        self._heap += (size + 511) // 512 * 512
        self.call("mem_alloc", address=address, size=size, stream=0)
        return address

    def load_module(self, module: int, image: bytes = b"module") -> None:
        self.call("module_load", image, module=module)

    def launch(
        self, module: int, kernel: int, *words: int, grid: int = 64, stream: int = 0
    ) -> None:
        params = struct.pack(f"<{len(words)}Q", *words)
        self.call(
            "launch",
            module=module,
            kernel=kernel,
            flags=0,
            grid_x=grid,
            grid_y=1,
            grid_z=1,
            block_x=128,
            block_y=1,
            block_z=1,
            shared_bytes=0,
            stream=stream,
            params=params,
        )

    def upload(self, dst: int, payload: bytes, stream: int = 0) -> None:
        self.call("memcpy_htod", payload, dst=dst, stream=stream)

    def download(self, src: int, size: int = 64, stream: int = 0) -> None:
        self.call("memcpy_dtoh", src=src, size=size, stream=stream)

    def fill(self, dst: int, size: int, value: int = 0) -> None:
        self.call(
            "memset",
            dst=dst,
            pitch=0,
            width=size,
            height=1,
            value=value,
            element_bytes=1,
            stream=0,
        )

    def records(self, first_index: int = 1) -> list[bytes]:
        """The calls as wire records."""
        return [
            pack_call(c.name, first_index + i, thread=c.thread, payload=c.payload, **c.fields)
            for i, c in enumerate(self.calls)
        ]


@dataclass
class Model:
    """A network: what one inference of it does.

    Attributes:
        program: Where its memory and calls go.
        label: Name in the program's truth.
        module: Module handle, also what makes its kernels its own.
        kernels: Launches in one inference, from 1.
        outputs: Copies to the host at the end.
        stream: Stream of all its calls.
        input_bytes: Size of the upload.
        synchronise: Whether a stream synchronisation follows the outputs.
    """

    program: Program
    label: str
    module: int
    kernels: int = 4
    outputs: int = 1
    stream: int = 0
    input_bytes: int = 256
    synchronise: bool = False
    lazy: bool = False

    def __post_init__(self) -> None:
        self._count = 0
        self._buffers: list[int] = []
        self._loaded = False
        if not self.lazy:
            self.prepare()

    def prepare(self) -> None:
        """Load the module, allocate, upload weights."""
        p = self.program
        p.load_module(self.module)
        self._allocate()
        self.weights = p.alloc(8192)
        p.upload(self.weights, bytes(8192))
        self._loaded = True

    def _allocate(self) -> None:
        self.x = self.program.alloc(self.input_bytes)
        self._buffers = [self.program.alloc() for _ in range(min(self.kernels, 8))]

    def buffer(self, i: int) -> int:
        return self._buffers[i % len(self._buffers)]

    def launches(self, begin: int, end: int, *extra: int, weights: int | None = None) -> None:
        """Kernels [begin, end), each from the buffer before to its own."""
        w = self.weights if weights is None else weights
        for i in range(begin, end):
            source = self.x if i == 0 else self.buffer(i - 1)
            words = (source, self.buffer(i), w, *(extra if i == begin else ()))
            self.program.launch(self.module, i, *words, grid=64 + i % 5, stream=self.stream)

    def upload(self) -> None:
        self._count += 1
        content = struct.pack("<Q", self._count).ljust(self.input_bytes, b"\1")
        self.program.upload(self.x, content[: self.input_bytes], self.stream)

    def read(self, outputs: int | None = None) -> None:
        p = self.program
        for k in range(self.outputs if outputs is None else outputs):
            p.download(self.buffer(self.kernels - 1) + 64 * k, 64, self.stream)
        if self.synchronise:
            p.call("stream_synchronize", stream=self.stream)

    def infer(self, *extra: int, label: str | None = None) -> None:
        """One plain inference; `extra` words go to the first kernel."""
        with self.program.inference(label or self.label):
            self.upload()
            self.launches(0, self.kernels, *extra)
            self.read()

    def warm_up(self, rng: random.Random) -> None:
        """A first inference with lazy loading, allocation and stray calls in it."""
        p = self.program
        if not self._loaded:
            self._allocate()
            self.weights = p.alloc(8192)
            p.upload(self.weights, bytes(8192))
            self._loaded = True
        self.upload()
        for i in range(self.kernels):
            if rng.random() < 0.5:
                p.load_module(1000 + 100 * self.module + i)
            if rng.random() < 0.3:
                p.alloc()
            if rng.random() < 0.2:
                p.fill(self.buffer(i), 64)
            self.launches(i, i + 1)
        self.read()

    def autotune(self, rng: random.Random, candidates: int = 3, runs: int = 3) -> None:
        """Time several kernels by events, each a few times."""
        p = self.program
        for c in range(candidates):
            p.load_module(5000 + 100 * self.module + c)
            for _ in range(runs):
                p.call("event_record", event=1, stream=self.stream)
                p.launch(5000 + 100 * self.module + c, 0, self.x, self.buffer(0), self.weights)
                p.call("event_record", event=2, stream=self.stream)
                p.call("event_synchronize", event=2)
                p.call("event_elapsed_ms", start=1, end=2)
            if rng.random() < 0.5:
                p.call("module_unload", module=5000 + 100 * self.module + c)


def interleave(programs: Sequence[Program], rng: random.Random) -> Program:
    """The calls of several threads in one random order; the truth moves along."""
    merged = Program()
    queues = [list(p.calls) for p in programs]
    maps: list[list[int]] = [[] for _ in programs]
    while any(queues):
        which = rng.choice([i for i, q in enumerate(queues) if q])
        for _ in range(min(rng.randint(1, 4), len(queues[which]))):
            call = queues[which].pop(0)
            maps[which].append(len(merged.calls))
            merged.calls.append(Call(call.name, call.fields, call.payload, which + 1))
    for program, places in zip(programs, maps, strict=True):
        for label, instances in program.truth.items():
            merged.truth[label] = [[places[i] for i in instance] for instance in instances]
    return merged


def repeat_records(records: Sequence[bytes], total: int, first_index: int = 1) -> bytes:
    """`records` over and over, `total` calls in all, numbered on; for big logs."""
    period = b"".join(records)
    offsets, at = [], 0
    for record in records:
        offsets.append(at + 8)
        at += len(record)
    out = bytearray()
    index = first_index
    while index < first_index + total:
        block = bytearray(period)
        for offset in offsets:
            struct.pack_into("<Q", block, offset, index)
            index += 1
        out += block
    surplus = index - first_index - total
    for record in reversed(records[len(records) - surplus :]):
        del out[-len(record) :]
    return bytes(out)
