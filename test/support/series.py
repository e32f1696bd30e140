"""Programs one after the other, each with a recorder and a device of its own, on one plan cache.

    series.py FOLDER PROGRAM MODE RUN_AHEAD INFERENCES SEED...

Prints a JSON line for each program: what it said, and the executor's counters. In a process of its
own because a guess that leaves its memory can end that.
"""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.device_server import robot_and_server

from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig

PROGRAMS = Path(__file__).resolve().parent / "programs"


def run(folder, program, mode, run_ahead, inferences, seed):
    config = SessionConfig(
        mode=mode, plan_cache_bytes=64 << 20,
        plan_cache_directory=folder / "plans", replay=ReplayOptions(run_ahead=run_ahead),
    )  # fmt: skip
    lines: list[str] = []
    with robot_and_server(
        folder, config, 0.001, cache_dir=folder / "kernels", on_line=lines.append
    ) as (_, server, env):
        done = subprocess.run(
            [sys.executable, str(PROGRAMS / program), "--seed", seed, "--inferences", inferences],
            env=env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    counters = server.executor.statistics()
    print(json.dumps({"seed": seed, "status": done.returncode, "said": done.stderr[-3000:],
                      "recorder": lines,
                      **{name: counters[name] for name in (
                          "references", "speculation_used", "speculation_chosen",
                          "speculation_rollbacks")}}),
          flush=True)  # fmt: skip


for number in sys.argv[6:]:
    run(Path(sys.argv[1]), *sys.argv[2:6], number)
