"""Tests that need an NVIDIA GPU; without one they skip, naming what is missing."""

import os
import sys
from pathlib import Path

import pytest
from support.processes import Process

from rrto_ros.devices.registry import check_available
from rrto_ros.errors import UnavailableError

ROOT = Path(__file__).resolve().parents[2]
SESSION = ROOT / "test" / "support" / "programs" / "gpu_session.py"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def _gpu():
    try:
        check_available("gpu")
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def session():
    """Starts `gpu_session.py` as a process; ends what is left."""
    started = []

    def start(*arguments):
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
        env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, SESSION, *map(str, arguments)]
        process = Process(" ".join(map(str, arguments)), command, env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()
