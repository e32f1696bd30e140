"""Speculative execution, the robot's half: owns what the server may execute, and if it is called.

After a reference the server may execute the plan's next calls. As long as the session's next call
is the one that it expects, its results are the program's; any other call ends the
speculation (docs/replay.md, "Speculative execution").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rrto_ros.robot.replay.open_reference import OpenReference
from rrto_ros.robot.replay.plan_entries import PlanEntries, PlanEntry
from rrto_ros.robot.replay.speculative_results import SpeculativeResults
from rrto_ros.wire.format import FLAG_REPLY, FLAG_SPECULATIVE, FLAG_WAITED, Buffer
from rrto_ros.wire.reference import Reference


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
    """What the server executes speculatively in one session. Not thread-safe.

    Args:
        results: What it pushes; None if it is not to.

    Attributes:
        answers: Result records for the program, since they were last taken.
    """

    def __init__(self, results: SpeculativeResults | None) -> None:
        self._results = results
        self._run: _Run | None = None
        self.answers: list[Buffer] = []

    def announce(self, open_: OpenReference, plans: PlanEntries) -> None:
        """Let the server execute what follows a reference that leaves now."""
        results = self._results
        position, index = open_.first + open_.count, open_.index + open_.count
        if results is None or not results.may(index):
            return
        worth_us = results.worth_us
        entry = plans.longest(open_.entry, position)
        count = entry.plan.speculative(position, writes=worth_us > 0)
        if count:
            # The calls up to here are the same in both.
            open_.entry, open_.speculative, open_.worth_us = entry, count, worth_us
            results.announce(index, count)
            self._run = _Run(entry, position, index, open_.thread, index + count)

    def plan(
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
        """Answer an expected call from what the server pushed.

        Returns:
            The flags that it has in the reference, and whether it was answered.
        """
        if not flags & FLAG_REPLY or self._results is None:
            return flags, False
        record = self._results.take(index, waited=bool(flags & FLAG_WAITED))
        if record is not None:
            self.answers.append(record)
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
            found = self.plan(entry, position, ref.thread, ref.index + call)
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
        last = open_.index + open_.count - 1
        return self._results is not None and self._results.comes(last)

    def take_answers(self) -> list[Buffer]:
        """What the program gets; each once."""
        answers, self.answers = self.answers, []
        return answers

    def leave(self, entry: PlanEntry) -> None:
        """A plan must not be named any longer."""
        if self._run is not None and self._run.entry is entry:
            self.drop()

    def drop(self) -> None:
        """The program goes on in another way, or it is no longer known how."""
        self._run = None
        if self._results is not None:
            self._results.drop()
