"""Where the calls of a plan run, and who says and knows what a partitioned session asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from rrto_ros.schedule.coarse import CoarsePlan, Kinds, stretch
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.schedule.intervals import without
from rrto_ros.wire.accesses import Range, merged
from rrto_ros.wire.codec import CallRecord
from rrto_ros.wire.plan import Plan
from rrto_ros.wire.result_codec import ResultRecord

ROBOT, HOME = 0, 1
"""The places: the robot's own, and the edge's, where everything is that has no other place."""
BOTH = (ROBOT, HOME)
PLACES = len(BOTH)


@dataclass(frozen=True)
class Placed:
    """Where the calls of a plan run.

    Attributes:
        code: `Knowledge.code` for which this holds.
        places: Of each call; it counts for work only.
        touched: What each call touches if nothing in it varies.
        work: Whether each call is work.
        coarse: What may come coarsely; None: nothing, ever.
        busy_s: What its calls take, without transfers.
    """

    code: object
    places: tuple[int, ...]
    touched: tuple[Touched, ...]
    work: tuple[bool, ...]
    coarse: CoarsePlan | None = None
    busy_s: float = 0.0

    @cached_property
    def crosses(self) -> bool:
        """Whether some of its work is at the edge: what is handed over then measures the link."""
        return any(does and at == HOME for does, at in zip(self.work, self.places, strict=True))

    @cached_property
    def wanted(self) -> dict[int, Touched]:
        """What the calls from one on read of what was there before, up to the next change.

        Of each call with which work begins at a place. What a stretch reads is brought at once:
        one exchange for all of it, and not one for each call.
        """
        return {start: found for start, (found, _) in self._stretches.items()}

    @cached_property
    def coarse_wanted(self) -> dict[int, Kinds]:
        """What of that may come coarsely."""
        assert self.coarse is not None
        reads = self.coarse.reads
        return {
            start: stretch(((self.touched[k], reads[k]) for k in calls), wanted)
            for start, (wanted, calls) in self._stretches.items()
        }

    @cached_property
    def _stretches(self) -> dict[int, tuple[Touched, list[int]]]:
        """Calls of work that run at one place one after the other, and what they want."""
        out: dict[int, tuple[Touched, list[int]]] = {}
        start = before = -1
        reads: list[Range] = []
        made: list[Range] = []
        calls: list[int] = []
        for k, (place, touched) in enumerate(zip(self.places, self.touched, strict=True)):
            if not self.work[k]:
                if touched.writes:
                    before = -1  # an upload: what comes after it reads something else
                continue
            if place != before:
                start, before, reads, made, calls = k, place, [], [], []
            calls.append(k)
            reads += without(
                [*(touched.reads or ()), *without(touched.writes or (), touched.covers)], made
            )
            made = merged([*made, *touched.covers])
            out[start] = Touched(reads=tuple(merged(reads))), calls
        return out


class Chooses(Protocol):
    """Says where plans run (`planner.Planner`)."""

    def defined(self, number: int, plan: Plan) -> None:
        """A plan has a number from now on."""
        ...

    def begins(self, number: int, code: object) -> bool:
        """An inference of a plan begins; whether it is to be timed."""
        ...

    def profile_of(self, number: int) -> int:
        """Under which number a plan's profile is asked for."""
        ...

    def timed(self, number: int) -> bool:
        """An inference was timed to its end; whether the profile is to be told."""
        ...

    def left(self, number: int) -> None:
        """A program left an inference that was being timed."""
        ...

    def arrived(self, place: int, result: ResultRecord, memory: Sequence[Range]) -> None:
        """A place tells a piece of a profile."""
        ...

    def placed(self, number: int) -> Placed | None:
        """Where an inference that begins now runs; None: at home."""
        ...

    def contained(self, number: int, code: object) -> bool:
        """Whether it is to be told now that a plan's inferences are self-contained."""
        ...

    def probes(self, crosses: bool) -> bool:
        """Whether an upload is to go to the edge although nobody reads it there."""
        ...


class Knowledge(Protocol):
    """What is known of a session's calls."""

    @property
    def code(self) -> object:
        """Another value whenever modules or graphs are others."""
        ...

    @property
    def memory(self) -> Sequence[Range]:
        """Live memory."""
        ...

    def follow(self, record: CallRecord) -> None:
        """A call is executed."""
        ...

    def loaded(self, record: CallRecord, info: bytes) -> None:
        """A module was loaded, and this was the answer."""
        ...

    def touched(self, record: CallRecord) -> Touched:
        """What a call touches."""
        ...

    def written(self, record: CallRecord) -> Touched:
        """What a call of work may write, and nothing of what it reads."""
        ...
