"""A participant is made anew when its patience is over, and seldom after that."""

from rrto_ros.ros.renewal import MOST, Renewal


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_the_patience_doubles_and_is_short_again_after_a_meeting():
    clock = Clock()
    renewal = Renewal(2.0, clock)
    for wanted in (2.0, 4.0, 8.0):
        assert renewal.due(True) == 0
        clock.now += wanted - 0.01
        assert renewal.due(True) == 0
        clock.now += 0.01
        assert renewal.due(True) == wanted
        renewal.began()
    assert renewal.due(False, met=True) == 0
    assert renewal.due(True) == 0
    clock.now += 2.0
    assert renewal.due(True) == 2.0


def test_who_is_not_seen_for_a_moment_has_the_whole_time_again():
    clock = Clock()
    renewal = Renewal(2.0, clock)
    renewal.due(True)
    clock.now += 1.9
    renewal.due(False)
    renewal.due(True)
    clock.now += 1.9
    assert renewal.due(True) == 0


def test_a_new_participant_has_its_time_from_when_it_is_there():
    clock = Clock()
    renewal = Renewal(2.0, clock)
    renewal.due(True)
    clock.now += 2.0
    assert renewal.due(True) == 2.0
    clock.now += 30.0  # it took its time to be made
    renewal.began()
    assert renewal.due(True) == 0


def test_there_is_a_last_patience():
    clock = Clock()
    renewal = Renewal(1.0, clock)
    renewal.due(True)
    for _ in range(20):
        clock.now += 10_000.0
        assert renewal.due(True)
    assert renewal.next_s == MOST
