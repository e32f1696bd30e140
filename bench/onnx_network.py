"""An ONNX model on tinygrad's default device, for the programs of the measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def loaded(
    path: Path, *, jit: bool = True, contiguous: bool = False
) -> tuple[tuple[int, ...], Callable[[Array], list[Array]]]:
    """The shape of a model's input, and what runs it.

    Args:
        path: The ONNX file, of one input.
        jit: Capture the network once (TinyJit).
        contiguous: Make the outputs as they are read, so that reading one launches nothing.
    """
    from tinygrad import Device, Tensor, TinyJit
    from tinygrad.nn.onnx import OnnxRunner

    network = OnnxRunner(path)
    # Weights lie in the file until they are used; once on the device they stay there.
    for name, value in network.graph_values.items():
        if isinstance(value, Tensor) and value.numel() > 1:
            network.graph_values[name] = value.to(Device.DEFAULT).contiguous().realize()
    ((given, spec),) = network.graph_inputs.items()
    names = list(network.graph_outputs)

    def run(x: Any) -> list[Any]:
        found = network({given: x})
        outputs = [found[n].contiguous() if contiguous else found[n] for n in names]
        # All at once: realised one by one, each output would run the layers before it again.
        Tensor.realize(*outputs)
        return outputs

    infer = TinyJit(run) if jit else run
    return tuple(spec.shape), lambda x: [o.numpy() for o in infer(Tensor(x).realize())]
