"""Copies of NVIDIA's CUDA runtime library that are installed, and programs linked with them."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from rrto_ros.shim.build import compiler

SOURCE = Path(__file__).resolve().parent / "runtime_program.c"
COPIES = {
    "11.8": ("cuda_runtime/lib/libcudart.so.11.0", "nvidia-cuda-runtime-cu11"),
    "12": ("cuda_runtime/lib/libcudart.so.12", "nvidia-cuda-runtime-cu12"),
    "12 static": ("cuda_runtime/lib/libcudart_static.a", "nvidia-cuda-runtime-cu12"),
    "13": ("cu13/lib/libcudart.so.13", "nvidia-cuda-runtime"),
    "13 static": ("cu13/lib/libcudart_static.a", "nvidia-cuda-runtime"),
}
"""Name -> (file below the package `nvidia`, distribution that has it)."""


def copy_of(name):
    """The path of a copy; the test skips, and says so, where it is not installed."""
    file, distribution = COPIES[name]
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        if (path := Path(folder) / file).exists():
            return path
    pytest.skip(f"no {Path(file).name} of CUDA {name.split()[0]}: pip install {distribution}")
    return None


def build(name, folder):
    """A program that is linked with a copy, in `folder`."""
    library, program = copy_of(name), folder / "runtime_program"
    command = [compiler(), "-O1", "-Wall", "-Wextra", "-Werror", str(SOURCE), str(library)]
    command += [f"-Wl,-rpath,{library.parent}", "-lpthread", "-ldl", "-lrt", "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    return program


def run(program, arguments, environment):
    """Run it; gives what ended."""
    return subprocess.run(
        [str(program), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
