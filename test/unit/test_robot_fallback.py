"""A session without an edge goes on on the robot's own device and returns; its program notices
nothing but time.

Real programs on the shim, a real recorder with a device of its own, a server with real workers and
a link that is cut. RRTO_FALLBACKS=50 runs so many random programs in each setting.
"""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.away_edge import AwayEdge, grows, is_here, served
from support.worlds import ends, settings, worlds

from rrto_ros.api.info import DeviceInfo
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.host import HostLimits
from rrto_ros.edge.told import closed_message
from rrto_ros.errors import UnavailableError
from rrto_ros.nodes import local_place
from rrto_ros.nodes.known_devices import KnownDevices
from rrto_ros.nodes.local_place import LocalPlace
from rrto_ros.nodes.robot_places import RobotPlaces
from rrto_ros.robot.places import edge_watch, fallback, migration, rescue, whereabouts
from rrto_ros.robot.places.place import from_outside
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.handshake import UNSEALED
from rrto_ros.wire.port import OpenAnswer, OpenRequest

COUNT = int(os.environ.get("RRTO_FALLBACKS", "1"))
INFERENCES = 400 if COUNT > 1 else 150
MIB = 1 << 20


@pytest.fixture
def edges(sockets):
    def make(mode="batched", run_ahead="off", away=False, server=None, **config):
        settings = SessionConfig(
            mode=mode, replay=ReplayOptions(run_ahead=run_ahead),
            **{"fallback": "local", "resume": "exact", **config},
        )  # fmt: skip
        return AwayEdge(
            sockets / "r" / "s.sock",
            settings,
            HostLimits(),
            away,
            blob_directory=sockets / "blobs",
            blob_bytes=64 * MIB,
            **(server or {}),
        )

    with worlds(make) as made:
        yield made


def is_back(session):
    return not session.snapshot().fallback and session.snapshot().resumed


def test_a_session_goes_on_here_while_the_edge_is_away_and_returns(edges, monkeypatch):
    monkeypatch.setattr(fallback, "STEADY_S", 1.0)
    world = edges("batched")
    program = world.start("tracker.py", 1000000)
    world.wait(lambda session: served(session, 100))
    assert world.place.statistics()["opened"] == 0
    world.cut()
    found = world.wait(is_here)
    assert found.snapshot().device == "cpu"
    grows(world)
    world.mend()
    world.wait(is_back)
    grows(world)
    assert program.poll() is None
    program.kill()
    lines = "\n".join(world.lines)
    assert "goes on on this robot's cpu device as" in lines
    assert "is back at an edge as" in lines


def test_a_short_silence_is_waited_for(edges):
    world = edges("batched")
    program = world.start("tracker.py", 1000000)
    world.wait(lambda session: served(session, 50))
    for _ in range(3):
        world.cut()
        time.sleep(0.5)
        world.mend()
        grows(world)
    found = world.host.sessions[0]
    assert found.statistics()["fallback_falls"] == 0
    assert found.snapshot().resumed == 0
    program.kill()


@pytest.mark.timeout(max(300, 60 * COUNT))
@pytest.mark.parametrize(
    ("mode", "run_ahead", "script"),
    settings(
        COUNT > 1,
        [("batched", "off"), ("replay", "off"), ("replay", "auto")],
        ["host_memory.py", "strangers.py"],
    ),
)
def test_an_edge_that_comes_and_goes_costs_no_byte(edges, monkeypatch, mode, run_ahead, script):
    quick(monkeypatch)
    for seed in range(COUNT):
        rng = random.Random(f"{seed} {mode} {run_ahead}")
        world = edges(mode, run_ahead, fallback_after_s=0.3)
        program = world.start(script, "--seed", seed, "--inferences", INFERENCES)
        world.wait(lambda session: served(session, 10))
        while program.poll() is None:
            world.cut()
            if rng.random() < 0.3:
                world.die()
                world.rise()
            time.sleep(rng.uniform(0.0, 2.5))
            world.mend()
            time.sleep(rng.uniform(0.0, 2.0))
        ends(program)
        report = world.reports.get(timeout=10)
        assert (report.phase, report.error) == ("closed", ""), world.lines
        assert world.place.statistics()["opened"] > 0, world.lines
        assert world.place.statistics()["failures"] == 0
        edges.close()


def quick(monkeypatch):
    """Judge sooner, so that a test meets more moves."""
    monkeypatch.setattr(fallback, "STEADY_S", 0.2)
    monkeypatch.setattr(fallback, "SOON_S", 0.0)
    monkeypatch.setattr(edge_watch, "EVERY_S", 0.05)
    monkeypatch.setattr(whereabouts, "SUSPECT_S", 0.3)


def test_an_edge_that_flaps_does_not_have_the_session_back(edges):
    world = edges("batched")
    program = world.start("tracker.py", 1000000)
    world.wait(lambda session: served(session, 50))
    world.cut()
    world.wait(is_here)
    for _ in range(4):
        world.mend()
        time.sleep(1.0)
        world.cut()
        time.sleep(1.0)
    found = world.host.sessions[0]
    assert found.snapshot().fallback
    assert found.statistics()["fallback_returns"] == 0
    assert found.statistics()["fallback_edge_silent"] > 0
    grows(world)
    program.kill()


def test_an_edge_that_was_restarted_meanwhile_gets_the_session(edges, monkeypatch):
    quick(monkeypatch)
    world = edges("replay", "auto")
    program = world.start("tracker.py", 1500, "--graph", "--churn")
    world.wait(lambda session: served(session, 50))
    world.die()
    world.wait(is_here)
    grows(world)
    world.rise()
    world.wait(is_back)
    grows(world, 20)
    ends(program)
    report = world.reports.get(timeout=10)
    assert (report.phase, report.error, report.fallback) == ("closed", "", False)


def test_a_session_returns_although_nothing_was_answered_here(edges, monkeypatch):
    quick(monkeypatch)
    monkeypatch.setattr(migration, "SETTLE_S", 0.5)
    world = edges("batched")
    program = world.start("tracker.py", 1000)
    world.wait(lambda session: served(session, 50))
    world.cut()
    world.wait(is_here)
    (pid,) = workers(world)
    os.kill(pid, signal.SIGSTOP)
    world.mend()
    world.wait(is_back)
    ends(program)
    assert world.reports.get(timeout=10).error == ""


def workers(world):
    """Of the place, by pid."""
    return [host.worker.pid for table in world.place._tables.values() for host in table.hosts]


def gone(pid, timeout_s=10):
    end = time.monotonic() + timeout_s
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.01)


def test_two_programs_run_here_and_end_here_and_leave_no_worker(edges):
    world = edges("batched", away=False)
    programs = [world.start("tracker.py", 1000000) for _ in range(2)]
    end = time.monotonic() + 60
    while [served(one, 20) for one in world.host.sessions] != [True, True]:
        assert time.monotonic() < end
        time.sleep(0.01)
    world.cut()
    while [is_here(one) for one in world.host.sessions] != [True, True]:
        assert time.monotonic() < end, world.lines
        time.sleep(0.01)
    pids = workers(world)
    assert len(set(pids)) == 2
    here = [fallback.Here(one.snapshot(), one.here_s) for one in world.host.sessions]
    assert fallback.in_words(here).startswith("2 sessions run on this robot's cpu device since ")
    programs[0].kill()
    report = world.reports.get(timeout=20)
    assert (report.phase, report.fallback) == ("closed", True)
    # The recorder is stopped while the other is here.
    world.programs.clear()
    edges.close()
    programs[1].communicate(timeout=20)
    for pid in pids:
        gone(pid)
    assert world.place.statistics()["sessions"] == 0


def test_a_place_that_cannot_be_had_is_named_and_the_session_waits(edges):
    world = edges("batched", fallback_device="null", outage_timeout_s=20.0)
    program = world.start("tracker.py", 1000)
    world.wait(lambda session: served(session, 50))
    world.cut()
    world.wait(lambda session: session.statistics()["fallback_objection"])
    assert any("cannot go on on this robot" in line and "'null'" in line for line in world.lines)
    world.mend()
    ends(program)
    report = world.reports.get(timeout=10)
    assert (report.phase, report.error) == ("closed", "")
    assert world.place.statistics()["opened"] == 0


def test_a_place_that_cannot_be_had_is_named_when_the_session_is_lost(edges):
    world = edges("batched", fallback_device="gpu", outage_timeout_s=3.0)
    program = world.start("tracker.py", 1000000)
    world.wait(lambda session: served(session, 50))
    world.cut()
    program.communicate(timeout=30)
    report = world.reports.get(timeout=10)
    assert report.phase == "lost"
    assert "on this robot: this robot's own device refused the session" in report.error
    assert "'gpu'" in report.error
    assert "'cpu'" in report.error


def test_a_device_of_another_kind_of_gpu_is_refused_with_both_names():
    one = DeviceInfo(
        "gpu", "Card A", bytes(16), (8, 9), 13000, 1 << 30, 1 << 21, 1 << 36, {16: 40}
    )
    other = dataclasses.replace(one, name="Card B", attributes={16: 80})
    said = rescue._difference(one, other)
    assert said == "attribute 16 is 80, the session has 40 (Card B; the session has Card A)"


def test_a_program_that_starts_without_an_edge_runs_here_and_says_why_it_stays(edges, monkeypatch):
    quick(monkeypatch)
    monkeypatch.setattr(migration, "SEARCH_S", 1.0)
    # The edge gives one multiprocessor, this machine says how many it has.
    server = {
        "device_settings": DeviceSettings(limit_bytes=256 * MIB, threads=1, multiprocessors=99)
    }
    world = edges("batched", away=True, server=server, fallback_after_s=0.5)
    program = world.start("tracker.py", 1000000)
    found = world.wait(lambda session: served(session, 50))
    assert found.snapshot().fallback
    assert any("opens on this robot's cpu device" in line for line in world.lines)
    world.mend()
    world.wait(lambda session: session.statistics()["migration_orders_failed"])
    assert "attribute 16 is 99" in found.statistics()["migration_last_failure"]
    grows(world)
    program.kill()


def test_a_program_that_starts_without_an_edge_moves_to_one_that_was_known(edges, monkeypatch):
    quick(monkeypatch)
    server = {
        "device_settings": DeviceSettings(limit_bytes=128 * MIB, threads=1, multiprocessors=7)
    }
    world = edges("replay", "auto", server=server, fallback_after_s=0.5)
    ends(world.start("tracker.py", 20))
    assert not world.reports.get(timeout=10).fallback
    world.cut()
    program = world.start("tracker.py", 1500)
    found = world.wait(lambda session: served(session, 50))
    assert found.snapshot().fallback
    world.mend()
    world.wait(is_back)
    ends(program)
    assert world.reports.get(timeout=10).error == ""


def test_a_robot_without_memory_keeps_its_session_waiting(edges, monkeypatch):
    monkeypatch.setattr(local_place, "LEAST_FREE_BYTES", 1 << 60)
    world = edges("batched")
    program = world.start("tracker.py", 1000)
    world.wait(lambda session: served(session, 50))
    world.cut()
    world.wait(lambda session: "MiB of memory" in session.statistics()["fallback_objection"])
    world.mend()
    ends(program)
    assert world.reports.get(timeout=10).error == ""


def test_memory_is_limited_here_as_at_the_edge(edges):
    server = {"device_settings": DeviceSettings(limit_bytes=64 * MIB, threads=1)}
    world = edges("batched", server=server)
    program = world.start("allocating.py", 64)
    world.wait(lambda session: served(session, 1))
    world.cut()
    world.wait(is_here)
    out, errors = program.communicate("go\n", timeout=60)
    assert program.returncode == 0, errors
    assert out.splitlines() == ["fits", "does not"]


def test_results_of_the_network_for_a_session_that_is_here_are_dropped(edges):
    world = edges("batched")
    program = world.start("tracker.py", 1000000)
    world.wait(lambda session: served(session, 50))
    world.cut()
    found = world.wait(is_here)
    taken = []
    take = from_outside(world.places, taken.append)
    forged = closed_message(found.id)
    take(forged)
    assert taken == []
    take(dataclasses.replace(forged, session=bytes(16)))
    assert len(taken) == 1
    grows(world)
    program.kill()


def test_nothing_of_the_edge_is_imported_before_a_session_goes_here():
    code = (
        "import sys; from rrto_ros.nodes.local_place import LocalPlace; "
        "LocalPlace(print, print).close(); "
        "print([name for name in sys.modules if name.startswith('rrto_ros.edge.')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_the_edges_device_is_remembered_on_disk_and_damage_is_as_good_as_nothing(tmp_path):
    info = DeviceInfo("cpu", "d", bytes(16), (8, 9), 13000, 1 << 30, 1 << 21, 1 << 36, {16: 7})
    KnownDevices("r", print, tmp_path / "edges").put(info)
    assert KnownDevices("r", print, tmp_path / "edges").get("cpu") == info
    assert KnownDevices("r", print, tmp_path / "edges").get("gpu") is None
    assert KnownDevices("other", print, tmp_path / "edges").get("cpu") is None
    for path in (tmp_path / "edges").rglob("*"):
        if path.is_file() and path.name not in (".secret", ".lock"):
            path.write_bytes(path.read_bytes()[:-1])
    assert KnownDevices("r", print, tmp_path / "edges").get("cpu") is None


class Silent:
    """An edge that answers as a test says."""

    def __init__(self):
        self.answers = True

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        if not self.answers:
            raise UnavailableError("silence")
        return OpenAnswer(False, server=bytes([1] * 16), challenge=UNSEALED)


def test_who_loses_the_edge_again_soon_waits_longer_the_next_time():
    orders, place = [], RobotPlaces(LocalPlace(print, print), print, print)
    config = SessionConfig(fallback="local", place=place)
    judge = fallback.Fallback(config, Silent(), lambda: None, lambda *given: orders.append(given))
    info = DeviceInfo("cpu", "d", bytes(16), (8, 9), 13000, 1 << 30, 1 << 21, 1 << 36)
    request = OpenRequest(bytes([5] * 16), "r", "p", "", 1)
    judge.begin(request, info, bytes([1] * 16), 0.0)
    waits = []
    now = 1000.0
    for pause in (10.0, 10.0, 10.0, 100.0):
        judge.moved(bytes(16), place.server, now)
        waits.append(judge.statistics()["steady_s"])
        judge.moved(bytes(16), bytes([1] * 16), now + 5.0)
        now += 5.0 + pause
    judge.moved(bytes(16), place.server, now)
    waits.append(judge.statistics()["steady_s"])
    assert waits == [3.0, 6.0, 12.0, 24.0, 3.0]
    judge.cancel("the test is over")
