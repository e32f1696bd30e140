"""Frames on the socket between a session host and its worker: owns their layout and buffers.

A frame is a header and a body: u32 kind, u32 zero, u64 body bytes, u64[3] numbers (their meaning
is the kind's). Host to worker: OPEN (JSON), BATCH (call records), CLOSE. Worker to host: HELLO,
READY (device description), FAILED (text), RESULTS (result records; numbers: executed call,
batches done, last call with a result), STATISTICS (JSON).
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from enum import IntEnum
from typing import NamedTuple

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import Buffer

HEADER = struct.Struct("<IIQQQQ")
SOCKET_BUFFER_BYTES = 4 << 20
MAX_BODY_BYTES = 1 << 30
_FIRST_CAPACITY = 1 << 20
_SO_SNDBUFFORCE = 32


class Kind(IntEnum):
    """What a frame says."""

    OPEN = 1
    BATCH = 2
    CLOSE = 3
    HELLO = 10
    READY = 11
    FAILED = 12
    RESULTS = 13
    STATISTICS = 14


class Frame(NamedTuple):
    """One frame; `body` is valid until the next `FrameReader.read`."""

    kind: int
    body: memoryview
    numbers: tuple[int, int, int]


def pack_header(kind: Kind, size: int, numbers: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """The header of a frame with `size` bytes of body."""
    return HEADER.pack(kind, 0, size, *numbers)


def enlarge_buffers(end: socket.socket) -> None:
    """Give a socket room for several messages, so that a sender rarely has to wait."""
    for force in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
            return


def send_frame(
    end: socket.socket, kind: Kind, body: Buffer = b"", numbers: tuple[int, int, int] = (0, 0, 0)
) -> None:
    """Send a frame, waiting for room.

    Raises:
        OSError: The other end is gone.
    """
    header = pack_header(kind, len(body), numbers)
    sent = end.sendmsg([header, body])
    total = len(header) + len(body)
    if sent < total:
        if sent < len(header):
            end.sendall(header[sent:])
            sent = len(header)
        end.sendall(memoryview(body)[sent - len(header) :])


class FrameReader:
    """Reads frames from a blocking socket into a buffer that it reuses."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._buffer = bytearray(_FIRST_CAPACITY)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._stop = 0

    def read(self) -> Frame | None:
        """The next frame, None when the other end is gone.

        Raises:
            ProtocolError: A header that no host or worker sends.
        """
        if not self._fill(HEADER.size):
            return None
        kind, _, size, *numbers = HEADER.unpack_from(self._buffer, self._start)
        if size > MAX_BODY_BYTES:
            raise ProtocolError(f"frame {kind} of {size} bytes, at most {MAX_BODY_BYTES}")
        self._start += HEADER.size
        if not self._fill(size):
            return None
        body = self._view[self._start : self._start + size]
        self._start += size
        first, second, third = numbers
        return Frame(kind, body, (first, second, third))

    @property
    def ready(self) -> bool:
        """Whether another frame has begun to arrive."""
        if self._stop > self._start:
            return True
        return bool(select.select([self._end], [], [], 0)[0])

    def detach(self) -> None:
        """Leave the buffer to whoever holds the last frame's body."""
        self._renew(len(self._buffer))

    def _renew(self, capacity: int) -> None:
        rest = self._view[self._start : self._stop]
        buffer = bytearray(capacity)
        buffer[: len(rest)] = rest
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._start, self._stop = 0, len(rest)

    def _fill(self, size: int) -> bool:
        """Have `size` bytes from `_start` on; False when the other end is gone."""
        if self._start + size > len(self._buffer):
            if size > len(self._buffer):
                self._renew(size + HEADER.size)
            else:
                rest = bytes(self._view[self._start : self._stop])
                self._view[: len(rest)] = rest
                self._start, self._stop = 0, len(rest)
        elif self._start == self._stop:
            self._start = self._stop = 0
        while self._stop - self._start < size:
            try:
                got = self._end.recv_into(self._view[self._stop :])
            except ConnectionError:
                return False
            if got == 0:
                return False
            self._stop += got
        return True
