"""Clients whose kernels are machine code alone, on a device that checks each of their calls."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.shim_peer import BATCHED, RPC, Peer

from rrto_ros.devices.checking.device import CheckingDevice
from rrto_ros.devices.null import NullDevice

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "RRTO_CLIENTS"
"""Names a folder of `make clients`, with an environment for each client."""
ABSENT = 77
"""Exit code of a program whose client is not there, or a build without CUDA."""
REFUSED = {"cuGetExportTable: f8cff951-2146-8b4e-b9e2-fb469e7c0dd9 (unknown)"}


def interpreter(name, module, install):
    """A Python that has a client; the test skips, and says so, where none is installed."""
    made = Path(os.environ.get(FOLDER, ROOT / "out" / "clients")) / name / "bin" / "python"
    if made.exists():
        return made
    if importlib.util.find_spec(module):
        return sys.executable
    return pytest.skip(f"no {module}: pip install {install}, or name a folder in {FOLDER}")


@pytest.mark.parametrize("mode", [RPC, BATCHED])
@pytest.mark.parametrize(
    ("name", "module", "install", "program", "cases"),
    [
        ("torch", "torch", "torch", "run_torch.py",
         ("elementwise", "products", "streams", "memory comes back")),
        ("onnxruntime", "onnxruntime", "onnxruntime-gpu nvidia-cudnn-cu13", "run_onnxruntime.py",
         ("inference x 50",)),
    ],
    ids=["torch", "onnxruntime"],
)  # fmt: skip
def test_a_client_makes_no_call_that_is_refused_or_that_a_driver_forbids(
    name, module, install, program, cases, mode
):
    python = interpreter(name, module, install)
    devices = []

    def device(**settings):
        devices.append(CheckingDevice(NullDevice(bytes_per_s=0, launch_s=0, **settings)))
        return devices[-1]

    with Peer(mode=mode, device=device, memory_bytes=8 << 30, cuda_runtime=True) as peer:
        done = subprocess.run(
            [str(python), str(ROOT / "test" / "clients" / program), *cases],
            env=peer.environment(), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode == ABSENT:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr[-3000:]
        assert set(peer.rings[0].refusals()) <= REFUSED
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["ran"], told["failed"]) == (list(cases), {})
    assert devices[0].statistics()["first_finding"] == ""
    assert devices[0].statistics()["checked_calls"] > 100
