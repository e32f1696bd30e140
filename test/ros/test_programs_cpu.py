"""Unmodified programs of several compilers on the virtual device, each against NumPy."""

from __future__ import annotations

import json
import sys

import pytest
from support.rig import PROGRAMS

OPERATIONS_S = 170.0


@pytest.mark.timeout(260)
def test_tinygrads_operations_agree_with_numpy(rig):
    pytest.importorskip("tinygrad", reason="tinygrad is not installed")
    rig.both()
    program = rig.program("tinygrad_operations.py", DEV="CUDA:PTX")
    assert program.wait(OPERATIONS_S) == 0, program.text()
    (line,) = [one for one in program.text().splitlines() if one.startswith("{")]
    found = json.loads(line)
    assert found["failed"] == {}
    assert found["operations"] >= 120
    assert found["device"] == "CUDA"
