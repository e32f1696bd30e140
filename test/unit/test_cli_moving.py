"""`rrto move`: which session is meant, and what is said of each as its status comes."""

import pytest

from rrto_ros.cli import moving
from rrto_ros.cli.moving import Watched, choose
from rrto_ros.errors import ConfigError, UnavailableError


def session(pid=7, server="east", **more):
    return {
        "session": f"{pid:032x}"[::-1], "pid": pid, "program": "a program", "server": server,
        "phase": "recording", "resumed": 0, "moves_failed": 0, "move_error": "", "error": "",
        "wait_s": 1.0, "round_trips": 100, "median_wait_ms": 2.0, **more,
    }  # fmt: skip


def test_a_session_is_meant_by_its_process_or_the_first_digits_of_its_id():
    one, other = session(0x12), session(0x13)
    assert choose([one, other], "") == [one, other]
    assert choose([one, other], "18") == [one]
    assert choose([one, other], "21") == [one]
    assert choose([one, other], "31") == [other]


@pytest.mark.parametrize("which", ["ff", "nothing", "99"])
def test_what_there_is_is_listed_where_nothing_fits(which):
    with pytest.raises(ConfigError, match=r"there are .*\(pid 18, a program, at east\)"):
        choose([session(0x12)], which)
    with pytest.raises(ConfigError, match="no session is open"):
        choose([], which)


def test_several_that_fit_are_told():
    with pytest.raises(ConfigError, match="2 sessions begin with 'a'"):
        choose([session(0xA), session(0x1A)], "a")


def test_a_move_is_told_with_how_much_longer_the_program_waited():
    watched = Watched(session())
    watched.look([session(wait_s=1.2, round_trips=200)], 1.0)
    watched.look([session(server="west", resumed=1, wait_s=1.3, round_trips=220)], 1.2)
    assert not watched.done, "its next wait is yet to come"
    watched.look([session(server="west", resumed=1, wait_s=1.35, round_trips=225)], 1.4)
    # 150 ms of waiting in 25 round trips, of 2 ms each by habit.
    assert watched.done.endswith("went from east to west; it waited 100 ms for that")
    assert not watched.failed


def test_a_program_that_waits_for_nothing_is_told_after_a_while():
    watched = Watched(session())
    watched.look([session(server="west", resumed=1)], 1.0)
    watched.look([session(server="west", resumed=1)], 1.5)
    assert not watched.done
    watched.look([session(server="west", resumed=1)], 1.0 + moving.NEXT_WAIT_S)
    assert "it waited 0 ms" in watched.done


def test_a_move_that_fails_is_told_with_its_reason():
    watched = Watched(session(moves_failed=2))
    watched.look([session(moves_failed=2, move_error="an older one")], 1.0)
    assert not watched.done
    watched.look([session(moves_failed=3, move_error="no room\nthere")], 1.2)
    assert watched.done == r"a program (pid 7) stays at east: no room\nthere"
    assert watched.failed


def test_a_program_that_ends_meanwhile_is_no_failure():
    watched = Watched(session())
    watched.look([], 1.0)
    assert (watched.done, watched.failed) == ("a program (pid 7) ended", False)


class Client:
    """A recorder whose statuses are these, one after the other."""

    robot, domain = "robot", 0

    def __init__(self, *statuses, answer=(1, "")):
        self._statuses = list(statuses)
        self._answer = answer
        self.asked = []

    def status(self, kind):
        return {"sessions": self._statuses[0]} if self._statuses else None

    def wait(self, accepts, timeout_s):
        if accepts():
            return True
        if len(self._statuses) < 2:
            raise KeyboardInterrupt
        self._statuses.pop(0)
        return accepts()

    def move(self, session, server, timeout_s=10.0):
        self.asked.append((session, server))
        return self._answer


def test_the_order_is_told_and_watched(capsys):
    client = Client(
        [session(), session(8, "west")], [session(server="west", resumed=1), session(8, "west")],
        [session(server="west", resumed=1, round_trips=101), session(8, "west")],
        answer=(1, "session 8 is at west already"),
    )  # fmt: skip
    assert moving.move(client, "", "west", 5.0)
    assert client.asked == [("", "west")]
    said = capsys.readouterr().out.replace("\n", " ")
    assert "session 8 is at west already" in said
    assert "went from east to west" in said


def test_an_order_that_is_refused_is_an_error():
    client = Client([session()], answer=(0, "no server 'x' is heard of; there are east"))
    with pytest.raises(UnavailableError, match="no server 'x' is heard of; there are east"):
        moving.move(client, "7", "x", 5.0)


def test_ctrl_c_says_that_the_order_stands(capsys):
    with pytest.raises(KeyboardInterrupt):
        moving.move(Client([session()]), "", "", 5.0)
    assert "the order stands for a program (pid 7)" in capsys.readouterr().out.replace("\n", " ")
