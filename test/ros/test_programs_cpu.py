"""Unmodified programs of several compilers on the virtual device, each against NumPy."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from support.rig import PROGRAMS

from rrto_ros.bringup.stand_ins import with_stand_ins

OPERATIONS_S = 170.0
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def stand_ins():
    """What `rrto run` adds to a program's environment on this device."""
    return with_stand_ins({"PATH": os.environ["PATH"]}, "cpu")


@pytest.mark.timeout(260)
def test_tinygrads_operations_agree_with_numpy(rig):
    pytest.importorskip("tinygrad", reason="tinygrad is not installed")
    rig.both()
    program = rig.program("tinygrad_operations.py", DEV="CUDA:PTX")
    assert program.wait(OPERATIONS_S) == 0, program.text()
    (line,) = [one for one in program.text().splitlines() if one.startswith("{")]
    found = json.loads(line)
    assert found["failed"] == {}
    assert found["operations"] >= 120
    assert found["device"] == "CUDA"


def test_a_network_whose_depth_depends_on_the_data_agrees_with_numpy(rig):
    pytest.importorskip("tinygrad", reason="tinygrad is not installed")
    rig.both()
    program = rig.program("adaptive_network.py", DEV="CUDA:PTX")
    assert program.wait(OPERATIONS_S) == 0, program.text()
    depths = json.loads(program.lines[-1])["depths"]
    assert len(set(depths)) > 2


def test_numba_kernels_agree_with_numpy(rig):
    rig.both()
    program = rig.program("numba_kernels.py", PYTHONWARNINGS="ignore", **stand_ins())
    code = program.wait(OPERATIONS_S)
    if code == 77:
        pytest.skip(program.text(1))
    assert code == 0, program.text()
    found = json.loads(program.lines[-1])
    assert (len(found["kernels"]), found["failed"]) == (12, {})


def test_a_controller_node_drives_a_robot_to_its_goal(rig):
    nvvm = pytest.importorskip("cuda.bindings.nvvm", reason="cuda-bindings is not installed")
    pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")
    try:
        nvvm.version()
    except RuntimeError as error:
        pytest.skip(f"libNVVM is not installed: {error}")
    rig.both(mode="replay")
    node = rig.start(
        "mppi_node",
        [sys.executable, EXAMPLES / "mppi_node.py"],
        rig.interposed(PYTHONWARNINGS="ignore", **stand_ins()),
    )
    node.wait_for("ready", OPERATIONS_S)
    robot = rig.helper("driven_robot.py", "120", stdin=False)
    assert robot.wait(OPERATIONS_S) == 0, robot.text() + node.text()
    found = json.loads(robot.lines[-1])
    assert found["distance"] <= 0.3, found
    assert found["nearest"] > 0, found


def test_a_camera_node_publishes_what_its_example_finds(rig):
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    command = [sys.executable, EXAMPLES / "camera_node.py", "--ros-args", "-p", "options:=--cpu"]
    node = rig.start("camera_node", command, rig.environment())
    node.wait_for("ready: detector_onnxruntime", OPERATIONS_S)
    camera = rig.helper("camera_pictures.py", "10", stdin=False)
    assert camera.wait(OPERATIONS_S) == 0, camera.text() + node.text()
    away = json.loads(camera.lines[-1])["away"]
    assert len(away) == 10
    assert max(away) < 6, away
    for _ in range(2):  # as from launch in a terminal
        node.signal(signal.SIGINT)
    assert node.wait(OPERATIONS_S) == 0, node.text()
    assert "Traceback" not in node.text()


def test_a_camera_node_whose_model_cannot_be_had_says_why(rig):
    for name, said in (("nothing", "detector_onnxruntime"), ("detector_onnxruntime", "CUDA")):
        if name != "nothing":
            pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        command = [
            sys.executable,
            EXAMPLES / "camera_node.py",
            "--ros-args",
            "-p",
            f"model:={name}",
        ]
        node = rig.start("camera_node", command, rig.environment())
        assert node.wait(OPERATIONS_S) == 1, node.text()
        assert said in node.text()
        assert "Traceback" not in node.text()


@pytest.mark.parametrize("kind", ["ptx", "cubin"])
def test_kernels_that_nvrtc_compiles_agree_with_numpy(rig, kind):
    rig.both()
    program = rig.program("nvrtc_kernels.py", kind, **stand_ins())
    code = program.wait(OPERATIONS_S)
    if code == 77:
        pytest.skip(program.text(1))
    assert code == 0, program.text()
    found = json.loads(program.lines[-1])
    assert (len(found["kernels"]), found["failed"]) == (7, {})


def test_kernels_that_triton_compiles_agree_with_numpy(rig, tmp_path):
    rig.both()
    program = rig.program("triton_kernels.py", "90", TRITON_CACHE_DIR=str(tmp_path), **stand_ins())
    code = program.wait(OPERATIONS_S)
    if code == 77:
        pytest.skip(program.text(1))
    assert code == 0, program.text()
    found = json.loads(program.lines[-1])
    assert (len(found["kernels"]), found["failed"]) == (4, {})


@pytest.mark.parametrize(
    ("client", "refused"), [("cupy", set()), ("warp", {"array_sums", "array_scan"})]
)
@pytest.mark.timeout(400)
def test_programs_on_the_cuda_runtime_with_kernels_of_nvrtc_agree_with_numpy(rig, client, refused):
    """Only where the tester wants it: RRTO_NVIDIA_COMPILERS=1 (docs/clients.md)."""
    consent = {"RRTO_NVIDIA_COMPILERS": os.environ.get("RRTO_NVIDIA_COMPILERS", "")}
    rig.both()
    program = rig.program(
        PROGRAMS.parents[1] / "clients" / f"run_{client}.py", RRTO_CUDA_RUNTIME="1",
        CUPY_ACCELERATORS="", CUPY_CACHE_DIR=str(rig.folder), WARP_CACHE_PATH=str(rig.folder),
        **consent, **stand_ins(),
    )  # fmt: skip
    code = program.wait(380)
    if code == 77:
        pytest.skip(program.text(1))
    (line,) = [one for one in program.text().splitlines() if one.startswith("{")]
    found = json.loads(line)
    assert found["failed"].keys() == refused, found["failed"]
    assert len(found["ran"]) > 10


@pytest.mark.parametrize("model", ["nanodet_416.onnx", "ped_ssdlite_300.onnx"])
@pytest.mark.timeout(300)
def test_an_onnx_model_agrees_with_onnxruntime(rig, model):
    for name in ("tinygrad", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    folder = os.environ.get("RRTO_MODELS", "")
    path = Path(folder) / model
    if not folder or not path.is_file():
        pytest.skip(f"RRTO_MODELS names no folder with {model} (NanoDet is in the demo's tests)")
    rig.both()
    command = [sys.executable, PROGRAMS.parents[2] / "bench" / "onnx_model.py", path]
    program = rig.start("onnx_model", [*command, "--frames", "1"], rig.interposed(DEV="CUDA:PTX"))
    assert program.wait(250) == 0, program.text()
    assert json.loads(program.lines[-1])["worst"] < 1e-3
