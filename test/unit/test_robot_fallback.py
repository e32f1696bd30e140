"""A session without an edge goes on on the robot's own device and returns; its program notices
nothing but time.

Real programs on the shim, a real recorder with a device of its own, a server with real workers and
a link that is cut. RRTO_FALLBACKS=50 runs so many random programs in each setting.
"""

import os
import random
import threading
import time

import pytest
from support.away_edge import AwayEdge

from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.host import HostLimits
from rrto_ros.robot import fallback
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig

COUNT = int(os.environ.get("RRTO_FALLBACKS", "1"))
MIB = 1 << 20


@pytest.fixture
def edges(sockets):
    made = []

    def make(mode="batched", run_ahead="off", away=False, server=None, **config):
        settings = SessionConfig(
            mode=mode, replay=ReplayOptions(run_ahead=run_ahead),
            **{"fallback": "local", "resume": "exact", **config},
        )  # fmt: skip
        made.append(
            AwayEdge(sockets / "r" / "s.sock", settings, HostLimits(), away,
                     blob_directory=sockets / "blobs", blob_bytes=64 * MIB, **(server or {}))
        )  # fmt: skip
        return made[-1]

    make.close = lambda: made.pop().close()
    yield make
    while made:
        make.close()


def ends(program, timeout_s=120):
    out, errors = program.communicate(timeout=timeout_s)
    assert program.returncode == 0, (out[-2000:], errors[-3000:])
    return out


def served(session, waits):
    return session.snapshot().round_trips >= waits


def grows(world, by=50):
    """Wait until the session's program has got so many results more."""
    before = world.host.sessions[0].snapshot().round_trips
    world.wait(lambda session: served(session, before + by))


def is_here(session):
    return session.snapshot().fallback


def is_back(session):
    return not session.snapshot().fallback and session.snapshot().resumed


def test_a_session_goes_on_here_while_the_edge_is_away_and_returns(edges, monkeypatch):
    monkeypatch.setattr(fallback, "STEADY_S", 1.0)
    world = edges("batched")
    program = world.start("tracker.py", 1000000)
    world.wait(lambda session: served(session, 100))
    assert world.place.statistics()["opened"] == 0
    world.cut()
    session = world.wait(is_here)
    assert session.snapshot().device == "cpu"
    grows(world)
    world.mend()
    world.wait(is_back)
    grows(world)
    assert program.poll() is None
    program.kill()
    lines = "\n".join(world.lines)
    assert "goes on on this robot's cpu device as" in lines
    assert "is back at an edge as" in lines
