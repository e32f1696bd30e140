"""Whether speculative execution pays: owns what it is expected to gain and to cost.

Calls that only read cost nothing when they were guessed wrong. Calls that write cost checkpoints,
and time that the program waits for in vain when it does something else. Both are measured and
held against the exchange that is saved, whose worth the robot measures and tells (docs/replay.md,
"Speculative execution").
"""

from __future__ import annotations

from dataclasses import dataclass

from rrto_ros.execution.access_ranges import AccessRanges, Layout
from rrto_ros.execution.checkpoints import Checkpoints
from rrto_ros.execution.prepared_plan import PreparedPlan
from rrto_ros.wire.accesses import Range
from rrto_ros.wire.templates import WRITES

MAX_REMEMBERED = 1024
_FORGIVES = 1 / 64
_Stamp = tuple[Layout, int, int]
"""The layout of memory, and counts of what is known of kernels and of a plan's calls."""


@dataclass(frozen=True, slots=True)
class Stretch:
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
class _Experience:
    """How a stretch went: share of the times that the program went on, seconds it takes."""

    share: float = 1.0
    seconds: float = 0.0


class Prospects:
    """One session's. Not thread-safe.

    Args:
        ranges: What calls may write.
        checkpoints: What they cost.

    Attributes:
        chosen: How many stretches were worth executing.
    """

    def __init__(self, ranges: AccessRanges, checkpoints: Checkpoints) -> None:
        self._ranges = ranges
        self._checkpoints = checkpoints
        # The plan is kept with each, so that no other gets its id.
        self._stretches: dict[tuple[int, int], tuple[PreparedPlan, _Stamp, Stretch | None]] = {}
        self._experience: dict[tuple[int, int], tuple[PreparedPlan, _Experience]] = {}
        self.chosen = 0
        self._refused = 0
        self._unknown = 0

    def choose(self, plan: PreparedPlan, position: int, worth_us: int) -> Stretch | None:
        """The stretch from a call that writes on, if executing it is expected to pay.

        Args:
            plan: The plan.
            position: The call.
            worth_us: What a saved exchange is worth.
        """
        stretch = self._stretch(plan, position)
        if stretch is None:
            self._unknown += 1
            return None
        known = self._known(plan, position)
        copies = self._checkpoints.seconds(stretch.count, stretch.size)
        gain = known.share * stretch.exchanges * worth_us / 1e6
        loss = copies + (1 - known.share) * (copies + known.seconds)
        if gain <= loss or not self._checkpoints.room(stretch.size):
            self._refused += 1
            # A program that changes its ways is given another chance in the end.
            known.share += (1 - known.share) * _FORGIVES
            return None
        self.chosen += 1
        return stretch

    def took(self, plan: PreparedPlan, position: int, seconds: float) -> None:
        """The stretch from a call on was executed."""
        known = self._known(plan, position)
        known.seconds += (seconds - known.seconds) / 4

    def ended(self, plan: PreparedPlan, position: int, *, went_on: bool) -> None:
        """The program made the calls of the stretch from a call on, or went another way."""
        known = self._known(plan, position)
        known.share += (went_on - known.share) / 4

    def statistics(self) -> dict[str, int]:
        """Stretches that were executed, that would not pay, and of which too little is known."""
        return {
            "speculation_chosen": self.chosen,
            "speculation_refused": self._refused,
            "speculation_unknown": self._unknown,
        }

    def _known(self, plan: PreparedPlan, position: int) -> _Experience:
        key = (id(plan), position)
        found = self._experience.get(key)
        if found is None:
            if len(self._experience) >= MAX_REMEMBERED:
                self._experience.clear()
            found = self._experience[key] = (plan, _Experience())
        return found[1]

    def _stretch(self, plan: PreparedPlan, position: int) -> Stretch | None:
        """What may be executed from a call that writes on; None if nothing is gained by it."""
        key = (id(plan), position)
        stamp = (self._ranges.layout, self._ranges.learnt, plan.evidence)
        known = self._stretches.get(key)
        if known is not None and known[1] == stamp:
            return known[2]
        if len(self._stretches) >= MAX_REMEMBERED:
            self._stretches.clear()
        found = self._measured(plan, position, stamp[0])
        self._stretches[key] = (plan, stamp, found)
        return found

    def _measured(self, plan: PreparedPlan, position: int, layout: Layout) -> Stretch | None:
        ranges: list[tuple[Range, ...]] = []
        copied: set[Range] = set()
        size = count = exchanges = 0
        writes_since = False
        stream: int | None = None
        best: Stretch | None = None
        end = position + plan.plan.speculative(position, writes=True)
        following = [
            record if run is not None else None
            for record, run in zip(
                plan.records[position:end], plan.runs[position:end], strict=True
            )
        ]
        # Of all of them, so that what is looked at beside the session is known together.
        writes = [
            self._ranges.writes(r) if r is not None and r.op.code in WRITES else None
            for r in following
        ]
        for calls, (record, found) in enumerate(zip(following, writes, strict=True), 1):
            if record is None:
                break
            if record.op.code in WRITES:
                # Only what the program did itself, in this layout, is known to stay in it.
                if plan.called[position + calls - 1] != layout:
                    break
                if stream is None:
                    stream = record["stream"]
                # Copies are in the order of one stream.
                if found is None or record["stream"] != stream:
                    break
                ranges.append(found)
                # What a group of writes overwrites several times is copied once.
                new = [span for span in found if span not in copied]
                copied.update(new)
                size += sum(end - start for start, end in new)
                count += len(new)
                writes_since = True
                continue
            if writes_since:
                exchanges += 1
                writes_since = False
                copied.clear()
            best = Stretch(calls, ranges, size, count, exchanges)
        return best
