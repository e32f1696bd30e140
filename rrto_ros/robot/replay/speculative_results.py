"""Results that the server pushed before the program asked: owns them on the robot.

Two threads meet here: results arrive in one, the program's calls in the other. An index has at
most one window in a session, so a result that comes late, for a window that is no more, can never
be taken for another call's.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass

from rrto_ros.api.results import CUresult
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import RESULT_SPECULATIVE, Buffer
from rrto_ros.wire.plan import COSTS, MAX_SPECULATIVE_BYTES
from rrto_ros.wire.result_codec import ResultRecord

MAX_REMEMBERED = 4096
_FLAGS = struct.Struct("<I")
_FLAGS_AT = 20
_OVERHEAD = 64 << 10
_NEVER = 1 << 64


@dataclass(frozen=True)
class SpeculationCost:
    """What the server says that speculative calls cost since the session began.

    Attributes:
        rollbacks: Times that the program did something else, and memory was put back.
        calls: Calls rolled back by them.
        lost_s: Time that was lost by them.
        copies_s: Time that copies of what may be overwritten took.
    """

    rollbacks: int = 0
    calls: int = 0
    lost_s: float = 0.0
    copies_s: float = 0.0


class SpeculativeResults:
    """The pushed results of one session. Thread-safe.

    Args:
        writes: Whether the server may execute calls that have to be rolled back.

    Attributes:
        asked: Whether a thread waits for a call of what leaves next: that is its exchange.
        round_trip_s: What an exchange takes without the work on the server; 0: not known yet.
        cost: As the server said last.
    """

    def __init__(self, *, writes: bool) -> None:
        self._writes = writes
        self.asked = False
        self._paid = False
        self.round_trip_s = 0.0
        self.cost = SpeculationCost()
        self._waits = 0
        self._saved_s = 0.0
        self._lock = threading.Lock()
        self._first = self._end = 0
        self._barrier = 0
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0
        self._late: dict[int, bool] = {}
        self._stopped = _NEVER
        self._over = False
        self.urgent = False
        """Whether a call is waited for whose result will not come unasked."""
        self._answered: dict[int, None] = {}
        self._announced = 0
        self._at_once = 0
        self._came_late = 0
        self._unused = 0
        self._doubled = 0

    # ---- the thread of the program's calls

    @property
    def worth_us(self) -> int:
        """What a saved exchange is worth; 0: the server speculates only on what reads."""
        return int(self.round_trip_s * 1e6) if self._writes else 0

    def comes(self, index: int) -> bool:
        """Whether the result of a call that was announced may still come unasked."""
        return index < self._stopped

    def may(self, first: int) -> bool:
        """Whether calls from this index on may be announced."""
        return first >= self._barrier

    def announce(self, first: int, count: int) -> None:
        """The server may push the results of these calls from now on; older ones are over."""
        with self._lock:
            self._announced += max(0, first + count - max(first, self._end))
            self._first, self._end = first, first + count
            self._stopped = 0 if self._over else _NEVER
            self.urgent = False
            self._paid = self.asked
            for index in [i for i in self._kept if i < first]:
                self._kept_bytes -= len(self._kept.pop(index))

    def take(self, index: int, *, waited: bool) -> bytes | None:
        """The program makes this call, as it was expected.

        Args:
            index: The call.
            waited: A thread of the program waits for it.

        Returns:
            Its result record for the program; None if it has not come. Then it is handed over
            when it comes.
        """
        with self._lock:
            record = self._kept.pop(index, None)
            self._first = index + 1
            if record is None:
                self._late[index] = waited
                self.urgent = self.urgent or (waited and index >= self._stopped)
                return None
            self._kept_bytes -= len(record)
            self._at_once += 1
            self._remember(index, waited)
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
        """A result with RESULT_SPECULATIVE came.

        Returns:
            The record to hand to the program now, if it waits for it.

        Raises:
            ProtocolError: No server pushes such a result.
        """
        index = result.index
        ends = result.status == CUresult.NOT_READY and not len(result.payload)
        if (result.status and not ends) or result.flags != RESULT_SPECULATIVE:
            raise ProtocolError(f"pushed result of call {index} with status {result.status}")
        with self._lock:
            if ends:
                self._stopped = index
                self.urgent = any(waited and i >= index for i, waited in self._late.items())
                return None
            late = index in self._late
            if not late and not self._first <= index < self._end:
                self._unused += 1
                return None
            plain = bytearray(record)
            _FLAGS.pack_into(plain, _FLAGS_AT, 0)
            if late:
                self._came_late += 1
                self._remember(index, self._late.pop(index))
                return bytes(plain)
            size = self._kept_bytes + len(plain)
            if index in self._kept or size > MAX_SPECULATIVE_BYTES + _OVERHEAD:
                raise ProtocolError(f"pushed result of call {index}: {size} bytes, or twice")
            self._kept[index] = bytes(plain)
            self._kept_bytes = size
            return None

    def over(self) -> None:
        """The session is in error: nothing more comes unasked."""
        with self._lock:
            self._over = True
            self._stopped = 0
            self.urgent = any(self._late.values())

    def told(self, result: ResultRecord) -> None:
        """A record with RESULT_ROLLED_BACK came.

        Raises:
            ProtocolError: It does not fit the format.
        """
        if result.status or len(result.payload) != COSTS.size:
            raise ProtocolError(f"costs of {len(result.payload)} bytes, they are {COSTS.size}")
        rollbacks, calls, lost_ns, copies_ns = COSTS.unpack(result.payload)
        self.cost = SpeculationCost(rollbacks, calls, lost_ns / 1e9, copies_ns / 1e9)

    def plain(self, index: int) -> bool:
        """Whether a result without RESULT_SPECULATIVE is for the program: not if it has one."""
        with self._lock:
            self._late.pop(index, None)
            if index not in self._answered:
                return True
            self._doubled += 1
            return False

    # ---- any thread

    @property
    def waits(self) -> int:
        """How often the program waited for a call and caused no exchange by that.

        Of what comes after a batch in which nobody waited, the first wait is the exchange.
        """
        return self._waits

    @property
    def saved_s(self) -> float:
        """What that saved: round trips."""
        return self._saved_s

    def statistics(self) -> dict[str, int | float]:
        """Calls announced, and what became of their results."""
        return {
            "speculation_exchanges_saved": self._waits,
            "speculation_saved_s": round(self._saved_s, 6),
            "speculation_rollbacks": self.cost.rollbacks,
            "speculation_rolled_back_calls": self.cost.calls,
            "speculation_lost_s": round(self.cost.lost_s, 6),
            "speculation_checkpoint_s": round(self.cost.copies_s, 6),
            "speculation_calls": self._announced,
            "speculation_used": self._at_once,
            "speculation_late": self._came_late,
            "speculation_dropped": self._unused,
            "speculation_doubled": self._doubled,
        }

    def _remember(self, index: int, waited: bool) -> None:
        if waited and self._paid:
            self._waits += 1
            self._saved_s += self.round_trip_s
        self._paid = self._paid or waited
        self._answered[index] = None
        if len(self._answered) > MAX_REMEMBERED:
            del self._answered[next(iter(self._answered))]
