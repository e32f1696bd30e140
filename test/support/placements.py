"""Random problems of placing calls, and their answers by trying everything."""

import itertools

import numpy as np

from rrto_ros.schedule.problem import Problem, Tensor


def every(problem):
    """(all allowed placements, their costs), computed in another way than `Problem.cost` does."""
    calls = len(problem.local)
    sides = np.array(list(itertools.product((False, True), repeat=calls)), bool)
    allowed = ~sides[:, sorted(problem.at_robot)].any(axis=1)
    allowed &= sides[:, sorted(problem.at_edge)].all(axis=1)
    sides = sides[allowed]
    costs = sides @ np.array(problem.edge, float) + ~sides @ np.array(problem.local, float)
    for one in problem.tensors:
        here, there = sides[:, one.producer], sides[:, list(one.readers)]
        costs += one.up * (~here & there.any(axis=1)) + one.down * (here & ~there.all(axis=1))
    costs += problem.switch * (sides[:, 1:] != sides[:, :-1]).sum(axis=1)
    return sides, costs


def random_problem(random):
    """Up to 10 calls with fan-out, tensors that are carried on, fixed calls and switches."""
    calls = random.randint(1, 10)
    local = [random.uniform(0, 10) for _ in range(calls)]
    edge = [cost * random.uniform(0.1, random.choice([0.6, 1.5])) for cost in local]
    tensors = []
    for call in range(calls - 1):
        most = random.randint(0, min(calls - 1 - call, 3))
        readers = random.sample(range(call + 1, calls), most)
        tensors.append(Tensor(call, tuple(readers), random.uniform(0, 12), random.uniform(0, 6)))
    if random.random() < 0.5:
        # Left for the next inference: the reader stands before the producer, or is it.
        reader = random.randrange(calls)
        tensors.append(Tensor(calls - 1, (reader, 0), random.uniform(0, 9), random.uniform(0, 9)))
    robot = {call for call in range(calls) if random.random() < 0.15}
    edge_only = {call for call in range(calls) if random.random() < 0.08} - robot
    switch = random.choice([0.0, 0.0, 1.5])
    return Problem(
        tuple(local), tuple(edge), tuple(tensors), frozenset(robot), frozenset(edge_only), switch
    )


def published_problem(random):
    """As MCOP's paper has them: edges without direction, all calls three times as fast there."""
    calls = random.randint(4, 9)
    local = [0.0] + [random.uniform(0, 10) for _ in range(calls - 1)]
    tensors = []
    for one, other in itertools.combinations(range(calls), 2):
        if other == one + 1 or random.random() < 0.45:
            weight = random.uniform(0, 8)
            tensors.append(Tensor(one, (other,), weight, weight))
    edge = tuple(cost / 3 for cost in local)
    return Problem(tuple(local), edge, tuple(tensors), frozenset({0}))
