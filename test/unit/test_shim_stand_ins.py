"""The stand-in for nvJitLink is found in its place, and is no linker that anybody would take."""

import os
import subprocess
import sys

import pytest

from rrto_ros.bringup.stand_ins import with_stand_ins
from rrto_ros.shim.build import ensure_built

LOOK = """
import ctypes, os
for major in (12, 13):
    lib = ctypes.CDLL(f"libnvJitLink.so.{major}", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    assert not hasattr(lib, "nvJitLinkVersion")
    for name in ("nvJitLinkCreate", "__nvJitLinkCreate_12_0", "__nvJitLinkAddData_13_5"):
        assert getattr(lib, name)(None, 0, None) == 6, name
"""


def look(code, environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


def test_the_stand_in_is_loaded_before_anything_looks_for_it_and_refuses():
    done = look(LOOK, with_stand_ins(os.environ, "cpu"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("executes PTX") == 2  # each says it once
    assert "cannot open shared object" in look(LOOK, dict(os.environ)).stderr


def test_nvml_starts_where_the_shim_is_and_has_no_sensors():
    code = (
        "import ctypes; lib = ctypes.CDLL('libnvidia-ml.so.1'); "
        "assert [lib.nvmlInit_v2(), lib.nvmlInitWithFlags(1)] == [0, 0]; "
        "assert lib.nvmlInitWithFlags(8) == 2; "
        "assert [lib.nvmlShutdown() for _ in range(3)] == [0, 0, 1]; "
        "lib.nvmlErrorString.restype = ctypes.c_char_p; "
        "assert lib.nvmlErrorString(1) == b'Uninitialized'; "
        "assert not hasattr(lib, 'nvmlDeviceGetCount_v2')"
    )
    done = look(code, {**os.environ, "LD_LIBRARY_PATH": str(ensure_built())})
    assert done.returncode == 0, done.stderr


def test_cuda_core_links_with_the_driver_where_the_stand_in_is():
    pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    code = "from cuda.core import Linker; print(Linker.which_backend())"
    done = look(code, {**with_stand_ins(os.environ, "cpu"), "PYTHONWARNINGS": "ignore"})
    assert done.returncode == 0, done.stderr
    assert "driver" in done.stdout.lower()
