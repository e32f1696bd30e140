"""Mapped memory, arrays and textures through recorder, server and worker, in every mode."""

import json

import pytest
from support.one_process import OneProcess

from rrto_ros.api.results import CUresult
from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.status import SessionConfig


@pytest.fixture
def make_world(sockets):
    made = []

    def make(mode):
        config = SessionConfig(mode=mode)
        made.append(OneProcess(sockets / "r" / "s.sock", config, HostLimits()))
        return made[-1]

    yield make
    for world in made:
        world.close()


def said(program):
    text, errors = program.communicate(timeout=120)
    assert program.returncode == 0, (text, errors)
    return json.loads(text.splitlines()[-1])


@pytest.mark.parametrize("each", [0, 1], ids=["one texture", "a texture for each"])
@pytest.mark.parametrize("mode", ["rpc", "batched", "replay"])
def test_every_frame_is_right(make_world, mode, each):
    world = make_world(mode)
    program = world.start("memory_loop.py", 60, each)
    assert said(program) == {"frames": 60}
    report = world.reports.get(timeout=20)
    while report.phase != "closed":
        report = world.reports.get(timeout=20)
    assert report.calls_unsupported == 0
    if mode == "replay":  # what a texture reads ties the input to the output
        assert report.inferences > 40
        assert report.inference_round_trips == 1 + each


def test_memory_that_was_unmapped_is_an_illegal_address(make_world):
    program = make_world("batched").start("memory_loop.py", "stray")
    assert said(program) == {"mapped": 0, "unmapped": CUresult.ILLEGAL_ADDRESS}
