"""The programs of `link_table`: ordinary tinygrad inference, no line of it knows where it runs.

Each is captured once (TinyJit); with JIT=2 in the environment its kernels are launched one by one,
as an eager framework does, and the host's part of an inference is small.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        title: What the table calls it.
        shape: Of its input.
        dtype: Of its input.
    """

    title: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def input_bytes(self) -> int:
        """Size of one input."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def input(self, number: int) -> Array:
        """The input of an inference; every one is different and always the same."""
        rng = np.random.default_rng(number)
        if self.dtype == "uint8":
            return rng.integers(0, 256, self.shape, np.uint8)
        return rng.standard_normal(self.shape, dtype=np.float32)


NETWORKS = {
    "nanodet": Network("NanoDet-416", (416, 416, 3), "uint8"),
    "cnn": Network("small CNN", (1, 3, 32, 32), "float32"),
    "deep": Network("deep network", (16, 4, 64), "float32"),
    "narrow": Network("narrow-middle network", (1, 3, 256, 256), "float32"),
}


def _example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _nanodet() -> Callable[[Any], Any]:
    from tinygrad import Tensor

    from rrto_ros.demo.detector.model import (
        BOX_OUTPUTS,
        DEVIATION,
        MEAN,
        SCORE_OUTPUTS,
        load_network,
    )

    network = load_network(ROOT / "rrto_ros" / "data" / "nanodet_416_fp16.onnx")
    mean, deviation, bins = (
        Tensor(values).contiguous().realize()
        for values in (MEAN, DEVIATION, [float(k) for k in range(11)])
    )

    def run(pixels: Any) -> Any:
        """Best score, its class and the four box sides of every cell: what a tracker needs."""
        image = (pixels.float() - mean) / deviation
        outputs = network({"x": image.permute(2, 0, 1).unsqueeze(0)})
        scores = Tensor.cat(*(outputs[name] for name in SCORE_OUTPUTS), dim=1)[0]
        boxes = Tensor.cat(*(outputs[name] for name in BOX_OUTPUTS), dim=1)[0]
        sides = (boxes.reshape(-1, 4, 11).softmax(2) * bins).sum(2)
        best = scores.max(1, keepdim=True)
        kind = scores.argmax(1, keepdim=True).float()
        return Tensor.cat(best, kind, sides, dim=1).contiguous().realize()

    return run


def _narrow() -> Callable[[Any], Any]:
    """A segmentation network with a narrow middle, after U-Net but without its side ways.

    786 KB of picture become 16 KB (4 channels of 32 x 32), which go through the work of the
    middle, and then become a score for each pixel again.
    """
    from tinygrad import Tensor

    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return Tensor((rng.standard_normal(shape) * scale).astype(np.float32)).realize()

    down = [weight(8, 3, 4, 4), weight(4, 8, 2, 2)]
    middle = [weight(64, 4, 3, 3), *(weight(64, 64, 3, 3) for _ in range(6)), weight(4, 64, 3, 3)]
    up = weight(2, 4, 1, 1)

    def run(x: Any) -> Any:
        x = x.conv2d(down[0], stride=4).relu().contiguous()
        x = x.conv2d(down[1], stride=2).relu().contiguous()
        for kernel in middle:
            x = x.conv2d(kernel, padding=1).relu().contiguous()
        x = x.conv2d(up).reshape(1, 2, 32, 1, 32, 1).expand(1, 2, 32, 8, 32, 8)
        return x.reshape(1, 2, 256, 256).contiguous().realize()

    return run


def load(name: str) -> Callable[[Array], Array]:
    """Put a network's weights on the device; returns what runs one inference."""
    from tinygrad import Tensor, TinyJit

    if name in ("nanodet", "narrow"):
        run = TinyJit({"nanodet": _nanodet, "narrow": _narrow}[name]())
    else:
        example = _example({"cnn": "cnn_tinygrad", "deep": "deep_tinygrad"}[name])
        run = TinyJit(example.Network(example.make_weights(np.random.default_rng(0))))

    def infer(given: Array) -> Array:
        out: Array = run(Tensor(given).realize()).numpy()
        return out

    return infer
