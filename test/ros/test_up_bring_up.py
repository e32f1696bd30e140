"""`rrto up`, `rrto status` and `rrto mode` with real nodes."""

import json
import os
import re
import signal
import sys

import pytest
from support.processes import PATIENCE_S
from support.rig import START_S

RRTO = [sys.executable, "-m", "rrto_ros.cli.main"]


def rrto(rig, *arguments, wait=True):
    """Start an `rrto` command as a user of this rig's machine would; (code, text) when it ends."""
    process = rig.start("rrto", [*RRTO, *arguments], rig.environment(RRTO_ROBOT=rig.robot))
    if not wait:
        return process
    return process.wait(), process.text()


@pytest.fixture
def up(rig):
    """Server and recorder, brought up by `rrto up` on the null device."""
    process = rrto(rig, "up", "--device", "null", wait=False)
    process.wait_for(r"^\[offload_server\] .*ready on", START_S)
    process.wait_for(r"^\[recorder_replayer\] .*active in mode batched", START_S)
    return process


def test_up_starts_both_nodes_and_interrupt_ends_them_in_order(rig, up):
    code, text = rrto(rig, "status", "--json")
    assert code == 0
    nodes = {node["kind"]: node for node in json.loads(text)}
    assert nodes["offload_server"]["device"] == "null"
    assert nodes["recorder_replayer"]["state"] == "active"
    assert nodes["recorder_replayer"]["node"] == f"/{rig.robot}/recorder_replayer"
    up.signal(signal.SIGINT)
    assert up.wait() == 0
    assert "Traceback" not in up.text()
    # Status 8 s after the end: nobody answers, and that is said with the next step.
    code, text = rrto(rig, "status")
    assert code == 1
    assert "rrto up" in text


@pytest.mark.parametrize("node", ["offload_server", "recorder_replayer"])
def test_a_node_that_stands_still_while_they_meet_is_started_anew(rig, node):
    up = rrto(rig, "up", "--device", "null", wait=False)
    up.wait_for("starting offload_server and recorder_replayer", START_S)
    (stuck,) = rig.running(f"rrto_ros.nodes.{node}")
    os.kill(stuck, signal.SIGSTOP)
    up.wait_for(f"{node} .*starting anew", START_S)
    up.wait_for(rf"robot '{rig.robot}' is ready", START_S)
    up.signal(signal.SIGINT)
    assert up.wait() == 0


def test_mode_changes_it_and_a_refusal_gives_the_reason(rig, up):
    assert rrto(rig, "mode", "rpc") == (0, "mode rpc (was batched)")
    up.wait_for("mode is rpc")
    code, text = rrto(rig, "mode", "warp")
    assert code == 2
    assert "warp" in text
    assert "rpc, batched, replay" in text
    assert json.loads(rrto(rig, "status", "--json")[1])[1]["mode"] == "rpc"


def test_a_process_that_fails_ends_the_others_and_gives_the_exit_code(rig, up):
    second = rrto(rig, "up", "--side", "robot", wait=False)
    assert second.wait() == 2
    assert "another recorder_replayer listens" in second.text()
    assert re.search("recorder_replayer.* ended with exit code 2", second.text())
    # The first bring-up is not disturbed.
    assert rrto(rig, "status")[0] == 0


def test_the_two_sides_apart_are_the_same_as_both(rig):
    edge = rrto(rig, "up", "--side", "edge", "--device", "null", wait=False)
    robot = rrto(rig, "up", "--side", "robot", "--mode", "rpc", wait=False)
    edge.wait_for("ready on", START_S)
    robot.wait_for("active in mode rpc", START_S)
    kinds = [n["kind"] for n in json.loads(rrto(rig, "status", "--json")[1])]
    assert kinds == ["offload_server", "recorder_replayer"]
    assert "recorder_replayer" not in edge.text()
    assert "offload_server]" not in robot.text()


def test_a_device_that_is_not_there_ends_the_bring_up_with_the_reason(rig, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # where there is a GPU, too
    process = rrto(rig, "up", "--device", "gpu", wait=False)
    assert process.wait(PATIENCE_S) == 2
    assert "device 'gpu'" in process.text()
    assert "use device 'cpu'" in process.text()


def test_device_auto_takes_the_cpu_device_where_there_is_no_gpu_and_says_so(rig, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    edge = rrto(rig, "up", "--side", "edge", "--device", "auto", wait=False)
    edge.wait_for("device auto is cpu", START_S)
    edge.wait_for("ready on .* device cpu", START_S)


def test_options_of_the_replay_reach_the_recorder(rig):
    arguments = ["--mode", "replay", "--min-length", "11", "--plan-cache-bytes", "0"]
    up = rrto(rig, "up", *arguments, wait=False)
    up.wait_for("ready on", START_S)
    up.wait_for("active in mode replay", START_S)
    watch = rig.watch()
    for launches, inferences in ((8, 0), (9, 3)):
        program = rig.program("infer.py", 6, "--launches", launches)
        assert program.wait() == 0
        report = watch.report(program.pid)
        assert (report["plans"] > 0) == (inferences > 0), "an upload and a download more"
        assert report["inferences"] >= inferences
    up.signal(signal.SIGINT)
    assert up.wait() == 0
    refused = rrto(rig, "up", "--min-length", "9", "--max-length", "8", wait=False)
    assert refused.wait() == 2
    assert "min_length 9 is above max_length 8" in refused.text()
