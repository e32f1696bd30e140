"""Placements that inferences take in turn: owns the shares in which several are the best together.

Where robot and edge are both slow in their way (a slow link), one inference after the other can
go to the edge while others stay at the robot: no placement is best, but two of them together are.
The bound of `stage_prices.py` is that of such a mixture: the linear program whose dual it solves
gives each placement found a share, so that the mean of every stage's busy time is at most the
period. At most five shares are more than nothing, one for each stage and one for the latency.

Design of this project (column generation as in Gilmore and Gomory, "A linear programming approach
to the cutting-stock problem", Operations Research 9(6), 1961). COACH has one cut at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rrto_ros.errors import UnavailableError
from rrto_ros.schedule.fifo import passed
from rrto_ros.schedule.pipeline import STAGES
from rrto_ros.schedule.pipelined import SIMULATED, Plan, Task, made
from rrto_ros.schedule.stage_prices import searched

LEAST = 1e-3
"""A share below this is none."""


@dataclass(frozen=True)
class Turns:
    """Placements that inferences take in turn.

    Attributes:
        plans: The placements.
        shares: Of all inferences, of each; they add up to 1.
        period_s: From result to result, on average, as simulated: first come, first served.
        bound_s: No placements in any shares have a shorter period.
        single: The best placement for all of them, to compare with.
    """

    plans: tuple[Plan, ...]
    shares: tuple[float, ...]
    period_s: float
    bound_s: float
    single: Plan

    @property
    def alone_s(self) -> float:
        """Latency of an inference by itself, on average."""
        parts = zip(self.plans, self.shares, strict=True)
        return sum(plan.pipeline.alone_s * share for plan, share in parts)

    def order(self, count: int) -> list[int]:
        """Which plan each of so many inferences takes: the one that is furthest behind its share.

        The first of equal ones is taken.
        """
        taken, shares = np.zeros(len(self.plans)), np.array(self.shares)
        out = []
        for n in range(1, count + 1):
            plan = int(np.argmax(shares * n - taken))
            taken[plan] += 1
            out.append(plan)
        return out


def best_turns(task: Task) -> Turns:
    """The placements which, taken in turn, have the shortest period; one where that is as good.

    Results of different placements may come in another order than their inputs, but within a
    stream, which waits. An inference's latency is that of the placement whose turn it is.

    Raises:
        ConfigError: As `Measured.problem` says.
        UnavailableError: SciPy is not installed.
    """
    search = searched(task)
    best, choices = search.plan, search.choices
    one = Turns((best,), (1.0,), best.period_s, best.bound_s, best)
    if not task.measured.local_s:
        return one
    try:
        from scipy.optimize import linprog
    except ImportError as error:
        raise UnavailableError(
            f"best_turns needs SciPy, which cannot be imported ({error}): pip install scipy, or "
            "take a single cut"
        ) from error
    told = [search.loads.of(*cut) for cut in search.found]
    divided = np.array([1.0] * len(STAGES) + [task.stream.in_flight])
    table = np.array([seconds for seconds, _ in told]) / divided
    scale = table.max(axis=1).min()
    if not scale > 0:
        return one
    # Least period that the mean of each column keeps below, shares that add up to 1.
    result = linprog(
        np.append(np.zeros(len(table)), 1.0),
        A_ub=np.column_stack([table.T / scale, -np.ones(table.shape[1])]),
        b_ub=np.zeros(table.shape[1]),
        A_eq=np.append(np.ones(len(table)), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0.0, None)] * (len(table) + 1),
        method="highs",
    )
    if result.x is None:
        return one
    some = np.flatnonzero(result.x[:-1] >= LEAST)
    shares = result.x[some] / result.x[some].sum()
    plans = tuple(
        made(task, tuple(search.found[n][0].tolist()), choices.widths(told[n][1]))
        for n in some.tolist()
    )
    mixed = Turns(plans, tuple(shares.tolist()), math.inf, search.bound_s, best)
    count = SIMULATED * task.stream.in_flight
    turns = [plans[n].pipeline for n in mixed.order(count)]
    period = passed(turns, task.stream, count).period_s
    if not period < one.period_s:
        return one
    return replace(mixed, period_s=period, bound_s=min(search.bound_s, period))
