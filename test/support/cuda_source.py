"""CUDA C++ to PTX by NVRTC, for tests that need a compiler's code; skips where it is missing."""

from pathlib import Path

import pytest


def headers() -> Path:
    """The folder of the toolkit's headers."""
    nvidia = pytest.importorskip("nvidia", reason="the packages of NVIDIA's toolkit are missing")
    for folder in nvidia.__path__:
        for found in Path(folder).glob("*/include/cooperative_groups.h"):
            return found.parent
    pytest.skip("nvidia-cuda-runtime, which has the headers, is not installed")


def to_ptx(source: str, *options: str, architecture: str = "compute_80") -> bytes:
    """PTX of CUDA C++."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    try:
        result, program = nvrtc.nvrtcCreateProgram(source.encode(), b"test.cu", 0, [], [])
    except RuntimeError as error:
        pytest.skip(f"{error}; pip install nvidia-cuda-nvrtc")
    assert not result.value
    flags = [f"--gpu-architecture={architecture}".encode(), *(o.encode() for o in options)]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
    if result.value:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytes(size)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = bytes(size)
    nvrtc.nvrtcGetPTX(program, text)
    return text
