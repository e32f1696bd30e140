"""While no edge answers a program runs on the robot's own device, and the nodes say so."""

import re
import signal
import sys
import time
from pathlib import Path

import pytest
from support.rig import said

LOCAL = {"fallback": "local"}
ROUND = "1000000"


def digest_of(rig, *arguments):
    """What a run without a fault gives."""
    return said(rig.program("wander.py", *arguments), 60, done=True)["digest"]


def rrto(rig, *arguments):
    """A command of `rrto`; its exit code and what it said."""
    command = [sys.executable, "-m", "rrto_ros.cli.main", *arguments]
    process = rig.start("rrto", command, rig.environment(RRTO_ROBOT=rig.robot))
    return process.wait(60), process.text()


def step(program, first, last):
    """Have a program that waits for a word do these iterations."""
    for iteration in range(first, last):
        program.say("go")
        said(program, 60, iteration=iteration)


def here(status):
    return any(session["fallback"] for session in status["sessions"])


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_a_program_goes_on_here_when_the_server_is_killed_and_returns_to_the_next(rig, mode):
    server, recorder = rig.both("cpu", mode, recorder=LOCAL)
    wanted = digest_of(rig, "400", "--cascade")
    watch = rig.watch()
    program = rig.program("wander.py", "400", "--cascade", "--pace", stdin=True)

    step(program, 0, 100)
    server.kill()
    step(program, 100, 200)
    recorder.wait_for("goes on on this robot's cpu device as", 5)
    status = watch.wait("recorder_replayer", here)
    (session,) = status["sessions"]
    assert session["device"] == "cpu"
    if mode == "replay":
        assert session["edge_inference_ms"] > 0
    wants = r"1 session runs on this robot's cpu device since \d+ s"
    line = watch.diagnosed(lambda one: re.search(wants, one["message"]))
    assert line["level"] == 1
    rig.server("cpu")
    recorder.wait_for("is back at an edge as", 60)
    watch.wait("recorder_replayer", lambda one: one["sessions"] and not here(one))
    step(program, 200, 400)
    assert said(program, 60, done=True)["digest"] == wanted
    report = watch.report(program.pid)
    assert (report["phase"], report["error"], report["resumed"]) == ("closed", "", 2)


def test_a_frozen_server_is_left_and_taken_again(rig):
    server, recorder = rig.both("cpu", "replay", recorder=LOCAL)
    wanted = digest_of(rig, "3000")
    program = rig.program("wander.py", "3000")
    said(program, iteration=100)
    server.signal(signal.SIGSTOP)
    recorder.wait_for("goes on on this robot's cpu device as", 30)
    server.signal(signal.SIGCONT)
    recorder.wait_for("is back at an edge as|session .* closed", 60)
    assert said(program, 120, done=True)["digest"] == wanted


def test_a_program_that_starts_without_an_edge_runs_here_and_goes_to_the_edge(rig):
    recorder = rig.recorder("batched", **LOCAL)
    wanted_from = time.monotonic()
    program = rig.program("infer.py", ROUND)
    said(program, 60, iteration=5)
    assert time.monotonic() - wanted_from < 30
    recorder.wait_for("opens on this robot's cpu device", 5)
    rig.server("cpu")
    recorder.wait_for("is back at an edge as", 60)
    after = len(program.lines)
    said(program, 30, after=after, iteration=...)
    assert program.alive


def children(pid):
    """Process ids below a process."""
    out, new = [], [pid]
    while new:
        at = new.pop()
        tasks = Path(f"/proc/{at}/task").glob("*/children")
        found = [int(word) for task in tasks for word in task.read_text().split()]
        out += found
        new += found
    return out


def runs(pid):
    """Whether a process has not ended; one that nobody waits for stays in the table as Z."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_mode_local_needs_no_server_and_can_be_left(rig):
    recorder = rig.recorder("local", wait=False)
    recorder.wait_for(r"\bactive in mode", 40)
    watch = rig.watch()
    program = rig.program("wander.py", "200", "--cascade", "--pace", stdin=True)

    step(program, 0, 50)
    (session,) = watch.wait("recorder_replayer", here)["sessions"]
    assert (session["mode"], session["device"], session["resumed"]) == ("local", "cpu", 0)
    line = watch.diagnosed(lambda one: "runs on this robot's cpu device" in one["message"])
    assert line["level"] == 0, "it is what was asked for"
    rig.server("cpu")
    step(program, 50, 100)
    assert rrto(rig, "mode", "replay")[0] == 0
    recorder.wait_for("is back at an edge as", 60)
    step(program, 100, 150)
    assert rrto(rig, "mode", "local")[0] == 0
    recorder.wait_for("goes on on this robot's cpu device as .*: mode is local", 60)
    step(program, 150, 200)
    digest = said(program, 60, done=True)["digest"]
    report = watch.report(program.pid)
    assert (report["phase"], report["error"], report["resumed"]) == ("closed", "", 2)
    assert digest == digest_of(rig, "200", "--cascade")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_recorder_ends_while_a_session_is_here(rig, number):
    recorder = rig.recorder("batched", **LOCAL)
    program = rig.program("infer.py", ROUND)
    said(program, 60, iteration=5)
    workers = children(recorder.pid)
    assert workers
    recorder.signal(number)
    end = time.monotonic() + 20
    while any(runs(pid) for pid in workers):
        assert time.monotonic() < end, "a worker is still there"
        time.sleep(0.05)
    assert said(program, 20, failed=...)["failed"] == "DEVICE_UNAVAILABLE"


def test_resume_off_and_a_fallback_are_a_contradiction_that_is_named(rig):
    recorder = rig.recorder("batched", wait=False, resume="off", **LOCAL)
    recorder.wait_for("not configured: fallback is 'local' and resume is 'off'", 30)


def test_a_device_of_the_robot_that_cannot_be_the_sessions_is_named(rig):
    recorder = rig.recorder("batched", wait=False, device="gpu", fallback_device="cpu", **LOCAL)
    recorder.wait_for("not configured: fallback_device is 'cpu' and device is 'gpu'", 30)
