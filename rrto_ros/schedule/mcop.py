"""MCOP's heuristic: owns a placement found by phases of merging, as published.

Wu, Sun, Wolter et al., "An Optimal Offloading Partitioning Algorithm in Mobile Cloud Computing"
(arXiv 1510.07986; IEEE TPDS 2019). Calls that cannot be offloaded are merged into one, the start.
A phase adds, from there, again and again the call v with the largest
w(A, v) - (local(v) - edge(v)), where A is what it has added. Of the last two the later one, t, is
the phase's cut: what has been merged into it goes to the edge, the rest stays. Then t is merged
into the other of the two.

The heuristic is not exact, whatever its title says: the order of Stoer and Wagner guarantees
minimum cuts where only edges have weights. It is here to be compared with `min_cut`.

Where we depart:
- Edges of the paper have no direction and two ends. A tensor becomes an edge to each of its
  readers, each with the mean of its costs up and down; neighbours in call order have an edge of
  the switch's cost.
- Phases' cuts are compared by the problem's own cost (a tensor paid once, each way at its own
  price), and with all-local and all-edge at last. The weights above only lead the search.
- Calls that are fixed at the edge are merged, too, and come last in every phase.
- A heap finds the next call: O(V^2 log V + V E), not O(V^3).
"""

from __future__ import annotations

import heapq
from collections import defaultdict

from rrto_ros.schedule.problem import Placement, Problem


class _Groups:
    """Calls that have been merged, and the edges between them.

    Attributes:
        members: Calls of each group, by its name: one of them.
        gain: What each group saves at the edge.
        edges: Weights of each group's edges.
    """

    def __init__(self, problem: Problem) -> None:
        calls = range(len(problem.local))
        self.members = {call: {call} for call in calls}
        self.gain = {call: problem.local[call] - problem.edge[call] for call in calls}
        self.edges: dict[int, dict[int, float]] = {call: defaultdict(float) for call in calls}
        for tensor in problem.tensors:
            for reader in set(tensor.readers):
                self._join(tensor.producer, reader, (tensor.up + tensor.down) / 2)
        for call in calls[1:]:
            self._join(call - 1, call, problem.switch)

    def _join(self, one: int, other: int, weight: float) -> None:
        if one != other and weight:
            self.edges[one][other] += weight
            self.edges[other][one] += weight

    def merge(self, into: int, group: int) -> None:
        """One group becomes part of another."""
        self.members[into] |= self.members.pop(group)
        self.gain[into] += self.gain.pop(group)
        for other, weight in self.edges.pop(group).items():
            del self.edges[other][group]
            self._join(into, other, weight)

    def phase(self, start: int, last: int | None) -> tuple[int, int]:
        """The last two groups that a phase adds; `last` is one that it does not add before."""
        weight = {group: -gain for group, gain in self.gain.items() if group not in (start, last)}
        heap = [(-value, group) for group, value in weight.items()]
        heapq.heapify(heap)
        before, added = start, start
        while True:
            for other, more in self.edges[added].items():
                if other in weight:
                    weight[other] += more
                    heapq.heappush(heap, (-weight[other], other))
            # An entry whose group was added, or has got heavier since, is left lying.
            while heap and (heap[0][1] not in weight or -heap[0][0] != weight[heap[0][1]]):
                heapq.heappop(heap)
            if not heap:
                return (before, added) if last is None else (added, last)
            before, added = added, heap[0][1]
            del weight[added]


def mcop(problem: Problem) -> Placement:
    """A placement that is often the cheapest; never dearer than all-local or all-edge.

    Without a call that is fixed at the robot, the first one that may run there is the start.
    """
    calls = len(problem.local)
    best = problem.cheapest((problem.all_local, problem.all_edge))
    least = problem.cost(best)
    groups = _Groups(problem)
    robot = sorted(problem.at_robot)
    robot = robot or [call for call in range(calls) if call not in problem.at_edge][:1]
    edge = sorted(problem.at_edge)
    if not robot:
        return best
    for fixed in (robot, edge):
        for call in fixed[1:]:
            groups.merge(fixed[0], call)
    start, last = robot[0], (edge[0] if edge else None)
    while len(groups.members) > 1:
        before, cut = groups.phase(start, last)
        there = groups.members[cut]
        placement = tuple(call in there for call in range(calls))
        cost = problem.cost(placement)
        if cost < least:
            best, least = placement, cost
        if before == start and last is not None:
            break
        # What is fixed keeps its name, and the start is never the one that is merged away.
        if last is not None:
            groups.merge(cut, before)
        else:
            groups.merge(before, cut)
    return best
