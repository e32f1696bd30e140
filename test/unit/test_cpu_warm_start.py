"""A real network started twice: what the first start compiled, the second takes from the disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.device_server import DeviceServer

from rrto_ros.shim.build import ensure_built
from rrto_ros.transport.robot_host import RobotHost
from rrto_ros.transport.session_status import SessionConfig

NETWORK = Path(__file__).resolve().parents[2] / "examples" / "cnn_tinygrad.py"
CONFIG = SessionConfig(connect_timeout_s=2.0, mode="batched")


def start(folder, cache):
    """One start of the network, which compares itself with NumPy; the device's counters."""
    reports = []
    host = RobotHost(folder / "robot.sock", CONFIG, 2, reports.append, lambda _: None)
    server = DeviceServer(host.on_results, cache_dir=cache)
    host.activate(server)
    libraries = str(ensure_built())
    env = {**os.environ, "LD_LIBRARY_PATH": libraries, "RRTO_SOCKET": str(host.path),
           "DEV": "CUDA:PTX"}
    try:
        done = subprocess.run([sys.executable, str(NETWORK), "--inferences", "3"], env=env,
                              capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return server.device.statistics()
    finally:
        host.close()
        server.stop()


@pytest.mark.timeout(200)
def test_a_network_started_with_a_warm_cache_compiles_and_parses_nothing(tmp_path):
    pytest.importorskip("tinygrad", reason="tinygrad is not installed")
    cold, warm = (start(tmp_path, tmp_path / "kernels") for _ in range(2))
    assert cold["kernels_compiled"] > 5
    assert cold["modules_known"] == 0
    assert warm["launches"] == cold["launches"]
    assert (warm["kernels_compiled"], warm["cache_misses"]) == (0, 0)
    assert warm["modules_known"] == warm["modules"] == cold["modules"]
