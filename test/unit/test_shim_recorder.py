"""A real program with the shim, a real recorder session and a device, in mode replay."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest
from support.device_server import DeviceServer
from support.shim_peer import CASES

from rrto_ros.api.codec import HEADER_BYTES, PLAN_REF_OP, iter_headers, pad8
from rrto_ros.replay.replayer import ReplayOptions
from rrto_ros.shim.build import ensure_built
from rrto_ros.transport.robot_host import RobotHost
from rrto_ros.transport.session_status import SessionConfig

WALKS = CASES.parent / "walks.py"
CONFIG = SessionConfig(connect_timeout_s=2.0, mode="replay")


class Run:
    """One program's run; `records` are the calls that the server executed."""

    def __init__(self, folder, steps, config=CONFIG, during=None):
        self.reports = []
        host = RobotHost(folder / "robot.sock", config, 2, self.reports.append, lambda _: None)
        server = DeviceServer(host.on_results)
        host.activate(server)
        env = {**os.environ, "LD_LIBRARY_PATH": str(ensure_built()), "RRTO_SOCKET": str(host.path)}
        try:
            program = subprocess.Popen(
                [sys.executable, str(WALKS), "-"], env=env, stdin=subprocess.PIPE,
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
        finally:
            host.close()
            server.stop()
        self.records = server.records
        self.batches = server.batches
        self.report = self.reports[0]
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


def thought(host):
    """Wait until the search has seen what was called."""
    end = time.monotonic() + 5
    while any(s.statistics()["replay_backlog_bytes"] for s in host.sessions):
        assert time.monotonic() < end
        time.sleep(0.002)


def calls(records):
    """Records without the blob flags, which depend on what the recorder knew."""
    out = []
    for record in records:
        header = next(iter_headers(record))
        body = record[HEADER_BYTES : header.size - pad8(header.payload_bytes)]
        out.append((header.op, header.index, header.thread, header.flags & 3, body))
    return out


@pytest.mark.parametrize("walks", [True, False])
def test_the_recorder_teaches_the_shim_what_it_found(tmp_path, walks):
    rounds = 12
    steps = [s for k in range(rounds) for s in [*inference(k), ["wait"]]]
    config = dataclasses.replace(CONFIG, replay=ReplayOptions(shim_walks=walks))
    plain = Run(tmp_path, steps, dataclasses.replace(CONFIG, mode="batched"), lambda _: None)
    run = Run(tmp_path, steps, config, thought)
    assert run.report.error == ""
    assert run.printed == plain.printed
    assert calls(run.records) == calls(plain.records)
    assert run.report.inferences >= rounds - 4
    assert run.report.deviations == 0
    of_shim = run.statistics["replay_shim_referenced_calls"]
    assert (of_shim >= (rounds - 5) * len(inference(0))) == walks
    assert run.batches[-1] == [PLAN_REF_OP]


def test_a_mode_switched_in_the_middle_of_a_walk_loses_nothing(tmp_path):
    def during(host):
        thought(host)
        count[0] += 1
        host.set_mode("batched" if count[0] % 3 == 1 and count[0] > 6 else "replay")

    count = [0]
    steps = []
    for k in range(20):
        walk = inference(k)
        steps += [*walk[: k % 9], ["wait"], *walk[k % 9 :]]
    plain = Run(tmp_path, steps, dataclasses.replace(CONFIG, mode="batched"), lambda _: None)
    run = Run(tmp_path, steps, CONFIG, during)
    assert run.report.error == ""
    assert run.printed == plain.printed
    assert calls(run.records) == calls(plain.records)
    assert run.statistics["replay_shim_referenced_calls"] > 100


def test_what_deviated_from_a_plan_of_the_shim_is_learnt(tmp_path):
    other = [["upload", 2, 64, 1.0], *[["launch", 2, 3.0 + k] for k in range(9)], ["read", 2, 64]]
    steps = [s for k in range(8) for s in [*inference(k), ["wait"]]]
    steps += [s for k in range(8) for s in [*inference(k)[:5], *other, ["wait"]]]
    steps += [s for k in range(4) for s in [*inference(k), *other, ["wait"]]]
    plain = Run(tmp_path, steps, dataclasses.replace(CONFIG, mode="batched"), lambda _: None)
    run = Run(tmp_path, steps, CONFIG, thought)
    assert run.report.error == ""
    assert run.printed == plain.printed
    assert calls(run.records) == calls(plain.records)
    assert run.report.plans > 1
    assert run.statistics["replay_shim_plans_installed"] > 1
    assert run.statistics["replay_impossible_plans"] == 0
    assert run.statistics["replay_search_failure"] == ""
