"""Mode partition: part of each inference runs on the robot, and the program sees nothing of it."""

import os
import re
import signal
import sys

import pytest
from support.rig import said

LONG = "RRTO_PARTITIONS" in os.environ
ALGORITHMS = ("min_cut", "all_local", "all_edge") if LONG else ("all_local",)
ROUNDS = "600" if LONG else "150"
JITS = ([], ["--jit"]) if LONG else ([],)
RAN = (
    r"ran (\d+) calls on this robot and (\d+) at the edge, with (\d+) bytes brought between them, "
    r"\d+ sent to the edge and \d+ received; (\d+) of (\d+) plans understood, (\d+) placements"
)


def ran(recorder):
    """Calls on the robot and at the edge, bytes brought, plans understood, plans, placements."""
    recorder.wait_for(RAN, 20)
    return [int(number) for number in re.findall(RAN, recorder.text())[-1]]


def step(program, first, last):
    """Have a program that waits for a word do these iterations."""
    for iteration in range(first, last):
        program.say("go")
        said(program, 60, iteration=iteration)


def both(rig, algorithm, *program, **parameters):
    """What a program gives in mode batched, and in mode partition; the recorder."""
    _, recorder = rig.both(
        "cpu", "batched", recorder={"partition_algorithm": algorithm, **parameters}
    )
    plain = said(rig.program(*program), 60, done=True)["digest"]
    command = [sys.executable, "-m", "rrto_ros.cli.main", "mode", "partition"]
    mode = rig.start("rrto", command, rig.environment(RRTO_ROBOT=rig.robot))
    assert mode.wait(30) == 0, mode.text()
    watch = rig.watch()
    running = rig.program(*program)
    parted = said(running, 120, done=True)["digest"]
    assert running.wait(20) == 0
    report = watch.report(running.pid)
    assert (report["error"], report["server"]) == ("", "this robot's own device and an edge")
    return plain, parted, recorder


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_inference_that_runs_at_two_places_gives_the_results_of_one(rig, algorithm):
    plain, parted, recorder = both(rig, algorithm, "infer.py", "60")
    assert plain == parted
    here, there, _, understood, plans, placements = ran(recorder)
    assert (understood, plans) == (1, 1)
    assert placements >= 1
    if algorithm == "all_local":
        assert here > there
    if algorithm == "all_edge":
        assert here == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_program_that_leaves_its_plans_gets_the_results_of_one_device(rig, algorithm):
    plain, parted, recorder = both(rig, algorithm, "wander.py", ROUNDS, "--cascade")
    assert plain == parted
    here, there, *_ = ran(recorder)
    assert here + there > int(ROUNDS)


def test_adaptive_transfers_are_exact_where_nothing_is_cut(rig):
    plain, parted, recorder = both(
        rig, "all_local", "infer.py", "60", transfer_precision="adaptive"
    )
    assert plain == parted
    assert ran(recorder)[3] == 1
    recorder.wait_for(r"0 inferences with transfers in fewer bits \(now exact\)", 5)


@pytest.mark.parametrize("jit", JITS, ids=["plain", "jit"][: len(JITS)])
def test_a_network_runs_on_the_robot_with_the_results_of_the_edge(rig, jit):
    """What its start made at the edge of the weights is brought once."""
    plain, parted, recorder = both(rig, "all_local", "cnn_loop.py", "40", *jit)
    assert plain == parted
    here, _, brought, understood, *_ = ran(recorder)
    if jit:
        return  # it gives a graph other arguments in each inference, which is not placed
    assert understood >= 1
    assert here > 0
    assert brought > 0


def test_a_program_goes_on_here_when_its_edge_is_lost_and_is_partitioned_with_the_next(rig):
    server, recorder = rig.both("cpu", "batched", recorder={"partition_algorithm": "all_local"})
    plain = said(rig.program("infer.py", "60"), 60, done=True)["digest"]
    command = [sys.executable, "-m", "rrto_ros.cli.main", "mode", "partition"]
    assert rig.start("rrto", command, rig.environment(RRTO_ROBOT=rig.robot)).wait(30) == 0
    watch = rig.watch()
    program = rig.program("infer.py", "60", "--pace", stdin=True)
    step(program, 0, 30)
    server.kill()
    step(program, 30, 40)
    recorder.wait_for("goes on on this robot's cpu device as", 30)
    rig.server("cpu")
    recorder.wait_for("is partitioned again as .* on this robot", 60)
    step(program, 40, 60)
    assert said(program, 60, done=True)["digest"] == plain
    report = watch.report(program.pid)
    assert (report["error"], report["resumed"]) == ("", 2)
    assert report["server"] == "this robot's own device and an edge"
    # The plan was understood again, and its calls placed.
    here, _, _, understood, _, placements = ran(recorder)
    assert (understood, placements) == (1, 1)
    assert here > 0


def test_an_edge_that_is_lost_ends_a_program_that_is_not_to_be_resumed(rig):
    server, recorder = rig.both("cpu", "partition", recorder={"resume": "off"})
    program = rig.program("infer.py", "1000000")
    said(program, 60, iteration=30)
    server.kill()
    assert said(program, 30, failed=...)["failed"] == "DEVICE_UNAVAILABLE"
    assert program.wait(10) == 3
    recorder.wait_for("closed: the edge: ", 5)


def test_a_program_that_starts_without_an_edge_is_refused_or_runs_here(rig):
    recorder = rig.recorder("partition", connect_timeout_s=1.0)
    program = rig.program("infer.py", "12")
    assert said(program, 30, failed=...)["failed"] == "SYSTEM_NOT_READY"
    assert "mode is partition: " in program.text()
    recorder.signal(signal.SIGINT)
    assert recorder.wait(20) == 0
    rig.recorder("partition", connect_timeout_s=3.0, fallback="local")
    assert said(rig.program("infer.py", "12"), 60, done=True)


def test_what_cannot_be_chosen_is_refused_by_name(rig):
    recorder = rig.recorder("partition", wait=False, partition_objective="energy")
    recorder.wait_for("power_profile is empty: want one of jetson_xavier_nx", 30)


def test_a_session_goes_to_the_edge_as_a_whole_and_is_partitioned_again_when_the_mode_says_so(rig):
    _, recorder = rig.both("cpu", "partition", recorder={"partition_algorithm": "all_local"})
    plain = said(rig.program("infer.py", "60"), 60, done=True)["digest"]
    program = rig.program("infer.py", "60", "--pace", stdin=True)
    step(program, 0, 30)
    command = [sys.executable, "-m", "rrto_ros.cli.main", "mode", "replay"]
    assert rig.start("rrto", command, rig.environment(RRTO_ROBOT=rig.robot)).wait(30) == 0
    recorder.wait_for("is as a whole at an edge as", 30)
    step(program, 30, 45)
    command[-1] = "partition"
    assert rig.start("rrto", command, rig.environment(RRTO_ROBOT=rig.robot)).wait(30) == 0
    recorder.wait_for("is partitioned again as", 30)
    step(program, 45, 60)
    assert said(program, 60, done=True)["digest"] == plain
