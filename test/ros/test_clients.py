"""The CUDA programs of others on the virtual device, where they are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from rrto_ros.bringup.stand_ins import with_stand_ins

PROGRAMS = Path(__file__).resolve().parents[1] / "clients"
ABSENT = 77


def bench_clients():
    """bench/clients.py, which has what each client needs."""
    path = PROGRAMS.parents[1] / "bench" / "clients.py"
    spec = importlib.util.spec_from_file_location("bench_clients", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("client", sorted(p.stem[4:] for p in PROGRAMS.glob("run_*.py")))
@pytest.mark.timeout(300)
def test_a_client_computes_on_the_virtual_device_what_its_program_compares(rig, client, tmp_path):
    known = bench_clients().CLIENTS[client]
    rig.both(mode="replay")
    environment = rig.interposed(
        HOME=str(tmp_path), RRTO_CUDA_RUNTIME=str(int(known.runtime)), **known.environment
    )
    environment = with_stand_ins({**environment, "PATH": os.environ["PATH"]}, "cpu")
    command = [sys.executable, PROGRAMS / f"run_{client}.py", *known.arguments]
    program = rig.start(client, command, environment)
    code = program.wait(280)
    if code == ABSENT:
        pytest.skip(program.text(1))
    assert code == 0, program.text()
    (told,) = [json.loads(one) for one in program.lines if one.startswith("{")]
    assert (told["failed"], bool(told["ran"])) == ({}, True)
