#!/usr/bin/env python3
"""Store an ONNX model's float32 weights as float16, where that loses nothing.

Each float32 initialiser whose values all survive the trip to float16 and back becomes a float16
initialiser followed by a Cast to float32. The result is an ordinary ONNX model that computes the
same numbers in half the bytes. Needs the `onnx` package, which the demo itself does not.

    python tools/shrink_onnx_weights.py nanodet_416.onnx rrto_ros/data/nanodet_416_fp16.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST_WORTH_IT = 16
"""Elements; below this the Cast node costs more bytes than it saves."""


def shrink(model: onnx.ModelProto) -> tuple[int, int]:
    """Change `model` in place.

    Returns:
        (initialisers stored as float16, float32 initialisers left because they would change).
    """
    graph = model.graph
    shrunk = left = 0
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(initializer)
        if values.size < SMALLEST_WORTH_IT:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if half.astype(np.float32).tobytes() != values.tobytes():
            left += 1
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        casts.append(
            helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT, name=name)
        )
        shrunk += 1
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts + nodes)
    del graph.value_info[:]
    return shrunk, left


def main() -> int:
    """Convert one file and check the result with the ONNX checker."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="ONNX model with float32 weights")
    parser.add_argument("target", type=Path, help="where to write the smaller model")
    arguments = parser.parse_args()
    # Some exporters leave the shapes of the outputs out; the checker wants them.
    model = onnx.shape_inference.infer_shapes(onnx.load(arguments.source))
    shrunk, left = shrink(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, arguments.target)
    print(
        f"{arguments.target}: {arguments.target.stat().st_size} bytes "
        f"(was {arguments.source.stat().st_size}); {shrunk} initialisers now float16, "
        f"{left} kept because float16 would change them"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
