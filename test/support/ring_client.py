"""The program's side of the ring in Python: what the C shim does, for tests and measurements.

One thread uses a client. It follows the sleeping protocol exactly, so that a test with it tests
the recorder's wake-ups too.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import mmap
import os
import select
import socket
import struct
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import final

from rrto_ros.api import ring_layout as layout
from rrto_ros.api.info import DeviceInfo
from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError, UnavailableError
from rrto_ros.robot import ring
from rrto_ros.robot.atomics import atomics
from rrto_ros.robot.ring import drain_eventfd
from rrto_ros.wire.descriptions import (
    MAGIC,
    WELCOME,
    Hello,
    pack_hello,
    unpack_device_info,
    unpack_welcome,
)
from rrto_ros.wire.format import (
    CALL_HEADER,
    FLAG_WAITED,
    PADDING_STATUS,
    RESULT_CONTROL,
    RESULT_HEADER,
    Buffer,
)
from rrto_ros.wire.result_codec import ResultRecord, iter_results

_PADDING_BYTES = 8
_ONE = (1).to_bytes(8, "little")


@final
class RingClient:
    """A connected program.

    Args:
        path: The recorder's socket.
        hello: What to say; by default this process.
        timeout_s: For the connection and the welcome.

    Raises:
        UnavailableError: Nobody listens there.
        CudaError: The recorder refused; the text says why.
    """

    def __init__(self, path: Path, hello: Hello | None = None, timeout_s: float = 30.0) -> None:
        hello = hello or Hello(os.getpid(), "ring-client", "")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(str(path))
        except OSError as error:
            self.socket.close()
            raise UnavailableError(f"no recorder_replayer listens on {path}: {error}") from error
        # Who is sent away at once may be so before it has said who it is; it is told why.
        with contextlib.suppress(BrokenPipeError):
            self.socket.sendall(pack_hello(hello))
        fds = self._welcome()
        self._fds = fds
        self.memory_fd, self.call_fd, self.reply_fd = fds
        head = os.pread(self.memory_fd, ring.RING_HEAD.size, 0)
        sizes: tuple[int, int, int, int] = ring.RING_HEAD.unpack(head)
        self.call_bytes, self.reply_bytes = sizes[2:]
        total = layout.RINGS + self.call_bytes + self.reply_bytes
        self._map = mmap.mmap(self.memory_fd, total)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        self.view = memoryview(self._map)
        self.atomics = atomics()
        self.head = 0
        self._tail = 0
        self._results: deque[ResultRecord] = deque()
        self.signals = 0

    @property
    def state(self) -> int:
        """What every call must return, 0 while the session is open."""
        return self.atomics.load_u32(self.address + layout.STATE)

    @property
    def mode(self) -> int:
        """The header's mode."""
        return self.atomics.load_u32(self.address + layout.MODE)

    def put(self, record: Buffer, timeout_s: float = 10.0) -> None:
        """Publish one or more whole call records that do not wrap together.

        Raises:
            CudaError: The session is over, or there was no room in time.
        """
        size = len(record)
        offset = self.head & (self.call_bytes - 1)
        rest = self.call_bytes - offset
        if size > rest:
            self._room(rest, timeout_s)
            struct.pack_into("<IHH", self.view, layout.RINGS + offset, rest, 0, 0)
            self._publish(rest, waited=False)
            offset = 0
        self._room(size, timeout_s)
        start = layout.RINGS + offset
        self.view[start : start + size] = record
        flags = CALL_HEADER.unpack_from(record)[2] if size >= CALL_HEADER.size else 0
        self._publish(size, waited=bool(flags & FLAG_WAITED))

    def wait(self, index: int, timeout_s: float = 10.0) -> ResultRecord:
        """Wait for the result of call `index`; results of others are kept.

        Raises:
            CudaError: The session is over, or nothing came in time.
        """
        end = time.monotonic() + timeout_s
        while True:
            for result in self._results:
                if result.index == index:
                    self._results.remove(result)
                    return result
            if self._take():
                continue
            if self.state:
                raise CudaError(CUresult(self.state), "the session is over")
            self._sleep(end, f"no result for call {index}")

    def count(self, counter: int, value: int) -> None:
        """Set one of the shim's counters (u64 number `counter`)."""
        struct.pack_into("<Q", self.view, layout.COUNTERS + 8 * counter, value)

    def close(self) -> None:
        """Hang up, as a program that ends does."""
        self.socket.close()
        if self._anchor is not None:
            self._results.clear()
            self.view.release()
            self._anchor = None
            self._map.close()
            for fd in self._fds:
                os.close(fd)

    def __enter__(self) -> RingClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _welcome(self) -> tuple[int, ...]:
        space = socket.CMSG_SPACE(3 * 4)
        data, ancillary, _, _ = self.socket.recvmsg(WELCOME.size, space)
        fds = array.array("i")
        for _, _, content in ancillary:
            fds.frombytes(content)
        while len(data) >= 4:
            if len(data) >= WELCOME.size:
                _, _, text, info = WELCOME.unpack_from(data)
                if len(data) == WELCOME.size + text + info:
                    break
            part = self.socket.recv(65536)
            if not part:
                break
            data += part
        if not data:
            raise UnavailableError("recorder_replayer hung up instead of a welcome")
        welcome = unpack_welcome(data)
        if welcome.status:
            self.socket.close()
            raise CudaError(CUresult(welcome.status), welcome.text)
        self.info: DeviceInfo
        self.session: bytes
        self.info, self.session = unpack_device_info(welcome.info)
        assert struct.unpack_from("<I", os.pread(fds[0], 4, 0))[0] == MAGIC
        return tuple(fds)

    def _publish(self, size: int, *, waited: bool) -> None:
        a, base = self.atomics, self.address
        self.head += size
        a.store_u64(base + layout.CALL_HEAD, self.head)
        # The fence between the position and the look at the flag, as the shim has it.
        a.exchange_sleep(base + layout.COUNTERS + 56, 0)
        sleeping = a.load_u32(base + layout.CONSUMER_SLEEPING)
        filled = self.head - a.load_u64(base + layout.CALL_TAIL)
        half = filled > self.call_bytes // 2
        if sleeping == ring.SLEEPING or (sleeping == ring.LINGERING and (waited or half)):
            a.store_u32(base + layout.CONSUMER_SLEEPING, 0)
            self.signals += 1
            os.write(self.call_fd, _ONE)

    def _room(self, size: int, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not self._has_room(size):
            self.atomics.exchange_sleep(self.address + layout.PRODUCER_WAITING, 1)
            if self._has_room(size):
                self.atomics.store_u32(self.address + layout.PRODUCER_WAITING, 0)
                return
            if self.state:
                raise CudaError(CUresult(self.state), "the session is over")
            self._sleep(end, "no room in the call ring")

    def _has_room(self, size: int) -> bool:
        tail: int = self.atomics.load_u64(self.address + layout.CALL_TAIL)
        return self.head + size - tail <= self.call_bytes

    def _take(self) -> bool:
        head = self.atomics.load_u64(self.address + layout.REPLY_HEAD)
        if head == self._tail:
            return False
        while self._tail != head:
            offset = self._tail & (self.reply_bytes - 1)
            size = min(head - self._tail, self.reply_bytes - offset)
            start = layout.RINGS + self.call_bytes + offset
            self._results.extend(iter_results(_results_in(self.view[start : start + size])))
            self._tail += size
        self.atomics.store_u64(self.address + layout.REPLY_TAIL, self._tail)
        if self.atomics.exchange_sleep(self.address + layout.REPLY_WAITING, 0):
            os.write(self.call_fd, _ONE)
        return True

    def _sleep(self, end: float, what: str) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise CudaError(CUresult.LAUNCH_TIMEOUT, f"{what} in time")
        readable, _, _ = select.select([self.reply_fd, self.socket.fileno()], [], [], left)
        if self.reply_fd in readable:
            drain_eventfd(self.reply_fd)
        elif readable and not self.state:
            raise CudaError(CUresult.DEVICE_UNAVAILABLE, "recorder_replayer is gone")


def _results_in(view: memoryview) -> bytes:
    """The results in a part of the reply ring; a client without plans passes news of them over."""
    parts: list[Buffer] = []
    at = 0
    while at < len(view):
        size, status = struct.unpack_from("<II", view, at)
        padding = status == PADDING_STATUS
        if not padding and not RESULT_HEADER.unpack_from(view, at)[4] & RESULT_CONTROL:
            parts.append(view[at : at + size])
        at += max(size, _PADDING_BYTES)
    return b"".join(parts)
