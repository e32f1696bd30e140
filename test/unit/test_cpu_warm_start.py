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
import json, os, subprocess, sys
from pathlib import Path
from support.device_server import DeviceServer
from rrto_ros.shim.build import ensure_built
from rrto_ros.transport.robot_host import RobotHost
from rrto_ros.transport.session_status import SessionConfig

folder, network = sys.argv[1:]
config = SessionConfig(connect_timeout_s=2.0, mode="batched")
host = RobotHost(Path(folder) / "robot.sock", config, 2, lambda _: None, lambda _: None)
server = DeviceServer(host.on_results, cache_dir=Path(folder) / "kernels")
host.activate(server)
env = {**os.environ, "LD_LIBRARY_PATH": str(ensure_built()), "RRTO_SOCKET": str(host.path),
       "DEV": "CUDA:PTX"}
try:
    done = subprocess.run([sys.executable, network, "--inferences", "3"], env=env,
                          stdout=sys.stderr, timeout=120, check=True)
    print(json.dumps(server.device.statistics()))
finally:
    host.close()
    server.stop()
"""


def start(folder):
    """One start of the network, which compares itself with NumPy; the device's counters."""
    paths = [str(NETWORK.parents[1]), str(NETWORK.parents[1] / "test")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", START, str(folder), str(NETWORK)], env=env,
                          capture_output=True, text=True, timeout=150, check=False)
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
