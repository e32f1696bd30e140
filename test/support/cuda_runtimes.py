"""Copies of NVIDIA's CUDA runtime library that are installed, and programs linked with them."""

import importlib.util
import os
import struct
import subprocess
from pathlib import Path

import pytest
from support.ptx_texts import SCALE

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


def fatbin(ptx):
    """A fatbin with one PTX for sm_70, as nvcc has it."""
    body = ptx + bytes(8 - len(ptx) % 8)
    entry = struct.pack("<HHIQIIHHI", 1, 0x101, 64, len(body), 0, 0, 0, 8, 70).ljust(40, b"\0")
    entry += struct.pack("<QQQ", 0, 0, 0) + body
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entry)) + entry


FATBIN = fatbin(SCALE)
"""What nvcc puts into the program."""


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
