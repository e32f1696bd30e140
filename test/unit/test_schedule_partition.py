"""Which calls run at the edge: the published cases, and everything tried for random ones.

RRTO_PARTITIONS=10000 looks at so many random problems; the short form is for every change.
"""

import os
import random
import time
from dataclasses import replace

import pytest
from support.placements import every, published_problem, random_problem

from rrto_ros.errors import ConfigError
from rrto_ros.schedule.algorithms import ALGORITHMS, algorithm
from rrto_ros.schedule.costs import Data, Link, Measured
from rrto_ros.schedule.mcop import mcop
from rrto_ros.schedule.power import Power
from rrto_ros.schedule.problem import Problem, Tensor

pytest.importorskip("scipy", reason="no SciPy in this Python")

from rrto_ros.schedule.min_cut import min_cut

COUNT = int(os.environ.get("RRTO_PARTITIONS", "300"))
EDGES = {"ab": 10, "bc": 1, "bd": 2, "cd": 1, "ce": 1, "de": 2, "df": 1, "ef": 1}
UNIT = Link(1.0, 1.0, 0.0)
PHONE = Power(0.9, 0.3, 1.3)


def data(edges):
    return tuple(
        Data("abcdef".index(one), ("abcdef".index(other),), weight, weight)
        for (one, other), weight in edges.items()
    )


PAPER = Measured((0, 3, 3, 6, 6, 9), (0, 1, 1, 2, 2, 3), data(EDGES), frozenset({0}))


def remote(placement):
    return "".join(name for name, there in zip("abcdef", placement, strict=True) if there)


def answered(problem):
    """The placement that both algorithms find, and its cost, which is that of everything tried."""
    found = min_cut(problem)
    assert mcop(problem) == found
    assert problem.cost(found) == pytest.approx(every(problem)[1].min())
    return remote(found), problem.cost(found)


def test_the_graph_of_mcops_paper_by_time_energy_and_both():
    assert answered(PAPER.problem(UNIT)) == ("cdef", 14)
    assert answered(PAPER.problem(UNIT, "energy", PHONE)) == ("cdef", pytest.approx(9.0))
    for omega, saved in ((1, 0.5185), (0.5, 0.4444), (0, 0.3704)):
        where, cost = answered(PAPER.problem(UNIT, "weighted", PHONE, omega))
        assert (where, cost) == ("cdef", pytest.approx(saved, abs=5e-5))
    assert PAPER.problem(UNIT).cost(PAPER.problem(UNIT).all_local) == 27
    energy = PAPER.problem(UNIT, "energy", PHONE)
    assert energy.cost(energy.all_local) == pytest.approx(24.3)


def test_a_lighter_edge_moves_the_cut():
    lighter = replace(PAPER, data=data({**EDGES, "ab": 1}))
    assert answered(lighter.problem(UNIT)) == ("bcdef", 10)


def test_a_chain_with_two_fixed_calls():
    edges = {"ab": 10, "bc": 6, "cd": 5, "de": 5, "ef": 4}
    chain = Measured((0, 4, 8, 8, 4, 8), (0, 1, 2, 2, 1, 2), data(edges), frozenset({0, 3}))
    assert answered(chain.problem(UNIT)) == ("ef", 28)


def test_a_tensor_with_several_readers_is_paid_once():
    local, edge, pins = (1, 5, 5, 5), (1, 1, 1, 1), frozenset({0})
    each = Problem(local, edge, tuple(Tensor(0, (r,), 6, 6) for r in (1, 2, 3)), pins)
    once = Problem(local, edge, (Tensor(0, (1, 2, 3), 6, 6),), pins)
    assert min_cut(each) == mcop(each) == each.all_local
    assert (each.cost(each.all_local), every(each)[1].min()) == (16, 16)
    assert min_cut(once) == mcop(once) == (False, True, True, True)
    assert (once.cost(min_cut(once)), every(once)[1].min()) == (10, 10)


@pytest.mark.parametrize(
    ("up", "down", "there", "cost"), [(3, 1, True, 5), (3, 7, False, 10), (8, 1, False, 10)]
)
def test_the_way_back_costs_and_the_robot_wins_ties(up, down, there, cost):
    tensors = (Tensor(0, (1,), up, 0), Tensor(1, (2,), 0, down))
    problem = Problem((0, 10, 0), (0, 1, 0), tensors, frozenset({0, 2}))
    assert min_cut(problem) == mcop(problem) == (False, there, False)
    assert problem.cost(min_cut(problem)) == every(problem)[1].min() == cost


def test_of_equal_cuts_the_one_with_fewest_calls_at_the_edge():
    # Two calls that pay for their way, and one that costs the same on both sides.
    problem = Problem((0, 9, 2, 0), (0, 1, 2, 0), (Tensor(0, (1,), 3, 0),), frozenset({0, 3}))
    assert min_cut(problem) == (False, True, False, False)


def test_a_minimum_cut_is_the_best_of_all_placements():
    for seed in range(COUNT):
        problem = random_problem(random.Random(seed))
        sides, costs = every(problem)
        found, best = min_cut(problem), costs.min()
        assert problem.cost(found) == pytest.approx(best, rel=1e-6, abs=1e-9), seed
        assert list(found) in sides.tolist(), seed
        # And the cost that is compared is what trying everything computes.
        where = random.Random(seed).randrange(len(costs))
        assert problem.cost(tuple(sides[where].tolist())) == pytest.approx(costs[where])


def gaps(make):
    """By how much MCOP's placements are dearer than the best, as a part of it."""
    out = []
    for seed in range(COUNT):
        problem = make(random.Random(seed))
        best, got = every(problem)[1].min(), problem.cost(mcop(problem))
        assert got >= best * (1 - 1e-9), seed
        assert got <= min(problem.cost(problem.all_local), problem.cost(problem.all_edge)), seed
        out.append(got / best - 1 if best else 0.0)
    return out


@pytest.mark.parametrize(("make", "share"), [(published_problem, 0.04), (random_problem, 0.25)])
def test_mcop_is_never_cheaper_and_seldom_dearer(make, share):
    found = gaps(make)
    missed = sum(gap > 1e-9 for gap in found)
    print(f"{make.__name__}: {missed} of {COUNT} not the best, worst {max(found):.1%} dearer")
    assert missed <= share * COUNT


def scaled(problem, factor):
    return Problem(
        tuple(cost * factor for cost in problem.local),
        tuple(cost * factor for cost in problem.edge),
        tuple(replace(one, up=one.up * factor, down=one.down * factor) for one in problem.tensors),
        problem.at_robot,
        problem.at_edge,
        problem.switch * factor,
    )


@pytest.mark.parametrize("factor", [1e-9, 1 / 3, 1e9])
def test_another_unit_of_cost_changes_nothing(factor):
    for seed in range(COUNT // 3):
        problem = random_problem(random.Random(seed))
        for solve in (min_cut, mcop):
            found = solve(scaled(problem, factor))
            want = problem.cost(solve(problem))
            assert problem.cost(found) == pytest.approx(want, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("spread", [1e-15, 1e15, 1e290])
def test_costs_of_very_different_sizes(spread):
    # Whole numbers of 30 bits hold no more than nine digits; what is out of their reach is dear.
    problem = Problem(
        (0.0, 5 * spread, 5.0), (0.0, spread, 1.0), (Tensor(0, (1, 2), 2.0, 0.0),), frozenset({0})
    )
    best = every(problem)[1].min()
    assert problem.cost(min_cut(problem)) == pytest.approx(best, rel=1e-6)


def test_no_call_one_call_and_calls_that_are_all_fixed():
    nothing = Problem((), ())
    assert min_cut(nothing) == mcop(nothing) == ()
    assert min_cut(Problem((2.0,), (1.0,))) == mcop(Problem((2.0,), (1.0,))) == (True,)
    fixed = Problem((1, 1), (1, 1), (), frozenset({0}), frozenset({1}), 1.0)
    assert min_cut(fixed) == mcop(fixed) == (False, True)
    there = Problem((1, 1), (1, 1), (), frozenset(), frozenset({0, 1}))
    assert min_cut(there) == mcop(there) == (True, True)


def test_twenty_thousand_calls_take_less_than_a_second():
    rng, calls = random.Random(1), 20_000
    local = [rng.uniform(0, 1e-3) for _ in range(calls)]
    # Balanced, so that the cut has many parts.
    edge = [cost * rng.uniform(0.5, 1.5) for cost in local]
    tensors = []
    for call in range(calls - 1):
        further = {call + rng.choice([1, 1, 2, 5, 50]) for _ in range(rng.randint(1, 3))}
        readers = tuple(sorted(reader for reader in further if reader < calls))
        tensors.append(Tensor(call, readers, rng.uniform(0, 1e-4), rng.uniform(0, 1e-4)))
    pins = frozenset({0, calls - 1})
    problem = Problem(tuple(local), tuple(edge), tuple(tensors), pins, frozenset(), 1e-5)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        found = min_cut(problem)
        took.append(time.perf_counter() - began)
    print(f"{min(took):.3f} s")
    assert min(took) < 1.0
    simple = min(problem.cost(problem.all_local), problem.cost(problem.all_edge))
    assert problem.cost(found) < 0.95 * simple


def test_algorithms_are_named_and_another_name_is_refused():
    problem = PAPER.problem(UNIT)
    assert {name: remote(solve(problem)) for name, solve in ALGORITHMS.items()} == {
        "min_cut": "cdef", "mcop": "cdef", "all_local": "", "all_edge": "bcdef",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="'best': want one of min_cut, mcop, all_local"):
        algorithm("best")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"edge": (1.0,)}, "2 costs at the robot, 1 at the edge"),
        ({"local": (1.0, -1.0)}, "cost `local` 1 is -1.0: want a finite number"),
        ({"edge": (float("inf"), 0.0)}, "cost `edge` 0 is inf"),
        ({"switch": float("nan")}, "cost `switch` 0 is nan"),
        ({"tensors": (Tensor(0, (1,), 1.0, -2.0),)}, "cost `down` 0 is -2.0"),
        ({"tensors": (Tensor(2, (1,), 1.0, 2.0),)}, "producer 2: want a call from 0 to 1"),
        ({"tensors": (Tensor(0, (1, -1), 1.0, 2.0),)}, "reader -1: want"),
        ({"at_edge": frozenset({7})}, "fixed call 7: want"),
        ({"at_robot": frozenset({1}), "at_edge": frozenset({1})}, "call 1 is fixed at the robot"),
    ],
)
def test_a_problem_that_cannot_be_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        Problem(**{"local": (1.0, 1.0), "edge": (1.0, 1.0), **given})


def test_a_placement_that_cannot_be_has_no_cost():
    problem = Problem((1.0, 1.0), (1.0, 1.0), (), frozenset({0}), frozenset({1}))
    for placement, says in (
        ((False,), "a placement of 1 calls: want one of 2"),
        ((True, True), "call 0 on the other side: want it at the robot"),
        ((False, False), "call 1 on the other side: want it at the edge"),
    ):
        with pytest.raises(ConfigError, match=says):
            problem.cost(placement)
