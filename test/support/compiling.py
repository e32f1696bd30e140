"""Small C programs and libraries for tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def compile_c(source: Path, out: Path, *flags: str) -> Path:
    """Build a C file without a warning; returns `out`. Without a compiler the test is skipped."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", *flags]
    done = subprocess.run(
        [*command, "-o", out, source, "-ldl"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out
