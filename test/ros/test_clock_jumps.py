"""The wall clock is set by an hour: nothing but the time in messages and logs changes."""

import subprocess
import sys
import time

import pytest
from support.jumping_clock import JumpingClock
from support.rig import said

HOUR = 3600.0


@pytest.fixture
def clock(tmp_path):
    return JumpingClock(tmp_path)


def test_the_clock_of_these_tests_jumps(clock):
    command = [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"]
    for seconds in (HOUR, -HOUR):
        clock.jump(seconds)
        done = subprocess.run(
            command, env=clock.variables, capture_output=True, text=True, check=True
        )
        wall, steady = map(float, done.stdout.split())
        assert abs(wall - time.time() - seconds) < 60
        assert abs(steady - time.monotonic()) < 60


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_clock_that_jumps_changes_nothing(rig, clock, seconds):
    rig.variables = clock.variables
    server, recorder = rig.both("cpu", "replay")
    watch = rig.watch()
    program = rig.program("wander.py", "40", "--cascade", "--pace", stdin=True)
    for iteration in range(20):
        program.say("go")
        said(program, iteration=iteration)
    before = watch.wait("recorder_replayer", lambda m: m["sessions"], what="the session")
    clock.jump(seconds)
    for kind in ("recorder_replayer", "offload_server"):
        # A few more, so that none of them was on its way when the clock jumped.
        for _ in range(3):
            watch.wait(kind, lambda m: m["sessions"], 10, "a status after the jump")
    for iteration in range(20, 40):
        program.say("go")
        said(program, iteration=iteration)
    assert said(program, 20, done=True)
    assert said(rig.program("infer.py", "3"), done=True)
    assert before["sessions"][0]["phase"] not in ("lost", "resuming")
    assert not any("resumed" in line for line in recorder.lines)
    assert server.alive
    assert recorder.alive


def test_a_server_is_found_again_while_the_clock_jumps(rig, clock):
    rig.variables = clock.variables
    server, recorder = rig.both("cpu", "replay")
    program = rig.program("wander.py", "300", "--pace", stdin=True)
    for iteration in range(50):
        program.say("go")
        said(program, iteration=iteration)
    clock.jump(-HOUR)
    server.kill()
    program.say("go")
    rig.server("cpu")
    clock.jump(HOUR)
    said(program, 30, iteration=50)
    recorder.wait_for("is resumed as", 5)
