"""Streams are captured into graphs by CUDA's rules."""

import json

import pytest
from support.one_process import OneProcess
from support.shim_peer import BATCHED, CASES, RPC, Peer
from support.shim_under_test import python

from rrto_ros.edge.host import HostLimits
from rrto_ros.robot.status import SessionConfig

PROGRAM = CASES.parent / "shim_capture.py"
CASES_HERE = (
    "simple",
    "empty_launch",
    "forks",
    "robots",
    "rows",
    "nested",
    "into",
    "rules",
    "modes",
    "per_thread",
    "cooperative",
)


@pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])
@pytest.mark.parametrize("case", CASES_HERE)
def test_a_captured_stream_is_a_graph(case, mode):
    with Peer(mode=mode) as peer:
        peer.case(case, program=PROGRAM)


def test_a_launch_of_a_captured_graph_is_one_record_between_its_copies():
    with Peer() as peer:
        peer.case("repeated", 5, program=PROGRAM)
        names = peer.names()
    once = ["memcpy_htod", "graph_launch", "memcpy_dtoh", "stream_synchronize"]
    first = names.index("graph_launch") - 1
    assert names[first : first + 20] == once * 5
    assert names.count("graph_add_kernel_node") == 3
    assert names.count("launch") == 0


def test_a_captured_graph_that_is_launched_again_and_again_is_a_sequence(sockets):
    rounds = 50
    world = OneProcess(sockets / "r" / "s.sock", SessionConfig(mode="replay"), HostLimits(),
                       blob_directory=sockets / "blobs")  # fmt: skip
    try:
        program = world.start(PROGRAM.name, "repeated", rounds)
        text, errors = program.communicate(timeout=90)
        assert program.returncode == 0, (text, errors)
        report = world.reports.get(timeout=20)
    finally:
        world.close()
    assert report.sequence_calls == 4
    assert report.inferences > rounds / 2
    assert report.divergences == 0
    assert report.inference_round_trips == 1


@pytest.mark.parametrize("mode", [BATCHED, RPC], ids=["batched", "rpc"])
def test_graphs_of_cuda_core_agree_with_numpy(mode):
    with Peer(mode=mode) as peer:
        program = peer.start([*python(), str(PROGRAM.parent / "cuda_core_graphs.py")])
        text, errors = program.communicate(timeout=100)
        if program.returncode == 77:
            pytest.skip(errors)
        assert program.returncode == 0, errors
        assert json.loads(text) == {"ran": ["captured", "embedded", "defined"]}
        assert peer.rings[0].refusals() == {}
