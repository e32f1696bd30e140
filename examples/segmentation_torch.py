#!/usr/bin/env python3
"""Tell the pixels of a red ball from the rest of camera pictures with PyTorch.

A small U-shaped network: its convolutions have random weights of a fixed seed and a small say,
how red a pixel is decides. Its scores are compared with PyTorch's on the CPU; pictures are
prepared by OpenCV, or NumPy. --graph launches each inference as one CUDA graph, --compile has
torch.compile make its kernels. Exits with 77 where PyTorch is not installed.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from camera import HEIGHT, REDNESS, WIDTH, Model, NoDeviceError, main, prepared

FACTOR = 2
SAY = 0.05
"""Of the convolutions in the scores."""


def options(parser: argparse.ArgumentParser) -> None:
    """How it runs."""
    parser.add_argument("--graph", action="store_true", help="as a CUDA graph")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")


def network(torch: Any) -> Any:
    """From pictures (1, 3, height, width) to scores (1, 2, height, width): rest, ball."""
    nn = torch.nn
    torch.manual_seed(0)

    def block(inputs: int, outputs: int, stride: int = 1) -> Any:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())

    class Net(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.down, self.deep = block(3, 16), block(16, 32, 2), block(32, 32)
            self.up, self.last = block(48, 16), nn.Conv2d(16, 2, 1)
            self.register_buffer("red", torch.tensor(REDNESS).reshape(1, 3, 1, 1))

        def forward(self, x: Any) -> Any:
            fine = self.first(x)
            coarse = self.deep(self.down(fine))
            coarse = nn.functional.interpolate(coarse, scale_factor=2.0)
            small = SAY * self.last(self.up(torch.cat([coarse, fine], 1)))
            redness = (x * self.red).sum(1, keepdim=True)
            return small + torch.cat([torch.full_like(redness, 0.5), redness], 1)

    return Net().eval()


def graphed(torch: Any, net: Any, example: Any) -> Any:
    """The network as one CUDA graph with a place of its own for its input."""
    place = example.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is made at the first calls is no part of the graph
        for _ in range(3):
            net(place)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = net(place)

    def run(x: Any) -> Any:
        place.copy_(x)
        graph.replay()
        return scores

    return run


def make(arguments: argparse.Namespace) -> Model:
    """The network on the device, and its twin on the CPU."""
    import torch

    if not torch.cuda.is_available():
        raise NoDeviceError(f"PyTorch {torch.__version__} finds none")
    # Its convolutions round to TF32 otherwise, which a CPU does not.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    twin = network(torch)
    net = network(torch).cuda()
    run = torch.compile(net) if arguments.compile else net

    def given(image: np.ndarray) -> Any:
        return torch.from_numpy(prepared(image, FACTOR))[None]

    with torch.inference_mode():
        if arguments.graph:
            run = graphed(
                torch, run, torch.zeros(1, 3, HEIGHT // FACTOR, WIDTH // FACTOR, device="cuda")
            )

    def scores(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(run(given(image).cuda()).cpu()[0])

    def reference(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(twin(given(image))[0])

    return Model(scores, reference, mask, "mask", f"{torch.cuda.get_device_name()} by PyTorch")


def mask(scores: np.ndarray) -> np.ndarray:
    """255 where the picture has the ball, 0 elsewhere; bytes (height, width)."""
    small = np.where(scores[1] > scores[0], 255, 0).astype(np.uint8)
    return small.repeat(FACTOR, 0).repeat(FACTOR, 1)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, make, "torch", options))
