"""Messages on the socket between a session host and its worker: owns its buffers."""

from __future__ import annotations

import contextlib
import select
import socket

from rrto_ros.errors import ProtocolError
from rrto_ros.execution.messages import HEADER, MAX_BODY_BYTES, Message, decode, encode

SOCKET_BUFFER_BYTES = 4 << 20
_FIRST_CAPACITY = 1 << 20
_SO_SNDBUFFORCE = 32


def enlarge_buffers(end: socket.socket) -> None:
    """Give a socket room for several messages, so that a sender rarely has to wait."""
    for force in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
            return


def send(end: socket.socket, message: Message) -> None:
    """Send a message, waiting for room.

    Raises:
        OSError: The other end is gone.
    """
    header, body = encode(message)
    sent = end.sendmsg([header, body])
    total = len(header) + len(body)
    if sent < total:
        if sent < len(header):
            end.sendall(header[sent:])
            sent = len(header)
        end.sendall(memoryview(body)[sent - len(header) :])


class MessageReader:
    """Reads messages from a blocking socket into a buffer that it reuses."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._buffer = bytearray(_FIRST_CAPACITY)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._stop = 0

    def read(self) -> Message | None:
        """The next message, None when the other end is gone.

        Records of it are valid until the next call.

        Raises:
            ProtocolError: A frame that no host or worker sends.
        """
        if not self._fill(HEADER.size):
            return None
        kind, _, size = HEADER.unpack_from(self._buffer, self._start)
        if size > MAX_BODY_BYTES:
            raise ProtocolError(f"frame {kind} of {size} bytes, at most {MAX_BODY_BYTES}")
        self._start += HEADER.size
        if not self._fill(size):
            return None
        body = self._view[self._start : self._start + size]
        self._start += size
        return decode(kind, body)

    @property
    def ready(self) -> bool:
        """Whether another message has begun to arrive."""
        if self._stop > self._start:
            return True
        return bool(select.select([self._end], [], [], 0)[0])

    def detach(self) -> None:
        """Leave the buffer to whoever holds the last message's records."""
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
