"""What `make` hands on to the programs that it starts."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("PYTHON", "VENV", "OUT", "PYTEST_ARGS", "TEST_WORKERS", "BENCH_ARGS", "CLIENTS_ARGS")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_given_to_make_does_not_reach_the_programs(name):
    text = f"include {ROOT / 'Makefile'}\nseen:\n\t@env\n"
    done = subprocess.run(
        ["make", "-s", "-f", "-", "seen", f"{name}=a-value-of-mine"],
        input=text, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    given = [
        line for line in done.stdout.splitlines()
        if "a-value-of-mine" in line and not line.startswith(("MAKEFLAGS=", "MAKEOVERRIDES="))
    ]  # fmt: skip
    assert given == []
