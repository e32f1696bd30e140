"""Executes calls before the program makes them: owns the choice whether that pays.

Calls that only read cost nothing when they were guessed wrong. Calls that write cost copies of
what they may overwrite, and time that the program waits for in vain when it does something else.
Both are measured and held against the exchange that is saved, whose worth the robot measures and
tells (docs/replay.md, "Run-ahead").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rrto_ros.api.results import CUresult
from rrto_ros.execution.dispatch import Prepared
from rrto_ros.execution.plan_runner import PlanRunner, Ready
from rrto_ros.execution.write_ranges import Layout, WriteRanges
from rrto_ros.wire.accesses import Range
from rrto_ros.wire.codec import CallRecord, pack_result
from rrto_ros.wire.format import RESULT_AHEAD, RESULT_UNDONE
from rrto_ros.wire.plan import COSTS
from rrto_ros.wire.templates import WRITES

TOGETHER_BYTES = 64 << 10
"""Results of this size in all travel together; more of them would delay the first."""
TOLD_EVERY = 64
"""Times that calls which write were executed ahead, between two such records."""
MAX_REMEMBERED = 1024
_FORGIVES = 1 / 64
_Stamp = tuple[Layout, int, int]
"""The layout of memory, and counts of what is known of kernels and of a plan's calls."""


@dataclass(slots=True)
class _Stretch:
    """Calls from one that writes to the last that reads.

    Attributes:
        calls: How many.
        ranges: Of each of them that writes: what it may overwrite.
        size: Bytes of these ranges in all.
        count: Number of ranges.
        exchanges: How often the program would have to wait.
    """

    calls: int
    ranges: list[tuple[Range, ...]]
    size: int
    count: int
    exchanges: int


@dataclass(slots=True)
class _Luck:
    """How a stretch went: share of the times that the program went on, seconds it takes."""

    share: float = 1.0
    seconds: float = 0.0


class AheadRunner:
    """What one session executes ahead. Not thread-safe.

    Args:
        plans: The session's plans, and what is ahead.
        ranges: What calls may write.
        begin: Told of each call before it is executed (index, record).
        interrupted: Whether the program's next calls are there, so that guessing is over.
    """

    def __init__(
        self,
        plans: PlanRunner,
        ranges: WriteRanges,
        begin: Callable[[int, CallRecord], object],
        interrupted: Callable[[], bool],
    ) -> None:
        self._plans = plans
        self._ahead = plans.ahead
        self._ranges = ranges
        self._begin = begin
        self._interrupted = interrupted
        self._stretches: dict[tuple[int, int], tuple[Ready, _Stamp, _Stretch | None]] = {}
        self._luck: dict[tuple[int, int], tuple[Ready, _Luck]] = {}
        self._started = 0.0
        self._chosen = 0
        self._refused = 0
        self._unknown = 0
        self._stopped = 0
        self._told = (0, 0)

    def run(self, results: list[bytes], flush: Callable[[], None]) -> None:
        """Execute what the program will probably call next.

        Args:
            results: Where results go.
            flush: Sends them.

        Raises:
            CudaError: Memory could not be restored after a call that failed.
        """
        ahead = self._ahead
        wanted = ahead.wanted
        self._run(results, flush)
        if ahead.done < wanted:
            # The robot waits for what was announced until it hears this.
            index = ahead.index + ahead.done
            results.append(pack_result(index, CUresult.NOT_READY, b"", RESULT_AHEAD))

    def _run(self, results: list[bytes], flush: Callable[[], None]) -> None:
        ahead = self._ahead
        stretch: _Stretch | None = None
        left, written, together, first = 0, 0, 0, True
        ahead.undo.seal()
        while (following := self._plans.next_ahead()) is not None:
            record, run, size = following
            index = ahead.index + ahead.done
            writes = size < 0
            if writes and stretch is None:
                stretch = self._choose()
                if stretch is None:
                    ahead.stop()
                    break
                left, written, first = stretch.calls, 0, True
                self._started = time.perf_counter()
            if results and (writes or together + size > TOGETHER_BYTES):
                flush()
                together = 0
            if stretch is not None and writes:
                if not self._prepared(index, record, run, stretch.ranges[written], first):
                    ahead.stop()
                    break
                written += 1
                first = False
            if not writes and not self._readable(record):
                ahead.stop()
                break
            self._begin(index, record)
            try:
                data = run()
                result = pack_result(index, 0, data, RESULT_AHEAD)
            except Exception:
                # It happens again, and is told then, when the program makes the call.
                if writes:
                    ahead.back(ahead.undo.take_back())
                ahead.stop()
                break
            if not writes:
                results.append(result)
                together += size
                ahead.undo.seal()
            ahead.executed()
            if stretch is not None:
                left -= 1
                if not left:
                    self._took(ahead.position + ahead.done - stretch.calls)
                    stretch = None

    def _prepared(
        self,
        index: int,
        record: CallRecord,
        run: Prepared,
        ranges: tuple[Range, ...],
        first: bool,
    ) -> bool:
        """Copy what a call may overwrite; False if it is not to be executed."""
        undo = self._ahead.undo
        if self._interrupted():
            self._stopped += 1
            return False
        if first:
            undo.settle()
        try:
            undo.save(index, ranges, _stream(record), run)
        except Exception:
            return False
        return True

    def _readable(self, record: CallRecord) -> bool:
        """Whether a call that only reads has its memory; a plan may be another program's."""
        if record.op.reads is None:
            return True
        address, size = record.op.reads
        return self._ranges.holds(record[address], record[size])

    def tell(self, results: list[bytes]) -> None:
        """Add a record of the costs if there is news."""
        self._learn()
        undo = self._ahead.undo
        restores, chosen = undo.restores, self._chosen
        if restores == self._told[0] and chosen < self._told[1] + TOLD_EVERY:
            return
        self._told = restores, chosen
        costs = COSTS.pack(
            restores, undo.undone_calls, int(undo.lost_s * 1e9), int(undo.save_s * 1e9)
        )
        results.append(pack_result(0, 0, costs, RESULT_UNDONE))

    def statistics(self) -> dict[str, int | float]:
        """What was chosen, what it cost, and what had to be undone."""
        undo = self._ahead.undo
        return {
            **self._ahead.statistics(),
            **self._ranges.statistics(),
            "ahead_chosen": self._chosen,
            "ahead_refused": self._refused,
            "ahead_unknown": self._unknown,
            "ahead_interrupted": self._stopped,
            "ahead_saved_bytes": undo.saved_bytes,
            "ahead_save_s": round(undo.save_s, 6),
            "ahead_restores": undo.restores,
            "ahead_restored_bytes": undo.restored_bytes,
            "ahead_undone_calls": undo.undone_calls,
            "ahead_lost_s": round(undo.lost_s, 6),
        }

    # ---- whether it pays

    def _choose(self) -> _Stretch | None:
        """The stretch from the next call on, if executing it is expected to pay."""
        self._learn()
        ahead = self._ahead
        ready, position = ahead.plan, ahead.position + ahead.done
        assert ready is not None
        stretch = self._stretch(ready, position)
        if stretch is None:
            self._unknown += 1
            return None
        luck = self._lucky(ready, position)
        copies = ahead.undo.seconds(stretch.count, stretch.size)
        gain = luck.share * stretch.exchanges * ahead.worth_us / 1e6
        loss = copies + (1 - luck.share) * (copies + luck.seconds)
        if gain <= loss or not ahead.undo.room(stretch.size):
            self._refused += 1
            # A program that changes its ways is given another chance in the end.
            luck.share += (1 - luck.share) * _FORGIVES
            return None
        self._chosen += 1
        ahead.began(position)
        return stretch

    def _learn(self) -> None:
        for ready, position, went_on in self._ahead.outcomes:
            luck = self._lucky(ready, position)
            luck.share += ((1.0 if went_on else 0.0) - luck.share) / 4
        self._ahead.outcomes.clear()

    def _took(self, position: int) -> None:
        """A stretch was executed."""
        assert self._ahead.plan is not None
        luck = self._lucky(self._ahead.plan, position)
        luck.seconds += (time.perf_counter() - self._started - luck.seconds) / 4

    def _lucky(self, ready: Ready, position: int) -> _Luck:
        key = (id(ready), position)
        found = self._luck.get(key)
        if found is None:
            if len(self._luck) >= MAX_REMEMBERED:
                self._luck.clear()
            # The plan is kept with it, so that no other gets its id.
            found = self._luck[key] = (ready, _Luck())
        return found[1]

    def _stretch(self, ready: Ready, position: int) -> _Stretch | None:
        """What may be executed from a call that writes on; None if nothing is gained by it."""
        key = (id(ready), position)
        stamp = (self._ranges.layout, self._ranges.learnt, ready.evidence)
        known = self._stretches.get(key)
        if known is not None and known[1] == stamp:
            return known[2]
        if len(self._stretches) >= MAX_REMEMBERED:
            self._stretches.clear()
        found = self._measured(ready, position, stamp[0])
        self._stretches[key] = (ready, stamp, found)
        return found

    def _measured(self, ready: Ready, position: int, layout: Layout) -> _Stretch | None:
        ranges: list[tuple[Range, ...]] = []
        copied: set[Range] = set()
        size = count = exchanges = 0
        writes_since = False
        stream: int | None = None
        best: tuple[int, int, int, int] | None = None
        end = position + ready.plan.ahead(position, writes=True)
        following = ready.records[position:end]
        # Of all of them, so that what is looked at beside the session is known together.
        writes = [
            self._ranges.of(r) if r is not None and r.op.code in WRITES else None
            for r in following
        ]
        for calls, (record, found) in enumerate(zip(following, writes, strict=True), 1):
            if record is None:
                break
            if record.op.code in WRITES:
                # Only what the program did itself, in this layout, is known to stay in it.
                if ready.called[position + calls - 1] != layout:
                    break
                if stream is None:
                    stream = _stream(record)
                # Copies are in the order of one stream.
                if found is None or _stream(record) != stream:
                    break
                ranges.append(found)
                # What a group of writes overwrites several times is copied once.
                new = [span for span in found if span not in copied]
                copied.update(new)
                size += sum(end - start for start, end in new)
                count += len(new)
                writes_since = True
            elif writes_since:
                exchanges += 1
                writes_since = False
                copied.clear()
            if record.op.code not in WRITES:
                best = (calls, size, count, exchanges)
        if best is None:
            return None
        return _Stretch(best[0], ranges, *best[1:])


def _stream(record: CallRecord) -> int:
    return int(record["stream"])
