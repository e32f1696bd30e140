"""A real program with the shim, a real recorder session and a device, in mode replay."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
from support.device_server import robot_and_server
from support.searches import thought
from support.shim_peer import CASES

from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.codec import iter_headers
from rrto_ros.wire.format import HEADER_BYTES, PLAN_REF_OP, pad8

STEPS = CASES.parent / "steps.py"
CONFIG = SessionConfig(connect_timeout_s=2.0, mode="replay")


class Run:
    """One program's run; `records` are the calls that the server executed."""

    def __init__(self, folder, steps, config=CONFIG, during=None, round_trip_s=0.0):
        self.reports = []
        with robot_and_server(folder, config, round_trip_s, on_report=self.reports.append) as (
            host,
            server,
            env,
        ):
            program = subprocess.Popen(
                [sys.executable, str(STEPS), "-"], env=env, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            program.stdin.write(json.dumps(steps) + "\n")
            program.stdin.flush()
            self.session = None
            for line in program.stdout:
                if line != "ready\n":
                    self.printed = json.loads(line)
                    break
                during(host)
                self.session = host.sessions[0]
                program.stdin.write("go\n")
                program.stdin.flush()
            _, said = program.communicate(timeout=60)
            assert program.returncode == 0, said
            end = time.monotonic() + 5
            while not self.reports:
                assert time.monotonic() < end
                time.sleep(0.002)
        self.records = server.records
        self.batches = server.batches
        self.report = self.reports[0]
        self.executor = server.executor.statistics()
        self.statistics = self.session.statistics() if self.session is not None else {}


def inference(number):
    """Steps whose input and one argument change."""
    return [
        ["upload", 0, 40_000, float(number)],
        ["launch", 0, 2.0],
        ["fill", 1, 7],
        *[["launch", 1, 1.0 + k] for k in range(20)],
        ["launch", 0, 3.0, 1],
        ["copy", 1, 0],
        ["read", 1, 64],
    ]


def calls(records):
    """Records without the blob flags, which depend on what the recorder knew."""
    out = []
    for record in records:
        header = next(iter_headers(record))
        body = record[HEADER_BYTES : header.size - pad8(header.payload_bytes)]
        out.append((header.op, header.index, header.thread, header.flags & 3, body))
    return out


@pytest.mark.parametrize("by_shim", [True, False])
def test_the_recorder_teaches_the_shim_what_it_found(sockets, by_shim):
    rounds = 12
    steps = [s for k in range(rounds) for s in [*inference(k), ["wait"]]]
    config = dataclasses.replace(CONFIG, replay=ReplayOptions(shim_matches=by_shim))
    plain = Run(sockets, steps, dataclasses.replace(CONFIG, mode="batched"), lambda _: None)
    run = Run(sockets, steps, config, thought)
    assert run.report.error == ""
    assert run.printed == plain.printed
    assert calls(run.records) == calls(plain.records)
    assert run.report.inferences >= rounds - 4
    assert run.report.divergences == 0
    of_shim = run.statistics["replay_shim_referenced_calls"]
    assert (of_shim >= (rounds - 5) * len(inference(0))) == by_shim
    # In one or, where the recorder looked in between, in several.
    assert set(run.batches[-1]) == {PLAN_REF_OP}


def test_a_mode_switched_in_the_middle_of_a_plan_loses_nothing(sockets):
    def during(host):
        thought(host)
        count[0] += 1
        host.set_mode("batched" if count[0] % 3 == 1 and count[0] > 6 else "replay")

    count = [0]
    steps = []
    for k in range(20):
        made = inference(k)
        steps += [*made[: k % 9], ["wait"], *made[k % 9 :]]
    plain = Run(sockets, steps, dataclasses.replace(CONFIG, mode="batched"), lambda _: None)
    run = Run(sockets, steps, CONFIG, during)
    assert run.report.error == ""
    assert run.printed == plain.printed
    assert calls(run.records) == calls(plain.records)
    assert run.statistics["replay_shim_referenced_calls"] > 100


def test_what_deviated_from_a_plan_of_the_shim_is_learnt(sockets):
    other = [["upload", 2, 64, 1.0], *[["launch", 2, 3.0 + k] for k in range(9)], ["read", 2, 64]]
    steps = [s for k in range(8) for s in [*inference(k), ["wait"]]]
    steps += [s for k in range(8) for s in [*inference(k)[:5], *other, ["wait"]]]
    steps += [s for k in range(4) for s in [*inference(k), *other, ["wait"]]]
    plain = Run(sockets, steps, dataclasses.replace(CONFIG, mode="batched"), lambda _: None)
    run = Run(sockets, steps, CONFIG, thought)
    assert run.report.error == ""
    assert run.printed == plain.printed
    assert calls(run.records) == calls(plain.records)
    assert run.report.plans > 1
    assert run.statistics["replay_shim_plans_installed"] > 1
    assert run.statistics["replay_impossible_plans"] == 0
    assert run.statistics["replay_search_failure"] == ""


def cascade(number, reads=3):
    """Steps that wait, read several outputs, go on with kernels, and read again."""
    return [
        ["upload", 0, 4096, float(number)],
        *[["launch", 0, 1.0 + k] for k in range(6)],
        ["sync"],
        *[["read", 0, 64 * (k + 1)] for k in range(reads)],
        *[["launch", 0, 2.0 + k] for k in range(6)],
        ["copy", 1, 0],
        ["read", 1, 64],
        ["fill", 2, 7],
        ["read", 2, 64],
    ]


DEVIATIONS = {
    "none": lambda steps, at: steps,
    "branch": lambda steps, at: [*steps[:at], ["launch", 0, 9.0], *steps[at:]],
    "stop": lambda steps, at: steps[:at],
    "argument": lambda steps, at: [
        ["launch", 0, 7.5] if k >= at and s[0] == "launch" else s for k, s in enumerate(steps)
    ],
    "size": lambda steps, at: [
        ["read", s[1], 32] if k >= at and s[0] == "read" else s for k, s in enumerate(steps)
    ],
    "upload": lambda steps, at: [*steps[:at], ["upload", 0, 64, 5.0], *steps[at:]],
    "allocation": lambda steps, at: [*steps[:at], ["allocate", 4096], *steps[at:]],
    "freed": lambda steps, at: [*steps[:at], ["free"], *steps[at:]],
    "thread": lambda steps, at: [
        *steps[:at], ["elsewhere", ["upload", 0, 64, 6.0], ["launch", 1, 2.0]], *steps[at:]
    ],
    "stream": lambda steps, at: [*steps[:at], ["launch", 0, 4.0, 1], *steps[at:]],
    "twice": lambda steps, at: [*steps[:at], *steps[at - 1 : at], *steps[at:]],
    "event": lambda steps, at: [*steps[:at], ["mark"], *steps[at:]],
    "model": lambda steps, at: [
        [s[0], {0: 1, 1: 0}.get(s[1], s[1]), *s[2:]] if len(s) > 1 and s[0] != "copy" else s
        for s in steps
    ],
}  # fmt: skip


@pytest.mark.parametrize("run_ahead", ["off", "reads", "auto"])
@pytest.mark.parametrize("by_shim", [True, False], ids=["shim", "recorder"])
def test_a_real_program_that_deviates_reads_what_plain_execution_gives(
    sockets, run_ahead, by_shim
):
    """Real kernels on the CPU device; each deviation at several places, between steady rounds."""
    steps = [["allocate", 8192]] * 4
    number = 0
    for _ in range(6):
        steps += [*cascade(number), ["wait"]]
        number += 1
    for deviate in DEVIATIONS.values():
        for at in (1, 7, 8, 9, 12, 18, 20):
            number += 1
            steps += [*deviate(cascade(number), at), *cascade(number + 1)]
    replay = ReplayOptions(shim_matches=by_shim, run_ahead=run_ahead)
    plain = Run(sockets, steps, dataclasses.replace(CONFIG, mode="batched"), lambda _: None)
    config = dataclasses.replace(CONFIG, replay=replay)
    run = Run(sockets, steps, config, thought, round_trip_s=0.005)
    assert run.report.error == ""
    assert run.printed == plain.printed
    assert calls(run.records) == calls(plain.records)
    assert run.report.inferences > 80
    if run_ahead != "off":
        assert run.report.speculation_exchanges_saved > 80
    if run_ahead == "auto":
        assert run.executor["speculation_chosen"] > 20
        # On a busy machine the next batch is often there before anything has to be rolled back.
        assert run.report.speculation_rollbacks <= run.executor["speculation_rollbacks"]


@pytest.mark.parametrize(("run_ahead", "exchanges"), [("off", 6), ("reads", 3), ("auto", 1)])
def test_how_many_exchanges_an_inference_with_several_waits_costs(sockets, run_ahead, exchanges):
    rounds = 40
    steps = [s for k in range(rounds) for s in [*cascade(k), ["wait"]]]
    replay = ReplayOptions(run_ahead=run_ahead)
    config = dataclasses.replace(CONFIG, replay=replay)
    run = Run(sockets, steps, config, thought, round_trip_s=0.02)
    assert run.report.inferences >= rounds - 4
    assert run.report.divergences == 0
    assert run.report.inference_round_trips == exchanges
    assert run.report.speculation_exchanges_saved >= (6 - exchanges) * (rounds - 8)
    assert run.report.round_trips <= exchanges * rounds + 6 * 6


@pytest.mark.parametrize(("run_ahead", "exchanges"), [("off", 2), ("reads", 2), ("auto", 1)])
def test_copies_that_the_program_picks_up_later_come_with_the_wait(sockets, run_ahead, exchanges):
    """Into pinned memory: the copies' results are there when the synchronisation returns."""
    rounds = 40
    steps = []
    for k in range(rounds):
        steps += [["upload", 0, 4096, float(k)], *[["launch", 0, 1.0 + n] for n in range(5)]]
        steps += [["read_later", 0, 64], ["read_later", 0, 128], ["sync"]]
        steps += [*[["launch", 0, 2.5 + n] for n in range(5)], ["read_later", 0, 64], ["sync"]]
        steps.append(["wait"])
    replay = ReplayOptions(run_ahead=run_ahead)
    plain = Run(sockets, steps, dataclasses.replace(CONFIG, mode="batched"), lambda _: None)
    config = dataclasses.replace(CONFIG, replay=replay)
    run = Run(sockets, steps, config, thought, round_trip_s=0.02)
    assert run.printed == plain.printed
    assert run.report.inference_round_trips == exchanges
