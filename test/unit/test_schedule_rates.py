"""What an inference costs over a link, the best placement at every rate, and when to change."""

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from support.placements import random_problem

from rrto_ros.errors import ConfigError
from rrto_ros.schedule.costs import Data, Link, Measured
from rrto_ros.schedule.hysteresis import Chooser
from rrto_ros.schedule.mcop import mcop
from rrto_ros.schedule.power import Power, power_profiles
from rrto_ros.schedule.rates import FASTEST, SLOWEST, rate_table

pytest.importorskip("scipy", reason="no SciPy in this Python")

from rrto_ros.schedule.min_cut import min_cut

ROOT = Path(__file__).resolve().parents[2]
ROBOT = Power(14.0, 4.0, 5.0)
EDGES = {"ab": 10, "bc": 1, "bd": 2, "cd": 1, "ce": 1, "de": 2, "df": 1, "ef": 1}
# Rates in the unit of the paper's graph are 1; here they are in the table's range.
PAPER = Measured(
    (0, 3, 3, 6, 6, 9),
    (0, 1, 1, 2, 2, 3),
    tuple(
        Data("abcdef".index(one), ("abcdef".index(other),), 1e6 * weight, 1e6 * weight)
        for (one, other), weight in EDGES.items()
    ),
    frozenset({0}),
)


def random_measured(seed):
    """Calls of milliseconds and tensors of kilobytes, fixed calls and all."""
    one = random_problem(random.Random(seed))
    data = tuple(Data(t.producer, t.readers, 1e5 * t.up, 1e5 * t.down) for t in one.tensors)
    local, edge = (tuple(cost / 1e3 for cost in costs) for costs in (one.local, one.edge))
    return Measured(local, edge, data, one.at_robot, one.at_edge)


def test_breakpoints_of_mcops_graph():
    table = rate_table(PAPER, 0.0)
    assert [1e6 / rate for rate in table.rates] == pytest.approx([16 / 3, 2 / 7])
    remote = [
        "".join(n for n, t in zip("abcdef", one.placement, strict=True) if t)
        for one in table.lines
    ]
    assert remote == ["", "cdef", "bcdef"]
    assert [(one.fixed, one.per_byte_time / 1e6) for one in table.lines] == [
        (27, 0), (11, 3), (9, 10),
    ]  # fmt: skip


def test_at_a_breakpoint_what_sends_less_is_chosen():
    table = rate_table(PAPER, 0.0)
    first, last = table.rates
    assert table.best(first) is table.lines[0]
    assert table.best(math.nextafter(first, math.inf)) is table.lines[1]
    assert table.best(last) is table.lines[1]
    assert table.best(SLOWEST / 10) is table.lines[0]
    assert table.best(FASTEST * 10) is table.lines[2]


@pytest.mark.parametrize("objective", ["latency", "energy", "weighted"])
def test_the_table_has_what_solving_at_each_rate_finds(objective):
    for seed in range(15):
        measured, trip = random_measured(seed), random.Random(seed).choice([0.0, 0.002, 0.02])
        given = {"objective": objective, "power": ROBOT, "omega": 0.3}
        table = rate_table(measured, trip, down_per_up=2.0, **given)
        assert list(table.rates) == sorted(table.rates)
        for exponent in range(12, 41):
            rate = 10 ** (exponent / 4)
            problem = measured.problem(Link(rate, 2 * rate, trip), **given)
            line = table.best(rate)
            want = problem.cost(min_cut(problem))
            assert line.cost(rate) == pytest.approx(problem.cost(line.placement)), seed
            assert line.cost(rate) == pytest.approx(want, rel=3e-6), (seed, rate)


def test_a_faster_link_never_costs_more():
    for seed in range(25):
        measured = random_measured(seed)
        costs = []
        for exponent in range(6, 21):
            rate = 10 ** (exponent / 2)
            problem = measured.problem(Link(rate, rate, 0.01))
            costs.append(problem.cost(min_cut(problem)))
        for slower, faster in itertools.pairwise(costs):
            assert faster <= slower * (1 + 1e-6), seed


def test_a_heuristic_makes_a_table_that_is_no_better_than_itself():
    for seed in range(15):
        measured = random_measured(seed)
        exact, other = rate_table(measured, 0.001), rate_table(measured, 0.001, solve=mcop)
        assert list(other.rates) == sorted(other.rates)
        for rate in (1e4, 1e6, 1e8):
            assert other.best(rate).cost(rate) >= exact.best(rate).cost(rate) * (1 - 3e-6)


def test_a_table_is_for_round_trips_within_a_quarter_of_its_own():
    table = rate_table(PAPER, 0.004)
    assert [table.fits(trip) for trip in (0.0029, 0.003, 0.004, 0.005, 0.0051)] == [
        False, True, True, True, False,
    ]  # fmt: skip


def test_latency_and_energy_of_a_placement_add_up_to_what_is_minimised():
    for seed in range(20):
        measured, link = random_measured(seed), Link(2e6, 3e6, 0.004)
        placement = min_cut(measured.problem(link))
        made = measured.modelled(placement, link, ROBOT)
        for objective, value in (("latency", made.latency_s), ("energy", made.energy_j)):
            assert measured.problem(link, objective, ROBOT).cost(placement) == pytest.approx(value)
        whole = math.fsum(measured.local_s)
        both = 0.3 * made.latency_s / whole + 0.7 * made.energy_j / (whole * ROBOT.compute_w)
        problem = measured.problem(link, "weighted", ROBOT, 0.3)
        assert problem.cost(placement) == pytest.approx(both)


def test_bytes_and_changes_of_a_placement_are_told():
    measured = Measured(
        (0, 1.0, 0), (0, 0.1, 0), (Data(0, (1,), 600, 0), Data(1, (2,), 0, 40)), frozenset({0, 2})
    )
    made = measured.modelled((False, True, False), Link(1000, 100, 0.2))
    assert (made.up_bytes, made.down_bytes, made.changes) == (600, 40, 2)
    assert made.latency_s == pytest.approx(0.1 + 0.6 + 0.4 + 0.2)
    assert math.isnan(made.energy_j)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"objective": "speed"}, "objective 'speed': want one of latency, energy, weighted"),
        ({"objective": "energy", "power": None}, "without the robot's power"),
        ({"objective": "weighted", "omega": 1.5}, "omega 1.5: want 0"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        PAPER.problem(Link(1, 1, 0), **{"power": ROBOT, **given})


def test_what_takes_no_time_has_no_weighted_objective():
    nothing = replace(PAPER, local_s=(0.0,) * 6)
    with pytest.raises(ConfigError, match="want more than 0 for the objective 'weighted'"):
        nothing.problem(Link(1, 1, 0), "weighted", ROBOT)


@pytest.mark.parametrize("given", [(0, 1, 0), (1, math.inf, 0), (1, 1, -1), (1, 1, math.nan)])
def test_a_link_that_cannot_be_is_refused(given):
    with pytest.raises(ConfigError, match="want"):
        Link(*given)


def test_the_committed_power_profiles_have_the_published_values():
    pytest.importorskip("yaml", reason="no PyYAML in this Python")
    profiles = power_profiles(ROOT / "config" / "power_profiles.yaml")
    assert profiles["mcop_phone"] == Power(0.9, 0.3, 1.3)
    assert 7.8 <= profiles["jetson_xavier_nx"].compute_w <= 15.2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "cannot be read"),
        ("- 1", "got list, want a name with its figures"),
        ("", "got NoneType, want"),
        ("a: {compute_w: 1, idle_w: 1}", "a: got .'compute_w', 'idle_w'., want compute_w"),
        ("a: 7", "a: got 7, want compute_w, idle_w, transfer_w"),
        ("a: {compute_w: fast, idle_w: 1, transfer_w: 1}", "a: compute_w 'fast': want a number"),
        ("a: {compute_w: 1, idle_w: true, transfer_w: 1}", "a: idle_w True: want a number"),
        ("a: {compute_w: 0, idle_w: 1, transfer_w: 1}", "a: compute_w 0.0: want watts, more than"),
        ("a: {compute_w: 1, idle_w: -1, transfer_w: 1}", "a: idle_w -1.0: want watts, 0 or more"),
    ],
)
def test_power_profiles_that_cannot_be_are_refused(text, says, tmp_path):
    pytest.importorskip("yaml", reason="no PyYAML in this Python")
    file = tmp_path / "profiles.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        power_profiles(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        power_profiles(tmp_path / "none.yaml")


@pytest.fixture
def chooser():
    return Chooser(rate_table(PAPER, 0.0))


LOCAL, SOME, MOST = (False,) * 6, (False, False, *(True,) * 4), (False, *(True,) * 5)


def test_a_change_that_saves_a_tenth_is_made_once_the_last_one_is_two_seconds_ago(chooser):
    assert chooser.choose(1e5, 10.0) == LOCAL
    assert chooser.choose(1e6, 12.0) == LOCAL
    assert chooser.choose(1e6, 12.1) == SOME
    assert chooser.choose(1e5, 13.0) == SOME
    assert chooser.choose(1e5, 14.2) == LOCAL
    assert chooser.changes == 2


def test_what_saves_less_is_let_pass(chooser):
    assert chooser.choose(1e5, 0.0) == LOCAL
    # 27 stays against 11 + 3 / rate: a tenth is saved from 0.2255 on.
    assert chooser.choose(0.2250e6, 10.0) == LOCAL
    assert chooser.choose(0.2270e6, 20.0) == SOME
    # From there, 9 + 10 / rate saves a tenth of it never before rate is about 8.
    assert chooser.choose(5e6, 30.0) == SOME
    assert chooser.choose(20e6, 40.0) == MOST
    assert chooser.changes == 2


def test_another_round_trip_asks_for_another_table_and_keeps_the_placement():
    chooser = Chooser(rate_table(PAPER, 0.1))
    assert chooser.choose(1e6, 0.0) == SOME
    assert (chooser.stale(0.12), chooser.stale(20.0)) == (False, True)
    chooser.renew(rate_table(PAPER, 20.0))
    assert not chooser.stale(20.0)
    # Half a round trip costs 10 now: all at the robot is cheaper than 11 + 3 + 10 by a tenth only
    # where the link is slower, and what is there stays until then.
    assert chooser.choose(1e6, 10.0) == SOME
    assert chooser.choose(0.2e6, 20.0) == LOCAL
    assert chooser.changes == 1
