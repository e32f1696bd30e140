"""The plans that a session's calls are matched with.

Owns their numbers, how matching with each went, and which of them rest because they kept failing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from rrto_ros.robot.matcher import Matcher
from rrto_ros.wire.format import pad8
from rrto_ros.wire.plan import MAX_PLANS, Plan

MAX_DEFINED_BYTES = 60 << 20
"""Below what a server takes in one session."""
_IDLE_ENTRIES = 256
_REST = 4
_LONGEST_REST = 1024
_NEVER = 1 << 62


@dataclass(frozen=True)
class Sums:
    """Of a plan's calls before each position, and at last of all.

    Attributes:
        words: Varying words.
        payload: Bytes of payloads, each padded to 8.
        records: Bytes of the records.
    """

    words: tuple[int, ...]
    payload: tuple[int, ...]
    records: tuple[int, ...]


@dataclass(eq=False)
class PlanEntry:
    """A numbered plan, and how matching with it went.

    Attributes:
        number: Its number in the session.
        plan: The plan.
        shared: Number of another plan -> how many first calls are the same.
        active: Whether a lane may begin in it.
        completed, failed: Times that it was followed to its end, and that it was left before.
        streak: Times that less than half of it was followed, since it was followed to its end.
        ended: When it was followed to its end last, in begun plans of the session.
        used: When a lane entered it last, in such entries of the session.
        rest: How long it will rest when it is dropped, in lengths of the plan and times
            `drop_after`; longer each time, until it is followed to its end.
        back_at: Until then it rests, in calls of the session.
        start_up: It is what the program does once, before it repeats itself, and is not over.
        inferences: How many it stands for.
    """

    number: int
    plan: Plan
    shared: dict[int, int] = field(default_factory=dict)
    active: bool = False
    completed: int = 0
    failed: int = 0
    streak: int = 0
    ended: int = 0
    used: int = 0
    rest: int = _REST
    back_at: int = 0
    start_up: bool = False
    inferences: int = 1

    @cached_property
    def sums(self) -> Sums:
        """What a reference to a part of the plan must bring, and stands for."""
        plan = self.plan
        words = (
            sum(end - start for start, end in plan.ranges.get(k, ())) // 8
            for k in range(len(plan))
        )
        payload = (pad8(call.payload_bytes) for call in plan.calls)
        records = (call.record_bytes + pad8(call.payload_bytes) for call in plan.calls)
        return Sums(*((0, *accumulate(each)) for each in (words, payload, records)))

    @cached_property
    def uploads(self) -> list[int]:
        """The calls that have a payload."""
        return [k for k, call in enumerate(self.plan.calls) if call.payload_bytes]


class PlanEntries:
    """The plans of one session. Not thread-safe.

    Args:
        matcher: Matches calls with them.
        left: Told of a plan that must not be named any longer.
        drop_after: A plan that failed so often in a row rests for a while.
        keeps: Whether somebody else still uses a number, so that it must not mean another plan.
    """

    def __init__(
        self,
        matcher: Matcher,
        left: Callable[[PlanEntry], None],
        drop_after: int,
        keeps: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._matcher = matcher
        self._left = left
        self._drop_after = drop_after
        self._keeps = keeps
        self.numbered: dict[int, PlanEntry] = {}
        """The plans by number."""
        self._by_digest: dict[bytes, PlanEntry] = {}
        self._held: dict[int, int] = {}
        self._begun = 0
        self._entries = 0
        self._completed = 0
        self._dropped = 0
        self._refused = 0
        self.version = 0
        """Counts changes of `active`."""
        self.active: list[PlanEntry] = []
        self.resting: list[PlanEntry] = []
        self.last: PlanEntry | None = None
        """The plan that was followed to its end last."""
        self.started = False
        """Whether the program has started as it did before."""
        self.proven: list[Plan] = []
        """Plans that were followed to their end for the first time; for whoever keeps them."""

    @property
    def completed(self) -> int:
        """Inferences in plans that were followed to their end."""
        return self._completed

    def statistics(self) -> Mapping[str, int]:
        """Plans by state, and how matching with them went."""
        return {
            "plans": len(self.active),
            "plans_defined": len(self.numbered),
            "plans_dropped": self._dropped,
            "plans_refused": self._refused,
            "plans_begun": self._begun,
            "plans_followed": self._completed,
        }

    def add(self, plan: Plan, start_up: int | None = None) -> PlanEntry | None:
        """Match calls with a plan; returns it if the server has to be told of it first.

        Args:
            plan: The plan.
            start_up: It is what the program does now, once, with so many inferences.
        """
        if plan.digest in self._by_digest:
            return None
        size = len(plan.encoded)
        number = self._number(size)
        if not number or not self._matcher.add(number, plan, start_up=start_up is not None):
            self._refused += 1
            return None
        entry = PlanEntry(number, plan)
        for other in self.numbered.values():
            shared = self._matcher.shared(number, other.number)
            entry.shared[other.number] = other.shared[number] = shared
        self.numbered[number] = self._by_digest[plan.digest] = entry
        self._held[number] = size
        if start_up is not None:
            entry.start_up, entry.inferences, entry.back_at = True, start_up, _NEVER
            self.resting.append(entry)
        else:
            self._activate(entry)
        return entry

    def begin(self, entry: PlanEntry) -> None:
        """A lane begins in this plan."""
        self._begun += 1
        self.enter(entry)

    def enter(self, entry: PlanEntry) -> None:
        """A lane goes on in this plan."""
        self._entries += 1
        entry.used = self._entries

    def complete(self, entry: PlanEntry) -> None:
        """A plan was followed to its end."""
        self._completed += entry.inferences
        if entry.start_up:
            entry.start_up = False
            self.started = True
            return
        if not entry.completed:
            self.proven.append(entry.plan)
        entry.completed += 1
        entry.ended = self._begun
        entry.streak = 0
        entry.rest = _REST
        self.last = entry

    def fail(self, entry: PlanEntry, made: int, now: int) -> None:
        """A plan was left early, or had gaps.

        Args:
            entry: The plan.
            made: Calls of it that were made.
            now: Calls of the session so far.
        """
        entry.failed += 1
        if 2 * made >= len(entry.plan):
            return  # most of it was of use
        entry.streak += 1
        if entry.streak >= self._drop_after and entry.active:
            self._dropped += 1
            entry.back_at = now + entry.rest * self._drop_after * len(entry.plan)
            entry.rest = min(2 * entry.rest, _LONGEST_REST)
            self._rest(entry)

    def wake(self, now: int) -> None:
        """Match again with what has rested long enough; `now` in calls of the session."""
        for entry in [k for k in self.resting if now >= k.back_at]:
            self.resting.remove(entry)
            self._activate(entry)

    def longest(self, entry: PlanEntry, position: int) -> PlanEntry:
        """Of the plans with the same calls up to a position and more, the one completed last."""
        best = entry
        for other in self.active:
            same = other.shared.get(entry.number, 0) >= position < len(other.plan)
            if same and (len(best.plan) <= position or other.ended > best.ended):
                best = other
        return best

    def _number(self, size: int) -> int:
        """A number for a plan of so many bytes, 0 if there is none."""
        held = sum(self._held.values())
        if len(self._held) < MAX_PLANS and held + size <= MAX_DEFINED_BYTES:
            return next(n for n in range(1, MAX_PLANS + 1) if n not in self._held)
        for idle in sorted(self.numbered.values(), key=lambda k: k.used):
            if idle.start_up or (idle.active and self._entries - idle.used < _IDLE_ENTRIES):
                continue
            if self._keeps(idle.number):
                # It is asked to let it go; a plan that is still wanted then is offered again.
                if idle.active:
                    idle.back_at = _NEVER
                    self._rest(idle)
                return 0
            # The server keeps a plan until its number is defined anew.
            if held - self._held[idle.number] + size <= MAX_DEFINED_BYTES:
                self._forget(idle)
                return idle.number
        return 0

    def _forget(self, entry: PlanEntry) -> None:
        if entry.active:
            self._rest(entry)
        self.resting.remove(entry)
        self._matcher.drop(entry.number)
        del self.numbered[entry.number], self._by_digest[entry.plan.digest]

    def _activate(self, entry: PlanEntry) -> None:
        entry.active, entry.streak, entry.used = True, 0, self._entries
        self.version += 1
        self.active.append(entry)
        self._matcher.set_active(entry.number, True)

    def _rest(self, entry: PlanEntry) -> None:
        entry.active = False
        self.version += 1
        self.active.remove(entry)
        self.resting.append(entry)
        self._matcher.set_active(entry.number, False)
        # Its number may come to mean another plan.
        self._left(entry)
