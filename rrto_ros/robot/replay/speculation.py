"""Speculative execution on the robot: owns what the server may execute, and the results of it.

After a reference the server may execute the plan's next calls and push their results. As long as
the session's next call is the one that it expects, they are the program's; any other call ends
the speculation (docs/replay.md, "Speculative execution").

Two threads meet here: the program's calls are in the session's thread, which alone knows where the
program stands in its plan; results arrive in another. What both need is under the lock. A number
is announced again only while nothing diverged, so a result that comes late, of a speculation that
has ended, can never be taken for another call's.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from rrto_ros.api.results import CUresult
from rrto_ros.errors import ProtocolError
from rrto_ros.robot.replay.open_reference import OpenReference
from rrto_ros.robot.replay.plan_entries import PlanEntries, PlanEntry
from rrto_ros.wire.format import (
    FLAG_REPLY,
    FLAG_SPECULATIVE,
    FLAG_WAITED,
    RESULT_SPECULATIVE,
    Buffer,
)
from rrto_ros.wire.plan import COSTS, MAX_SPECULATIVE_BYTES
from rrto_ros.wire.reference import Reference
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
        copies_s: Time that checkpoints took.
    """

    rollbacks: int = 0
    calls: int = 0
    lost_s: float = 0.0
    copies_s: float = 0.0


@dataclass(slots=True)
class _Run:
    """Where the last reference ended, while the program goes on as its plan does.

    The calls before `end` may be executed by the server already.
    """

    entry: PlanEntry
    position: int
    index: int
    thread: int
    end: int


class Speculation:
    """What the server executes speculatively in one session.

    Args:
        run_ahead: `off`, `reads` or `auto`: what it may execute.

    Attributes:
        asked: Whether a thread waits for a call of what leaves next: that is its exchange.
        urgent: Whether a call is waited for whose result will not come unasked.
        waits: How often the program waited for a call and caused no exchange by that. Of what
            comes after a batch in which nobody waited, the first wait is the exchange.
        saved_s: What that saved: round trips.
        round_trip_s: What an exchange takes without the work on the server; 0: not known yet.
        cost: As the server said last.
    """

    def __init__(self, run_ahead: str) -> None:
        self._allowed = run_ahead != "off"
        self._writes = run_ahead == "auto"
        self.asked = False
        self.urgent = False
        self.waits = 0
        self.saved_s = 0.0
        self.round_trip_s = 0.0
        self.cost = SpeculationCost()
        self._run: _Run | None = None
        self._answers: list[Buffer] = []
        self._lock = threading.Lock()
        self._paid = False
        self._first = self._end = 0
        self._barrier = 0
        self._kept: dict[int, Buffer] = {}
        self._kept_bytes = 0
        self._late: dict[int, bool] = {}
        self._stopped = _NEVER
        self._over = False
        self._answered: dict[int, None] = {}
        self._announced = 0
        self._at_once = 0
        self._came_late = 0
        self._unused = 0
        self._doubled = 0

    # ---- the session's thread

    def announce(self, open_: OpenReference, plans: PlanEntries) -> None:
        """Let the server execute what follows a reference that leaves now."""
        position, index = open_.first + open_.count, open_.index + open_.count
        if not self._allowed or index < self._barrier:
            return
        worth_us = int(self.round_trip_s * 1e6) if self._writes else 0
        entry = plans.longest(open_.entry, position)
        count = entry.plan.speculative(position, writes=worth_us > 0)
        if not count:
            return
        # The calls up to here are the same in both.
        open_.entry, open_.speculative, open_.worth_us = entry, count, worth_us
        end = index + count
        self._run = _Run(entry, position, index, open_.thread, end)
        with self._lock:
            self._announced += max(0, end - max(index, self._end))
            self._first, self._end = index, end
            self._stopped = 0 if self._over else _NEVER
            self._paid = self.asked or self.urgent
            for old in [i for i in self._kept if i < index]:
                self._kept_bytes -= len(self._kept.pop(old))

    def left(self) -> None:
        """The batch has left: what was waited for is on its way."""
        self.asked = self.urgent = False

    def expected(
        self, entry: PlanEntry | None, position: int, thread: int, index: int
    ) -> PlanEntry | None:
        """The plan in which the server expects a call; None, and the speculation ends, if not.

        Args:
            entry: The plan in which the call was found; None for none.
            position: Its place there.
            thread: It makes the call.
            index: The call's number.
        """
        run = self._run
        if run is None:
            return None
        if (
            entry is not None
            and position == run.position
            and index == run.index
            and thread == run.thread
            and index < run.end
            and (entry is run.entry or entry.shared.get(run.entry.number, 0) > position)
        ):
            run.position += 1
            run.index += 1
            return run.entry
        self.drop()
        return None

    def answer(self, index: int, flags: int) -> tuple[int, bool]:
        """Answer an expected call from what the server pushed, or else when that comes.

        Returns:
            The flags that it has in the reference, and whether it was answered.
        """
        if not flags & FLAG_REPLY:
            return flags, False
        waited = bool(flags & FLAG_WAITED)
        with self._lock:
            self._first = index + 1
            record = self._kept.pop(index, None)
            if record is None:
                self._late[index] = waited
                self.urgent = self.urgent or (waited and index >= self._stopped)
            else:
                self._kept_bytes -= len(record)
                self._at_once += 1
                self._remember(index, waited)
                self._answers.append(record)
        return flags | FLAG_SPECULATIVE, record is not None

    def referred(
        self, entry: PlanEntry, ref: Reference, flags: Mapping[int, int]
    ) -> tuple[PlanEntry, Mapping[int, int], int, set[int]]:
        """Answer what the server pushed of a reference.

        Returns:
            The plan in which to name it, its flags, how many of its calls the server expected,
            and those that were answered.
        """
        if self._run is None:
            return entry, flags, 0, set()
        out = dict(flags)
        answered: set[int] = set()
        expected, named = 0, entry
        for call in range(ref.count):
            position = ref.first + call
            found = self.expected(entry, position, ref.thread, ref.index + call)
            if found is None:
                break
            if entry.shared.get(found.number, 0) >= ref.first + ref.count:
                named = found
            expected += 1
            bits, has = self.answer(ref.index + call, flags.get(call, 0))
            if bits:
                out[call] = bits
            if has:
                answered.add(call)
        return named, dict(sorted(out.items())), expected, answered

    def comes(self, open_: OpenReference) -> bool:
        """Whether the server executes the calls of a reference without having it."""
        return open_.index + open_.count - 1 < self._stopped

    def take_answers(self) -> list[Buffer]:
        """Result records that the program gets now; each once."""
        answers, self._answers = self._answers, []
        return answers

    def leave(self, entry: PlanEntry) -> None:
        """A plan must not be named any longer."""
        if self._run is not None and self._run.entry is entry:
            self.drop()

    def drop(self) -> None:
        """The program goes on in another way, or it is no longer known how."""
        self._run = None
        with self._lock:
            self._barrier = max(self._barrier, self._end)
            self._first = self._end
            self._unused += len(self._kept)
            self._kept.clear()
            self._kept_bytes = 0

    # ---- the thread of the results

    def arrived(self, result: ResultRecord, record: Buffer) -> Buffer | None:
        """A result with RESULT_SPECULATIVE came.

        Returns:
            The record to hand to the program now, if it waits for it.

        Raises:
            ProtocolError: No server pushes such a result, or it may not push any.
        """
        index = result.index
        ends = result.status == CUresult.NOT_READY and not len(result.payload)
        wrong = (result.status and not ends) or result.flags != RESULT_SPECULATIVE
        if wrong or not self._allowed:
            raise ProtocolError(
                f"pushed result of call {index} with status {result.status}"
                + ("" if self._allowed else ", without run_ahead")
            )
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
                return plain
            size = self._kept_bytes + len(plain)
            if index in self._kept or size > MAX_SPECULATIVE_BYTES + _OVERHEAD:
                raise ProtocolError(f"pushed result of call {index}: {size} bytes, or twice")
            self._kept[index] = plain
            self._kept_bytes = size
            return None

    @property
    def awaits(self) -> bool:
        """Whether the program made a call whose result the server is to send unasked."""
        return bool(self._late)

    def resumed(self) -> None:
        """Another server executes the session's calls again, and pushes what it had pushed."""
        with self._lock:
            self._unused += len(self._kept)
            self._kept.clear()
            self._kept_bytes = 0

    def over(self) -> None:
        """The session is in error: nothing more comes unasked."""
        with self._lock:
            self._over = True
            self._stopped = 0
            self.urgent = any(self._late.values())

    def told(self, result: ResultRecord) -> None:
        """A record with RESULT_ROLLED_BACK came.

        Raises:
            ProtocolError: It does not fit the format, or nothing may be executed speculatively.
        """
        if result.status or len(result.payload) != COSTS.size or not self._allowed:
            raise ProtocolError(
                f"costs of speculation of {len(result.payload)} bytes, they are {COSTS.size}"
                + ("" if self._allowed else ", without run_ahead")
            )
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

    def statistics(self) -> dict[str, int | float]:
        """Calls announced, and what became of their results."""
        return {
            "speculation_exchanges_saved": self.waits,
            "speculation_saved_s": round(self.saved_s, 6),
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
            self.waits += 1
            self.saved_s += self.round_trip_s
        self._paid = self._paid or waited
        self._answered[index] = None
        if len(self._answered) > MAX_REMEMBERED:
            del self._answered[next(iter(self._answered))]
