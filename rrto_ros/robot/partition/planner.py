"""Which placement each plan of a partitioned session has: owns learning it, and changing it.

A plan that has come back a few times is looked at: its next inferences are timed where they run,
and executed once more at the robot, after the program has what it waits for. What both places
tell (`wire/profiles.py`) and the link as its transfers show it give the placement
(`schedule/`), which is looked up anew at each inference, with hysteresis.

While nothing of a plan crosses the link nothing measures it; so now and then an upload goes to the
edge, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from rrto_ros.api.choices import EXACT
from rrto_ros.api.ops import Effect, Kind, Op, Work
from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.robot.partition.placed import HOME, PLACES, ROBOT, Placed
from rrto_ros.schedule.algorithms import algorithm
from rrto_ros.schedule.coarse import CoarsePlan, Step, coarse_plan
from rrto_ros.schedule.costs import Data, Measured
from rrto_ros.schedule.dataflow import Touched, flows, self_contained
from rrto_ros.schedule.hysteresis import Chooser
from rrto_ros.schedule.intervals import without
from rrto_ros.schedule.power import Power
from rrto_ros.schedule.problem import Placement
from rrto_ros.schedule.rates import RateTable, rate_table
from rrto_ros.wire.accesses import Range, Typed, merged
from rrto_ros.wire.codec import CallRecord, decode_call, iter_headers
from rrto_ros.wire.plan import Plan
from rrto_ros.wire.profiles import ProfiledCall, ProfileReader
from rrto_ros.wire.result_codec import ResultRecord

LOOKED_AT_AFTER = 2
"""Inferences of a plan before it is looked at."""
SAMPLES = 3
"""Inferences that are timed."""
MOST_OTHERS = 32
"""Inferences of other plans, after which one that is being timed does not come back."""
PROBE_S = 5.0
"""The link is measured at least so often."""
UNMEASURED_BYTES_PER_S = 12.5e6
"""A link on which no message was long enough to measure it: with short ones it hardly counts."""
TRIES = 32
"""Inferences in which it is looked again for types of elements that were not known yet."""
_LEAST_RATE = 1e3


class Way(Protocol):
    """How the edge is reached, as transfers show it."""

    @property
    def bytes_per_s(self) -> float:
        """0 as long as it is not known."""
        ...

    @property
    def round_trip_s(self) -> float:
        """Of an exchange at least; 0 as long as it is not known."""
        ...


@dataclass(frozen=True)
class Aim:
    """What placements are chosen for.

    Attributes:
        algorithm: One of `schedule.algorithms.ALGORITHMS`.
        objective: One of `api.choices.OBJECTIVES`.
        power: Of the robot, for energy.
        transfer_precision: One of `api.choices.TRANSFER_PRECISIONS`.
        accuracy_budget: With `adaptive`: relative error that no output may exceed.
    """

    algorithm: str = "min_cut"
    objective: str = "latency"
    power: Power | None = None
    transfer_precision: str = EXACT
    accuracy_budget: float = 0.005


@dataclass
class _Learnt:
    """What is known of a plan.

    Attributes:
        number: Under which its profile is asked for.
        plan: It.
        uses: Inferences that began.
        samples: Those that were timed.
        asked: Whether both places were asked for it.
        refused: Whether it stays at home.
        profiles: What each place told.
        code: `Knowledge.code` when it was asked.
        calls: Its calls' touches, once known.
        contained: Whether its inferences are self-contained, and nobody was told so.
        covers: What each writes for certain.
        coarse: What may come coarsely, once known.
        tries: How often that may still be looked for: kernels are looked at beside the calls.
        measured: What they cost, once known.
        chooser: Of placements, once there is a link.
        placement: As it is.
        placed: The same for the session.
    """

    number: int
    plan: Plan
    code: object = None
    uses: int = 0
    samples: int = 0
    asked: bool = False
    refused: bool = False
    profiles: dict[int, ProfileReader] = field(default_factory=dict)
    calls: tuple[Touched, ...] = ()
    contained: bool = False
    covers: tuple[tuple[Range, ...], ...] = ()
    coarse: CoarsePlan | None = None
    tries: int = TRIES
    measured: Measured | None = None
    chooser: Chooser | None = None
    placement: Placement | None = None
    placed: Placed | None = None


class Planner:
    """One session's. Not thread-safe.

    Args:
        aim: What placements are chosen for.
        way: To the edge.
        now: Monotonic seconds.
        typed: Which elements a call of work may access; for `transfer_precision: adaptive`.
    """

    def __init__(
        self,
        aim: Aim,
        way: Way,
        now: Callable[[], float] = time.monotonic,
        typed: Callable[[CallRecord], Typed | None] = lambda _: None,
    ) -> None:
        self._aim = aim
        self._solve = algorithm(aim.algorithm)
        self._way = way
        self._now = now
        self._typed = typed
        self._plans: dict[int, _Learnt] = {}
        self._numbers: dict[int, _Learnt] = {}
        self._next = 1
        self._measured_at = 0.0
        self._timed: _Learnt | None = None
        self._others = 0
        self._changes = self._refused = 0
        self._last_refusal = ""

    def defined(self, number: int, plan: Plan) -> None:
        """A plan has a number from now on."""
        learnt = self._learn(number, plan)
        makes = next((call.op.name for call in plan.calls if _shapes(call.op)), "")
        if makes:
            # It could not be executed a second time, to be timed at the robot.
            self._refuse(learnt, f"{makes} is part of the inference")

    def begins(self, number: int, code: object) -> bool:
        """An inference of a plan begins; whether it is to be timed."""
        learnt = self._plans.get(number)
        if learnt is None or learnt.refused:
            return False
        if learnt.asked and learnt.code != code:
            # Its kernels may be others: what is known of it is of the old ones.
            learnt = self._learn(number, learnt.plan)
        learnt.uses += 1
        if learnt.asked or learnt.uses <= LOOKED_AT_AFTER or not self._turn_of(learnt):
            return False
        if not learnt.samples:
            learnt.code = code
        return learnt.code == code

    def profile_of(self, number: int) -> int:
        """Under which number a plan's profile is asked for."""
        return self._plans[number].number

    def timed(self, number: int) -> bool:
        """An inference was timed to its end at all places; whether the profile is to be told."""
        learnt = self._plans[number]
        learnt.samples += 1
        learnt.asked = learnt.samples >= SAMPLES
        if learnt.asked:
            self._timed = None
        return learnt.asked

    def left(self, number: int) -> None:
        """A program left an inference that was being timed: what was found is of other calls."""
        learnt = self._plans.get(number)
        if learnt is not None:
            self._learn(number, learnt.plan).uses = learnt.uses

    def arrived(self, place: int, result: ResultRecord, memory: Sequence[Range]) -> None:
        """A place tells a piece of a profile.

        Raises:
            ProtocolError: It is no profile.
        """
        learnt = self._numbers.get(result.index)
        if learnt is None:
            return
        reader = learnt.profiles.setdefault(place, ProfileReader(learnt.number))
        reader.take(result)
        if reader.error:
            self._refuse(learnt, reader.error)
        elif len(learnt.profiles) == PLACES and all(r.done for r in learnt.profiles.values()):
            try:
                self._understand(learnt, memory)
            except ConfigError as error:
                self._refuse(learnt, str(error))

    def placed(self, number: int) -> Placed | None:
        """Where an inference that begins now runs; None: at home."""
        learnt = self._plans.get(number)
        if learnt is None or learnt.measured is None:
            return None
        rate, trip = self._way.bytes_per_s, self._way.round_trip_s
        if not trip:
            return None
        try:
            if learnt.chooser is None:
                learnt.chooser = Chooser(self._table(learnt.measured, trip))
            elif learnt.chooser.stale(trip):
                learnt.chooser.renew(self._table(learnt.measured, trip))
        except ConfigError as error:
            self._refuse(learnt, str(error))
            return None
        placement = learnt.chooser.choose(
            max(rate or UNMEASURED_BYTES_PER_S, _LEAST_RATE), self._now()
        )
        found = self._look_for_types(learnt)
        if learnt.placed is None or placement != learnt.placement or found:
            self._changes += placement != learnt.placement
            learnt.placement = placement
            measured = learnt.measured
            learnt.placed = Placed(
                learnt.code,
                tuple(HOME if away else ROBOT for away in placement),
                learnt.calls,
                tuple(call.op.work is not Work.NONE for call in learnt.plan.calls),
                learnt.coarse,
                sum(measured.edge_s[k] if away else measured.local_s[k]
                    for k, away in enumerate(placement)),
            )  # fmt: skip
        return learnt.placed

    def contained(self, number: int, code: object) -> bool:
        """Whether it is to be told now that a plan's inferences are self-contained."""
        learnt = self._plans.get(number)
        if learnt is None or not learnt.contained or learnt.code != code:
            return False
        learnt.contained = False
        return True

    def probes(self, crosses: bool) -> bool:
        """Whether an upload is to go to the edge although nobody reads it there.

        Args:
            crosses: Whether it goes there anyway.
        """
        now = self._now()
        if crosses or now - self._measured_at > PROBE_S:
            self._measured_at = now
            return not crosses
        return False

    def statistics(self) -> dict[str, int | float | str]:
        """Plans known and placed, changes of placements, and what stood in the way last."""
        learnt = self._plans.values()
        return {
            "plans": len(self._plans),
            "understood": sum(one.measured is not None for one in learnt),
            "calls_at_robot": sum(
                one.placement.count(False) for one in learnt if one.placement is not None
            ),
            "calls_at_edge": sum(
                one.placement.count(True) for one in learnt if one.placement is not None
            ),
            "changes": self._changes,
            "refused": self._refused,
            "last_refusal": self._last_refusal,
        }

    def _look_for_types(self, learnt: _Learnt) -> bool:
        """Find what may come coarsely, if anything is to; whether more is known than before."""
        if self._aim.transfer_precision == EXACT or not learnt.tries:
            return False
        learnt.tries -= 1
        plan, calls = learnt.plan, learnt.calls
        steps: list[Step] = []
        streams: set[int] = set()
        for call, touched, covers in zip(plan.calls, calls, learnt.covers, strict=True):
            work = call.op.work is not Work.NONE
            typed = None
            if work:
                view = memoryview(call.record(0))
                record = decode_call(view, next(iter_headers(view)))
                streams.add(record["stream"])
                typed = self._typed(record)
                known = touched.reads is not None and touched.writes is not None
                if typed is None and known and learnt.tries:
                    return False
            steps.append(Step(touched, covers, typed, call.op.brings_memory, work))
        learnt.tries = 0
        learnt.coarse = coarse_plan(steps)
        if any(calls[k].reads or calls[k].writes for k in plan.ranges):
            # What it touches next time is not known, so nobody could say what comes of it twice.
            learnt.coarse = replace(learnt.coarse, refused="a call of it varies")
        if len(streams) > 1:
            learnt.coarse = replace(learnt.coarse, refused="its work is in several streams")
        return True

    def _learn(self, number: int, plan: Plan) -> _Learnt:
        old = self._plans.get(number)
        if old is not None:
            self._numbers.pop(old.number, None)
            self._timed = None if self._timed is old else self._timed
        learnt = self._plans[number] = _Learnt(self._next, plan)
        self._numbers[self._next] = learnt
        self._next += 1
        return learnt

    def _turn_of(self, learnt: _Learnt) -> bool:
        """Whether a plan may be timed now: a place keeps the times of one plan."""
        if self._timed is not learnt:
            self._others += 1
            if self._timed is not None and self._others < MOST_OTHERS:
                return False
            self._timed = learnt
            # What a place had found of it is forgotten there.
            learnt.samples = 0
        self._others = 0
        return True

    def _refuse(self, learnt: _Learnt, why: str) -> None:
        """This plan stays at home."""
        self._refused += 1
        self._last_refusal = why
        self._numbers.pop(learnt.number, None)
        learnt.measured = None
        learnt.refused = True

    def _table(self, measured: Measured, round_trip_s: float) -> RateTable:
        aim = self._aim
        return rate_table(
            measured, round_trip_s, objective=aim.objective, power=aim.power, solve=self._solve
        )

    def _understand(self, learnt: _Learnt, memory: Sequence[Range]) -> None:
        """Both places have told all: what its calls cost and hand on."""
        self._numbers.pop(learnt.number, None)
        count = len(learnt.plan)
        by_call = {place: _by_call(told.calls, count) for place, told in learnt.profiles.items()}
        calls = tuple(_touched(pieces) for pieces in by_call[HOME])
        work = [call.op.work is not Work.NONE for call in learnt.plan.calls]
        constant = [any(piece.constant for piece in pieces) for pieces in by_call[HOME]]
        unknown = [touched.reads is None or touched.writes is None for touched in calls]
        times = {
            place: [sum(p.typical for p in pieces) * does for pieces, does in
                    zip(found, work, strict=True)]
            for place, found in by_call.items()
        }  # fmt: skip
        learnt.measured = Measured(
            local_s=tuple(times[ROBOT]),
            edge_s=tuple(times[HOME]),
            data=tuple(
                Data(t.producer, t.readers, 0 if constant[t.producer] else t.bytes, t.bytes)
                for t in flows(calls, memory)
            ),
            at_robot=frozenset(
                n for n, call in enumerate(learnt.plan.calls)
                if call.op.kind is Kind.INPUT or call.op.brings_memory
            ),
            at_edge=frozenset(n for n, what in enumerate(unknown) if what and work[n]),
        )  # fmt: skip
        learnt.calls = calls
        learnt.contained = self_contained(calls)
        learnt.covers = tuple(
            tuple(merged(span for piece in pieces for span in piece.covers))
            for pieces in by_call[HOME]
        )
        learnt.profiles.clear()


def _shapes(op: Op) -> bool:
    """Whether an operation makes or gives back something, or changes a graph."""
    return op.effect is not Effect.NONE or op.kind in (Kind.SETUP, Kind.CLOSE)


def _by_call(found: Sequence[ProfiledCall], count: int) -> list[list[ProfiledCall]]:
    out: list[list[ProfiledCall]] = [[] for _ in range(count)]
    for piece in found:
        if piece.call >= count:
            raise ProtocolError(f"profile of call {piece.call} of a plan of {count}")
        out[piece.call].append(piece)
    return out


def _touched(pieces: Sequence[ProfiledCall]) -> Touched:
    """What a call touches: all nodes of a graph as one.

    What it may write and does not certainly overwrite is among what it reads here, so that nobody
    has to work that out again for every inference: what is certain may be thousands of ranges.
    """
    if any(piece.reads is None or piece.writes is None for piece in pieces):
        return Touched(None, None)
    writes = merged(span for piece in pieces for span in piece.writes or ())
    reads: list[Range] = []
    made: list[Range] = []
    for piece in pieces:
        # What an earlier node made for certain does not come from outside.
        reads += without([*(piece.reads or ()), *without(piece.writes or (), piece.covers)], made)
        made += piece.covers
    return Touched(tuple(merged(reads)), tuple(writes), tuple(writes))
