"""A real network started twice: what the first start compiled, the second takes from the disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = Path(__file__).resolve().parents[2] / "examples" / "cnn_tinygrad.py"
# A recorder and a device in a process of their own, and the program in another.
START = """
import json, subprocess, sys
from pathlib import Path
from support.device_server import robot_and_server
from rrto_ros.robot.status import SessionConfig

folder, network = sys.argv[1:]
config = SessionConfig(mode="batched")
folder = Path(folder)
with robot_and_server(folder, config, cache_dir=folder / "kernels") as (_, server, env):
    done = subprocess.run([sys.executable, network, "--inferences", "3"],
                          env={**env, "DEV": "CUDA:PTX"}, stdout=sys.stderr, timeout=120,
                          check=True)
    print(json.dumps(server.device.statistics()))
"""


def start(folder):
    """One start of the network, which compares itself with NumPy; the device's counters."""
    paths = [str(NETWORK.parents[1]), str(NETWORK.parents[1] / "test")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", START, str(folder), str(NETWORK)],
        env=env,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(200)
def test_a_network_started_with_a_warm_cache_compiles_and_parses_nothing(sockets):
    pytest.importorskip("tinygrad", reason="tinygrad is not installed")
    cold, warm = start(sockets), start(sockets)
    assert cold["kernels_compiled"] > 5
    assert cold["modules_known"] == 0
    assert warm["launches"] == cold["launches"]
    assert (warm["kernels_compiled"], warm["cache_misses"]) == (0, 0)
    assert warm["modules_known"] == warm["modules"] == cold["modules"]
