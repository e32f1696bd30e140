"""The device `gpu` on the real cuda-bindings, down to C: what no shim of the project answers.

Memory by address (cuMemAddressReserve, cuMemMap, ...), textures and event record nodes go
through the bindings into a small libcuda.so.1 that writes down the C arguments and structures.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.compiling import compile_c

from rrto_ros.devices.gpu.arena import DEFAULT_BASE

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "test" / "support" / "programs" / "mapping_libcuda.c"
MIB = 1 << 20
PROGRAM = """
import ctypes

from rrto_ros.devices.gpu.arena import DEFAULT_BASE, MappedArena
from rrto_ros.devices.gpu.allocations import Allocations
from rrto_ros.devices.gpu.driver import Driver, load
from rrto_ros.devices.gpu.textures import Textures
from rrto_ros.devices.textures import OVER_BYTES, OVER_ROWS, Texture
from rrto_ros.errors import CudaError

cuda = load()
driver = Driver(cuda)
driver.call("cuInit", 0)
device = driver.call("cuDeviceGet", 0)
arena = MappedArena(driver, device, DEFAULT_BASE, 64 << 30, 1 << 30, lambda: None)
arena.back(arena.base + 4096, 5 << 20)
arena.close()
textures = Textures(driver, Allocations(DEFAULT_BASE, 1 << 30, 1 << 30), lambda: None)
textures._allocations.add(DEFAULT_BASE, 1 << 20)
for kind, height in ((OVER_ROWS, 3), (OVER_BYTES, 1)):
    size = 512 * (height - 1) + 40
    border = (0.0, 0.25, 0.5, 1.0)
    number = textures.create(kind, Texture(DEFAULT_BASE, size, 10, height, 1, 512, kind, 1, 4,
                                           0, 0, 1, 3, 1, border))
    assert number == 0x55
textures.destroy(OVER_ROWS)
textures.close()
node = driver.call("cuGraphAddEventRecordNode", cuda.CUgraph(0x11),
                   [cuda.CUgraphNode(0x21), cuda.CUgraphNode(0x22)], 2, cuda.CUevent(0x31))
assert int(node) == 0x99
try:
    driver.ready("cuStreamQuery", cuda.CUstream(0))
except CudaError as error:
    print("nameless", error.result.name, error.detail)
driver.check_sound()
written = ctypes.CDLL("libcuda.so.1").written
written.restype = ctypes.c_char_p
print(written().decode())
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Lines that `PROGRAM` and the library under it wrote."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    folder = tmp_path_factory.mktemp("libcuda")
    compile_c(SOURCE, folder / "libcuda.so.1", "-shared", "-fPIC")
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_arena_is_reserved_and_mapped_as_cuda_wants_it(said):
    base = DEFAULT_BASE
    granules = [line for line in said if line.startswith(("granularity", "reserve"))]
    assert granules == [
        "granularity type=1 handles=0 location=1,0 option=1",
        f"reserve size={64 << 30:x} align={2 * MIB:x} at={base:x} flags=0",
    ]
    # The granules at both ends stand alone: a neighbour may come to lie in them.
    size, mapped = 2 * MIB, []
    for at, handle in ((base, 0x71), (base + size, 0x72), (base + 2 * size, 0x73)):
        mapped += [
            f"create {handle:x} size={size:x} type=1 location=1,0 flags=0",
            f"map at={at:x} size={size:x} offset=0 handle={handle:x} flags=0",
            f"release {handle:x}",
            f"access at={at:x} size={size:x} location=1,0 flags=3 count=1",
        ]
    start = said.index(granules[1]) + 1
    assert said[start : start + len(mapped)] == mapped


def test_everything_is_unmapped_whole_before_the_addresses_go(said):
    ends = [line for line in said if line.startswith(("unmap", "free"))]
    assert ends == [
        *(f"unmap at={DEFAULT_BASE + at * MIB:x} size={2 * MIB:x}" for at in (0, 2, 4)),
        f"free at={DEFAULT_BASE:x} size={64 << 30:x}",
    ]


def test_textures_have_the_resource_and_the_sampling_that_cuda_wants(said):
    base = DEFAULT_BASE
    how = "filter=0 flags=0 border=0,0.25,0.5,1 view=0"
    (rows, linear), gone = (
        [line for line in said if line.startswith(start)]
        for start in ("texture type", "texture g")
    )
    assert rows == f"texture type=3 at={base:x} format=1 channels=4 sizes=10,3,512 modes=1,3 {how}"
    assert linear == f"texture type=2 at={base:x} format=1 channels=4 sizes=40,0,0 modes=1,3 {how}"
    assert gone == ["texture gone 55"] * 2


def test_an_event_record_node_gets_its_graph_waits_and_event(said):
    assert "record graph=11 count=2 21 22 event=31" in said


def test_a_result_that_the_bindings_do_not_know_is_an_error_with_its_number(said):
    (line,) = [line for line in said if line.startswith("nameless")]
    assert line == "nameless UNKNOWN cuStreamQuery: CUresult 4242"
