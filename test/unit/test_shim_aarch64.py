"""The shim built for aarch64, and its tests' programs in an emulated Python of that kind.

Wants Debian's cross compiler, qemu-user and a folder with an aarch64 Python (CONTRIBUTING.md says
how to get them), and skips by the name of what is not there. The recorder and the device are this
machine's: the ring, its records and the passed descriptors are shared between both processors.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.shim_under_test import FOLDER, PYTHON

from rrto_ros.shim import build

UNIT = Path(__file__).resolve().parent
ROOT = UNIT.parents[1]
COMPILER, EMULATOR, SYSROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "RRTO_AARCH64_ROOT"
SHORT = (
    "test_shim_calls.py::test_a_program_sees_what_cuda_documents",
    "test_shim_references.py::test_a_round_that_equals_the_plan_is_one_reference",
    "test_shim_references.py::test_references_that_outgrow_the_rings_and_buffers_are_cut",
)
WHOLE = ("calls", "references", "graphs", "capture", "landing", "refusals", "small", "tables",
         "host_calls", "answers", "memory_calls", "virtual_memory")  # fmt: skip
LEFT_OUT = {
    # A C program of this machine.
    "test_shim_references.py": "test_a_replayed_call_allocates_nothing",
}


@pytest.fixture(scope="module")
def cross(tmp_path_factory):
    """A folder with the shim for aarch64, compiled without a warning."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER} (apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross)")
    folder = tmp_path_factory.mktemp("aarch64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", COMPILER)
        build.build(folder, [*build.CFLAGS, "-Werror"])
    return folder


def test_the_shim_for_aarch64_compiles_without_a_warning(cross):
    for name in ("libcuda.so.1", "libcuda.so", "librrto_recorder.so"):
        head = (cross / name).read_bytes()[:20]
        assert head[:4] == b"\x7fELF"
        assert int.from_bytes(head[18:20], "little") == 183  # EM_AARCH64


@pytest.fixture(scope="module")
def emulated(cross):
    """The command that runs an aarch64 Python whose programs load the shim."""
    emulator = shutil.which(EMULATOR)
    if emulator is None:
        pytest.skip(f"no {EMULATOR} (apt-get install qemu-user)")
    root = os.environ.get(SYSROOT, "")
    pythons = sorted(Path(root, "usr/bin").glob("python3.*[0-9]")) if root else []
    if not pythons:
        pytest.skip(f"{SYSROOT} is {root!r}, want a folder with usr/bin/python3.* for aarch64")
    command = [emulator, "-L", root, "-E", f"LD_LIBRARY_PATH={cross}", "-E", f"PYTHONPATH={ROOT}",
               str(pythons[-1])]  # fmt: skip
    done = subprocess.run([*command, "-c", "import platform; print(platform.machine())"],
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert done.stdout.strip() == "aarch64"
    return command


@pytest.mark.timeout(1800)
def test_programs_on_aarch64_see_what_cuda_documents(emulated, cross):
    whole = os.environ.get("RRTO_AARCH64") == "all"
    parts = [f"test_shim_{name}.py" for name in WHOLE] if whole else SHORT
    chosen = [] if whole else ["-k", "not rpc"]
    left_out = [f"--deselect=test/unit/{file}::{name}" for file, name in LEFT_OUT.items()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "--rootdir", ROOT, "--timeout=600", *chosen, *left_out, *(UNIT / part for part in parts)],
        cwd=ROOT, env={**os.environ, FOLDER: str(cross), PYTHON: json.dumps(emulated)},
        capture_output=True, text=True, check=False, timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
