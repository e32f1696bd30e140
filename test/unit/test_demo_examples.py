"""The example programs and the tool that shrinks the model, as far as they go without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.compiling import compile_c

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted((ROOT / "examples").glob("*.py"))
EXAMPLES = [path for path in ALL if not path.stem.endswith("_node") and path.stem != "camera"]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


NEEDS = {
    "cascade_cuda_bindings": "cuda.bindings",
    "cnn_tinygrad": "tinygrad",
    "matmul_tinygrad": "tinygrad",
    "saxpy_cuda_core": "cuda.core",
    "vector_add_cuda_bindings": "cuda.bindings",
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_has_help_and_refuses_nonsense(example: Path):
    if example.stem in NEEDS:
        pytest.importorskip(NEEDS[example.stem])
    shown = run(sys.executable, example, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "NumPy" in shown.stdout
    assert run(sys.executable, example, "--no-such-option").returncode == 2


FRAMEWORKS = {
    "classifier_keras": "tensorflow",
    "detector_onnxruntime": "onnxruntime",
    "ground_cupy": "cupy",
    "mppi_jax": "jax",
    "mppi_numba": "numba",
    "physics_warp": "warp",
    "rectify_triton": "triton",
    "segmentation_torch": "torch",
}
WITHOUT = """
import os, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == os.environ.get("WITHOUT"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Without())
"""


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_example_without_its_framework_says_in_one_line_what_to_install(name, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run(sys.executable, ROOT / "examples" / f"{name}.py",
               PYTHONPATH=paths, WITHOUT=FRAMEWORKS[name])  # fmt: skip
    assert done.returncode == 77, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("skipped: ")
    assert FRAMEWORKS[name] in line
    assert "pip install" in line


@pytest.mark.parametrize("example", ALL, ids=lambda path: path.stem)
def test_no_example_knows_of_offloading(example: Path):
    text = example.read_text(encoding="utf-8").lower().replace("graph.replay()", "")  # PyTorch's
    words = ["rrto", "offload", "replay"] + (["rclpy"] if example in EXAMPLES else [])
    assert not [word for word in words if word in text]


@pytest.mark.parametrize("name", ["cnn_tinygrad", "matmul_tinygrad"])
@pytest.mark.parametrize("option", [[], ["--jit"]], ids=["eager", "jit"])
def test_tinygrad_examples_agree_with_numpy_on_tinygrads_cpu_device(name: str, option: list[str]):
    pytest.importorskip("tinygrad")
    if shutil.which("clang") is None:
        pytest.skip("tinygrad's CPU device needs clang")
    done = run(sys.executable, ROOT / "examples" / f"{name}.py", *option, DEV="CPU")
    assert done.returncode == 0, done.stdout + done.stderr


def test_c_example_compiles_without_a_warning(tmp_path: Path):
    compile_c(ROOT / "examples" / "vector_add.c", tmp_path / "vector_add.o", "-c")


def test_shrinking_a_model_keeps_every_weight_exact(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((4, 8)).astype(np.float16).astype(np.float32)
    inexact = rng.standard_normal((4, 8)).astype(np.float32)
    too_large = np.full((4, 8), 1e6, np.float32)
    weights = {"exact": exact, "inexact": inexact, "too_large": too_large}
    helper = onnx.helper
    names = list(weights)
    graph = helper.make_graph(
        [helper.make_node("Sum", ["x", *names], ["y"])],
        "sum",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 8])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "in.onnx")
    tool = ROOT / "tools" / "shrink_onnx_weights.py"
    done = run(sys.executable, tool, tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert done.returncode == 0, done.stderr
    assert "1 initialisers now float16, 2 kept" in done.stdout
    small = onnx.load(tmp_path / "out.onnx")
    kinds = {one.name: one.data_type for one in small.graph.initializer}
    assert kinds == {
        "exact_fp16": onnx.TensorProto.FLOAT16,
        "inexact": onnx.TensorProto.FLOAT,
        "too_large": onnx.TensorProto.FLOAT,
    }
    x = {"x": np.zeros((4, 8), np.float32)}
    before, after = (reference.ReferenceEvaluator(one).run(None, x)[0] for one in (model, small))
    assert before.tobytes() == after.tobytes()
