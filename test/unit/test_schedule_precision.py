"""How many bits cross a cut: what was measured decides, and the budget is never spent."""

import random

import numpy as np
import pytest

from rrto_ros.schedule.precision import (
    AT_ONCE,
    EXACT,
    LEAST_SAMPLES,
    SELDOMEST,
    SOONEST,
    SPENT,
    Crossing,
    Precision,
    relative_error,
)
from rrto_ros.wire.quantised import WIDTHS

BUDGET = 0.005
SLOW, FAST = 1e6, 1e9
CROSSING = Crossing(bytes=400_000, elements=100_000, busy_s=0.02)


def inference(precision, error_of, rate=SLOW):
    """One inference; (its width, its error, what was tried)."""
    bits = precision.choose(rate)
    tried = precision.due(rate)
    if tried:
        precision.crossing = CROSSING
        precision.seen([(width, error_of(width)) for width in tried])
        return EXACT, 0.0, tried
    return bits, error_of(bits) if bits else 0.0, ()


def run(precision, error_of, count, rate=SLOW):
    return [inference(precision, error_of, rate) for _ in range(count)]


def falling(bits):
    """An error that halves with each bit."""
    return 0.1 / 2**bits * 8


def test_nothing_is_coarse_before_it_was_measured_often_enough():
    precision = Precision(BUDGET)
    went = run(precision, falling, 300)
    first = next(k for k, (bits, _, _) in enumerate(went) if bits)
    tried = [width for _, _, some in went[:first] for width in some]
    assert tried.count(went[first][0]) >= LEAST_SAMPLES
    assert all(len(some) <= AT_ONCE for _, _, some in went)
    # 10 bits have a sixth of the budget; 8 bits more than half of it.
    assert precision.bits == 10


def test_the_smallest_that_passed_is_used_although_more_bits_may_be_worse():
    errors = {4: 0.1, 6: 0.001, 8: 0.09, 10: 0.002, 12: 0.0, 16: 0.0}
    precision = Precision(BUDGET)
    run(precision, errors.__getitem__, 400)
    assert precision.bits == 6
    measured = precision.measured()
    assert measured[4] == (1, 0.1)
    assert measured[8] == (1, 0.09)
    assert measured[6][0] >= LEAST_SAMPLES


def test_what_is_fast_enough_is_exact_and_not_sampled():
    precision = Precision(BUDGET)
    run(precision, falling, 300)
    assert precision.choose(FAST) == EXACT
    assert not any(precision.due(FAST) for _ in range(2 * SELDOMEST))
    # In between the largest width with which transfers do not count.
    rate = CROSSING.elements * 12 / 8 / (0.1 * CROSSING.busy_s)
    assert precision.choose(rate) == 12
    assert precision.choose(rate * 0.99) == 10
    assert precision.choose(0.0) == EXACT


def test_packing_that_takes_longer_than_it_saves_is_left_out():
    precision = Precision(BUDGET)
    run(precision, falling, 300)
    assert precision.choose(SLOW)
    precision.crossing = Crossing(400_000, 100_000, 0.02, pack_s=0.39)
    assert precision.choose(SLOW) == EXACT


def test_samples_become_seldom_while_all_is_well_and_frequent_when_not():
    precision = Precision(BUDGET)
    went = run(precision, falling, 4000)
    at = [k for k, (_, _, tried) in enumerate(went) if tried]
    assert at[1] - at[0] == SOONEST
    assert at[-1] - at[-2] == SELDOMEST
    run(precision, lambda bits: 2 * SPENT * BUDGET, 2 * SELDOMEST)
    assert precision.bits == EXACT
    assert precision.raised >= 1


def test_the_width_in_use_goes_up_before_the_budget_is_spent():
    precision = Precision(BUDGET)
    run(precision, falling, 400)
    used, grown = precision.bits, 1.0
    worst = 0.0
    for _ in range(4000):
        # Outputs get worse, by a thousandth with each inference.
        grown *= 1.001
        _, error, _ = inference(precision, lambda bits, by=grown: min(1.0, falling(bits) * by))
        worst = max(worst, error)
    assert worst <= BUDGET
    assert precision.raised >= 1
    assert precision.bits == EXACT or precision.bits > used


@pytest.mark.parametrize("seed", range(20))
def test_no_width_is_used_whose_samples_spent_the_budget(seed):
    rnd = random.Random(seed)
    typical = {bits: rnd.choice((0.0, 1e-4, 2e-3, 3e-3, 0.1)) for bits in WIDTHS}
    precision = Precision(BUDGET)
    bad = set()
    for _ in range(1500):
        bits = precision.choose(SLOW)
        assert bits not in bad
        tried = precision.due(SLOW)
        if tried:
            precision.crossing = CROSSING
            seen = [(w, typical[w] * rnd.uniform(0.2, 1.3)) for w in tried]
            precision.seen(seen)
            bad |= {width for width, error in seen if error > SPENT * BUDGET}
    assert precision.worst <= max(typical.values()) * 1.3


def test_half_floats_are_not_sent_in_as_many_bits_as_they_have():
    precision = Precision(BUDGET)
    precision.crossing = Crossing(bytes=200_000, elements=100_000, busy_s=0.02)
    tried = set()
    for _ in range(200):
        precision.choose(SLOW)
        some = precision.due(SLOW)
        tried |= set(some)
        if some:
            precision.seen([(width, 0.0) for width in some])
    assert tried == set(WIDTHS) - {16}


def test_the_error_of_floats_is_relative_and_that_of_others_a_part_of_bytes():
    exact = np.array([1, -3, 0, 4], np.float32)
    off = np.array([1, -3, 0.08, 4], np.float32)
    assert relative_error(off.tobytes(), exact.tobytes(), "f32") == pytest.approx(0.01)
    assert relative_error(off.tobytes(), off.tobytes(), "") == 0.0
    assert relative_error(b"abcd", b"abXd", "") == 0.25
    halves = exact.astype(np.float16)
    assert relative_error((halves * 2).tobytes(), halves.tobytes(), "f16") == 1.0
    nothing = np.zeros(4, np.float32)
    assert relative_error(off.tobytes(), nothing.tobytes(), "f32") == np.inf
    assert relative_error(b"abcd", b"abc", "") == np.inf
    nan = exact.copy()
    nan[1] = np.nan
    moved = np.roll(nan, 1)
    assert relative_error(nan.tobytes(), exact.tobytes(), "f32") == np.inf
    assert relative_error(moved.tobytes(), nan.tobytes(), "f32") == np.inf
    close = nan.copy()
    close[3] = 5
    assert relative_error(close.tobytes(), nan.tobytes(), "f32") == pytest.approx(0.2)
