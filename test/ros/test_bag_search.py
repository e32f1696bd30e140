"""A recorder that is fed from a bag finds what a recorder finds live."""

import re
import signal
import sys

import pytest
from support.rig import START_S, said

from rrto_ros.evaluation.analyze_bag import logs_of_bag
from rrto_ros.robot.plan_store import PlanStore
from rrto_ros.robot.replay.replayer import Replayer, ReplayOptions
from rrto_ros.robot.search import make_search
from rrto_ros.robot.search.sequence import plan_of

RRTO = [sys.executable, "-m", "rrto_ros.cli.main"]
INFER = ("infer.py", 12, "--launches", 8)
CNN = ("cnn_loop.py", 12)


def kept(folder):
    """Digests of the plans of what repeats that a recorder has on disk; a start is kept beside."""
    store = PlanStore(folder)
    names = [path.name for path in folder.glob("programs/*/*")]
    return {plan.digest.hex() for name in names for plan in store.recall((name, name)).plans}


def fed(log):
    """Digests of the plans that record and replay matches in these calls, and its state.

    The recorder takes calls in pieces and searches when the program waits; here a piece ends
    where the program waits.
    """
    replayer = Replayer(ReplayOptions())
    piece = bytearray()
    for position in range(len(log)):
        record = log.templates[log.exact[position]].record(
            log.index_of(position), log.threads[position], 0,
            bytes(log.templates[log.exact[position]].payload_bytes) or None,
        )  # fmt: skip
        piece += record
        if log.templates[log.exact[position]].op.name in ("memcpy_dtoh", "ctx_synchronize"):
            replayer.feed(memoryview(piece[:]))
            piece.clear()
            while replayer.backlog:
                replayer.think()
    followed = {plan.digest.hex() for plan, times in replayer.plans if times}
    return followed, replayer.state()


def bag_of(rig, folder, program):
    """Record a run of a program; returns the report of its session."""
    recording = rig.start(
        "rrto", [*RRTO, "bag", "record", folder], rig.environment(RRTO_ROBOT=rig.robot)
    )
    recording.wait_for("recording to", START_S)
    watch = rig.watch()
    running = rig.program(*program)
    said(running, 150, done=True)
    assert running.wait(20) == 0
    report = watch.report(running.pid)
    recording.signal(signal.SIGINT)
    assert recording.wait() == 0, recording.text()
    return report


@pytest.mark.parametrize("program", [INFER, CNN, (*CNN, "--jit")], ids=["infer", "cnn", "jit"])
def test_the_sequence_in_a_bag_of_mode_batched_is_the_one_found_live(rig, tmp_path, program):
    rig.both("cpu", mode="replay")
    watch = rig.watch()
    running = rig.program(*program)
    said(running, 150, done=True)
    assert running.wait(20) == 0
    live = watch.report(running.pid)
    assert live["inferences"] >= 6
    plans = kept(tmp_path / "plans")
    assert plans
    switch = rig.start("rrto", [*RRTO, "mode", "batched"], rig.environment(RRTO_ROBOT=rig.robot))
    assert switch.wait() == 0, switch.text()
    plain = bag_of(rig, tmp_path / "bag", program)
    assert (plain["mode"], plain["inferences"]) == ("batched", 0)
    (log,) = logs_of_bag(tmp_path / "bag")
    made = {call["name"]: call["count"] for call in plain["calls"]}
    operations = [log.templates[number].op.name for number in log.exact]
    assert operations.count("launch") == made["cuLaunchKernel"]
    assert operations.count("memcpy_dtoh") == made["cuMemcpyDtoH_v2"]
    search = make_search("operator_sequence", log)
    search.update(last=True)
    found = {plan_of(sequence).digest.hex(): len(sequence) for sequence in search.found()}
    assert plans <= set(found)
    assert live["sequence_calls"] in {found[name] for name in plans}
    again, state = fed(log)
    assert again == plans
    assert state.sequence_calls == live["sequence_calls"]
    told = rig.start("rrto", [*RRTO, "analyze", tmp_path / "bag"], rig.environment())
    assert told.wait() == 0, told.text()
    assert plans <= set(re.findall(r"plan ([0-9a-f]{64})", told.text()))
    assert f"{live['sequence_calls']} calls, " in told.text()
