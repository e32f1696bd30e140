"""Robot and edge on two machines: two network namespaces, real DDS between them. Needs root."""

import json
import sys
import time

import pytest
from support.rig import ROOT, START_S, said

from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation.link_emulator import joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings
from rrto_ros.evaluation.netns import joined_by_veth

pytestmark = pytest.mark.root


@pytest.fixture
def cable():
    """Two machines joined by a cable."""
    try:
        joined = joined_by_veth()
        machines = joined.__enter__()
    except UnavailableError as error:
        pytest.skip(str(error))
    yield machines
    joined.__exit__(None, None, None)


@pytest.fixture
def radio():
    """Two machines joined by a link of 20 Mbit/s, 5 +- 1 ms, one packet in 200 lost."""
    try:
        joined = joined_by_link(LinkSettings(5, 1, 0.005, 20), seed=1)
        machines = joined.__enter__()
    except UnavailableError as error:
        pytest.skip(str(error))
    yield machines
    joined.__exit__(None, None, None)


def test_a_program_on_the_robot_computes_on_the_edge(cable, rig):
    rig.machines = cable
    rig.both("cpu")
    program = rig.program("infer.py", "20", "--count", "150000")
    assert said(program, done=True)["digest"]


def test_an_example_program_runs_across_unchanged(cable, rig):
    rig.machines = cable
    rig.both("cpu")
    example = ROOT / "examples" / "vector_add_cuda_bindings.py"
    program = rig.start("example", [sys.executable, example], rig.interposed())
    assert program.wait() == 0, program.text()


def test_results_are_right_over_a_slow_lossy_link(radio, rig):
    rig.machines = radio
    rig.both("cpu")
    program = rig.program("infer.py", "10", "--count", "20000")
    assert said(program, 100, done=True)["digest"]
    assert radio.link.statistics()["up"]["lost"] > 0


def test_a_broken_link_is_reported_and_works_again_when_it_is_back(radio, rig):
    rig.machines = radio
    rig.both("cpu", recorder={"server_timeout_s": 2.0, "resume": "off"})
    program = rig.program("infer.py", "1000000", "--count", "1000")
    said(program, iteration=2)
    radio.link.set(up=LinkSettings(loss=1), down=LinkSettings(loss=1))
    assert said(program, 12, failed=...)["failed"] == "DEVICE_UNAVAILABLE"
    radio.link.set(up=LinkSettings(5), down=LinkSettings(5))
    assert said(rig.program("infer.py", "3"), 100, done=True)


def test_a_link_that_is_away_for_longer_than_the_session_lives_costs_time_only(radio, rig):
    rig.machines = radio
    rig.both("cpu", "replay", server={"session_timeout_s": 3.0})
    program = rig.program("infer.py", "400", "--count", "1000", "--pace", stdin=True)
    for iteration in range(20):
        program.say("go")
        said(program, iteration=iteration)
    radio.link.set(up=LinkSettings(loss=1), down=LinkSettings(loss=1))
    program.say("go")
    time.sleep(6.0)
    radio.link.set(up=LinkSettings(5), down=LinkSettings(5))
    for iteration in range(20, 400):
        said(program, 60, iteration=iteration)
        program.say("go")
    assert said(program, 100, done=True)


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_demo_works_across_two_machines(cable, rig):
    rig.machines = cable
    folder = rig.folder / "out"
    common = ["--robot", rig.robot, "--domain", rig.domain]
    command = [sys.executable, "-m", "rrto_ros.cli.main", "up", *common]
    rig.start("edge", [*command, "--side", "edge"], rig.environment(), "edge")
    robot = rig.start(
        "robot",
        [*command, "--side", "robot", "--demo", "--frames", 2, "--output", folder],
        rig.environment(),
    )
    robot.wait_for("active in mode", START_S)
    assert robot.wait(300) == 0, robot.text(40)
    first = json.loads((folder / "detections.jsonl").read_text().splitlines()[0])
    person = max(first["detections"], key=lambda found: found["score"])
    assert person["class"] == "person"
    assert abs(person["score"] - 0.734) < 0.02
    assert list(folder.glob("annotated_*.png"))
