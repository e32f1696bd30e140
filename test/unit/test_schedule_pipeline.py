"""Several inferences under way: formulas against a simulation, searches against trying all.

RRTO_PIPELINES=2000 looks at so many random inferences; the short form is for every change.
"""

import math
import os
import random

import pytest
from support.pipelines import (
    all_placements,
    best_of,
    random_chain,
    random_dag,
    random_task,
    single_cuts,
)

from rrto_ros.errors import ConfigError
from rrto_ros.schedule.costs import Data, Link, Measured
from rrto_ros.schedule.fifo import passed
from rrto_ros.schedule.pipeline import STAGES, Pipeline, Stream, Visit, pipeline
from rrto_ros.schedule.pipelined import Task, made
from rrto_ros.schedule.single_cuts import best_cut
from rrto_ros.schedule.spare_bits import widened
from rrto_ros.schedule.widths import (
    EXACT,
    HEADER,
    WIDTHS,
    Packing,
    bisected,
    narrowest,
    packed_bytes,
)

pytest.importorskip("scipy", reason="no SciPy in this Python")

from rrto_ros.schedule.in_turn import best_turns
from rrto_ros.schedule.stage_prices import best_placement

COUNT = int(os.environ.get("RRTO_PIPELINES", "30"))
SLOW = Packing(5e7, 5e8)
ROUNDS = 24

# Four segments of 10 ms at the robot and 2 ms at the edge; kB before each and after the last.
SIZES = (1000, 800, 100, 400, 40)
SEGMENTS = Measured(
    (0.0, *[10e-3] * 4, 0.0),
    (0.0, *[2e-3] * 4, 0.0),
    tuple(Data(n, (n + 1,), 1e3 * size, 0.0) for n, size in enumerate(SIZES)),
    frozenset({0}),
)
LINK = Link(1e7, 1e7, 0.0)
# Of each cut: latency, period, bubbles of three stages and makespan of 10, ms, by bits.
GOLDEN = {
    32: [(108, 100, 192, 1008), (96, 80, 144, 816), (34, 20, 26, 214), (72, 40, 48, 432),
         (44, 40, 76, 404)],
    8: [(33, 25, 42, 258), (36, 20, 24, 216), (26.5, 20, 33.5, 206.5), (42, 30, 48, 312),
        (41, 40, 79, 401)],
    4: [(20.5, 12.5, 17, 133), (26, 10, 4, 116), (25.25, 20, 34.75, 205.25), (37, 30, 53, 307),
        (40.5, 40, 79.5, 400.5)],
}  # fmt: skip


@pytest.mark.parametrize("bits", GOLDEN)
def test_stages_of_a_chain_worked_out_by_hand(bits):
    for cut, want in enumerate(GOLDEN[bits]):
        sides = tuple(call > cut for call in range(6))
        one = pipeline(SEGMENTS, sides, LINK, (bits,) * 5)
        # Headers of blocks are not in the figures that were worked out.
        size = 1e3 * SIZES[cut]
        header = 0 if bits == EXACT else 1e3 * HEADER * math.ceil(size / 16384) / 1e7
        robot, up, edge, _ = one.stages_s
        period = max(robot, up - header / 1e3, edge)
        got = [one.alone_s, period, 3 * period - robot - up - edge]
        assert [1e3 * part for part in got] == pytest.approx(want[:3], abs=2 * header + 1e-9)
        makespan = passed(one, Stream(10), 10).makespan_s
        assert makespan == pytest.approx(one.makespan_s(10))
        assert 1e3 * makespan == pytest.approx(want[3], abs=10 * header + 1e-9)


def test_cut_and_bits_are_chosen_together():
    for bits, alone, many in ((32, 2, 2), (8, 2, 2), (4, 0, 1)):

        def passes(_, width, bits=bits):
            return width >= bits

        for stream, cut in ((Stream(1), alone), (Stream(100), many)):
            found = best_cut(Task(SEGMENTS, LINK, stream, passes, (4, 8)))
            assert found.placement.index(True) - 1 == cut, (bits, stream)


def random_pipeline(rng, order):
    return Pipeline(
        tuple(
            Visit(stage, float(rng.choice([0, 1, rng.randint(0, 20)])), float(rng.randint(0, 5)))
            for stage in order
        )
    )


def test_what_a_stream_settles_to_is_what_the_simulation_does():
    for seed in range(25 * COUNT):
        rng = random.Random(seed)
        one = random_pipeline(rng, rng.choice([(0, 1, 2, 3), (0, 1, 2), (1, 2, 3), (2, 3, 0)]))
        stream = Stream(rng.randint(1, 6), float(rng.choice([0, 0, rng.randint(1, 40)])))
        want = one.steady(stream)
        if not want.period_s:
            continue
        assert one.once
        got = passed(one, stream, ROUNDS * stream.in_flight)
        assert got.period_s == pytest.approx(want.period_s, rel=1e-12), seed
        assert got.latency_s == pytest.approx(want.latency_s, rel=1e-12), seed
        count = rng.randint(1, 30)
        makespan = passed(one, Stream(count), count).makespan_s
        assert makespan == pytest.approx(one.makespan_s(count)), seed
        busy = [sum(v.busy_s for v in one.visits if v.stage == n) for n in range(len(STAGES))]
        assert want.bubbles_s == pytest.approx([want.period_s - b for b in busy])
        # As many as fill the slowest stage reach its pace, and one fewer do not.
        for flight in set() if not any(busy) else {one.filled_by, max(1, one.filled_by - 1)}:
            fills = one.steady(Stream(flight)).period_s == pytest.approx(max(one.stages_s))
            assert fills == (flight == one.filled_by), seed


def test_who_comes_back_to_a_stage_is_never_faster_than_the_bound():
    missed = []
    for seed in range(5 * COUNT):
        rng = random.Random(seed)
        one = random_pipeline(rng, [rng.randrange(4) for _ in range(rng.randint(2, 7))])
        stream = Stream(rng.randint(1, 6))
        bound = one.steady(stream).period_s
        got = passed(one, stream, 4 * ROUNDS * stream.in_flight).period_s
        # Rounds are not all alike, and it is an average over some of them.
        assert got >= bound * (1 - 1 / ROUNDS), seed
        missed.append(got > bound * (1 + 1e-3))
    print(f"{sum(missed)} of {len(missed)} slower than the bound, served first come first")


def test_one_in_flight_is_the_latency_that_is_modelled_for_it():
    for seed in range(COUNT):
        rng = random.Random(seed)
        measured = random_dag(rng)
        link = Link(10 ** rng.uniform(5, 8), 10 ** rng.uniform(5, 8), rng.choice([0, 4e-3]))
        for sides in all_placements(measured):
            one = pipeline(measured, sides, link)
            alone = measured.modelled(sides, link).latency_s
            assert one.alone_s == pytest.approx(alone)
            assert one.steady(Stream(1)).period_s == pytest.approx(alone)
            assert passed(one, Stream(1), 2).period_s == pytest.approx(alone)


@pytest.mark.parametrize("make", [random_chain, random_dag])
@pytest.mark.parametrize("packing", [Packing(), SLOW], ids=["free", "slow"])
def test_the_best_single_cut_is_that_of_trying_all_cuts_and_widths(make, packing):
    asked = there = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        task = random_task(rng, make(rng), packing)
        found = best_cut(task)
        want = best_of(task, single_cuts(task.measured))
        got = found.steady.period_s, found.pipeline.alone_s
        assert got == pytest.approx(want, rel=1e-7, abs=1e-12), seed
        asked += found.questions
        there += len(task.measured.data) * len(task.widths)
    print(f"{make.__name__}: asked {asked} of {there} widths")
    assert asked < 0.6 * there


@pytest.mark.parametrize("make", [random_chain, random_dag])
@pytest.mark.parametrize("packing", [Packing(), SLOW], ids=["free", "slow"])
def test_placements_are_near_the_best_of_all_and_bounds_below_it(make, packing):
    gaps, single = [], []
    for seed in range(COUNT // 3):
        rng = random.Random(seed)
        task = random_task(rng, make(rng), packing)
        found, cut = best_placement(task), best_cut(task)
        best = best_of(task, all_placements(task.measured))[0]
        assert found.bound_s <= best * (1 + 1e-9), seed
        assert best * (1 - 1e-9) <= found.period_s <= cut.period_s, seed
        if best:
            gaps.append(found.period_s / best - 1)
            single.append(cut.period_s / best - 1)
    for name, some in (("placements", gaps), ("single cuts", single)):
        missed = sum(gap > 1e-6 for gap in some)
        print(f"{make.__name__}, {name}: {missed} of {len(some)} not the best, "
              f"{sum(some) / len(some):.2%} on average, at most {max(some):.1%}")  # fmt: skip
    assert sum(gaps) / len(gaps) < 0.03


def test_robot_and_edge_in_turn_are_faster_than_either():
    # 0.1 s of work at the robot, or 0.2 s of sending: of three inferences two stay.
    measured = Measured((0.0, 0.1), (0.0, 0.0), (Data(0, (1,), 2e6, 0.0),), frozenset({0}))
    turns = best_turns(Task(measured, LINK, Stream(6)))
    shares = {
        plan.placement[1]: share for plan, share in zip(turns.plans, turns.shares, strict=True)
    }
    assert shares == {False: pytest.approx(2 / 3), True: pytest.approx(1 / 3)}
    assert turns.single.period_s == pytest.approx(0.1)
    assert turns.bound_s == pytest.approx(0.2 / 3, rel=1e-5)
    assert turns.period_s == pytest.approx(0.2 / 3, rel=0.01)
    assert turns.alone_s == pytest.approx(0.4 / 3)
    assert sorted(turns.order(300)).count(turns.order(1)[0]) == 200
    assert best_turns(Task(measured, LINK, Stream(1))).shares == (1.0,), "one waits for the other"
    assert best_turns(Task(Measured((), ()), LINK)).period_s == 0


def test_turns_are_never_slower_than_one_placement_and_never_below_their_bound():
    won = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        task = random_task(rng, random_dag(rng))
        turns = best_turns(task)
        assert math.isclose(sum(turns.shares), 1)
        assert len(turns.shares) <= 5
        single = turns.single.period_s
        # A bound is that of many; what is simulated is an average over some of them.
        assert turns.bound_s * (1 - 1e-9) <= turns.period_s <= single * (1 + 1e-9), seed
        assert turns.period_s >= 0.95 * best_bound(task), seed
        won += turns.period_s < 0.99 * single
    print(f"in turn is more than 1 % faster in {won} of {COUNT}")


def best_bound(task):
    """No mixture is below this: by the busiest of all stages, if work could be cut at will."""
    measured = task.measured
    least = sum(map(min, measured.local_s, measured.edge_s)) / 2
    return max(task.stream.every_s, least)


def test_a_width_is_taken_only_if_all_larger_ones_pass():
    def of(table):
        return lambda bits: table[WIDTHS.index(bits)]

    rising = (False, False, True, True, True, True, True)
    holed = (True, True, True, True, False, True, True)
    assert narrowest(of(rising)) == bisected(of(rising)) == 4
    assert narrowest(of(holed)) == 8
    assert bisected(of(holed)) == 2, "six bits fail, so that two pass may be chance"
    for never in (narrowest, bisected):
        assert never(lambda _: False) == EXACT


def test_bytes_of_packed_tensors():
    assert packed_bytes(4e6, EXACT) == 4e6
    assert packed_bytes(4 * 4096, 8) == 4096 + HEADER
    assert packed_bytes(4 * 4097, 4) == 2049 + 2 * HEADER
    assert packed_bytes(8, 16) == 8, "its header is longer than what it saves"
    assert packed_bytes(0, 2) == 0
    for bits in (0, 33):
        with pytest.raises(ConfigError, match="bits of an element: want 1 to 32"):
            packed_bytes(100, bits)


def test_packing_slower_than_the_link_is_left():
    fast = Link(1e9, 1e9, 0.0)
    for packing, packed in ((Packing(), True), (Packing(1e8, 1e8), False)):
        task = Task(SEGMENTS, fast, Stream(), lambda *_: True, (8,), packing)
        widths = best_cut(task).widths
        assert (8 in widths) is packed


def test_bits_for_which_the_link_has_time_cost_no_throughput():
    # Cut in the middle the robot takes 20 ms and 100 kB at 10 MB/s take 10: all bits fit.
    def few(rate):
        link = Link(rate, rate, 0.0)
        task = Task(SEGMENTS, link, Stream(100), lambda *_: True, (4, 8, 16))
        widths = (EXACT, EXACT, 4, EXACT, EXACT)
        plan = made(task, tuple(call > 2 for call in range(6)), widths)
        wide = widened(task, plan)
        assert wide.period_s == pytest.approx(plan.period_s)
        assert wide.pipeline.alone_s >= plan.pipeline.alone_s
        return wide.widths[2]

    # 100 kB in 20 ms; 50, 25 and 12.5 kB, with some more bytes of headers.
    assert [few(rate) for rate in (5.1e6, 4.9e6, 2.6e6, 2.4e6, 1.3e6, 1.2e6, 1e5)] == [
        32, 16, 16, 8, 8, 4, 4,
    ]  # fmt: skip
    for seed in range(COUNT):
        rng = random.Random(seed)
        task = random_task(rng, random_dag(rng), rng.choice([Packing(), SLOW]))
        plan = best_cut(task)
        wide = widened(task, plan)
        assert wide.placement == plan.placement
        assert wide.period_s <= plan.period_s * (1 + 1e-8)
        assert all(a >= b for a, b in zip(wide.widths, plan.widths, strict=True))


def test_accuracy_is_asked_of_few_tensors_of_a_long_chain():
    measured = random_chain(random.Random(1), 5_000)
    task = Task(measured, LINK, Stream(), lambda _, bits: bits >= 8, (4, 8, 16))
    found = best_cut(task)
    assert found.questions < 0.01 * 3 * len(measured.data)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Stream(0), "0 inferences under way: want 1 or more"),
        (lambda: Stream(1, -1.0), "an input every -1.0 s"),
        (lambda: Stream(1, math.nan), "an input every nan s"),
        (lambda: Packing(0.0), "robot_bytes_per_s 0.0"),
        (lambda: pipeline(SEGMENTS, (False,) * 6, LINK, (8,)), "1 widths: want one for each of 5"),
        (lambda: pipeline(SEGMENTS, (True,) * 6, LINK), "call 0 on the other side"),
        (lambda: passed(Pipeline(()), Stream(), 0), "0 inferences: want 1"),
        (lambda: passed([], Stream(), 4), "no pipeline: want one or more"),
        (lambda: passed(Pipeline(()), Stream(4), 5).period_s, "5 inferences of 4 streams"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_an_inference_of_nothing():
    nothing = Measured((), ())
    assert best_cut(Task(nothing, LINK)).placement == ()
    assert best_placement(Task(nothing, LINK)).pipeline.visits == ()
