"""Programs one after the other, each with a recorder and a device of its own, on one plan cache.

    series.py FOLDER PROGRAM MODE RUN_AHEAD INFERENCES SEED...

Prints a JSON line for each program: what it said, and the executor's counters. In a process of its
own because a guess that leaves its memory can end that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.device_server import DeviceServer

from rrto_ros.replay.replayer import ReplayOptions
from rrto_ros.shim.build import ensure_built
from rrto_ros.transport.robot_host import RobotHost
from rrto_ros.transport.session_status import SessionConfig

PROGRAMS = Path(__file__).resolve().parent / "programs"


def run(folder, program, mode, run_ahead, inferences, seed):
    config = SessionConfig(
        mode=mode, connect_timeout_s=2.0, plan_cache_bytes=64 << 20,
        plan_cache_directory=folder / "plans", replay=ReplayOptions(run_ahead=run_ahead),
    )  # fmt: skip
    lines: list[str] = []
    host = RobotHost(folder / "s.sock", config, 2, lambda _: None, lines.append)
    server = DeviceServer(host.on_results, 0.001, cache_dir=folder / "kernels")
    host.activate(server)
    env = {**os.environ, "LD_LIBRARY_PATH": str(ensure_built()), "RRTO_SOCKET": str(host.path)}
    try:
        done = subprocess.run(
            [sys.executable, str(PROGRAMS / program), "--seed", seed, "--inferences", inferences],
            env=env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        host.close()
        server.stop()
    counters = server.executor.statistics()
    print(json.dumps({"seed": seed, "status": done.returncode, "said": done.stderr[-3000:],
                      "recorder": lines,
                      **{name: counters[name] for name in (
                          "references", "ahead_used", "ahead_chosen", "ahead_restores")}}),
          flush=True)  # fmt: skip


for number in sys.argv[6:]:
    run(Path(sys.argv[1]), *sys.argv[2:6], number)
