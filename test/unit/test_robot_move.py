"""A session that is told to go elsewhere does, and its program notices nothing.

Real programs on the shim, a real recorder, two servers with real workers. RRTO_MOVES=50 runs so
many random programs in each setting; the short form has one.
"""

import os
import random
import threading
import time

import pytest
from support.several_edges import SeveralEdges
from support.worlds import ends, settings, worlds

from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.places import migration
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig

COUNT = int(os.environ.get("RRTO_MOVES", "1"))
INFERENCES = 400 if COUNT > 1 else 150
MIB = 1 << 20


@pytest.fixture
def edges(sockets):
    def make(mode="batched", run_ahead="off", count=2, **config):
        settings = SessionConfig(
            mode=mode, replay=ReplayOptions(run_ahead=run_ahead), **{"resume": "exact", **config}
        )
        return SeveralEdges(
            sockets / "r" / "s.sock",
            settings,
            HostLimits(),
            count=count,
            blob_directory=sockets / "blobs",
            blob_bytes=64 * MIB,
        )

    with worlds(make) as made:
        yield made


def moving(world, pause_s, stop):
    """Order each session to another server, again and again."""
    while not stop.wait(pause_s()):
        for session in world.host.sessions:
            if not session.ordered:
                here = session.server
                session.move(lambda server, here=here: server != here, "a test")


@pytest.mark.timeout(max(300, 60 * COUNT))
@pytest.mark.parametrize(
    ("mode", "run_ahead", "script"),
    settings(
        COUNT > 1,
        [("rpc", "off"), ("batched", "off"), ("replay", "off"), ("replay", "auto")],
        ["strangers.py", "host_memory.py"],
        most=3,
    ),
)
def test_moves_at_any_moment_cost_no_byte(edges, monkeypatch, mode, run_ahead, script):
    # Half of them as they come, half with a checkpoint and a moment of rest first.
    monkeypatch.setattr(migration, "SETTLE_S", 0.0 if script == "strangers.py" else 3.0)
    for seed in range(COUNT):
        rng = random.Random(f"{seed} {mode} {run_ahead}")
        world = edges(mode, run_ahead)
        stop = threading.Event()
        mover = threading.Thread(
            target=moving, args=(world, lambda rng=rng: rng.uniform(0.0, 0.3), stop)
        )
        mover.start()
        try:
            ends(world.start(script, "--seed", seed, "--inferences", INFERENCES))
        finally:
            stop.set()
            mover.join()
        report = world.reports.get(timeout=10)
        assert (report.phase, report.error) == ("closed", ""), world.lines
        assert report.resumed > 0, world.lines
        edges.close()


def test_a_move_that_is_ordered_brings_a_checkpoint_and_executes_little_twice(edges):
    world = edges("batched")
    program = world.start("tracker.py", 4000)
    end = time.monotonic() + 60
    while not world.host.sessions or world.host.sessions[0].snapshot().round_trips < 200:
        assert time.monotonic() < end
        time.sleep(0.01)
    session = world.host.sessions[0]
    here = session.server
    session.move(lambda server: server != here, "a test")
    while session.server == here:
        assert time.monotonic() < end
        time.sleep(0.01)
    covered = session.statistics()["journal_covered"]
    assert covered > 200
    program.kill()


def test_a_move_to_nobody_is_told_and_the_session_goes_on(edges, monkeypatch):
    monkeypatch.setattr(migration, "SEARCH_S", 0.5)
    world = edges("batched", count=1)
    program = world.start("tracker.py", 2000)
    end = time.monotonic() + 60
    while not world.host.sessions or not world.host.sessions[0].snapshot().round_trips:
        assert time.monotonic() < end
        time.sleep(0.01)
    session = world.host.sessions[0]
    session.move(lambda server: False, "a test")
    while not session.statistics()["migration_orders_failed"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "not wanted" in session.statistics()["migration_last_failure"]
    ends(program)
    report = world.reports.get(timeout=10)
    assert (report.phase, report.error, report.resumed) == ("closed", "", 0)


def test_a_session_that_is_not_kept_stays_where_it_is(edges):
    world = edges("batched", resume="off")
    program = world.start("tracker.py", 500)
    end = time.monotonic() + 60
    while not world.host.sessions:
        assert time.monotonic() < end
        time.sleep(0.01)
    session = world.host.sessions[0]
    session.move(lambda server: True, "a test")
    ends(program)
    assert session.statistics()["migration_orders_failed"] == 1
    assert world.reports.get(timeout=10).resumed == 0
