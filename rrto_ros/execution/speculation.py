"""Speculative execution: owns which calls were executed before the program made them.

After a reference the server may execute the plan's next calls and push the results of those that
read. The next record of the session decides what they are: the calls of a reference that goes on
where that one ended, or nothing. Then what they overwrote is rolled back (`Checkpoints`) before
anything else is executed. Calls that write are executed only where it is known what they touch,
and where it is expected to pay (`Prospects`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rrto_ros.api.results import CUresult
from rrto_ros.execution.access_ranges import AccessRanges
from rrto_ros.execution.checkpoints import Checkpoints
from rrto_ros.execution.dispatch import Prepared
from rrto_ros.execution.prepared_plan import PreparedPlan
from rrto_ros.execution.prospects import Prospects, Stretch
from rrto_ros.wire.accesses import Range
from rrto_ros.wire.codec import CallRecord
from rrto_ros.wire.format import (
    FLAG_REPLY,
    FLAG_SPECULATIVE,
    RESULT_ROLLED_BACK,
    RESULT_SPECULATIVE,
)
from rrto_ros.wire.plan import COSTS
from rrto_ros.wire.reference import Reference
from rrto_ros.wire.result_codec import pack_result

TOGETHER_BYTES = 64 << 10
"""Results of this size in all travel together; more of them would delay the first."""
TOLD_EVERY = 64
"""Stretches that were executed speculatively, between two records of what that cost."""


class Speculation:
    """What one session executes speculatively. Not thread-safe.

    Args:
        checkpoints: Of what speculative calls overwrite.
        ranges: What calls may write.
        begin: Told of each call before it is executed (index, record).
        interrupted: Whether the program's next calls are there, so that guessing is over.

    Attributes:
        plan: The plan of the session's last record, if that was a reference; else None.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        ranges: AccessRanges,
        begin: Callable[[int, CallRecord], object],
        interrupted: Callable[[], bool],
    ) -> None:
        self.plan: PreparedPlan | None = None
        self._checkpoints = checkpoints
        self._ranges = ranges
        self._prospects = Prospects(ranges, checkpoints)
        self._begin = begin
        self._interrupted = interrupted
        # The plan's next call, the number it will have in the session, and who makes it.
        self._position = 0
        self._index = 0
        self._thread = 0
        # How many calls from there on were executed, and may be.
        self._done = 0
        self._wanted = 0
        self._worth_us = 0
        # The first call that writes among them, or among those that the program made since.
        self._began: int | None = None
        self._executed = 0
        self._used = 0
        self._dropped = 0
        self._repeated = 0
        self._stopped = 0
        self._told = (0, 0)

    # ---- what the program does

    def follow(self, plan: PreparedPlan, ref: Reference) -> list[int]:
        """A reference comes.

        Returns:
            Its calls that were executed already, and whose results are with the robot.

        Raises:
            CudaError: Memory could not be restored.
        """
        same = self.plan is plan and self._position == ref.first and self._index == ref.index
        if not same or self._thread != ref.thread or self._must_repeat(ref):
            self.drop()
        used = min(self._done, ref.count)
        self._used += used
        self._done -= used
        self.plan, self._wanted, self._worth_us = (
            plan,
            max(ref.speculative, self._done),
            ref.worth_us,
        )
        end = ref.first + ref.count
        self._position, self._index, self._thread = end, ref.index + ref.count, ref.thread
        self._checkpoints.confirm(self._index)
        if not self._done:
            self._ended(went_on=True)
        plan.made(ref.first + used, end, self._ranges.layout)
        known = [k for k in range(used) if not _wants_result(ref.flags.get(k, 0))]
        self._repeated += used - len(known)
        return known

    def drop(self) -> None:
        """The session goes on in another way than was guessed.

        Raises:
            CudaError: Memory could not be restored.
        """
        self._dropped += self._done
        self._ended(went_on=False)
        self.plan, self._done, self._wanted = None, 0, 0
        self._checkpoints.roll_back()

    def forget(self) -> None:
        """The session is over: nothing will be rolled back."""
        self._checkpoints.forget()

    def _must_repeat(self, ref: Reference) -> bool:
        """Whether a result is wanted again that a later speculative call may have changed."""
        return self._checkpoints.pending and any(
            k < self._done and _wants_result(flags) for k, flags in ref.flags.items()
        )

    def _ended(self, *, went_on: bool) -> None:
        if self._began is not None and self.plan is not None:
            self._prospects.ended(self.plan, self._began, went_on=went_on)
        self._began = None

    # ---- what is executed

    def run(self, results: list[bytes], flush: Callable[[], None], *, hold: bool = False) -> None:
        """Execute what the program will probably call next.

        Args:
            results: Where results go.
            flush: Sends them.
            hold: Execute nothing, whatever the robot allows, and say so.

        Raises:
            CudaError: Memory could not be restored after a call that failed.
        """
        wanted = self._wanted
        if hold:
            self._wanted = self._done
        else:
            self._run(results, flush)
        if self._done < wanted:
            # The robot waits for what was announced until it hears this.
            index = self._index + self._done
            results.append(pack_result(index, CUresult.NOT_READY, b"", RESULT_SPECULATIVE))

    def _run(self, results: list[bytes], flush: Callable[[], None]) -> None:
        stretch: Stretch | None = None
        started, left, written, together = 0.0, 0, 0, 0
        self._checkpoints.seal()
        while (following := self._next()) is not None:
            record, run, size = following
            index = self._index + self._done
            writes = size < 0
            if writes and stretch is None:
                stretch = self._choose()
                if stretch is None:
                    break
                left, written, started = stretch.calls, 0, time.perf_counter()
            if results and (writes or together + size > TOGETHER_BYTES):
                flush()
                together = 0
            if stretch is not None and writes:
                if not self._checkpoint(index, record, run, stretch.ranges[written], not written):
                    break
                written += 1
            elif not self._readable(record):
                break
            self._begin(index, record)
            try:
                result = pack_result(index, 0, run(), RESULT_SPECULATIVE)
            except Exception:
                # It happens again, and is told then, when the program makes the call.
                if writes:
                    self._done -= self._checkpoints.roll_back_newest()
                break
            if not writes:
                results.append(result)
                together += size
                self._checkpoints.seal()
            self._done += 1
            self._executed += 1
            if stretch is not None:
                left -= 1
                if not left and self.plan is not None:
                    first = self._position + self._done - stretch.calls
                    self._prospects.took(self.plan, first, time.perf_counter() - started)
                    stretch = None
        self._wanted = self._done

    def _next(self) -> tuple[CallRecord, Prepared, int] | None:
        """The call that may be executed now, if any, and its `Plan.result_bytes`."""
        if self.plan is None or self._done >= self._wanted:
            return None
        position = self._position + self._done
        record, run = self.plan.records[position], self.plan.runs[position]
        if record is None or run is None:
            return None
        return record, run, self.plan.plan.result_bytes[position]

    def _choose(self) -> Stretch | None:
        """The stretch from the next call on, if executing it is expected to pay."""
        assert self.plan is not None
        first = self._position + self._done
        stretch = self._prospects.choose(self.plan, first, self._worth_us)
        if stretch is not None and self._began is None:
            self._began = first
        return stretch

    def _checkpoint(
        self,
        index: int,
        record: CallRecord,
        run: Prepared,
        ranges: tuple[Range, ...],
        first: bool,
    ) -> bool:
        """Copy what a call may overwrite; False if it is not to be executed."""
        if self._interrupted():
            self._stopped += 1
            return False
        if first:
            self._checkpoints.settle()
        try:
            self._checkpoints.take(index, ranges, record["stream"], run)
        except Exception:
            return False
        return True

    def _readable(self, record: CallRecord) -> bool:
        """Whether a call that only reads has its memory; a plan may be another program's."""
        if record.op.reads is None:
            return True
        address, size = record.op.reads
        return self._ranges.holds(record[address], record[size])

    # ---- what is told

    def tell(self, results: list[bytes]) -> None:
        """Add a record of the costs if there is news."""
        copies = self._checkpoints
        rollbacks, chosen = copies.rollbacks, self._prospects.chosen
        if rollbacks == self._told[0] and chosen < self._told[1] + TOLD_EVERY:
            return
        self._told = rollbacks, chosen
        lost_ns, taken_ns = int(copies.lost_s * 1e9), int(copies.taken_s * 1e9)
        costs = COSTS.pack(rollbacks, copies.rolled_back_calls, lost_ns, taken_ns)
        results.append(pack_result(0, 0, costs, RESULT_ROLLED_BACK))

    def statistics(self) -> dict[str, int | float]:
        """What was executed speculatively, what of it the program made, and what it cost."""
        return {
            "speculation_calls": self._executed,
            "speculation_used": self._used,
            "speculation_dropped": self._dropped,
            "speculation_repeated": self._repeated,
            "speculation_interrupted": self._stopped,
            **self._ranges.statistics(),
            **self._prospects.statistics(),
            **self._checkpoints.statistics(),
        }


def _wants_result(flags: int) -> bool:
    """Whether a call's result is to be sent although it was, or may have been, already."""
    return flags & (FLAG_REPLY | FLAG_SPECULATIVE) == FLAG_REPLY
