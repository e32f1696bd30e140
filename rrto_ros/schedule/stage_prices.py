"""The best placement of a DAG for a stream of inferences: owns the prices of the stages.

The slowest stage of any placement takes at least the mean of all stages, however they are
weighted. For given weights (prices) the mean is a sum over calls and tensors, so the placement
for which it is least is a minimum cut (`min_cut.py`). So each cut gives a placement and a lower
bound for all placements, and the bound is greatest for prices that a linear program finds: those
for which the placements found so far are dearest (Kelley, "The cutting-plane method for solving
convex programs", J. SIAM 8(4), 1960). It ends where no placement is cheaper than the program says.

The bound need not be reached: to balance stages exactly is as hard as to partition numbers. From
the best placements found, single calls change sides while that helps. What is returned says both
its period and the bound. COACH (arXiv 2501.12388) divides and conquers over a DAG in a way that is
not known to us; this takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import TypeAlias

import numpy as np

from rrto_ros.errors import UnavailableError
from rrto_ros.schedule.costs import Link
from rrto_ros.schedule.min_cut import min_cut
from rrto_ros.schedule.pipeline import EDGE, ROBOT, STAGES
from rrto_ros.schedule.pipelined import Choices, Key, Plan, Task, better, made
from rrto_ros.schedule.problem import Flags, Floats, Indices, Placement, Problem, Tensor
from rrto_ros.schedule.single_cuts import best_cut

ROUNDS = 60
"""Minimum cuts at most."""
ACCURACY = 1e-6
"""The bound is not raised any more for less than this part of it."""
STARTS, STEPS = 4, 40
"""From so many placements single calls change sides, so often at most."""
NEIGHBOURS = 200
"""So many calls at most are tried in a step."""
KEPT = 24
"""So many placements, the best ones, are kept in the end, to be simulated if need be."""
_Judged: TypeAlias = tuple[Key, Flags, tuple[int, ...]]
"""What is minimised, the side of each call, and the tensors that are packed."""


class Loads:
    """What placements take of each stage, and by themselves.

    Args:
        task: What is to be placed.
        choices: Of its tensors.
    """

    def __init__(self, task: Task, choices: Choices) -> None:
        self._task, self._choices = task, choices
        self.problem = task.measured.problem(Link(1.0, 1.0, 0.0))

    def priced(self, prices: Floats) -> Problem:
        """Where what a stage or the latency takes costs its price."""
        task, measured, choices = self._task, self.problem, self._choices
        alone = float(prices[-1]) / task.stream.in_flight
        stage = prices[:-1] + alone
        up, down = ((one @ stage).min(axis=0) for one in (choices.up, choices.down))
        return Problem(
            tuple((measured.arrays.local * stage[ROBOT]).tolist()),
            tuple((measured.arrays.edge * stage[EDGE]).tolist()),
            tuple(
                Tensor(one.producer, one.readers, there, back)
                for one, there, back in zip(
                    measured.tensors, up.tolist(), down.tolist(), strict=True
                )
            ),
            measured.at_robot,
            measured.at_edge,
            task.link.round_trip_s / 2 * alone,
        )

    def crossing(self, sides: Flags) -> tuple[Flags, Flags]:
        """Of each tensor, whether it goes up, and whether it goes down."""
        arrays, tensors = self.problem.arrays, len(self.problem.tensors)
        there = sides[arrays.reader]
        away, here = np.zeros(tensors, np.bool_), np.zeros(tensors, np.bool_)
        away[arrays.read[there]] = True
        here[arrays.read[~there]] = True
        made_there = sides[arrays.producer]
        return away & ~made_there, here & made_there

    def of(self, sides: Flags, stage: Floats) -> tuple[Floats, tuple[int, ...]]:
        """Seconds of each stage and of the latency, and the tensors that are packed.

        Args:
            sides: Of each call, whether it runs at the edge.
            stage: Prices of the stages: a tensor is packed where that is cheaper.
        """
        arrays, choices = self.problem.arrays, self._choices
        out = np.zeros(len(STAGES))
        out[ROBOT] = arrays.local[~sides].sum()
        out[EDGE] = arrays.edge[sides].sum()
        packed = list[int]()
        for some, seconds in zip(self.crossing(sides), (choices.up, choices.down), strict=True):
            at = np.flatnonzero(some)
            narrow = (seconds[1, at] @ stage) < (seconds[0, at] @ stage)
            out += np.where(narrow[:, None], seconds[1, at], seconds[0, at]).sum(axis=0)
            packed += at[narrow].tolist()
        changes = np.count_nonzero(sides[1:] != sides[:-1])
        alone = out.sum() + changes * self._task.link.round_trip_s / 2
        return np.append(out, alone), tuple(packed)

    def best(self, sides: Flags) -> tuple[Key, tuple[int, ...]]:
        """What is minimised, and the tensors that are packed then; asks what accuracy allows."""
        arrays, calls = self.problem.arrays, np.zeros(len(STAGES))
        calls[ROBOT], calls[EDGE] = arrays.local[~sides].sum(), arrays.edge[sides].sum()
        delay = np.count_nonzero(sides[1:] != sides[:-1]) * self._task.link.round_trip_s / 2
        up, down = (np.flatnonzero(some) for some in self.crossing(sides))
        return self._choices.best(calls, delay, up, down)


@dataclass(frozen=True)
class Searched:
    """A search's result, and what it went through.

    Attributes:
        plan: The placement with the shortest period that was found, with a bound for all.
        choices: What is known of the tensors.
        loads: What placements take.
        found: Placements by minimum cuts, each with the prices of the stages.
        bound_s: No placement, and no several in turn, have a shorter period.
    """

    plan: Plan
    choices: Choices
    loads: Loads
    found: list[tuple[Flags, Floats]]
    bound_s: float


def best_placement(task: Task) -> Plan:
    """The placement with the shortest period that is found, and a bound for all.

    It is never worse than the best single cut. Where a stage works twice at an inference, what
    counts is the period that a simulation reaches, first come first served (`Plan.period_s`).

    Raises:
        ConfigError: As `Measured.problem` says.
        UnavailableError: SciPy is not installed.
    """
    return searched(task).plan


def searched(task: Task) -> Searched:
    """As `best_placement`, with what it went through."""
    choices = Choices(task)
    best, loads = best_cut(task, choices), Loads(task, choices)
    if not task.measured.local_s:
        return Searched(best, choices, loads, [], 0.0)
    found, bound = _priced_cuts(task, loads, choices, best.placement)
    bound = max(bound, task.stream.every_s)
    for key, sides, packed in _improved(loads, [sides for sides, _ in found]):
        if not better(key, (best.period_s, best.pipeline.alone_s)):
            break
        plan = made(task, tuple(sides.tolist()), choices.widths(packed))
        if better((plan.period_s, key[1]), (best.period_s, best.pipeline.alone_s)):
            best = plan
    bounded = replace(best, bound_s=min(bound, best.period_s), questions=choices.questions)
    return Searched(bounded, choices, loads, found, bound)


def _priced_cuts(
    task: Task, loads: Loads, choices: Choices, first: Placement
) -> tuple[list[tuple[Flags, Floats]], float]:
    """Placements by minimum cuts, each with the prices of its stages; and the greatest bound."""
    try:
        from scipy.optimize import linprog
    except ImportError as error:
        raise UnavailableError(
            f"best_placement needs SciPy, which cannot be imported ({error}): pip install scipy, "
            "or take a single cut"
        ) from error
    even = np.full(len(STAGES) + 1, 1 / (len(STAGES) + 1))
    found: list[tuple[Flags, Floats]] = []
    for placement in (first, loads.problem.all_local, loads.problem.all_edge):
        sides = np.array(placement, np.bool_)
        _learn(choices, loads, sides)
        found.append((sides, even[:-1]))
    divided = np.array([1.0] * len(STAGES) + [task.stream.in_flight])
    bound, prices = 0.0, even
    for _ in range(ROUNDS):
        problem = loads.priced(prices)
        placement = min_cut(problem)
        # A tensor that turns out to be dearer makes the next cut dearer, not this bound wrong.
        bound = max(bound, problem.cost(placement))
        sides = np.array(placement, np.bool_)
        stage = prices[:-1] + prices[-1] / task.stream.in_flight
        _learn(choices, loads, sides)
        found.append((sides, stage))
        table = np.array([loads.of(*one)[0] / divided for one in found])
        least = table.max(axis=1).min()
        if not least > bound * (1 + ACCURACY):
            break
        # Largest t with t <= prices . loads of each placement, prices that add up to 1.
        rows = np.column_stack([-table / least, np.ones(len(table))])
        result = linprog(
            np.append(np.zeros(len(prices)), -1.0),
            A_ub=rows,
            b_ub=np.zeros(len(rows)),
            A_eq=np.append(np.ones(len(prices)), 0.0)[None],
            b_eq=[1.0],
            bounds=[(0.0, None)] * len(prices) + [(None, None)],
            method="highs",
        )
        if result.x is None or not -result.fun * least > bound * (1 + ACCURACY):
            break
        prices = np.maximum(result.x[:-1], 0.0)
        prices /= prices.sum()
    return found, bound * (1 - ACCURACY)


def _learn(choices: Choices, loads: Loads, sides: Flags) -> None:
    up, down = loads.crossing(sides)
    choices.learn(np.flatnonzero(up | down).tolist())


def _improved(loads: Loads, found: list[Flags]) -> list[_Judged]:
    """The best that single calls which change sides make of the best placements, best first."""
    starts = sorted((_judged(loads, sides) for sides in found), key=_key)
    kept = starts[:KEPT]
    fixed = [*loads.problem.at_robot, *loads.problem.at_edge]
    for now in starts[:STARTS]:
        for _ in range(STEPS):
            tried = (
                _judged(loads, _moved(now[1], call)) for call in _border(loads, now[1], fixed)
            )
            steps = nsmallest(KEPT, tried, key=_key)
            kept = nsmallest(KEPT, [*kept, *steps], key=_key)
            if not steps or not better(steps[0][0], now[0]):
                break
            now = steps[0]
    return kept


def _judged(loads: Loads, sides: Flags) -> _Judged:
    key, packed = loads.best(sides)
    return key, sides, packed


def _key(one: _Judged) -> Key:
    return one[0]


def _border(loads: Loads, sides: Flags, fixed: list[int]) -> Indices:
    """Calls that may change sides: those that write or read what crosses come first."""
    up, down = loads.crossing(sides)
    arrays, some = loads.problem.arrays, up | down
    near = np.zeros(len(sides), np.int64)
    near[arrays.producer[some]] = 1
    near[arrays.reader[some[arrays.read]]] = 1
    near[fixed] = -1
    order = np.argsort(-near, kind="stable")
    return order[near[order] >= 0][:NEIGHBOURS]


def _moved(sides: Flags, call: np.int64) -> Flags:
    out: Flags = sides.copy()
    out[call] = not out[call]
    return out
