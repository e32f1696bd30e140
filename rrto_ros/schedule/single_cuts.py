"""The best single cut for a stream of inferences: owns COACH's search, as far as it is known.

COACH (Gao et al., INFOCOM 2025, arXiv 2501.12388) divides and conquers over the points where a
network can be cut, together with the bits of what crosses, so that the slowest of robot, link and
edge is as fast as can be. Split rule, pruning and complexity are not known to us; these are ours.

A cut at k has the calls before k at the robot and the others at the edge, but for those that are
fixed. Calls ran in an order that suits their DAG, so each k cuts a DAG as well; cuts that go
between its branches are found by `stage_prices.py`.

A range of cuts has a bound: the least that any cut in it takes, with every tensor in the
narrowest width that there is. The range with the least bound is divided at the cut which has it.
That cut's tensors are asked for the widths that accuracy allows; then the two parts are looked at
in turn, and those whose bound is no better than what was found are left out. So the result is
exact, and accuracy is looked at for a few cuts of all. Bounds come from prefix sums: O(n log n)
for n calls, and O(n^2) where accuracy spoils nearly every cut.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np

from rrto_ros.schedule.costs import Link
from rrto_ros.schedule.pipeline import EDGE, ROBOT, STAGES
from rrto_ros.schedule.pipelined import SAME, Choices, Key, Plan, Task, better, made, totals
from rrto_ros.schedule.problem import Floats, Indices, Placement


class Cuts:
    """All single cuts of an inference: what each takes at the least.

    Args:
        task: What is to be placed.
        choices: Of its tensors.

    Attributes:
        stages_s: Of each cut, what calls and what crosses take of each of `STAGES`, at the least.
        alone_s: Of each cut, the latency of an inference by itself, at the least.
    """

    def __init__(self, task: Task, choices: Choices) -> None:
        measured, calls = task.measured, len(task.measured.local_s)
        arrays = measured.problem(Link(1.0, 1.0, 0.0)).arrays
        # A call is at the edge with every cut up to this one, at the robot with those after it.
        until = np.arange(calls)
        until[list(measured.at_robot)] = -1
        until[list(measured.at_edge)] = calls
        self._until, self._choices = until, choices
        first, last = np.full(len(measured.data), calls), np.full(len(measured.data), -1)
        np.minimum.at(first, arrays.read, until[arrays.reader])
        np.maximum.at(last, arrays.read, until[arrays.reader])
        made_until = until[arrays.producer]
        self._up, self._down = (made_until + 1, last), (first + 1, made_until)
        self._calls = np.zeros((calls + 1, len(STAGES)))
        always, never = np.full(calls, calls), np.zeros(calls, np.int64)
        self._calls[:, ROBOT] = _spread(calls + 1, until + 1, always, arrays.local)
        self._calls[:, EDGE] = _spread(calls + 1, never, until, arrays.edge)
        one, other = until[:-1], until[1:]
        changes = _spread(
            calls + 1, np.minimum(one, other) + 1, np.maximum(one, other), np.ones(len(one))
        )
        self._delay = changes * task.link.round_trip_s / 2
        self.stages_s, crossing = self._calls.copy(), np.zeros(calls + 1)
        for (low, high), seconds in ((self._up, choices.up), (self._down, choices.down)):
            crossing += _spread(calls + 1, low, high, totals(seconds).min(axis=0))
            for stage in range(len(STAGES)):
                least = seconds[:, :, stage].min(axis=0)
                self.stages_s[:, stage] += _spread(calls + 1, low, high, least)
        self.alone_s = self._calls.sum(axis=1) + crossing + self._delay

    def placement(self, cut: int) -> Placement:
        """Of the calls."""
        return tuple((cut <= self._until).tolist())

    def best(self, cut: int) -> tuple[Key, tuple[int, ...]]:
        """What a cut takes, and which tensors are packed then; asks what accuracy allows."""
        up, down = (
            np.flatnonzero((low <= cut) & (cut <= high)) for low, high in (self._up, self._down)
        )
        return self._choices.best(self._calls[cut], float(self._delay[cut]), up, down)


def _spread(count: int, low: Indices, high: Indices, value: Floats) -> Floats:
    """Of each cut the sum of values whose range, both ends included, it is in."""
    some = low <= high
    change = np.zeros(count + 1)
    np.add.at(change, low[some], value[some])
    np.subtract.at(change, high[some] + 1, value[some])
    return np.maximum(np.cumsum(change)[:count], 0.0)


def best_cut(task: Task, choices: Choices | None = None) -> Plan:
    """The single cut with the shortest period; of those the one with the least latency.

    The period is exact where `Pipeline.once` says so, as it is unless fixed calls that take time
    stand between others. Better by less than `SAME` is not better. Of many tensors that cross at
    once, with packing that takes time, not every combination is tried (`Choices.best`).

    Args:
        task: What is to be placed.
        choices: Of its tensors, with what is known of them already.

    Raises:
        ConfigError: As `Measured.problem` says.
    """
    choices = choices or Choices(task)
    cuts = Cuts(task, choices)
    slowest = cuts.stages_s.max(axis=1)
    stream = task.stream
    periods = np.maximum(np.maximum(slowest, cuts.alone_s / stream.in_flight), stream.every_s)
    # Where rounding alone makes a difference, the least latency decides.
    periods *= 1 - SAME
    order = np.empty(len(periods), np.int64)
    order[np.lexsort((cuts.alone_s, periods))] = np.arange(len(periods))

    def ranged(low: int, high: int) -> tuple[int, int, int, int]:
        cut = low + int(order[low:high].argmin())
        return int(order[cut]), cut, low, high

    best, found = (np.inf, np.inf), 0
    packed: tuple[int, ...] = ()
    ranges = [ranged(0, len(periods))]
    while ranges:
        _, cut, low, high = heapq.heappop(ranges)
        if periods[cut] > best[0]:
            break
        if cuts.alone_s[cut] * (1 - SAME) < best[1] or periods[cut] < best[0] * (1 - 2 * SAME):
            key, its = cuts.best(cut)
            if better(key, best):
                best, found, packed = key, cut, its
        for part in ((low, cut), (cut + 1, high)):
            if part[0] < part[1]:
                heapq.heappush(ranges, ranged(*part))
    plan = made(task, cuts.placement(found), choices.widths(packed))
    return replace(plan, questions=choices.questions)
