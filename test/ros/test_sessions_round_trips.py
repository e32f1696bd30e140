"""How often a program waits for the edge: once per sync point, or in mode rpc per operator.

Counted from the reports of `rrto run` and `rrto demo`; the difference between a longer and a
shorter run leaves the start-up out.
"""

import json
import sys

import pytest
from support.rig import PROGRAMS, ROOT, parsed

ITERATIONS = (4, 9)
LAUNCHES = 8


def rrto(rig, *arguments, timeout_s=150):
    """Run the `rrto` command to its end; returns the process."""
    # The command finds the robot by these, and starts its own nodes.
    process = rig.start(
        "rrto", [sys.executable, "-m", "rrto_ros.cli.main", *arguments], rig.environment()
    )
    assert process.wait(timeout_s) == 0, process.text(60)
    return process


def run(rig, mode, *command, timeout_s=150):
    """(totals of the report, lines that the program printed)."""
    path = rig.folder / f"report-{mode}-{len(rig.processes)}.json"
    options = ["--robot", rig.robot, "--domain", rig.domain, "--mode", mode, "--report", path]
    process = rrto(rig, "run", *options, "--", *command, timeout_s=timeout_s)
    report = json.loads(path.read_text())
    assert report["complete"]
    assert [s["mode"] for s in report["sessions"]] == [mode]
    return report["totals"], process.lines


def growth(short, long):
    """What the longer run has more of."""
    names = ("calls_local", "calls_async", "calls_sync", "round_trips", "batches")
    return {name: long[name] - short[name] for name in names}


def infer(rig, mode, iterations):
    command = [sys.executable, PROGRAMS / "infer.py", iterations, "--launches", LAUNCHES]
    totals, lines = run(rig, mode, *command)
    return totals, next(m["digest"] for m in map(parsed, lines) if m.get("done"))


def test_an_inference_waits_once_in_batched_and_at_every_operator_in_rpc(rig):
    more = ITERATIONS[1] - ITERATIONS[0]
    digests = {}
    waits = {}
    for mode in ("batched", "rpc"):
        short, _ = infer(rig, mode, ITERATIONS[0])
        long, digests[mode] = infer(rig, mode, ITERATIONS[1])
        grown = growth(short, long)
        waits[mode] = grown["round_trips"] / more
        operators = grown["calls_async"] + grown["calls_sync"]
        # One upload, the launches, one download.
        assert operators == more * (LAUNCHES + 2)
        assert grown["calls_sync"] == more
    assert waits == {"batched": 1, "rpc": LAUNCHES + 2}
    assert digests["batched"] == digests["rpc"]


def test_a_network_of_tinygrad_waits_only_at_its_sync_points_and_gives_equal_bits(rig):
    program = ROOT / "examples" / "cnn_tinygrad.py"
    totals = {}
    for mode in ("batched", "rpc"):
        totals[mode], lines = run(rig, mode, sys.executable, program)
        assert not any("Traceback" in line for line in lines)
    batched, rpc = totals["batched"], totals["rpc"]
    assert batched["calls"] == rpc["calls"], "the program makes the same calls in both modes"
    assert batched["round_trips"] <= batched["calls_sync"]
    assert rpc["round_trips"] >= rpc["calls_async"]
    assert batched["calls_async"] > 3 * batched["calls_sync"]


def demo(rig, mode, frames):
    """(totals, detections of the first picture; later ones depend on what the camera dropped)."""
    folder = rig.folder / f"demo-{mode}-{frames}"
    options = ["--robot", rig.robot, "--domain", rig.domain, "--mode", mode]
    rrto(rig, "demo", *options, "--frames", frames, "--output", folder, timeout_s=290)
    report = json.loads((folder / "report.json").read_text())
    assert report["complete"]
    first = (folder / "detections.jsonl").read_text().splitlines()[0]
    return report["totals"], json.loads(first)["detections"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_inference_of_the_demo_waits_only_at_its_sync_points(rig):
    one, found = demo(rig, "batched", 1)
    two, again = demo(rig, "batched", 2)
    grown = growth(one, two)
    assert grown["round_trips"] == grown["calls_sync"] > 0
    assert grown["calls_async"] > 20 * grown["round_trips"]
    rpc, waited = demo(rig, "rpc", 1)
    assert rpc["round_trips"] == one["calls_async"] + one["round_trips"]
    assert found
    assert found == again == waited, "the same bits, whatever the mode"
