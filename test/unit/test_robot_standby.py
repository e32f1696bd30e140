"""A session stands by at a second server, and the first one's death costs no sending again.

Real programs on the shim, a real recorder, servers with real workers. RRTO_STANDBYS=50 runs so
many random programs in each setting; the short form has one.
"""

import os
import random
import threading
import time

import pytest
from support.named_edges import NamedEdges
from support.worlds import ends, settings, until, worlds

from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.places import standby
from rrto_ros.robot.places.servers import Servers, choice_of
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.state import journal
from rrto_ros.robot.state.memory_image import MemoryImage
from rrto_ros.robot.status import SessionConfig

COUNT = int(os.environ.get("RRTO_STANDBYS", "1"))
MIB = 1 << 20
NEVER_S = 1e9


@pytest.fixture
def edges(sockets, monkeypatch):
    # As often as there is a checkpoint, which is often enough for it to be made in between.
    monkeypatch.setattr(standby, "PERIOD_S", 0.0)
    monkeypatch.setattr(standby, "RARELY", 0)
    monkeypatch.setattr(standby, "REFUSED_S", 0.2)
    monkeypatch.setattr(standby, "LOOK_S", 0.02)
    monkeypatch.setattr(journal, "PERIOD_S", 1.5)
    monkeypatch.setattr(journal, "_RARELY", 0)

    def make(mode="batched", run_ahead="off", names=("east", "west"), servers="", server=(),
             **config):  # fmt: skip
        settings = SessionConfig(
            mode=mode, replay=ReplayOptions(run_ahead=run_ahead),
            choice=choice_of(servers, Servers()),
            **{"resume": "exact", "standby": 1, "outage_timeout_s": 20.0, **config},
        )  # fmt: skip
        # Each keeps its uploads in its own memory.
        return NamedEdges(
            sockets / "r" / "s.sock", settings, HostLimits(), names=names, **dict(server)
        )

    with worlds(make) as made:
        yield made


def session_of(world):
    """The first session, once it is open."""
    return until(lambda: [one for one in world.host.sessions if at(world, one)], "a session")[0]


def stands(session):
    """Whether one stands ready for a session, with the last checkpoint; at which server."""
    found = session.statistics()
    return session.snapshot().standby if found.get("standby_session_current") else ""


def settled(session):
    """As `stands`, and no checkpoint is under way."""
    found = session.statistics()
    return stands(session) if found["journal_checkpoints"] == found["journal_completed"] else ""


def stays_ready(monkeypatch, session):
    """Let no more checkpoints be, and wait until one stands by with the last; where that is."""
    until(lambda: session.statistics()["journal_completed"], "a checkpoint")
    monkeypatch.setattr(journal, "PERIOD_S", NEVER_S)
    return until(lambda: settled(session), "it stands by")


def at(world, session):
    """The name of the server that a session is at."""
    return world.name_of(session.server)


@pytest.fixture
def restored(monkeypatch):
    """Grows with what restores a checkpoint, as it is taken to be sent."""
    found, restoring = [], journal.Journal._restoring

    def counting(self):
        for batch in restoring(self):
            found.append(batch)
            yield batch

    monkeypatch.setattr(journal.Journal, "_restoring", counting)
    return found


def made(session):
    """Whether one was ever opened to stand by for it."""
    return bool(session.statistics()["standby_made"])


def closes_well(world, program):
    """Let a program end; it must be right, and nothing be left at any server. Its report."""
    ends(program)
    report = world.reports.get(timeout=10)
    assert (report.phase, report.error) == ("closed", ""), world.lines
    for table in world.tables:
        until(lambda table=table: not table.hosts, "nothing is left at a server")
    return report


def goes_on(world, program, session):
    """A program that compares all that it reads does so for a while; then it ends. Its report."""
    before = session.snapshot().round_trips
    until(lambda: session.snapshot().round_trips > before + 50, "it goes on")
    assert program.poll() is None, program.communicate()
    program.kill()
    report = world.reports.get(timeout=10)
    assert (report.phase, report.error) == ("closed", ""), world.lines
    for table in world.tables:
        until(lambda table=table: not table.hosts, "nothing is left at a server")
    return report


@pytest.mark.parametrize("mode", ["rpc", "batched", "replay"])
def test_a_killed_servers_session_goes_on_where_one_stands_by(edges, monkeypatch, restored, mode):
    world = edges(mode, "auto")
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    here, there = at(world, session), stays_ready(monkeypatch, session)
    assert {here, there} == {"east", "west"}
    restored.clear()
    world.kill(here)
    until(lambda: at(world, session) == there, "it has moved")
    found = session.statistics()
    assert (found["standby_adopted"], found["standby_dropped"]) == (1, found["standby_made"] - 1)
    assert not restored, "nothing of the checkpoint is sent again"
    assert session.snapshot().standby == ""
    assert goes_on(world, program, session).resumed == 1


def test_a_newer_checkpoint_makes_what_stands_by_anew_and_never_both_at_once(edges):
    world = edges()
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    until(lambda: session.statistics()["standby_made"] > 2, "made anew")
    until(lambda: stands(session), "it stands by")
    assert session.statistics()["standby_session_error"] == ""
    assert session.statistics()["standby_reason"] == "there is a newer checkpoint"
    assert sum(len(table.hosts) for table in world.tables) <= 2
    program.kill()


@pytest.mark.parametrize("moment", ["asked", "came", "complete"])
def test_a_server_that_dies_around_a_checkpoint_costs_no_byte(edges, monkeypatch, moment):
    world = edges()
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    here = at(world, session)
    until(lambda: stands(session), "it stands by")
    dies = threading.Event()
    killer = threading.Thread(target=lambda: (dies.wait(60), world.kill(here)))
    killer.start()
    whose = {"asked": "checkpoint", "came": "piece", "complete": "think"}[moment]
    plain = getattr(journal.Journal, whose)

    def strikes(self, *arguments):
        out = plain(self, *arguments)
        # The first piece: more may be on their way. Once a checkpoint stands, it is newer.
        if moment != "complete" or out:
            dies.set()
        return out

    monkeypatch.setattr(journal.Journal, whose, strikes)
    until(lambda: session.snapshot().resumed, "it has moved")
    killer.join()
    assert goes_on(world, program, session).resumed == 1


def test_what_is_stale_is_given_up_and_the_session_opened_anew(edges, monkeypatch):
    world = edges(server={"max_sessions": 1})
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    here = at(world, session)
    until(lambda: stands(session), "it stands by")
    # What stands by is not made anew from now on, but there is a newer checkpoint.
    monkeypatch.setattr(standby, "PERIOD_S", NEVER_S)
    until(
        lambda: session.snapshot().standby and not session.statistics()["standby_session_current"],
        "it is stale",
    )
    world.kill(here)
    until(lambda: session.snapshot().resumed, "it has moved")
    assert session.statistics()["standby_adopted"] == 0
    assert session.statistics()["standby_reason"] == "there is a newer checkpoint"
    assert goes_on(world, program, session).resumed == 1


def test_when_its_server_dies_another_one_is_found_and_the_program_notices_nothing(edges):
    world = edges(names=("east", "west", "south"), server_timeout_s=1.5)
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    here, there = at(world, session), until(lambda: stands(session), "it stands by")
    world.kill(there)
    other = until(lambda: stands(session) not in ("", there) and stands(session), "another one")
    assert {here, there, other} == {"east", "west", "south"}
    assert at(world, session) == here
    assert goes_on(world, program, session).resumed == 0


def test_when_its_server_drains_another_one_is_found(edges):
    world = edges(names=("east", "west", "south"), server_timeout_s=1.5)
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    here, there = at(world, session), until(lambda: stands(session), "it stands by")
    world.draining.add(there)
    table = next(table for table in world.tables if world.names[table] == there)
    assert table.drain(30.0), "it leaves"
    other = until(lambda: stands(session), "another one")
    assert {here, there, other} == {"east", "west", "south"}
    assert goes_on(world, program, session).resumed == 0


def test_when_both_servers_die_the_session_goes_on_at_a_third(edges):
    world = edges(names=("east", "west"))
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    here, there = at(world, session), until(lambda: stands(session), "it stands by")
    world.kill(there)
    world.kill(here)
    world.rise("north")
    until(lambda: at(world, session) == "north", "it has moved")
    assert session.statistics()["standby_adopted"] == 0
    assert goes_on(world, program, session).resumed == 1


def test_a_list_of_servers_holds_for_what_stands_by(edges):
    world = edges(names=("east", "west", "south"), servers="south, east")
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    assert until(lambda: stands(session), "it stands by") == "east"
    assert at(world, session) == "south"
    goes_on(world, program, session)


def test_a_server_without_room_is_told_of_and_the_program_goes_on(edges):
    world = edges(server={"max_sessions": 1}, standby=1)
    programs = [world.start("tracker.py", 1000000) for _ in range(2)]
    until(lambda: sum(1 for one in world.host.sessions if at(world, one)) == 2, "both")
    first, second = world.host.sessions
    until(
        lambda: "sessions are open" in str(first.statistics()["standby_reason"]),
        lambda: first.statistics()["standby_reason"],
    )
    assert {at(world, first), at(world, second)} == {"east", "west"}
    for session in (first, second):
        until(lambda one=session: one.snapshot().round_trips > 100, "both go on")
    assert not any(program.poll() for program in programs)


@pytest.mark.parametrize("made", [True, False])
def test_an_order_to_where_it_stands_by_finds_room_there(edges, made):
    world = edges(server={"max_sessions": 1})
    if not made:
        world.block()
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    here = session.server
    until(lambda: session.statistics()["standby_made"], "it is opened there")
    if made:
        until(lambda: stands(session), "it stands by")
    else:
        assert session.snapshot().standby == ""
    session.move(lambda server: server != here, "a test")
    until(lambda: session.server != here, "it has moved")
    assert session.statistics()["migration_orders_failed"] == 0
    world.unblock()
    assert goes_on(world, program, session).resumed == 1


def test_a_program_that_is_killed_while_one_is_made_leaves_nothing(edges):
    world = edges()
    world.block()
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    until(lambda: session.statistics()["standby_made"], "it is opened there")
    program.kill()
    for table in world.tables:
        until(lambda table=table: not table.hosts, "nothing is left at a server")


def test_a_program_that_ends_while_one_is_made_leaves_nothing(edges):
    for steps in (600, 3000, 15000):
        world = edges()
        world.block()
        program = world.start("tracker.py", steps)
        session = session_of(world)
        # On a busy machine it may end before anything was opened for it.
        until(lambda s=session, p=program: made(s) or p.poll() is not None, "it is opened there")
        closes_well(world, program)
        if made(session):
            return
        edges.close()
    raise AssertionError("nothing was opened for it")


def test_a_lost_server_does_not_wait_for_what_is_not_ready(edges):
    world = edges(server={"max_sessions": 1})
    world.block()
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    until(lambda: session.statistics()["standby_made"], "it is opened there")
    world.kill(at(world, session))
    until(lambda: session.snapshot().resumed, "it has moved")
    assert session.statistics()["standby_adopted"] == 0
    world.unblock()
    goes_on(world, program, session)


def test_memory_that_is_not_the_checkpoints_is_noticed_before_it_is_needed(edges, monkeypatch):
    plain = MemoryImage.records
    monkeypatch.setattr(MemoryImage, "records", lambda image: list(plain(image))[1:])
    world = edges()
    program = world.start("tracker.py", 1000000)
    session = session_of(world)
    until(
        lambda: "not what the checkpoint holds" in str(session.statistics()["standby_reason"]),
        "it is noticed",
    )
    assert session.statistics()["standby_adopted"] == 0
    assert session.snapshot().standby == ""
    assert goes_on(world, program, session).resumed == 0


@pytest.mark.parametrize("stands_by", [0, 1])
def test_a_module_that_was_named_only_is_brought_to_a_server_that_never_had_it(
    edges, monkeypatch, tmp_path, stands_by
):
    uploads = {"blob_directory": tmp_path, "blob_bytes": 64 << 20}
    world = edges(names=("east",), servers="east, west", server=uploads, standby=stands_by)
    ends(world.start("tracker.py", 30, "--named"))
    assert world.reports.get(timeout=10).error == ""
    # The first server has its module from then on; the second one has nothing.
    program = world.start("tracker.py", 1000000, "--named")
    session = session_of(world)
    until(lambda: session.statistics()["blobs_references"] >= 2, "module and upload by name", 8)
    until(lambda: session.statistics()["journal_completed"], "a checkpoint")
    monkeypatch.setattr(journal, "PERIOD_S", NEVER_S)
    world.rise("west")
    if stands_by:
        assert until(lambda: settled(session), "it stands by") == "west"
    world.kill("east")
    until(lambda: at(world, session) == "west", "it has moved")
    assert session.statistics()["standby_adopted"] == stands_by
    assert goes_on(world, program, session).resumed == 1


def test_without_the_parameter_or_without_resuming_nothing_stands_by(edges):
    for options in ({"standby": 0}, {"standby": 1, "resume": "off"}):
        world = edges(**options)
        program = world.start("tracker.py", 300)
        session = session_of(world)
        ends(program)
        assert session.statistics()["standby_made"] == 0
        assert world.reports.get(timeout=10).standby == ""
        edges.close()


@pytest.mark.timeout(max(300, 90 * COUNT))
@pytest.mark.parametrize(
    ("mode", "run_ahead", "script"),
    settings(
        COUNT > 1,
        [("rpc", "off"), ("batched", "off"), ("replay", "off"), ("replay", "auto")],
        ["strangers.py", "host_memory.py"],
        most=2,
    ),
)
def test_deaths_at_any_moment_cost_no_byte(edges, monkeypatch, mode, run_ahead, script):
    monkeypatch.setattr(journal, "PERIOD_S", 1.0)
    adopted = 0
    for seed in range(COUNT):
        rng = random.Random(f"{seed} {mode} {run_ahead}")
        world = edges(mode, run_ahead)
        inferences = 400 if COUNT > 1 else 200
        program = world.start(script, "--seed", seed, "--inferences", inferences)
        session = session_of(world)
        got, fruitless = 0, 0
        while program.poll() is None:
            # A session whose servers all die before a new result ends, as it should.
            fruitless = fruitless + 1 if session.snapshot().round_trips == got else 0
            while fruitless > 1 and program.poll() is None:
                fruitless *= session.snapshot().round_trips == got
                time.sleep(0.002)
            got = session.snapshot().round_trips
            waits = rng.random() < 0.7
            end = time.monotonic() + rng.uniform(0.0, 1.0) + 3.0 * waits
            while time.monotonic() < end and not (waits and stands(session)):
                if program.poll() is not None:
                    break
                time.sleep(0.002)
            dies = at(world, session) if rng.random() < 0.7 else rng.choice(("east", "west"))
            if program.poll() is None and dies and len(world.tables) == 2:
                world.kill(dies)
                world.rise(dies)
        closes_well(world, program)
        adopted += session.statistics()["standby_adopted"]
        edges.close()
    assert adopted or COUNT == 1
