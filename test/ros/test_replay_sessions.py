"""Mode replay with the real nodes: equal results, early, for fewer bytes, whatever happens."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from support.rig import START_S, said

RRTO = [sys.executable, "-m", "rrto_ros.cli.main"]
LONG = os.environ.get("RRTO_REPLAY") == "all"
RUN_AHEAD = ["reads", "auto"] + ["off"] * LONG
JIT = [pytest.param([], id="plain"), *([pytest.param(["--jit"], id="jit")] * LONG)]
LITERAL = {"blob_references": False}
"""Inputs that an earlier run has sent would be named, and bytes could not be compared."""
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COUNT = 5000
LAUNCHES = 8
INPUT_BYTES = 4 * COUNT


def rrto(rig, *arguments):
    process = rig.start("rrto", [*RRTO, *arguments], rig.environment(RRTO_ROBOT=rig.robot))
    return process.wait(), process.text()


class Robot:
    """Both nodes, and the sessions' reports."""

    def __init__(self, rig, mode="replay", **parameters):
        self.rig = rig
        self.server, self.recorder = rig.both("cpu", mode=mode, **parameters)
        self.watch = rig.watch()

    def run(self, script, *arguments, timeout_s=150):
        """(last JSON line of the program, report of its session)."""
        program = self.rig.program(script, *arguments)
        return self.finish(program, timeout_s)

    def finish(self, program, timeout_s=150):
        answer = said(program, timeout_s, done=True)
        assert program.wait(20) == 0
        return answer, self.watch.report(program.pid)

    def mode(self, name):
        code, text = rrto(self.rig, "mode", name)
        assert code == 0, text


def test_from_the_fourth_inference_on_only_input_and_output_travel(rig):
    robot = Robot(rig, recorder=LITERAL)
    rounds = 30
    program = ("infer.py", rounds, "--launches", LAUNCHES)
    replayed, report = robot.run(*program)
    assert report["inferences"] >= rounds - 3
    assert report["sequence_calls"] == LAUNCHES + 2
    assert report["sequence_repetitions"] == report["inferences"]
    assert report["divergences"] == 0
    assert report["inference_round_trips"] == 1
    assert INPUT_BYTES < report["inference_bytes_sent"] < INPUT_BYTES + 256
    assert INPUT_BYTES < report["inference_bytes_received"] < INPUT_BYTES + 256
    assert report["hit_rate"] > 0.8
    assert 0 < report["last_inference_ms"] < 5000
    assert 0 < report["median_inference_ms"] < 5000
    robot.mode("batched")
    batched, before = robot.run(*program)
    assert replayed["digest"] == batched["digest"]
    assert (before["inferences"], before["plans"], before["hit_rate"]) == (0, 0, 0)
    assert report["calls_async"] == before["calls_async"]
    assert report["round_trips"] == before["round_trips"]
    assert report["messages_sent"] < 2 * rounds
    # A launch's record is 104 bytes; before the plan is known, three inferences travel in full.
    assert before["bytes_sent"] - report["bytes_sent"] > (rounds - 5) * LAUNCHES * 100


def test_two_hundred_inferences_cost_one_exchange_each_and_give_equal_bits(rig):
    robot = Robot(rig, recorder=LITERAL)
    few, many = 100, 200
    replayed, report = robot.run("infer.py", many, "--launches", LAUNCHES, "--seed", 9)
    assert report["inferences"] >= many - 3
    assert report["divergences"] == 0
    _, shorter = robot.run("infer.py", few, "--launches", LAUNCHES, "--seed", 9)
    # Start and end cost the same in both runs.
    assert report["round_trips"] - shorter["round_trips"] == many - few
    assert report["inference_round_trips"] == 1
    robot.mode("batched")
    batched, _ = robot.run("infer.py", many, "--launches", LAUNCHES, "--seed", 9)
    assert replayed["digest"] == batched["digest"]


def test_the_status_shows_how_the_replay_goes(rig):
    robot = Robot(rig)
    program = rig.program("infer.py", 1000, "--pace", "--launches", LAUNCHES, stdin=True)
    said(program, ready=True)

    def session(message):
        return message["sessions"][0] if message["sessions"] else {}

    robot.watch.wait("recorder_replayer", lambda m: session(m).get("phase") == "recording")
    for number in range(6):
        program.say("go")
        said(program, iteration=number)
    status = robot.watch.wait(
        "recorder_replayer", lambda m: session(m).get("phase") == "replaying"
    )
    shown = session(status)
    assert shown["mode"] == "replay"
    assert shown["sequence_calls"] == LAUNCHES + 2
    assert shown["sequence_repetitions"] >= 3
    code, text = rrto(rig, "status")
    assert code == 0
    assert "replaying" in text
    assert f"{LAUNCHES + 2} calls" in text
    assert "1 round trips" in text
    program.close_input()
    robot.finish(program)


@pytest.mark.parametrize("run_ahead", RUN_AHEAD)
@pytest.mark.parametrize("program", [[], ["--cascade"]], ids=["once", "cascade"])
def test_whatever_deviates_results_are_those_of_plain_execution(rig, run_ahead, program):
    """The program compares each result with NumPy; here the modes are compared too."""
    robot = Robot(rig, recorder={"run_ahead": run_ahead})
    replayed, report = robot.run("wander.py", 200, *program)
    assert len(replayed["odd"]) == 9
    assert report["divergences"] >= 10
    # How many are replayed depends on when the search had time; every fifth deviates.
    assert report["inferences"] > 40
    assert report["error"] == ""
    robot.mode("batched")
    assert robot.run("wander.py", 200, *program)[0]["digest"] == replayed["digest"]
    if program and run_ahead != "off":
        assert report["speculation_exchanges_saved"] > 30
        assert report["speculation_saved_ms"] > 0


@pytest.mark.parametrize(("run_ahead", "exchanges"), [("off", 5), ("reads", 2), ("auto", 1)])
def test_what_an_inference_costs_that_reads_and_goes_on(rig, run_ahead, exchanges):
    """Two network hops are too quick here for `auto` to pay; a relay makes them longer."""
    robot = Robot(rig)
    expected, _ = robot.run("wander.py", 60, "--cascade", "--every", 1000)
    far, near = rig.robot + "far", rig.robot + "near"
    rig.server("cpu", robot=far)
    rig.recorder("replay", robot=near, run_ahead=run_ahead)
    relay = rig.helper("relay.py", near, far, 0, 0, 0, 0, 3)
    said(relay, START_S, relaying=True)
    watch = rig.watch(near)
    program = rig.program("wander.py", "60", "--cascade", "--every", "1000", robot=near)
    assert said(program, 120, done=True)["digest"] == expected["digest"]
    report = watch.report(program.pid)
    assert report["inference_round_trips"] == exchanges
    assert report["divergences"] == 0
    assert report["speculation_rollbacks"] == 0
    saved = report["speculation_exchanges_saved"]
    assert saved == 0 if run_ahead == "off" else saved >= (5 - exchanges) * 50
    relay.close_input()


@pytest.mark.parametrize("run_ahead", RUN_AHEAD)
def test_modes_switched_in_the_middle_of_inferences_change_no_result(rig, run_ahead):
    robot = Robot(rig, recorder={"linger_us": 0, "run_ahead": run_ahead})
    robot.mode("batched")
    expected, _ = robot.run("wander.py", 75, "--cascade")
    program = rig.program("wander.py", 75, "--cascade", "--pace", stdin=True)
    said(program, ready=True)
    modes = ["replay", "rpc", "replay", "batched", "replay"]
    for number in range(75):
        program.say("go")
        if number % 15 == 7:
            # Not waited for: it takes effect somewhere in an inference.
            robot.rig.start(
                "rrto", [*RRTO, "mode", modes[number // 15]],
                rig.environment(RRTO_ROBOT=rig.robot),
            ).wait()  # fmt: skip
        said(program, iteration=number)
    answer, report = robot.finish(program)
    assert answer["digest"] == expected["digest"]
    assert report["inferences"] > 10


@pytest.mark.parametrize("jit", [[], ["--jit"]], ids=["plain", "jit"])
def test_a_network_of_tinygrad_is_replayed_with_equal_bits(rig, jit):
    robot = Robot(rig, recorder=LITERAL)
    rounds = 80
    replayed, report = robot.run("cnn_loop.py", rounds, *jit, timeout_s=170)
    assert replayed["worst"] < 1e-5
    # From the fourth on at the latest, also where tinygrad captures a graph in the second.
    assert report["inferences"] >= rounds - 3
    robot.mode("batched")
    batched, before = robot.run("cnn_loop.py", rounds, *jit, timeout_s=170)
    assert replayed["digest"] == batched["digest"]
    # It waits twice, synchronises and then reads; the server reads speculatively.
    assert report["inference_round_trips"] == 1
    assert before["round_trips"] >= 2 * rounds
    assert report["speculation_exchanges_saved"] >= rounds - 4
    assert report["bytes_sent"] < before["bytes_sent"]


@pytest.mark.parametrize("run_ahead", RUN_AHEAD)
def test_lost_doubled_and_swapped_messages_of_a_replay_change_no_result(rig, run_ahead):
    robot = Robot(rig, recorder={"max_message_bytes": 16384})
    expected, _ = robot.run("wander.py", 40, "--cascade")
    far, near = rig.robot + "far", rig.robot + "near"
    rig.server("cpu", robot=far)
    rig.recorder("replay", robot=near, max_message_bytes=16384, run_ahead=run_ahead)
    relay = rig.helper("relay.py", near, far, 7, 0.05, 0.1, 0.15)
    said(relay, START_S, relaying=True)
    program = rig.program("wander.py", "40", "--cascade", robot=near)
    assert said(program, 120, done=True)["digest"] == expected["digest"]
    assert program.wait(20) == 0
    relay.close_input()
    counts = said(relay, up=...)
    assert counts["up"]["dropped"] > 0
    assert counts["up"]["doubled"] > 0


@pytest.mark.parametrize("run_ahead", ["auto", *(["off", "reads"] * LONG)])
@pytest.mark.parametrize("victim", ["server", "recorder"])
def test_a_node_lost_in_the_middle_of_a_replay_is_a_clean_error(rig, victim, run_ahead):
    robot = Robot(
        rig,
        recorder={
            "server_timeout_s": 2.0, "connect_timeout_s": 10.0, "run_ahead": run_ahead,
            "resume": "off",
        },
    )  # fmt: skip
    program = rig.program("wander.py", "1000000", "--cascade", "--every", "1000000")
    said(program, iteration=20)
    getattr(robot, victim).kill()
    assert said(program, 10, failed=...)["failed"] == "DEVICE_UNAVAILABLE"
    assert program.wait(10) == 3
    if victim == "server":
        rig.server("cpu")
        _, report = robot.run("infer.py", "12")
        assert report["inferences"] >= 9
    else:
        rig.recorder("replay")
        assert said(rig.program("infer.py", "12"), done=True)


@pytest.mark.parametrize("run_ahead", ["auto", *(["off"] * LONG)])
def test_a_bag_of_a_replay_gives_the_same_results_in_a_fresh_server(rig, tmp_path, run_ahead):
    robot = Robot(rig, recorder={"run_ahead": run_ahead})
    bag = rig.start(
        "rrto", [*RRTO, "bag", "record", tmp_path / "bag"], rig.environment(RRTO_ROBOT=rig.robot)
    )
    bag.wait_for("recording to", START_S)
    _, report = robot.run("wander.py", 60)
    bag.signal(signal.SIGINT)
    assert bag.wait() == 0, bag.text()
    assert report["inferences"] > 15
    code, text = rrto(rig, "bag", "info", "--json", tmp_path / "bag")
    assert code == 0, text
    (session,) = json.loads(text)["sessions"]
    assert session["faults"] == []
    launches = next(c["count"] for c in report["calls"] if c["name"] == "cuLaunchKernel")
    assert session["operations"]["launch"] == launches, "calls, not references to them"
    assert not any("operation" in name for name in session["operations"])
    code, text = rrto(
        rig, "bag", "play", tmp_path / "bag", "--report", tmp_path / "played.json"
    )  # fmt: skip
    assert code == 0, text
    played = json.loads((tmp_path / "played.json").read_text())
    assert played["equal"] is True
    answered = sum(session["operations"][n] for n in ("memcpy_dtoh", "module_load", "event_query"))
    assert played["sessions"][0]["results"] == answered
    code, text = rrto(rig, "analyze", tmp_path / "bag")
    assert code == 0, text
    assert f"{LAUNCHES + 2} calls" in text, "the search finds in the bag what it found live"
    code, text = rrto(rig, "analyze", tmp_path / "bag", "--partition")
    assert code == 0, text
    assert f"{LAUNCHES + 2} calls and nodes" in text
    assert "best latency over a round trip of 4 ms" in text


def test_a_second_start_is_replayed_from_its_first_inference(rig):
    robot = Robot(rig, recorder=LITERAL)
    program = ("infer.py", 12, "--launches", LAUNCHES)
    learnt, before = robot.run(*program)
    assert 9 <= before["inferences"] < 12
    again, report = robot.run(*program)
    assert again["digest"] == learnt["digest"]
    assert report["inferences"] == 12
    assert report["divergences"] == 0
    # A new recorder, as after the robot was switched off; other inputs.
    robot.recorder.kill()
    rig.recorder("replay", **LITERAL)
    other, third = robot.run("infer.py", 12, "--launches", LAUNCHES, "--seed", 5)
    assert third["inferences"] == 12
    assert third["divergences"] == 0
    robot.mode("batched")
    plain, _ = robot.run("infer.py", 12, "--launches", LAUNCHES, "--seed", 5)
    assert plain["digest"] == other["digest"] != learnt["digest"]


@pytest.mark.parametrize("jit", JIT)
def test_a_network_that_starts_again_is_replayed_from_its_first_inference(rig, jit):
    """tinygrad loads kernels in the first; with TinyJit it captures a graph in the second."""
    rounds = 10
    robot = Robot(rig, recorder=LITERAL)
    learnt, before = robot.run("cnn_loop.py", rounds, *jit)
    again, report = robot.run("cnn_loop.py", rounds, *jit)
    assert again["digest"] == learnt["digest"]
    assert before["inferences"] < report["inferences"]
    assert report["inferences"] == rounds
    assert report["divergences"] == 0
    assert report["hit_rate"] > 0.8, "a call alone is literal where naming it is not shorter"
    # What is known is defined first, which costs what the literal calls of the start would.
    assert report["bytes_sent"] < 1.01 * before["bytes_sent"]


def test_a_cascade_whose_launches_depend_on_the_picture_gives_the_results_of_plain_execution(rig):
    """The program compares every number with NumPy; here the modes are compared too."""
    robot = Robot(rig, recorder=LITERAL)
    command = [sys.executable, EXAMPLES / "cascade_cuda_bindings.py", "--json", "--pictures", 150]

    def run():
        program = rig.start("cascade", command, rig.interposed())
        answer = said(program, 120, pictures=150)
        assert program.wait(20) == 0
        return answer, robot.watch.report(program.pid)

    replayed, report = run()
    assert (replayed["wrong"], len(set(replayed["looks"]))) == (0, 6)
    assert report["error"] == ""
    assert report["inferences"] > 75, "the first look is always the same"
    again, second = run()
    # A look that was learnt in the middle of a run may count as one more (152 of 150, once).
    assert second["inferences"] >= 150, "from the first picture on"
    robot.mode("batched")
    batched, plain = run()
    assert replayed["digest"] == again["digest"] == batched["digest"]
    assert report["round_trips"] == second["round_trips"] == plain["round_trips"]
    assert report["bytes_sent"] < plain["bytes_sent"]
