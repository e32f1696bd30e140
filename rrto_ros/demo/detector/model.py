"""The network: loads NanoDet-416 and runs it with tinygrad on tinygrad's default device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from tinygrad import Device, Tensor, TinyJit, dtypes
from tinygrad.nn.onnx import OnnxRunner

from rrto_ros.demo.detector.postprocess import INPUT_SIZE, FloatArray
from rrto_ros.errors import ConfigError

Pixels: TypeAlias = npt.NDArray[np.uint8]

# Per channel of a BGR picture, as the network was trained.
MEAN = (103.53, 116.28, 123.675)
DEVIATION = (57.375, 57.12, 58.395)
SCORE_OUTPUTS = ("out0", "out1", "out2")
BOX_OUTPUTS = ("out3", "out4", "out5")


def resize_for_network(bgr: Pixels) -> Pixels:
    """Resize a `[h, w, 3]` picture to what the network takes; proportions are not kept."""
    return np.asarray(cv2.resize(bgr, (INPUT_SIZE, INPUT_SIZE)), np.uint8)


def load_network(path: Path) -> OnnxRunner:
    """Read the ONNX file and put its weights on the device as float32.

    The file keeps its weights as float16, each followed by a Cast. The casts are done once here,
    not in every inference.

    Raises:
        ConfigError: The file is missing.
    """
    if not path.is_file():
        msg = f"no model at {path}"
        raise ConfigError(msg)
    network = OnnxRunner(path)
    constants = set(network.graph_values)
    casts = [node for node in network.graph_nodes if node.op == "Cast"]
    casts = [node for node in casts if node.inputs[0] in constants]
    for node in casts:
        weight = network.graph_values.pop(node.inputs[0])
        network.graph_values[node.outputs[0]] = weight.cast(dtypes.float32).contiguous()
    done = {node.outputs[0] for node in casts}
    network.graph_nodes = tuple(n for n in network.graph_nodes if n.outputs[0] not in done)
    Tensor.realize(*(network.graph_values[name] for name in sorted(done)))
    return network


class NanoDet:
    """NanoDet-416, one picture at a time.

    Args:
        path: The ONNX file.
        jit: Capture the kernels of one inference and launch them as one graph from then on;
            without it every kernel is scheduled and launched one by one.
    """

    def __init__(self, path: Path, *, jit: bool = False) -> None:
        start = time.perf_counter()
        self._network = load_network(path)
        self._mean = Tensor(MEAN).reshape(1, 3, 1, 1).contiguous().realize()
        self._deviation = Tensor(DEVIATION).reshape(1, 3, 1, 1).contiguous().realize()
        self._run = TinyJit(self._forward) if jit else self._forward
        self._load_seconds = time.perf_counter() - start
        self._inferences = 0

    def _forward(self, pixels: Tensor) -> Tensor:
        image = pixels.permute(2, 0, 1).unsqueeze(0).float()
        outputs = self._network({"x": (image - self._mean) / self._deviation})
        scores = Tensor.cat(*(outputs[name] for name in SCORE_OUTPUTS), dim=1)
        boxes = Tensor.cat(*(outputs[name] for name in BOX_OUTPUTS), dim=1)
        return scores.cat(boxes, dim=2).squeeze(0).contiguous().realize()

    def __call__(self, bgr: Pixels) -> FloatArray:
        """Run the network on a camera picture.

        Args:
            bgr: `[height, width, 3]`.

        Returns:
            `[3549, 124]`: for each cell 80 class scores, then 4 x 11 box bins.
        """
        pixels = Tensor(resize_for_network(bgr)).contiguous().realize()
        self._inferences += 1
        raw: FloatArray = self._run(pixels).numpy()
        return raw

    def statistics(self) -> dict[str, float | int | str]:
        """Device, seconds to load the weights, inferences so far."""
        return {
            "device": str(Device.DEFAULT),
            "load_seconds": self._load_seconds,
            "inferences": self._inferences,
        }
