#!/usr/bin/env python3
"""Find a red ball in camera pictures with ONNX Runtime.

The network is made here, as an ONNX model: how red each pixel is, and that over the ball's size.
The map that it gives is compared with ONNX Runtime's on the CPU; pictures are prepared by OpenCV,
or NumPy. Exits with 77 where onnx or ONNX Runtime is not installed.
"""

from __future__ import annotations

import argparse

import numpy as np
from camera import HEIGHT, REDNESS, WIDTH, Model, NoDeviceError, main, prepared, region

FACTOR = 2
SIZE = 9
"""Of the square over which redness is taken together."""


def options(parser: argparse.ArgumentParser) -> None:
    """Where it runs."""
    parser.add_argument("--cpu", action="store_true", help="without CUDA")


def model_bytes() -> bytes:
    """An ONNX model from `picture` (1, 3, height, width) to `heat` (1, 1, height, width)."""
    from onnx import TensorProto, helper, numpy_helper

    shape = [1, 3, HEIGHT // FACTOR, WIDTH // FACTOR]
    weights = {
        "red": REDNESS.reshape(1, 3, 1, 1),
        "square": np.full((1, 1, SIZE, SIZE), 1 / SIZE**2, np.float32),
    }
    pads = [SIZE // 2] * 4
    nodes = [
        helper.make_node("Conv", ["picture", "red"], ["redness"]),
        helper.make_node("Relu", ["redness"], ["positive"]),
        helper.make_node("Conv", ["positive", "square"], ["heat"], pads=pads),
    ]
    graph = helper.make_graph(
        nodes,
        "red_ball",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("heat", TensorProto.FLOAT, [1, 1, *shape[2:]])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made.SerializeToString())


def make(arguments: argparse.Namespace) -> Model:
    """The detector."""
    import onnxruntime

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    wanted = cpu if arguments.cpu else cuda
    if wanted not in onnxruntime.get_available_providers():
        raise ImportError("this ONNX Runtime is built without CUDA")
    if wanted == cuda and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries of pip are not on its path
    model = model_bytes()
    session, other = (
        onnxruntime.InferenceSession(model, providers=[name]) for name in (wanted, cpu)
    )
    # Without a device ONNX Runtime goes on with the CPU, and says so in its log only.
    if session.get_providers()[0] != wanted:
        raise NoDeviceError("ONNX Runtime could not start CUDA; its log above says why")

    def heat(one: onnxruntime.InferenceSession, image: np.ndarray) -> np.ndarray:
        return np.asarray(one.run(["heat"], {"picture": prepared(image, FACTOR)[None]})[0][0, 0])

    return Model(
        lambda image: heat(session, image),
        lambda image: heat(other, image),
        lambda numbers: region(numbers, FACTOR),
        "region",
        f"ONNX Runtime's {wanted}",
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, make, 'onnx "onnxruntime-gpu[cuda,cudnn]"', options))
