"""The recorder's side of the shared-memory ring: owns the memory, the eventfds and both positions.

docs/wire_format.md, "Ring between the program and recorder_replayer". Everything the program
writes is taken as hostile: positions are checked, and records are copied out of the ring before
anyone looks at them, so that a program that scribbles over the ring only loses its own session.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
from array import array
from dataclasses import dataclass

from rrto_ros.api._generated.exports import CLASSES as CALL_CLASSES
from rrto_ros.api._generated.exports import EXPORTS as CALL_NAMES
from rrto_ros.api.ring_layout import (
    ALIVE,
    CALL_HEAD,
    CALL_TAIL,
    CALLS_PER_EXPORT,
    CONSUMER_SLEEPING,
    COUNTERS,
    CUDA_RUNTIME,
    MODE,
    MOST_REFUSALS,
    PRODUCER_WAITING,
    REFUSAL_BYTES,
    REFUSALS,
    RINGS,
    STATE,
    WAIT_TIMEOUT_MS,
)
from rrto_ros.errors import ProtocolError
from rrto_ros.robot.atomics import atomics
from rrto_ros.wire.descriptions import MAGIC
from rrto_ros.wire.format import PROTOCOL_VERSION

EXPORTS = 1024
RING_HEAD = struct.Struct("<IIQQ")

SLEEPING = 1
LINGERING = 2

DEFAULT_CALL_BYTES = 32 << 20
DEFAULT_REPLY_BYTES = 32 << 20
TAKE_BYTES = 32 << 20
"""About as much is taken out of the ring at once, however large it is."""
_SIZE = struct.Struct("<I")
_COUNTER = struct.Struct("<Q")
_REFUSAL = struct.Struct(f"<I{REFUSAL_BYTES - 4}s")
_WAITS = 4
_KINDS = ("local", "async", "sync", "unsupported")
_CLASS_OF = tuple(_KINDS.index(CALL_CLASSES.get(name, "unsupported")) for name in CALL_NAMES)
MASK64 = (1 << 64) - 1
"""Positions in a ring are u64 that wrap."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the shim counts (wait times in nanoseconds)."""

    local: int
    asynchronous: int
    synchronous: int
    unsupported: int
    waits: int
    wait_ns: int
    last_wait_ns: int


class RingMemory:
    """The memory, its three descriptors and the header fields that the recorder owns.

    Args:
        call_bytes: Size of the call ring, a power of two.
        reply_bytes: Size of the reply ring, a power of two.
        mode: Value of the header's mode field.
        wait_timeout_ms: How long the shim waits without a sign of life.
        cuda_runtime: Whether the CUDA runtime library's validity check is answered.

    Raises:
        OSError: No memory or no descriptor is left; nothing is kept.
    """

    def __init__(
        self,
        *,
        call_bytes: int = DEFAULT_CALL_BYTES,
        reply_bytes: int = DEFAULT_REPLY_BYTES,
        mode: int = 0,
        wait_timeout_ms: int = 10_000,
        cuda_runtime: bool = False,
    ) -> None:
        for size in (call_bytes, reply_bytes):
            if size < 4096 or size & (size - 1):
                raise ValueError(f"a ring of {size} bytes is not a power of two of at least 4096")
        self.call_bytes = call_bytes
        self.reply_bytes = reply_bytes
        total = RINGS + call_bytes + reply_bytes
        with contextlib.ExitStack() as made:

            def keep(fd: int) -> int:
                made.callback(os.close, fd)
                return fd

            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            self.memory_fd = keep(os.memfd_create("rrto-ring", flags))
            os.ftruncate(self.memory_fd, total)
            _seal_size(self.memory_fd)
            self.call_fd = keep(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            self.reply_fd = keep(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            self._map = mmap.mmap(self.memory_fd, total)
            made.pop_all()
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        self.view = memoryview(self._map)
        self._atomics = atomics()
        RING_HEAD.pack_into(self.view, 0, MAGIC, PROTOCOL_VERSION, call_bytes, reply_bytes)
        self.set_mode(mode)
        self._atomics.store_u32(self.address + WAIT_TIMEOUT_MS, wait_timeout_ms)
        self._atomics.store_u32(self.address + CUDA_RUNTIME, int(cuda_runtime))
        self._alive = 0
        self._closed = False

    def set_mode(self, mode: int) -> None:
        """Set the mode; the shim looks at it at every call."""
        self._atomics.store_u32(self.address + MODE, mode)

    def set_state(self, status: int) -> None:
        """Set what every call must return from now on (0: go on) and wake whoever waits."""
        self._atomics.store_u32(self.address + STATE, status)
        self.wake_program()

    def beat(self) -> None:
        """Show the shim that the server was heard."""
        self._alive = (self._alive + 1) & 0xFFFFFFFF
        self._atomics.store_u32(self.address + ALIVE, self._alive)

    def wake_program(self) -> None:
        """Write the reply eventfd."""
        _signal(self.reply_fd)

    def counters(self) -> Counters:
        """Read the shim's counters; each is exact, together they may be a call apart."""
        numbers = list(struct.unpack_from("<7Q", self.view, COUNTERS))
        for kind, count in zip(_CLASS_OF, self.export_counts(), strict=False):
            numbers[kind] += count
        return Counters(*numbers)

    def waits(self) -> int:
        """How often the program waited for results."""
        count: int = _COUNTER.unpack_from(self.view, COUNTERS + 8 * _WAITS)[0]
        return count

    def export_counts(self) -> list[int]:
        """Calls per export, in the order of the generated export list."""
        return list(struct.unpack_from(f"<{EXPORTS}I", self.view, CALLS_PER_EXPORT))

    def refusals(self) -> dict[str, int]:
        """What the program asked for and did not get, in its words, and how often."""
        found: dict[str, int] = {}
        for count, raw in _REFUSAL.iter_unpack(
            bytes(self.view[REFUSALS : REFUSALS + MOST_REFUSALS * _REFUSAL.size])
        ):
            if not count:
                break
            text = raw.split(b"\0", 1)[0].decode(errors="replace")
            # It is shown in terminals, and a program may write anything there.
            words = "".join(c if c.isprintable() else " " for c in text).split()
            name = " ".join(words) or "without a name"
            found[name] = found.get(name, 0) + count
        return found

    def close(self) -> None:
        """Unmap and close the recorder's descriptors; the program keeps its own."""
        if self._closed:
            return
        self._closed = True
        self.view.release()
        self._anchor = None
        self._map.close()
        for fd in (self.memory_fd, self.call_fd, self.reply_fd):
            os.close(fd)


class RingConsumer:
    """Takes call records out of the ring; one thread uses it."""

    def __init__(self, ring: RingMemory) -> None:
        self._ring = ring
        self._atomics = atomics()
        self._size = ring.call_bytes
        self._at = RINGS
        self._head_address = ring.address + CALL_HEAD
        self._tail_address = ring.address + CALL_TAIL
        self._sleep_address = ring.address + CONSUMER_SLEEPING
        self._producer_address = ring.address + PRODUCER_WAITING
        self._tail = 0
        self._bytes = 0
        self._takes = 0
        self._wakeups = 0

    def take(self) -> bytes:
        """Copy out all whole records up to the ring's end; empty if there are none.

        Their room is free again when this returns.

        Raises:
            ProtocolError: The shim's position is impossible.
        """
        start, size = self._filled()
        data = bytes(self._ring.view[start : start + size])
        self._free(size)
        return data

    def take_into(self, buffer: array[int]) -> int:
        """Copy them to the end of a buffer instead; returns how many bytes.

        Args:
            buffer: Of unsigned bytes, without a view of it anywhere: it grows.

        Raises:
            ProtocolError: The shim's position is impossible.
        """
        start, size = self._filled()
        if size:
            buffer.frombytes(self._ring.view[start : start + size])
            self._free(size)
        return size

    def _filled(self) -> tuple[int, int]:
        """Where in the memory the oldest records begin, and the size of those to take now."""
        head = self._atomics.load_u64(self._head_address)
        tail = self._tail
        if head == tail:
            return 0, 0
        filled = (head - tail) & MASK64
        if filled > self._size or head & 7:
            raise ProtocolError(
                f"call ring: the program's position {head} is impossible after {tail} in a ring "
                f"of {self._size} bytes"
            )
        offset = tail & (self._size - 1)
        size = min(filled, self._size - offset)
        start = self._at + offset
        if size > TAKE_BYTES:
            size = self._some(start, size)
        return start, size

    def _free(self, size: int) -> None:
        """The oldest bytes were copied: the program may write there again."""
        if not size:
            return
        self._tail = (self._tail + size) & MASK64
        self._atomics.store_u64(self._tail_address, self._tail)
        if self._atomics.exchange_sleep(self._producer_address, 0):
            self._ring.wake_program()
        self._bytes += size
        self._takes += 1

    @property
    def more(self) -> bool:
        """Whether records are left: `take` goes no further than the ring's end."""
        return self._atomics.load_u64(self._head_address) != self._tail

    def _some(self, start: int, size: int) -> int:
        """The size of the first whole records of a long row; what is wrong is found later."""
        at = 0
        while at < TAKE_BYTES:
            record = int(_SIZE.unpack_from(self._ring.view, start + at)[0])
            if record < 8 or record % 8 or record > size - at:
                return size
            at += record
        return at

    def announce(self, how: int) -> None:
        """Announce sleep (`SLEEPING` or `LINGERING`) or, with 0, that nobody needs to wake us.

        Then `take` once more before waiting on the call eventfd: what the shim published before
        it could see the announcement is found by that, what comes later wakes us.
        """
        self._atomics.exchange_sleep(self._sleep_address, how)

    def awake(self) -> None:
        """Withdraw the announcement of sleep and take the eventfd's count."""
        self._atomics.store_u32(self._sleep_address, 0)
        drain_eventfd(self._ring.call_fd)
        self._wakeups += 1

    def statistics(self) -> dict[str, int]:
        """Bytes and takes so far, and wake-ups by the program."""
        return {"bytes": self._bytes, "takes": self._takes, "wakeups": self._wakeups}


def drain_eventfd(fd: int) -> int:
    """Take an eventfd's count, 0 if nothing was written."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def _signal(fd: int) -> None:
    try:
        os.eventfd_write(fd, 1)
    except BlockingIOError:
        # The count is at its maximum: the other side has more than enough to read.
        return


def _seal_size(fd: int) -> None:
    """A program that shrank the memory would kill the recorder with SIGBUS."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
