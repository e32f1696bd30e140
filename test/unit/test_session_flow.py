"""Back-pressure from end to end: real programs on the shim, a real recorder, server and worker.

Everything that holds data has a small bound here, and a program queues many times as much. Each
checks every byte itself. The same with gigabytes, and with the nodes: bench/flow.py.
"""

import dataclasses
import json
import time
from pathlib import Path

import pytest
from support.one_process import OneProcess

from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.status import SessionConfig

MIB = 1 << 20
CAP = MIB
CONFIG = SessionConfig(
    call_ring_bytes=CAP,
    reply_ring_bytes=CAP,
    untaken_bytes=CAP,
    window_bytes=CAP,
    batch_bytes=64 << 10,
    max_message_bytes=128 << 10,
    server_timeout_s=1.0,
    upload_compression="off",  # what fills the buffers is counted
)
LIMITS = HostLimits(
    max_message_bytes=128 << 10, timeout_s=1.5, unexecuted_bytes=CAP, unsent_bytes=CAP
)
IDLE_S = 1.8
"""Longer than both timeouts."""
AT_ONCE = CAP // 4 + 64
"""The largest record that the shim makes with such rings."""


@pytest.fixture
def make_world(sockets):
    made = []

    def make(mode="batched", limits=LIMITS, **options):
        options |= {"blob_directory": sockets / "blobs", "blob_bytes": 256 * MIB}
        changes = options.pop("config", {})
        config = dataclasses.replace(CONFIG, mode=mode, **changes)
        made.append(OneProcess(sockets / "r" / "s.sock", config, limits, **options))
        return made[-1]

    yield make
    for world in made:
        world.close()


def said(program, typed="", timeout_s=60):
    """What a program printed until its end; it must end well."""
    text, errors = program.communicate(typed, timeout=timeout_s)
    assert program.returncode == 0, (text, errors)
    return [json.loads(line) for line in text.splitlines()]


def bounded(world):
    """Nobody held more than its bound, what was on its way, and what is taken at once."""
    bounds = {
        "calls at the server": 3 * CAP + AT_ONCE,
        "results at the server": 2 * CAP + 2 * AT_ONCE,
        "results at the robot": 3 * CAP + 2 * AT_ONCE,
        "calls at the robot": 2 * CAP + 2 * AT_ONCE,
    }
    for name, bound in bounds.items():
        assert world.most[name] <= bound, f"{name}: {world.most[name]} bytes, at most {bound}"
    assert world.most["deferred calls"] == 0


def peak_kib(pid):
    """The most memory that a process had resident so far, KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def worker_of(world):
    end = time.monotonic() + 20
    while not world.table.hosts:
        assert time.monotonic() < end, "no session opened"
        time.sleep(0.005)
    return world.table.hosts[0].worker


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_downloads_queued_beyond_every_buffer_deliver_what_was_there_at_their_turn(
    make_world, mode
):
    world = make_world(mode)
    # Without the thread that would bring the copies in while the program does something else.
    program = world.start("flow.py", "queued", 48, IDLE_S, RRTO_COURIER="0")
    worker = worker_of(world)
    before = peak_kib(worker.pid)
    line = json.loads(program.stdout.readline())
    assert "queued" in line
    time.sleep(0.5)
    executed = world.table.hosts[0].statistics()["executed_call"]
    time.sleep(0.5)
    # The worker stands still, it does not put the copies off.
    assert world.table.hosts[0].statistics()["executed_call"] == executed < 250
    grown = peak_kib(worker.pid) - before
    assert said(program)[-1]["ok"] == 48 * MIB // 300_000
    assert grown < 24 << 10, f"the worker grew by {grown} KiB"
    bounded(world)


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_downloads_queued_beyond_every_buffer_land_while_the_program_makes_no_call(
    make_world, mode
):
    world = make_world(mode)
    program = world.start("flow.py", "queued", 48, 600)
    assert "queued" in json.loads(program.stdout.readline())
    calls = 2 * (48 * MIB // 300_000)
    end = time.monotonic() + 60
    while world.table.hosts[0].statistics()["executed_call"] < calls:
        assert time.monotonic() < end, "copies stay where they are"
        time.sleep(0.02)
    bounded(world)
    program.kill()
    program.communicate()


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_two_threads_that_queue_both_directions_do_not_block_each_other_for_ever(make_world, mode):
    world = make_world(mode)
    assert said(world.start("flow.py", "both", 64, IDLE_S))[-1]["ok"] > 0
    bounded(world)


def test_one_large_copy_each_way_over_a_slow_link_takes_no_more_memory(make_world):
    world = make_world(bytes_per_s=12 << 20, config={"blob_references": False})
    assert said(world.start("flow.py", "one", 24, 0))[-1]["ok"] == 1
    bounded(world)
    assert max(world.up.most_waiting, world.down.most_waiting) <= 2 * CAP + AT_ONCE


def test_uploads_wait_on_the_robot_while_the_device_is_busy(make_world):
    world = make_world(config={"blob_references": False})
    assert said(world.start("flow.py", "behind", 24, 0))[-1]["ok"] == 1
    assert world.most["calls at the server"] > CAP
    bounded(world)


def test_a_blob_is_brought_while_calls_are_held_back_and_results_are_not_taken(
    make_world, sockets, monkeypatch
):
    monkeypatch.setattr("rrto_ros.robot.blob_references.ENOUGH_KEPT_BYTES", CAP)
    world = make_world()
    first = world.start("flow.py", "known", 24, 0)
    assert said(first, "\n")[-1]["ok"] > 0
    second = world.start("flow.py", "known", 24, IDLE_S)
    assert json.loads(second.stdout.readline())["ready"]
    # The server has told their names; now every second one is gone.
    for path in sorted((sockets / "blobs").glob("??/*"))[::2]:
        path.unlink()
    assert said(second, "\n")[-1]["ok"] > 0
    assert world.most["blobs asked for"] > 10
    assert CAP < world.most["kept at the robot"] <= 3 * CAP + AT_ONCE
    bounded(world)


def test_a_program_killed_while_everything_is_full_leaves_nothing_behind(make_world):
    world = make_world()
    program = world.start("flow.py", "dies", 32, 60)
    worker = worker_of(world)
    assert "queued" in json.loads(program.stdout.readline())
    time.sleep(0.3)
    assert world.table.hosts[0].statistics()["result_stalls"] > 0
    program.kill()
    assert world.reports.get(timeout=10).error == ""
    while world.events.get(timeout=10).opened:
        pass
    assert not worker.alive
    assert world.table.hosts == []


def test_a_server_that_closes_a_full_session_ends_it_at_once(make_world):
    world = make_world()
    program = world.start("flow.py", "dies", 32, 60)
    worker = worker_of(world)
    program.stdout.readline()
    time.sleep(0.3)
    begun = time.monotonic()
    world.table.close_session(world.table.hosts[0].session, "closed by a test")
    while world.events.get(timeout=10).opened:
        pass
    assert time.monotonic() - begun < 1.5
    assert not worker.alive


def test_the_end_of_the_recorder_wakes_a_program_that_waits_for_room(make_world):
    world = make_world(bytes_per_s=256 << 10, config={"blob_references": False})
    program = world.start("flow.py", "fails", 64, 0)
    program.stdout.readline()
    time.sleep(1.0)
    world.host.stop_sessions("stopped by a test")
    begun = time.monotonic()
    text, _ = program.communicate(timeout=10)
    assert json.loads(text.splitlines()[-1])["result"] == 46
    assert time.monotonic() - begun < 2.0


def test_the_mode_changes_while_everything_is_full(make_world):
    world = make_world("replay")
    program = world.start("flow.py", "queued", 32, 1.0)
    program.stdout.readline()
    for mode in ("rpc", "batched", "replay"):
        world.host.set_mode(mode)
        time.sleep(0.1)
    assert said(program)[-1]["ok"] > 0
