"""Mode `local`: sessions run on the robot's own device, open there, and go there and back.

Real programs on the shim, a real recorder with a device of its own, a server with real workers and
a link that can be cut. RRTO_LOCALS=50 runs so many random programs.
"""

import os
import random
import time

import pytest
from support.away_edge import AwayEdge, grows, is_here, served
from support.worlds import ends, worlds

from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.places import fallback
from rrto_ros.robot.places.fallback import OWN
from rrto_ros.robot.places.orders import Orders
from rrto_ros.robot.places.servers import Servers
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig

COUNT = int(os.environ.get("RRTO_LOCALS", "1"))
MIB = 1 << 20


@pytest.fixture
def edges(sockets):
    def make(mode="local", run_ahead="off", away=False, **config):
        settings = SessionConfig(
            mode=mode, replay=ReplayOptions(run_ahead=run_ahead),
            **{"resume": "exact", "connect_timeout_s": 10.0, **config},
        )  # fmt: skip
        return AwayEdge(
            sockets / "r" / "s.sock",
            settings,
            HostLimits(),
            away,
            blob_directory=sockets / "blobs",
            blob_bytes=64 * MIB,
        )

    with worlds(make) as made:
        yield made


def closes(world, program):
    """The program's output, and the report of its session; nothing went wrong."""
    out = ends(program)
    report = world.reports.get(timeout=10)
    assert (report.phase, report.error) == ("closed", ""), world.lines
    return out, report


def at_the_edge(session):
    return not session.snapshot().fallback


@pytest.mark.parametrize("run_ahead", ["off", "auto"])
@pytest.mark.parametrize("script", ["strangers.py", "host_memory.py"])
def test_a_program_runs_without_an_edge_and_gives_the_same(edges, script, run_ahead):
    arguments = (script, "--seed", 3, "--inferences", 80)
    wanted, _ = closes(world := edges("batched"), world.start(*arguments))
    edges.close()
    world = edges(run_ahead=run_ahead, away=True, connect_timeout_s=120.0)
    began = time.monotonic()
    got, report = closes(world, world.start(*arguments))
    assert got == wanted
    assert time.monotonic() - began < 60, "nobody waited for an edge"
    assert (report.mode, report.server, report.resumed) == ("local", OWN, 0)
    assert report.inferences > 0, "its calls are named, not sent one by one"
    assert not world.table.statistics()["sessions"]
    assert "device: mode is local" in "\n".join(world.lines)


def test_a_session_comes_here_at_the_users_word_and_goes_back(edges, monkeypatch):
    monkeypatch.setattr(fallback, "STEADY_S", 0.5)
    world = edges("batched")
    program = world.start("tracker.py", 1000000)
    world.wait(lambda session: served(session, 100))
    for mode in ("replay", "batched"):
        world.host.set_mode("local")
        found = world.wait(is_here)
        assert found.snapshot().server == OWN
        grows(world)
        assert is_here(found)
        world.host.set_mode(mode)
        world.wait(at_the_edge)
        grows(world)
    assert found.snapshot().resumed == 4
    assert found.snapshot().moves_failed == 0
    assert program.poll() is None
    program.kill()
    assert "device as" in "\n".join(world.lines)


def test_it_stays_here_whatever_the_edge_does(edges, monkeypatch):
    monkeypatch.setattr(fallback, "STEADY_S", 0.2)
    world = edges(fallback="local", fallback_after_s=0.3)
    program = world.start("tracker.py", 1000000)
    found = world.wait(is_here)
    for _ in range(3):
        world.cut()
        grows(world)
        world.mend()
        grows(world)
        time.sleep(0.5)
    assert is_here(found)
    assert found.snapshot().resumed == 0
    program.kill()


def test_an_order_to_move_is_refused(edges):
    world = edges()
    program = world.start("tracker.py", 1000000)
    found = world.wait(is_here)
    done = Orders(lambda: world.host.sessions, Servers()).move(bytes(16), "")
    assert done.sessions == 0
    assert "mode is local; set another with `rrto mode`" in done.reason
    grows(world)
    assert is_here(found)
    program.kill()


def test_without_a_device_of_its_own_the_reason_is_said(edges):
    world = edges()
    world.place.close()
    program = world.start("tracker.py", 5)
    _, errors = program.communicate(timeout=30)
    assert program.returncode != 0
    assert "mode is local on this robot's own device: the recorder shuts down" in errors


@pytest.mark.timeout(max(300, 60 * COUNT))
@pytest.mark.parametrize("run_ahead", ["off", "auto"])
@pytest.mark.parametrize("script", ["strangers.py", "host_memory.py"])
def test_modes_set_at_any_moment_cost_no_byte(edges, monkeypatch, script, run_ahead):
    monkeypatch.setattr(fallback, "STEADY_S", 0.1)
    monkeypatch.setattr(fallback, "SOON_S", 0.0)
    for seed in range(COUNT):
        rng = random.Random(f"{seed} {run_ahead}")
        world = edges("replay", run_ahead)
        inferences = 400 if COUNT > 1 else 150
        program = world.start(script, "--seed", seed, "--inferences", inferences)
        world.wait(lambda session: served(session, 10))
        while program.poll() is None:
            world.host.set_mode(rng.choice(("local", "local", "replay", "batched", "rpc")))
            time.sleep(rng.choice((0.0, 0.05, rng.uniform(0.0, 1.5))))
        closes(world, program)
        edges.close()
