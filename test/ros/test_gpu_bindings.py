"""The device `gpu` on the real cuda-bindings, whose libcuda is the shim of another robot.

Without a GPU this is as near as it gets: every call goes through the real bindings' conversions
into C, and real results come back, from the cpu device of an offload server. What stays untried
is NVIDIA's driver itself: virtual memory, event nodes, NVML, and speed.
"""

import json
import re
import sys

import pytest
from support.processes import PATIENCE_S
from support.rig import ROOT, START_S

from rrto_ros.shim.build import ensure_built

BOARD = "board"
"""The robot whose shim stands for the GPU's driver."""
DRIVER = """
import ctypes, os
os.environ["RRTO_SOCKET"] = {socket!r}
ctypes.CDLL({library!r}, ctypes.RTLD_GLOBAL)
"""


def socket_of(board):
    """Where the recorder of `BOARD` listens."""
    (line,) = [p.text() for p in board.processes if p.name == "recorder_replayer"]
    return re.search(r"find it at (\S+)", line)[1]


@pytest.fixture
def board(rig):
    """A rig in whose `BOARD` environment libcuda.so.1 is a shim."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    rig.server("cpu", robot=BOARD)
    rig.recorder(robot=BOARD)
    return rig


@pytest.mark.timeout(240)
def test_every_kind_of_call_does_what_it_should_on_the_real_bindings(board):
    program = board.program("gpu_on_bindings.py", robot=BOARD)
    assert program.wait(200) == 0, program.text()
    found = json.loads(program.lines[-1])
    assert found["checked"] == ["copies", "launches", "streams_and_events", "graphs", "segments",
                                "checkpoints", "modules"]  # fmt: skip
    assert found["device"]["segment_runs"] == 100


@pytest.mark.timeout(240)
def test_the_conformance_kernels_give_the_same_results_on_the_real_bindings(board):
    cases = ROOT / "test" / "conformance" / "test_cases.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "gpu", cases]
    tests = board.start("conformance", command, board.interposed(BOARD))
    assert tests.wait(200) == 0, tests.text()
    assert "passed" in tests.text()
    assert "skipped" not in tests.text()


def gpu_server(board):
    """A server on device `gpu`, whose bindings find the shim of `BOARD`.

    Robot -> recorder -> this server -> bindings -> shim -> the board's server on `cpu`.
    """
    # A worker takes no shim from its environment, so it is put under it at its start.
    (board.folder / "site").mkdir()
    (board.folder / "site" / "sitecustomize.py").write_text(
        DRIVER.format(library=str(ensure_built() / "libcuda.so.1"), socket=socket_of(board))
    )
    command = [sys.executable, "-m", "rrto_ros.nodes.offload_server", "--ros-args",
               "-r", f"__ns:=/{board.robot}", "-p", f"robot:={board.robot}", "-p", "device:=auto",
               # The shim wants a socket to its recorder, which no driver of NVIDIA's wants.
               "-p", "confinement:='off'",
               "-p", f"limit_bytes:={256 << 20}", "-p", "spare_workers:=0",
               "-p", f"blob_directory:={board.folder / 'blobs2'}"]  # fmt: skip
    environment = board.environment()
    environment["PYTHONPATH"] = f"{board.folder / 'site'}:{environment['PYTHONPATH']}"
    server = board.start("gpu_server", command, environment)
    server.wait_for("device auto is gpu", START_S)
    server.wait_for("ready on .* device gpu", START_S)
    return server


@pytest.mark.timeout(240)
def test_a_server_on_device_gpu_serves_a_program_as_the_cpu_device_does(board):
    gpu_server(board)
    board.recorder()
    example = ROOT / "examples" / "vector_add_cuda_bindings.py"
    program = board.start("vector_add", [sys.executable, example], board.interposed())
    assert program.wait(3 * PATIENCE_S) == 0, program.text()


@pytest.mark.timeout(240)
def test_a_replayed_network_on_device_gpu_runs_as_graphs_and_stays_right(board):
    pytest.importorskip("tinygrad", reason="tinygrad is not installed")
    watch = board.watch(BOARD)
    gpu_server(board)
    board.recorder(mode="replay")
    program = board.program("cnn_loop.py", "40", DEV="CUDA:PTX")
    assert program.wait(3 * PATIENCE_S) == 0, program.text()
    assert json.loads(program.lines[-1])["worst"] < 1e-5
    (recorder, _) = [p for p in board.processes if p.name.startswith("recorder_replayer")]
    opened = recorder.wait_for(r"execution\.worker .*\(pid (\d+)\) opens", PATIENCE_S)
    calls = {c["name"]: c["count"] for c in watch.report(int(opened[1]))["calls"]}
    assert calls["cuGraphLaunch"] >= 10
    assert calls["cuGraphInstantiateWithFlags"] < calls["cuGraphLaunch"] / 2
