"""Results that the server pushed before the program asked: owns them on the robot.

Two threads meet here: results arrive in one, the program's calls in the other. An index has at
most one window in a session, so a result that comes late, for a window that is no more, can never
be taken for another call's.
"""

from __future__ import annotations

import struct
import threading

from rrto_ros.api.result_codec import ResultRecord
from rrto_ros.api.wire import RESULT_AHEAD, Buffer
from rrto_ros.errors import ProtocolError
from rrto_ros.replay.plan import MAX_AHEAD_BYTES

MAX_REMEMBERED = 4096
_FLAGS = struct.Struct("<I")
_FLAGS_AT = 20
_OVERHEAD = 64 << 10


class AheadResults:
    """The results ahead of one session. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first = self._end = 0
        self._barrier = 0
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0
        self._late: set[int] = set()
        self._answered: dict[int, None] = {}
        self._announced = 0
        self._at_once = 0
        self._came_late = 0
        self._unused = 0
        self._doubled = 0

    # ---- the thread of the program's calls

    def may(self, first: int) -> bool:
        """Whether calls from this index on may be announced."""
        return first >= self._barrier

    def announce(self, first: int, count: int) -> None:
        """The server may push the results of these calls from now on; older ones are over."""
        with self._lock:
            self._announced += max(0, first + count - max(first, self._end))
            self._first, self._end = first, first + count
            for index in [i for i in self._kept if i < first]:
                self._kept_bytes -= len(self._kept.pop(index))

    def take(self, index: int) -> bytes | None:
        """The program makes this call, as it was expected.

        Returns:
            Its result record for the program; None if it has not come. Then it is handed over
            when it comes.
        """
        with self._lock:
            record = self._kept.pop(index, None)
            self._first = index + 1
            if record is None:
                self._late.add(index)
                return None
            self._kept_bytes -= len(record)
            self._at_once += 1
            self._remember(index)
            return record

    def drop(self) -> None:
        """The program goes on in another way."""
        with self._lock:
            self._barrier = max(self._barrier, self._end)
            self._first = self._end
            self._unused += len(self._kept)
            self._kept.clear()
            self._kept_bytes = 0

    # ---- the thread of the results

    def arrived(self, result: ResultRecord, record: Buffer) -> bytes | None:
        """A result with RESULT_AHEAD came.

        Returns:
            The record to hand to the program now, if it waits for it.

        Raises:
            ProtocolError: No server pushes such a result.
        """
        if result.status or result.flags != RESULT_AHEAD:
            raise ProtocolError(f"result ahead of call {result.index} with status {result.status}")
        index = result.index
        with self._lock:
            late = index in self._late
            if not late and not self._first <= index < self._end:
                self._unused += 1
                return None
            plain = bytearray(record)
            _FLAGS.pack_into(plain, _FLAGS_AT, 0)
            if late:
                self._late.remove(index)
                self._came_late += 1
                self._remember(index)
                return bytes(plain)
            size = self._kept_bytes + len(plain)
            if index in self._kept or size > MAX_AHEAD_BYTES + _OVERHEAD:
                raise ProtocolError(f"result ahead of call {index}: {size} bytes, or twice")
            self._kept[index] = bytes(plain)
            self._kept_bytes = size
            return None

    def plain(self, index: int) -> bool:
        """Whether a result without RESULT_AHEAD is for the program: not if it has one."""
        with self._lock:
            self._late.discard(index)
            if index not in self._answered:
                return True
            self._doubled += 1
            return False

    # ---- any thread

    def statistics(self) -> dict[str, int]:
        """Calls announced, and what became of their results."""
        return {
            "ahead_calls": self._announced,
            "ahead_used": self._at_once,
            "ahead_late": self._came_late,
            "ahead_dropped": self._unused,
            "ahead_doubled": self._doubled,
        }

    def _remember(self, index: int) -> None:
        self._answered[index] = None
        if len(self._answered) > MAX_REMEMBERED:
            del self._answered[next(iter(self._answered))]
