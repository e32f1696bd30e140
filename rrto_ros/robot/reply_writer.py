"""Results on their way into the reply ring: owns what does not fit yet.

docs/wire_format.md, "Ring between the program and recorder_replayer".
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Iterable

from rrto_ros.api.ring_layout import (
    REPLY_HEAD,
    REPLY_TAIL,
    REPLY_WAITING,
    RINGS,
)
from rrto_ros.errors import ProtocolError
from rrto_ros.robot.atomics import atomics
from rrto_ros.robot.ring import MASK64, RingMemory
from rrto_ros.wire.format import PADDING_STATUS, Buffer

MAX_UNTAKEN_BYTES = 32 << 20
MOST_UNASKED_BYTES = 256 << 20
"""What a server may still send after it was asked for no more: far more than is on its way."""


class ReplyWriter:
    """Puts result records into the reply ring; any thread.

    What does not fit yet is kept, in order; the shim writes the call eventfd when it has made
    room, and then `flush` must be called. Nothing here ever waits: while `full`, the server is to
    be asked for no more.

    Args:
        ring: Where they go.
        max_pending_bytes: With more beside the ring it is full, until half of that is left.
    """

    def __init__(self, ring: RingMemory, max_pending_bytes: int = MAX_UNTAKEN_BYTES) -> None:
        self._ring = ring
        self._atomics = atomics()
        self._lock = threading.Lock()
        self._size = ring.reply_bytes
        self._at = RINGS + ring.call_bytes
        self._head = 0
        self._pending: deque[Buffer] = deque()
        self._pending_bytes = 0
        self._max_pending_bytes = max_pending_bytes
        self._full = False
        self._records = 0
        self._bytes = 0
        self._stalls = 0

    @property
    def full(self) -> bool:
        """Whether the program has so much to take that nothing more should come."""
        return self._full

    def write(self, records: Iterable[Buffer]) -> None:
        """Queue whole result records (each a multiple of 8 bytes) and put in what fits.

        Raises:
            ProtocolError: A record is larger than the ring, or a server that was asked for no
                more goes on sending without end.
        """
        with self._lock:
            for record in records:
                if len(record) > self._size or len(record) % 8:
                    raise ProtocolError(
                        f"result of {len(record)} bytes cannot pass a reply ring of {self._size}"
                    )
                self._pending.append(record)
                self._pending_bytes += len(record)
            self._flush()
            if self._pending_bytes > self._max_pending_bytes + MOST_UNASKED_BYTES:
                raise ProtocolError(
                    f"{self._pending_bytes} bytes of results wait for the program, and the server "
                    "does not hold back the rest although it was asked to"
                )

    def flush(self) -> None:
        """Put in what fits by now.

        Raises:
            ProtocolError: The shim's position is impossible.
        """
        if self._pending:
            with self._lock:
                self._flush()

    def statistics(self) -> dict[str, int]:
        """Records and bytes put in, what waits, and how often the ring was full."""
        return {
            "records": self._records,
            "bytes": self._bytes,
            "pending": len(self._pending),
            "pending_bytes": self._pending_bytes,
            "stalls": self._stalls,
        }

    def _flush(self) -> None:
        head = self._head
        while self._pending:
            record = self._pending[0]
            offset = head & (self._size - 1)
            rest = self._size - offset
            padding = rest if len(record) > rest else 0
            if not self._room(head, padding or len(record)):
                break
            start = self._at + offset
            if padding:
                struct.pack_into("<II", self._ring.view, start, padding, PADDING_STATUS)
                head += padding
                continue
            self._ring.view[start : start + len(record)] = record
            head += len(record)
            self._pending.popleft()
            self._pending_bytes -= len(record)
            self._records += 1
            self._bytes += len(record)
        self._full = self._pending_bytes > self._max_pending_bytes >> self._full
        if head != self._head:
            self._head = head & MASK64
            self._atomics.store_u64(self._ring.address + REPLY_HEAD, self._head)
            self._ring.wake_program()

    def _room(self, head: int, wanted: int) -> bool:
        if self._free(head) >= wanted:
            return True
        # Publish what is there first, or the shim could wait for us while we wait for it.
        if head != self._head:
            self._head = head & MASK64
            self._atomics.store_u64(self._ring.address + REPLY_HEAD, self._head)
            self._ring.wake_program()
        self._stalls += 1
        self._atomics.exchange_sleep(self._ring.address + REPLY_WAITING, 1)
        if self._free(head) < wanted:
            return False
        self._atomics.store_u32(self._ring.address + REPLY_WAITING, 0)
        return True

    def _free(self, head: int) -> int:
        tail = self._atomics.load_u64(self._ring.address + REPLY_TAIL)
        filled = (head - tail) & MASK64
        if filled > self._size or tail & 7:
            raise ProtocolError(
                f"reply ring: the program's position {tail} is impossible before {head} in a "
                f"ring of {self._size} bytes"
            )
        return self._size - filled
