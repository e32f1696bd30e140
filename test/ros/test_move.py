"""Several edges of one robot as nodes over DDS: orders to move, lists, failover, restarts."""

import sys
import threading

import pytest
from support.rig import said

from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation.link_emulator import joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings

RRTO = [sys.executable, "-m", "rrto_ros.cli.main"]
PROGRAM = ("wander.py", "--cascade")


def rrto(rig, *arguments):
    """A command of `rrto`; its exit code and what it said."""
    command = rig.start(
        "rrto", [*RRTO, *map(str, arguments)], rig.environment(RRTO_ROBOT=rig.robot)
    )
    return command.wait(60), command.text()


def start(rig):
    """A program that does an iteration for each line it is given."""
    program, *options = PROGRAM
    return rig.program(program, 1000000, *options, "--pace", stdin=True)


def step(program, iteration):
    program.say("go")
    said(program, 60, iteration=iteration)


class Load:
    """Keeps a program at work until the test is done with it.

    Args:
        rig: The robot.
        ahead: So many iterations are asked for before they are done.
    """

    def __init__(self, rig, ahead=20):
        self._rig = rig
        self._ahead = ahead
        self._over = threading.Event()
        self._asked = 0
        self.program = start(rig)
        self.pid = self.program.pid
        self._thread = threading.Thread(target=self._feed)
        self._thread.start()

    def _feed(self):
        while not self._over.is_set():
            self.program.say("go")
            self._asked += 1
            if self._asked > self._ahead:
                done = self._asked - self._ahead
                try:
                    said(self.program, 120, after=done, iteration=done)
                except AssertionError:
                    return

    def at(self, iteration):
        """Wait until it has come so far."""
        said(self.program, 120, iteration=iteration)

    def ends(self):
        """Let it end; every byte has to be that of a run without a fault."""
        self._over.set()
        self._thread.join()
        self.program.close_input()
        digest = said(self.program, 120, done=True)["digest"]
        script, *options = PROGRAM
        alone = self._rig.program(script, self._asked, *options)
        assert said(alone, 240, done=True)["digest"] == digest


def edges(rig, *names, mode="batched", **recorder):
    """Servers of these names and a recorder that has heard of all of them."""
    servers = {name: rig.server(wait=False, server_name=name) for name in names}
    robot = rig.recorder(mode, wait=False, **recorder)
    for server in servers.values():
        server.wait_for("ready on", 40)
    robot.wait_for(r"\bactive in mode", 40)
    return servers, robot


def where(watch, program_pid, accepts, what):
    """The recorder's status of a program's session, once it fits."""

    def fits(status):
        return any(s["pid"] == program_pid and accepts(s) for s in status["sessions"])

    status = watch.wait("recorder_replayer", fits, 60, what)
    return next(s for s in status["sessions"] if s["pid"] == program_pid)


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_a_session_is_moved_there_and_back_and_every_byte_is_right(rig, mode):
    edges(rig, "east", "west", mode=mode)
    watch = rig.watch()
    program = Load(rig)
    program.at(50)
    here = where(watch, program.pid, lambda s: s["server"] in ("east", "west"), "a server")
    there = {"east": "west", "west": "east"}[here["server"]]
    code, text = rrto(rig, "move", "--to", there)
    assert code == 0, text
    assert f"went from {here['server']} to {there}; it waited" in text
    code, text = rrto(rig, "move", program.pid)
    while "less than 2 s ago" in text:
        code, text = rrto(rig, "move", program.pid)
    assert code == 0, text
    assert f"went from {there} to {here['server']}; it waited" in text
    program.ends()
    report = watch.report(program.pid)
    assert (report["resumed"], report["moves_failed"], report["error"]) == (2, 0, "")


def test_what_cannot_be_moved_is_told_with_what_there_is(rig):
    edges(rig, "east")
    code, text = rrto(rig, "move")
    assert code == 2
    assert "no session is open" in text
    program = start(rig)
    step(program, 0)
    code, text = rrto(rig, "move")
    assert code == 1
    assert "is at east, and no other server of this robot is heard of" in text
    code, text = rrto(rig, "move", "--to", "nowhere")
    assert code == 1
    assert "no server 'nowhere' is heard of; there are east" in text
    code, text = rrto(rig, "move", "--to", "east")
    assert code == 1
    assert "is at east already" in text
    code, text = rrto(rig, "move", "zz")
    assert code == 2
    assert "no session is 'zz'" in text
    assert f"(pid {program.pid}, " in text
    step(program, 1)


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_a_killed_servers_session_goes_on_at_the_one_that_runs(rig, mode):
    servers, _ = edges(rig, "east", "west", mode=mode)
    watch = rig.watch()
    program = Load(rig)
    program.at(300)
    here = where(watch, program.pid, lambda s: s["server"] in servers, "a server")["server"]
    servers[here].kill()
    after = where(watch, program.pid, lambda s: s["resumed"], "resumed")
    assert {here, after["server"]} == {"east", "west"}
    program.ends()


def test_a_killed_servers_session_goes_on_with_the_one_that_stands_by(rig):
    servers, _ = edges(rig, "east", "west", standby=1)
    watch = rig.watch()
    program = start(rig)
    for iteration in range(5):
        step(program, iteration)
    # It rests, so that there is a checkpoint.
    ready = where(watch, program.pid, lambda s: s["standby"], "one stands by")
    assert {ready["server"], ready["standby"]} == {"east", "west"}
    code, text = rrto(rig, "status", "--json")
    assert code == 0
    assert f'"standby": "{ready["standby"]}"' in text
    servers[ready["server"]].kill()
    step(program, 5)
    after = where(watch, program.pid, lambda s: s["resumed"], "resumed")
    assert after["server"] == ready["standby"]
    for iteration in range(6, 10):
        step(program, iteration)
    program.close_input()
    report = watch.report(program.pid)
    assert (report["resumed"], report["error"]) == (1, "")


def test_a_list_of_servers_is_followed_in_order_and_no_other_is_taken(rig):
    servers, _ = edges(rig, "east", "west", "south", servers="west, east")
    watch = rig.watch()
    program = start(rig)
    step(program, 0)
    where(watch, program.pid, lambda s: s["server"] == "west", "the first of the list")
    code, text = rrto(rig, "move", "--to", "south")
    assert code == 1
    assert "`servers` has session" in text
    assert "run at west, east only" in text
    servers["west"].kill()
    step(program, 1)
    where(watch, program.pid, lambda s: s["server"] == "east", "the second of the list")
    servers["east"].kill()
    rig.server(server_name="west")
    step(program, 2)
    where(watch, program.pid, lambda s: s["server"] == "west", "the first of the list again")


def test_a_program_is_told_that_no_server_of_the_list_is_there(rig):
    edges(rig, "east", servers="west", connect_timeout_s=3.0)
    program = start(rig)
    assert program.wait(60)
    assert "servers answered that are not wanted: east; `servers` allows west" in program.text()


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_a_rolling_restart_of_two_servers_loses_no_inference(rig, mode):
    servers, recorder = edges(rig, "east", "west", mode=mode)
    watch = rig.watch()
    program = Load(rig)
    program.at(50)
    heard = {}
    for _ in range(2):
        here = where(watch, program.pid, lambda s: s["server"] in servers, "a server")["server"]
        there = {"east": "west", "west": "east"}[here]
        servers[here].wait_for("the robot has another server", 60, heard.get(here, 0))
        assert servers[here].stop(30) == 0
        assert "sessions have 5 s to go on at another server" in servers[here].text()
        assert "are closed" not in servers[here].text(), "it left in time"
        where(watch, program.pid, lambda s, there=there: s["server"] == there, "it is there")
        heard = {there: len(servers[there].lines)}
        servers[here] = rig.server(server_name=here)
    program.ends()
    report = watch.report(program.pid)
    assert (report["resumed"], report["error"]) == (2, "")
    assert recorder.alive


def test_a_server_without_another_one_stops_at_once_and_its_sessions_wait(rig):
    servers, _ = edges(rig, "east")
    program = start(rig)
    step(program, 0)
    assert servers["east"].stop(30) == 0
    assert "to go on at another server" not in servers["east"].text()
    rig.server(server_name="east")
    step(program, 1)


def test_two_servers_of_one_name_and_user_do_not_run_on_one_machine(rig):
    edges(rig, "east")
    second = rig.server(wait=False, server_name="east")
    assert second.wait(60) == 2
    assert "another offload_server of this user that is called 'east'" in second.text()


def test_servers_are_told_apart_in_the_status(rig):
    servers, _ = edges(rig, "east", "west")
    for server in servers.values():
        server.wait_for("the robot has another server")
    code, text = rrto(rig, "status", "--json")
    assert code == 0
    assert '"east"' in text
    assert '"west"' in text


def test_who_orders_moves_again_and_again_does_not_keep_a_program_from_its_work(rig):
    edges(rig, "east", "west")
    watch = rig.watch()
    program = Load(rig)
    program.at(10)
    stranger = rig.helper("order_moves.py", rig.robot, "10")
    stranger.wait_for("orders", 60)
    program.ends()
    report = watch.report(program.pid)
    # In ten seconds at most so many orders are taken.
    assert report["resumed"] <= 8
    assert report["error"] == ""


@pytest.mark.root
def test_a_session_leaves_a_far_server_for_a_near_one_if_that_is_wanted(rig):
    try:
        joined = joined_by_link(LinkSettings(delay_ms=20))
        rig.machines = joined.__enter__()
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        rig.both("cpu", server={"server_name": "far"}, recorder={"rebalance": True})
        watch = rig.watch()
        program = Load(rig, ahead=3)
        program.at(5)
        where(watch, program.pid, lambda s: s["server"] == "far", "the only one")
        rig.server(server_name="near", side="robot")
        where(watch, program.pid, lambda s: s["server"] == "near", "where results come sooner")
        program.ends()
        report = watch.report(program.pid)
        assert (report["resumed"], report["moves_failed"], report["error"]) == (1, 0, "")
    finally:
        rig.close()
        joined.__exit__(None, None, None)
