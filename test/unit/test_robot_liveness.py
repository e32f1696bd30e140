"""When a robot's session gives its server up, on a clock of the test's own."""

import itertools

from rrto_ros.robot.liveness import (
    ALIVE_PERIOD_S,
    PROBE_PERIOD_S,
    STOOD_STILL_S,
    UNSETTLED,
    Liveness,
)

LIMIT_S = 5.0


def test_a_silent_server_is_lost_after_the_stated_time_and_not_before():
    live = Liveness(LIMIT_S, 100.0)
    assert live.lost(104.9, 0, True) == ""
    assert live.deadline() == 105.0
    assert "silent for 5 s" in live.lost(105.0, 0, True)
    live.heard(105.0, False, (0, 0, 0))
    assert live.lost(109.0, 0, True) == ""


def test_a_recorder_that_was_stopped_does_not_blame_the_server():
    live = Liveness(LIMIT_S, 100.0)
    live.heard(100.2, False, (1, 1, 1))
    # It wanted to wake at 100.7 and was stopped: what came meanwhile is in a queue.
    live.woke(104.9, 100.7)
    assert live.lost(104.9, 7, True) == ""
    live.woke(170.0, 105.15)
    assert live.lost(170.0, 7, True) == ""
    assert live.statistics()["stood_still_s"] > 60
    assert "silent" in live.lost(175.1, 7, True)


def test_waking_in_time_is_no_excuse_for_the_server():
    live = Liveness(LIMIT_S, 100.0)
    now = 100.0
    while now < 105.0:
        planned = now + 0.25
        now = planned + STOOD_STILL_S / 2
        live.woke(now, planned)
    assert "silent" in live.lost(now, 0, True)


def test_a_server_that_answers_and_does_nothing_for_a_waiting_call_is_lost():
    live = Liveness(LIMIT_S, 0.0)
    live.lost(0.0, 3, True)
    now = 0.0
    while now < LIMIT_S:
        live.heard(now, False, (4, 9, 2))
        assert live.lost(now, 3, True) == ""
        now += 0.25
    live.heard(now, False, (4, 9, 2))
    assert "call 3 has waited for 5 s" in live.lost(now, 3, True)


def test_work_progress_and_another_call_are_no_standstill():
    for change in ("busy", "position", "call", "nobody waits"):
        live = Liveness(LIMIT_S, 0.0)
        for step in range(400):
            now = step * 0.25
            position = (step, 0, 0) if change == "position" else (1, 1, 1)
            live.heard(now, change == "busy", position)
            call = {"call": step + 1, "nobody waits": 0}.get(change, 3)
            assert live.lost(now, call, True) == "", change


def test_what_is_still_on_its_way_is_waited_for_longer():
    live = Liveness(LIMIT_S, 0.0)
    lost_at = 0.0
    while not live.lost(lost_at, 3, False):
        live.heard(lost_at, False, (1, 1, 1))
        lost_at += 0.25
    assert UNSETTLED * LIMIT_S <= lost_at <= UNSETTLED * LIMIT_S + 0.5


def test_a_silent_server_is_asked_often_so_that_an_outage_ends_in_time():
    live = Liveness(LIMIT_S, 0.0)
    assert live.probe_at(0.0) == ALIVE_PERIOD_S
    live.heard(10.0, False, (0, 0, 0))
    spoke, asked = 10.0, []
    while spoke < 14.5:
        spoke = live.probe_at(spoke)
        asked.append(spoke)
    assert asked[0] == 10.0 + ALIVE_PERIOD_S
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert set(gaps) == {PROBE_PERIOD_S}
