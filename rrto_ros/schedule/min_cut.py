"""The cheapest placement: owns its construction as a minimum cut, which SciPy finds.

The source's side of the cut is the robot, the sink's the edge. A call whose time is shorter at the
edge has an arc to the sink, which is cut if it stays; one whose time is longer there an arc from
the source. A tensor with one reader is an arc each way between the two calls. With several it
has two vertices of its own, so that it is paid once in each direction, however many read it:

    producer --up--> a --infinite--> each reader        b --down--> producer
                                                        each reader --infinite--> b

Neighbours in call order have arcs of the switch's cost both ways; what is fixed hangs on its
terminal by an infinite arc. The graph may have circles (what one inference leaves for the next).

The single auxiliary vertex for outputs with several readers is that of DADS (Hu et al., "Dynamic
Adaptive DNN Surgery for Inference Acceleration on the Edge", INFOCOM 2019). We depart from it: the
way back has a cost, too, so calls may return to the robot; and each change of side has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rrto_ros.errors import UnavailableError
from rrto_ros.schedule.problem import Floats, Indices, Placement, Problem

INFINITE = (1 << 30) - 1
"""SciPy's capacities are int32, and it adds those of the two directions between two vertices."""


@dataclass(frozen=True)
class _Arcs:
    """Arcs of the graph.

    Attributes:
        tail: Vertex of each.
        head: Vertex of each.
        capacity: Of each; infinite ones are that.
        vertices: How many there are; the source is the last but one, the sink the last.
    """

    tail: Indices
    head: Indices
    capacity: Floats
    vertices: int


def min_cut(problem: Problem) -> Placement:
    """The placement that costs least; of those that cost the same, one with few calls at the edge.

    Costs become whole numbers, of which the better of all-local and all-edge (without what every
    placement pays) costs about 2^30. So a placement may be missed that is cheaper by less than one
    part in 2^30 of that for each call, tensor and switch. What is returned is compared with
    all-local and all-edge by its exact cost.

    Raises:
        UnavailableError: SciPy is not installed.
    """
    placements = [problem.all_local, problem.all_edge]
    bound = min(_avoidable(problem, one) for one in placements)
    if bound > 0:
        placements.append(_cut(problem, bound))
    return problem.cheapest(placements)


def _gain(problem: Problem) -> Floats:
    """What each call saves at the edge; 0 for what is fixed."""
    gain = problem.arrays.local - problem.arrays.edge
    gain[[*problem.at_robot, *problem.at_edge]] = 0.0
    return gain


def _avoidable(problem: Problem, placement: Placement) -> float:
    """What a placement pays beyond what each call costs where it is cheaper: the cut's value."""
    gain, sides = _gain(problem), np.array(placement, np.bool_)
    parts = problem.parts(placement)
    missed = np.where(sides, np.maximum(-gain, 0), np.maximum(gain, 0))
    return math.fsum([*missed.tolist(), parts.up, parts.down, parts.changes * problem.switch])


def _arcs(problem: Problem) -> _Arcs:
    arrays, calls = problem.arrays, len(problem.local)
    readers = np.bincount(arrays.read, minlength=len(problem.tensors))
    several = np.flatnonzero(readers > 1)
    above = np.zeros(len(problem.tensors), np.int64)
    above[several] = calls + 2 * np.arange(len(several))
    source = calls + 2 * len(several)
    sink = source + 1
    gain = _gain(problem)
    stay, go = np.flatnonzero(gain < 0), np.flatnonzero(gain > 0)
    alone = readers[arrays.read] == 1
    one, its_reader = arrays.read[alone], arrays.reader[alone]
    many, their_reader = above[arrays.read[~alone]], arrays.reader[~alone]
    before, after = np.arange(calls - 1), np.arange(1, calls)
    robot, edge = (
        np.array(sorted(pins), np.int64) for pins in (problem.at_robot, problem.at_edge)
    )
    pieces: list[tuple[Indices | int, Indices | int, Floats | float]] = [
        (source, stay, -gain[stay]),
        (go, sink, gain[go]),
        (source, robot, math.inf),
        (edge, sink, math.inf),
        (arrays.producer[one], its_reader, arrays.up[one]),
        (its_reader, arrays.producer[one], arrays.down[one]),
        (arrays.producer[several], above[several], arrays.up[several]),
        (above[several] + 1, arrays.producer[several], arrays.down[several]),
        (many, their_reader, math.inf),
        (their_reader, many + 1, math.inf),
        (before, after, problem.switch),
        (after, before, problem.switch),
    ]
    wide = [np.broadcast_arrays(*piece) for piece in pieces]
    tail, head, capacity = (np.concatenate(column) for column in zip(*wide, strict=True))
    return _Arcs(tail, head, capacity, sink + 1)


def _cut(problem: Problem, bound: float) -> Placement:
    """The minimum cut.

    Args:
        problem: To be solved.
        bound: Of a placement that there is, as `_avoidable` says; more than 0.
    """
    try:
        from scipy.sparse import coo_matrix, csr_matrix
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow
    except ImportError as error:
        raise UnavailableError(
            f"min_cut needs SciPy, which cannot be imported ({error}): pip install scipy, or "
            "choose another partition_algorithm"
        ) from error
    arcs = _arcs(problem)
    # An arc that is dearer than a whole placement is in no minimum cut: it may as well be
    # infinite. Rounding adds at most a half for each arc, and the bound must stay below infinite.
    limit = INFINITE - 2 - len(arcs.capacity)
    with np.errstate(over="ignore"):
        whole = np.rint(np.minimum(arcs.capacity / bound * limit, INFINITE)).astype(np.int64)
    # Arcs between the same two vertices are added up here, in 64 bits: int32 would wrap silently.
    graph = coo_matrix((whole, (arcs.tail, arcs.head)), shape=(arcs.vertices,) * 2).tocsr()
    graph.data = np.minimum(graph.data, INFINITE).astype(np.int32)
    graph.eliminate_zeros()
    source, sink = arcs.vertices - 2, arcs.vertices - 1
    result = maximum_flow(graph, source, sink)
    # SciPy 1.8 (Ubuntu 22.04) has the flow under another name.
    flow = result.flow if hasattr(result, "flow") else result.residual
    left = csr_matrix(graph.astype(np.int64) - flow)
    left.eliminate_zeros()
    # Of all minimum cuts the one with the fewest calls at the edge: what still reaches the sink.
    reached = breadth_first_order(left.T.tocsr(), sink, return_predecessors=False)
    sides = np.zeros(arcs.vertices, np.bool_)
    sides[reached] = True
    return tuple(sides[: len(problem.local)].tolist())
