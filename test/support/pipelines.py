"""Random inferences for pipelines, and their answers by trying everything."""

import itertools

import numpy as np

from rrto_ros.schedule.costs import Data, Link, Measured
from rrto_ros.schedule.pipeline import Stream
from rrto_ros.schedule.pipelined import Task
from rrto_ros.schedule.widths import EXACT, WIDTHS, Packing, packed_bytes


def random_chain(random, calls=None):
    """Calls in a row, the first and the last one at the robot, which take no time there."""
    calls = calls or random.randint(2, 10)
    local = [random.uniform(0, 10e-3) for _ in range(calls)]
    local[0] = local[-1] = 0.0
    edge = [cost * random.uniform(0.1, random.choice([0.5, 1.2])) for cost in local]
    data = tuple(Data(n, (n + 1,), *[random.uniform(1e2, 1e5)] * 2) for n in range(calls - 1))
    return Measured(tuple(local), tuple(edge), data, frozenset({0, calls - 1}))


def random_dag(random):
    """Branches, tensors with several readers, sometimes state that is carried on."""
    calls = random.randint(3, 8)
    local = [random.uniform(0, 10e-3) for _ in range(calls)]
    local[0] = local[-1] = 0.0
    edge = [cost * random.uniform(0.1, random.choice([0.5, 1.2])) for cost in local]
    data = []
    for call in range(calls - 1):
        readers = random.sample(
            range(call + 1, calls), random.randint(1, min(calls - 1 - call, 2))
        )
        size = random.uniform(1e2, 8e4)
        data.append(Data(call, tuple(sorted(readers)), size, size))
    if random.random() < 0.2:
        data.append(Data(calls - 2, (random.randrange(1, calls - 1),), 1e3, 1e3))
    edge_only = {call for call in range(1, calls - 1) if random.random() < 0.03}
    ends = frozenset({0, calls - 1})
    return Measured(tuple(local), tuple(edge), tuple(data), ends, frozenset(edge_only))


def random_task(random, measured, packing=Packing()):  # noqa: B008 (it cannot be changed)
    """Some link and stream, and a table of what accuracy allows."""
    rate = 10 ** random.uniform(5.5, 8)
    link = Link(rate, rate * random.choice([1, 1, 4]), random.choice([0, 0.5e-3, 4e-3]))
    stream = Stream(random.choice([1, 2, 4, 100]), random.choice([0, 0, 0, 5e-3]))
    widths = random.choice([(8,), (4, 8, 16), WIDTHS])
    # Accuracy does not rise with the width: each width of each tensor passes by chance.
    table = {
        (tensor, bits): random.random() < 0.75
        for tensor in range(len(measured.data))
        for bits in widths
    }
    return Task(measured, link, stream, lambda *one: table[one], widths, packing)


def single_cuts(measured):
    """The placements of all single cuts."""
    for cut in range(len(measured.local_s) + 1):
        yield tuple(
            call in measured.at_edge or (call >= cut and call not in measured.at_robot)
            for call in range(len(measured.local_s))
        )


def all_placements(measured):
    """Every placement that is allowed."""
    for sides in itertools.product((False, True), repeat=len(measured.local_s)):
        if not any(sides[c] for c in measured.at_robot) and all(
            sides[c] for c in measured.at_edge
        ):
            yield sides


def safe_widths(task, tensor):
    """Widths that pass with all that are larger, and `EXACT`."""
    out = [EXACT]
    for bits in sorted(task.widths, reverse=True):
        if not task.passes(tensor, bits):
            break
        out.append(bits)
    return out


def best_of(task, placements):
    """The least (period, latency) of placements with all widths of what crosses, tried one by one.

    Computed in another way than the searches do: by adding up per placement and width.
    """
    measured, link, stream, packing = task.measured, task.link, task.stream, task.packing
    safe = [safe_widths(task, tensor) for tensor in range(len(measured.data))]
    best = (np.inf, np.inf)
    for sides in placements:
        fixed = np.zeros(4)
        for away, here, there in zip(sides, measured.local_s, measured.edge_s, strict=True):
            fixed[2 if away else 0] += there if away else here
        delay = sum(a is not b for a, b in itertools.pairwise(sides)) * link.round_trip_s / 2
        stages = fixed[None]
        for tensor, one in enumerate(measured.data):
            if all(sides[reader] is sides[one.producer] for reader in one.readers):
                continue
            down = sides[one.producer]
            size = one.down_bytes if down else one.up_bytes
            rate = link.down_bytes_per_s if down else link.up_bytes_per_s
            ways = np.zeros((len(safe[tensor]), 4))
            for took, bits in zip(ways, safe[tensor], strict=True):
                sent = packed_bytes(size, bits)
                took[3 if down else 1] = sent / rate
                if sent < size:
                    took[0] = size / packing.robot_bytes_per_s
                    took[2] = size / packing.edge_bytes_per_s
            stages = (stages[:, None] + ways).reshape(-1, 4)
        alone = stages.sum(axis=1) + delay
        periods = np.maximum(stages.max(axis=1), alone / stream.in_flight)
        periods = np.maximum(periods, stream.every_s)
        way = np.lexsort((alone, periods))[0]
        best = min(best, (float(periods[way]), float(alone[way])))
    return best
