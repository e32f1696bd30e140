"""Who waits until a time of day is woken when the clock is set."""

import queue
import time

import pytest

from rrto_ros.ros.wall_clock import JUMP_S, WallClockWatch


@pytest.fixture
def clock():
    class Clock:
        ahead_s = 0.0
        jumps = queue.SimpleQueue()

        def __call__(self):
            return time.monotonic() + self.ahead_s

    return Clock()


@pytest.mark.parametrize("seconds", [3600.0, -3600.0, 2 * JUMP_S])
def test_a_clock_that_is_set_is_noticed_once(clock, seconds):
    watch = WallClockWatch(lambda: clock.jumps.put(1), 0.01, clock)
    try:
        clock.ahead_s = seconds
        assert clock.jumps.get(timeout=10)
        clock.ahead_s = 0.0
        assert clock.jumps.get(timeout=10)
    finally:
        watch.close()
    assert watch.statistics() == {"jumps": 2}
    assert clock.jumps.empty()


def test_a_clock_that_is_corrected_little_by_little_wakes_nobody(clock):
    looks = queue.SimpleQueue()

    def slewed():
        clock.ahead_s += JUMP_S / 100
        looks.put(1)
        return clock()

    watch = WallClockWatch(lambda: clock.jumps.put(1), 0.001, slewed)
    for _ in range(50):
        looks.get(timeout=10)
    watch.close()
    assert clock.jumps.empty()
