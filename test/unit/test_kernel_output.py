"""What kernels print reaches the program's output before its wait ends, in every mode."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.device_server import robot_and_server

from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "programs" / "printing_program.py"


def run(folder, mode, run_ahead, *arguments):
    config = SessionConfig(mode=mode, replay=ReplayOptions(run_ahead=run_ahead))
    with robot_and_server(folder, config, 0.001) as (_, _, env):
        return subprocess.run([sys.executable, str(PROGRAM), *arguments], env=env,
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "run_ahead"),
    [("rpc", "off"), ("batched", "off"), ("replay", "off"), ("replay", "reads"),
     ("replay", "auto")],
)  # fmt: skip
def test_lines_come_before_the_wait_that_follows_the_launch_ends(sockets, mode, run_ahead):
    done = run(sockets, mode, run_ahead)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        line for turn in range(12)
        for line in (*(f"thread {k}: {turn + k / 4:.2f} of 4" for k in range(4)), f"-- {turn}")
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["batched", "replay"])
def test_an_assertion_says_where_on_the_error_output_and_ends_the_context(sockets, mode):
    done = run(sockets, mode, "reads", "fail")
    assert done.stdout.splitlines()[-1] == "-- 11"
    lines = done.stderr.splitlines()
    assert (
        lines.count(
            "kernel.cu:7: insist: block: [1,0,0], thread: [1,1,0] Assertion `n != 13` failed."
        )
        == 1
    )
    assert lines[-1] == "710 710"
