"""When nodes that do not find each other are started anew."""

import pytest

from rrto_ros.bringup.meeting import ALONE_S, SILENT_S, Meeting

NEITHER, BOTH = (False, False), (True, True)


def test_one_that_is_not_heard_while_the_other_is_starts_anew():
    for heard, late in ((True, False), (False, True)), ((False, True), (True, False)):
        meeting = Meeting(100.0)
        assert meeting.late(101.0, *heard) == NEITHER
        assert meeting.late(101.0 + ALONE_S, *heard) == NEITHER
        assert meeting.late(101.1 + ALONE_S, *heard) == late


def test_both_start_anew_where_both_are_heard_and_do_not_meet():
    meeting = Meeting(0.0)
    meeting.late(1.0, True, False)
    assert meeting.late(1.1, *BOTH) == NEITHER
    assert meeting.late(1.1 + ALONE_S, *BOTH) == BOTH


def test_both_start_anew_where_neither_is_heard():
    meeting = Meeting(0.0)
    assert meeting.late(SILENT_S, *NEITHER) == NEITHER
    assert meeting.late(SILENT_S + 0.1, *NEITHER) == BOTH


@pytest.mark.parametrize("first_seen", [0.5, 7.0])
def test_a_busy_machine_has_more_time(first_seen):
    meeting = Meeting(0.0)
    assert meeting.late(first_seen, True, False) == NEITHER
    patience = max(ALONE_S, first_seen)
    assert meeting.late(first_seen + patience, *BOTH) == NEITHER
    assert meeting.late(first_seen + patience + 0.1, *BOTH) == BOTH


def test_each_attempt_has_twice_the_time():
    meeting, now = Meeting(0.0), 0.0
    for attempt in range(4):
        now += 1.0
        meeting.late(now, True, False)
        now += ALONE_S * 2**attempt
        assert meeting.late(now, True, False) == NEITHER
        now += 0.1
        assert meeting.late(now, True, False) == (False, True)
    assert meeting.attempts == 4


def test_how_long_starting_took_is_not_forgotten_where_the_other_is_up_already():
    meeting, slow = Meeting(0.0), 4.0
    meeting.late(slow, True, False)
    assert meeting.late(2 * slow + 0.1, True, False) == (False, True)
    again = 2 * slow + 0.1
    assert meeting.late(again + 0.1, True, False) == NEITHER
    assert meeting.late(again + 0.1 + 2 * slow, True, False) == NEITHER
    assert meeting.late(again + 0.2 + 2 * slow, True, False) == (False, True)
