"""A robot's recorder and a server's executor in one thread, with a clock of their own.

`Loop` plays a program's calls through both, as the link would: batches and results arrive later,
in order, at moments that chance chooses. What the program gets can be compared with `plain`.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque

from support.segment_row import Row

from rrto_ros.api.info import KernelInfo, ModuleInfo
from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError
from rrto_ros.execution.executor import Executor
from rrto_ros.robot.outgoing import SPECULATIVE_LINGER_S, Outgoing
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.codec import iter_headers, pack_call
from rrto_ros.wire.format import FLAG_REPLY, FLAG_WAITED
from rrto_ros.wire.result_codec import iter_results

KERNELS = 16
_KERNEL = """
.visible .entry k{0}(.param .u64 a, .param .u64 b, .param .u64 c)
{{
    .reg .b64 %d<3>;
    .reg .b32 %r<2>;
    ld.param.u64 %d1, [a];
    ld.param.u64 %d2, [b];
    ld.global.u32 %r1, [%d1];
    st.global.v4.u32 [%d2], {{%r1, %r1, %r1, %r1}};
    st.global.v4.u32 [%d2+16], {{%r1, %r1, %r1, %r1}};
    st.global.v4.u32 [%d2+32], {{%r1, %r1, %r1, %r1}};
    st.global.v4.u32 [%d2+48], {{%r1, %r1, %r1, %r1}};
    ret;
}}
"""
PTX = (
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    + "".join(_KERNEL.format(k) for k in range(KERNELS))
).encode()
"""Kernels that read what `a` points to and write 64 bytes where `b` points."""
WAITS = frozenset(
    ("memcpy_dtoh", "ctx_synchronize", "stream_synchronize", "event_synchronize",
     "event_elapsed_ms", "event_query", "stream_query")
)  # fmt: skip


class Machine:
    """A device whose kernels mix what they read into what they write, so that order shows."""

    info = type("Info", (), {"kind": "cpu", "arena_bytes": 1 << 40, "compute_capability": (8, 0)})

    def __init__(self):
        self.blocks = {}
        self.events = {}
        self.launches = 0
        self.fails = lambda: False

    def at(self, address, size):
        for base, block in self.blocks.items():
            if base <= address and address + size <= base + len(block):
                return memoryview(block)[address - base : address - base + size]
        raise CudaError(CUresult.ILLEGAL_ADDRESS, f"{size} bytes at {address:#x}")

    def module_load(self, module, image):
        names = [f"k{k}" for k in range(KERNELS)]
        return ModuleInfo(tuple(KernelInfo(n, ((0, 8), (8, 8), (16, 8)), {}) for n in names), ())

    def mem_alloc(self, address, size, stream):
        if any(b < address + size and address < b + len(x) for b, x in self.blocks.items()):
            raise CudaError(CUresult.INVALID_VALUE, "not free")
        self.blocks[address] = bytearray(size)

    def mem_free(self, address, stream):
        if self.blocks.pop(address, None) is None:
            raise CudaError(CUresult.INVALID_VALUE, "no allocation")

    def memcpy_htod(self, dst, data, stream):
        self.at(dst, len(data))[:] = data

    def memcpy_dtoh(self, src, size, stream):
        return bytes(self.at(src, size))

    def memcpy_dtod(self, dst, src, size, stream):
        self.at(dst, size)[:] = bytes(self.at(src, size))

    def memset(self, fill, stream):
        self.at(fill.dst, fill.width)[:] = bytes([fill.value & 255]) * fill.width

    def launch(self, launch, stream):
        self.launches += 1
        words = struct.unpack(f"<{len(launch.params) // 8}Q", launch.params)
        target = self.at(words[1], 64)
        seen = hashlib.blake2b(repr((launch, words)).encode())
        for word in words[:3]:
            seen.update(self.block(word) if self.known(word) else b"")
        target[:] = seen.digest()
        if self.fails():
            raise CudaError(CUresult.LAUNCH_FAILED, "by chance")

    def known(self, address):
        return any(b <= address < b + len(block) for b, block in self.blocks.items())

    def block(self, address):
        for base, block in self.blocks.items():
            if base <= address < base + len(block):
                return memoryview(block)
        raise CudaError(CUresult.ILLEGAL_ADDRESS, f"launch with {address:#x}")

    def event_record(self, event, stream):
        self.events[event] = self.launches

    def event_elapsed_ms(self, start, end):
        if start not in self.events or end not in self.events:
            raise CudaError(CUresult.INVALID_HANDLE, "never recorded")
        return 1.0

    def event_query(self, event):
        return True

    def stream_query(self, stream):
        return True

    def prepare_segment(self, calls):
        return Row(self, calls)

    def __getattr__(self, name):
        if name in ("take_output", "checkpoint", "call_comes"):
            raise AttributeError(name)  # it offers none of that
        return lambda *arguments: None


def memory(machine):
    """What is in a machine's memory."""
    return {base: bytes(block) for base, block in machine.blocks.items()}


def records(program):
    """The calls of a synthetic program as the shim writes them.

    The last one is in no plan: what was executed speculatively is rolled back before it, and
    memory can be compared.
    """
    out = []
    program.call("event_create", event=77, flags=0)
    for index, c in enumerate(program.calls, 1):
        flags = FLAG_WAITED | FLAG_REPLY if c.name in WAITS else 0
        flags |= FLAG_REPLY if c.name == "module_load" else 0
        out.append(
            pack_call(
                c.name, index, thread=c.thread, payload=c.payload, record_flags=flags, **c.fields
            )
        )
    return out


def plain(calls, fails=None):
    """Results by call, memory and statistics of executing calls as they are."""
    machine = Machine()
    machine.fails = fails or machine.fails
    executor = Executor(machine)
    results = b"".join(executor.execute(call) for call in calls)
    return {r.index: (r.status, bytes(r.payload)) for r in iter_results(results)}, memory(machine)


class Records:
    """Records as the ring gives them, all at once."""

    def __init__(self, data):
        self.data = data

    def take_into(self, buffer):
        data, self.data = self.data, b""
        buffer.frombytes(data)
        return len(data)


class Loop:
    """One session.

    Args:
        rng: Chooses when things arrive.
        run_ahead: The option.
        round_trip_s: What the robot believes that an exchange takes.
        busy: How probably the server sees the next batch before it speculates.
        **options: Of record and replay.
    """

    def __init__(self, rng, run_ahead, round_trip_s=1.0, busy=0.0, **options):
        config = SessionConfig(mode="replay", replay=ReplayOptions(run_ahead=run_ahead, **options))
        self.rng = rng
        self.out = Outgoing(config, None, lambda: (0, 0, 0))
        self.out.measured(round_trip_s)
        self.machine = Machine()
        self.executor = Executor(self.machine, interrupted=lambda: rng.random() < busy)
        self.now = 0.0
        self.up, self.down = deque(), deque()
        self.batches = []
        self.given = {}
        self.sent_waiting = []
        self.slowest = 0.0

    def send(self):
        """What is due leaves."""
        if self.out.pending and self.out.flush_at <= self.now:
            self.batches.append(bytes(self.out.take()))
            self.up.append(self.batches[-1])
            return True
        return False

    def serve(self):
        """The server takes one batch."""
        if not self.up:
            return False
        self.down.append(self.executor.execute(self.up.popleft(), self.down.append))
        return True

    def deliver(self):
        """The robot takes one message of results."""
        if not self.down:
            return False
        data = self.down.popleft()
        at = 0
        for result in iter_results(data):
            record = self.out.due(result, memoryview(data)[at : at + result.size])
            at += result.size
            if record is not None:
                self.give(record)
                self.out.answered(result.index, self.now)
        return True

    def give(self, record):
        for result in iter_results(record):
            assert not result.flags & ~1, "the program knows nothing of this"
            if not result.sticky:
                assert result.index not in self.given, "answered twice"
            self.given[result.index] = (result.status, bytes(result.payload))

    def call(self, chunk, mode="replay"):
        """The program makes calls; only the last may be waited for."""
        for record in self.out.absorb(Records(b"".join(chunk)), mode, self.now) or ():
            self.give(record)
        header = list(iter_headers(chunk[-1]))[-1]
        if header.flags & FLAG_WAITED:
            before, began = len(self.batches), self.now
            while header.index not in self.given:
                self.step()
            self.sent_waiting.append(len(self.batches) - before)
            self.slowest = max(self.slowest, self.now - began)
        elif self.rng.random() < 0.2:
            self.now += self.rng.choice([0.0001, 0.003])
            self.step()

    def step(self):
        """Something happens, somewhere."""
        happens = [self.send, self.serve, self.deliver]
        self.rng.shuffle(happens)
        if not any(happen() for happen in happens):
            assert self.out.pending, "the program would wait for ever"
            self.now = max(self.now, self.out.flush_at)

    def think(self):
        while self.out.thinks:
            self.out.think(self.now)

    def run(self, calls, longest=20, modes=("replay",)):
        """Play calls to the end; returns what `plain` does."""
        at = 0
        mode = modes[0]
        while at < len(calls):
            step = self.rng.randint(1, longest)
            chunk = []
            for call in calls[at : at + step]:
                chunk.append(call)
                if next(iter_headers(call)).flags & FLAG_WAITED:
                    break
            at += len(chunk)
            if self.rng.random() < 0.05:
                mode = self.rng.choice(modes)
            self.call(chunk, mode)
            self.think()
        self.out.flush()
        while self.out.pending or self.up or self.down:
            self.step()
        assert self.slowest < SPECULATIVE_LINGER_S, "nobody waits for what only time would send"
        return self.given, memory(self.machine)
