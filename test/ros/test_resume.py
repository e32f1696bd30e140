"""Servers that die, freeze or are away: programs wait, and go on as if nothing had happened."""

import signal
import time

import pytest
from support.rig import said

ROUND = "1000000"


def digest_of(rig, *arguments):
    """What a run without a fault gives."""
    return said(rig.program("wander.py", *arguments), 60, done=True)["digest"]


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_a_program_goes_on_at_a_server_that_takes_a_killed_ones_place(rig, mode):
    server, recorder = rig.both("cpu", mode)
    wanted = digest_of(rig, "300", "--cascade")
    program = rig.program("wander.py", "300", "--cascade", "--pace", stdin=True)
    for iteration in range(150):
        program.say("go")
        said(program, iteration=iteration)
    server.kill()
    program.say("go")
    rig.server("cpu")
    said(program, 30, iteration=150)
    recorder.wait_for("is resumed as", 5)
    for _ in range(149):
        program.say("go")
    assert said(program, 60, done=True)["digest"] == wanted


def test_a_server_that_is_restarted_in_order_loses_no_inference(rig):
    server, _ = rig.both("cpu", "replay")
    program = rig.program("wander.py", "600", "--cascade")
    said(program, iteration=100)
    assert server.stop() == 0
    rig.server("cpu")
    assert said(program, 120, done=True)


def test_a_frozen_server_costs_time_only(rig):
    server, recorder = rig.both("cpu", "replay")
    wanted = digest_of(rig, "2000")
    program = rig.program("wander.py", "2000")
    said(program, iteration=100)
    server.signal(signal.SIGSTOP)
    # Longer than the silence after which a session without resuming would end.
    time.sleep(6.0)
    server.signal(signal.SIGCONT)
    assert said(program, 60, done=True)["digest"] == wanted
    assert recorder.alive


def test_without_a_server_the_program_is_told_after_the_outage_time(rig):
    server, _ = rig.both("cpu", recorder={"outage_timeout_s": 3.0})
    program = rig.program("infer.py", ROUND)
    said(program, iteration=5)
    started = time.monotonic()
    server.kill()
    assert said(program, 15, failed=...)["failed"] == "DEVICE_UNAVAILABLE"
    assert 2.5 < time.monotonic() - started < 8.0
