"""PyTorch: a small ResNet in every way that a robot runs one, compared with PyTorch on the CPU.

Inference in a loop, in half precision, as a CUDA graph and compiled, a training step, streams,
pinned memory, and that all memory comes back. PyTorch's kernels are machine code, so that a device
without a GPU has no results; then the calls alone are tried. The arguments choose cases by name.
"""

from __future__ import annotations

import gc
import os
import sys
from itertools import pairwise

from agree import Cases, absent

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes that wait for a GPU

try:
    import numpy as np
    import torch
    from torch import nn
except ImportError as error:
    absent(error, "torch numpy")

ROUNDS = 50
SIZE = 96
CLASSES = 100
GPU = "cuda"


class Block(nn.Module):
    """Two convolutions around which the input goes, too."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.around = nn.Identity()
        if stride > 1:
            self.around = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        return torch.relu(self.body(x) + self.around(x))


def resnet():
    """The layers of ResNet-18, with weights of its own."""
    torch.manual_seed(11)
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1))  # fmt: skip
    widths = (64, 64, 128, 256, 512)
    blocks = [
        Block(before if first else after, after, 2 if first and after > before else 1)
        for before, after in pairwise(widths)
        for first in (True, False)
    ]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))
    return nn.Sequential(*stem, *blocks, *head)


def image(number=0):
    """A picture, as a camera gives it."""
    return np.random.default_rng(number).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)


def on_cpu(model=None, pictures=1):
    """What the CPU makes of the last picture."""
    with torch.inference_mode():
        return (model or resnet().eval())(torch.from_numpy(image(pictures - 1))).numpy()


def inference():
    """The loop of a robot: a picture there, the result back, again and again."""
    model = resnet().eval().to(GPU)
    with torch.inference_mode():
        for number in range(ROUNDS):
            out = model(torch.from_numpy(image(number)).to(GPU)).cpu()
    return out.numpy(), on_cpu(pictures=ROUNDS)


def half_precision():
    """The same in float16, channels last, from pinned memory."""
    model = resnet().eval().to(GPU).half().to(memory_format=torch.channels_last)
    pinned = torch.empty(1, 3, SIZE, SIZE, pin_memory=True)
    with torch.inference_mode():
        for number in range(ROUNDS):
            pinned.copy_(torch.from_numpy(image(number)))
            x = pinned.to(GPU, non_blocking=True).half()
            out = model(x.to(memory_format=torch.channels_last)).float().cpu()
    return out.numpy(), on_cpu(pictures=ROUNDS)


def cuda_graph():
    """The network captured once and replayed."""
    model = resnet().eval().to(GPU)
    x = torch.zeros(1, 3, SIZE, SIZE, device=GPU)
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # what is chosen or allocated once must not be captured
                model(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        for number in range(ROUNDS):
            x.copy_(torch.from_numpy(image(number)))
            graph.replay()
            out = y.cpu()
    return out.numpy(), on_cpu(pictures=ROUNDS)


def compiled():
    """torch.compile: kernels by Triton, which needs a C compiler."""
    model = torch.compile(resnet().eval().to(GPU))
    with torch.inference_mode():
        for number in range(ROUNDS):
            out = model(torch.from_numpy(image(number)).to(GPU)).cpu()
    return out.numpy(), on_cpu(pictures=ROUNDS)


def training_step():
    """Forward, backward, and a step of an optimiser with momentum."""
    losses = []
    for place in (GPU, "cpu"):
        model = resnet().train().to(place)
        step = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        pictures = torch.from_numpy(np.concatenate([image(n) for n in range(4)])).to(place)
        wanted = torch.tensor([3, 1, 4, 1], device=place)
        row = []
        for _ in range(2):
            step.zero_grad()
            loss = nn.functional.cross_entropy(model(pictures), wanted)
            loss.backward()
            step.step()
            row.append(loss.item())
        losses.append(row)
    return losses[0], losses[1]


def elementwise():
    x = torch.from_numpy(image())
    outs = [torch.tanh(p) * torch.exp(-p * p) + torch.where(p > 0, p, 0.5 * p)
            for p in (x.to(GPU), x)]  # fmt: skip
    return outs[0].cpu(), outs[1]


def reductions():
    x = torch.from_numpy(image())[0, 0]
    outs = [torch.cat([p.sum(0), p.amax(1), p.var(0), p.sort(1)[0][0], p.cumsum(0)[-1]])
            for p in (x.to(GPU), x)]  # fmt: skip
    return outs[0].cpu(), outs[1]


def products():
    x = torch.from_numpy(image())[0]
    outs = [torch.bmm(p, p) + p @ p[0] for p in (x.to(GPU), x)]
    return outs[0].cpu(), outs[1]


def streams():
    """Two streams that wait for each other, and the time between events."""
    x = torch.from_numpy(image()).to(GPU)
    first, second = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(first):
        begin.record()
        a = x * 2
        a.record_stream(second)
        ready = first.record_event()
    second.wait_event(ready)
    with torch.cuda.stream(second):
        b = a + 1
        end.record()
    second.synchronize()
    if begin.elapsed_time(end) < 0:
        raise ValueError("time ran backwards")
    return b.cpu(), image() * 2 + 1


def memory_comes_back():
    """Rounds leave nothing, once what is kept from the first is there."""
    model = resnet().eval().to(GPU)
    used = []
    for number in range(3):
        with torch.inference_mode():
            out = model(torch.from_numpy(image(number)).to(GPU)).cpu()
        used.append(torch.cuda.memory_allocated())
    del model
    gc.collect()
    torch.cuda.empty_cache()
    if used[2] != used[1]:
        raise ValueError(f"a round leaves {used[2] - used[1]} bytes")
    if (left := torch.cuda.memory_allocated()) > used[1] // 2:
        raise ValueError(f"{left} of {used[1]} bytes are left without the model")
    return out.numpy(), on_cpu(pictures=3)


CASES = {
    "inference x 50": (inference, 1e-4), "elementwise": (elementwise, 1e-5),
    "reductions": (reductions, 1e-5), "products": (products, 1e-4), "streams": (streams, 0),
    "half precision x 50": (half_precision, 2e-2), "CUDA graph x 50": (cuda_graph, 1e-4),
    "training step": (training_step, 1e-3), "torch.compile x 50": (compiled, 1e-4),
    "memory comes back": (memory_comes_back, 1e-4),
}  # fmt: skip


def main():
    if not torch.cuda.is_available():
        print("PyTorch sees no CUDA device", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results = "no results" not in torch.cuda.get_device_name()
    cases = Cases("PyTorch", torch.__version__, "PyTorch on the CPU", results=results)
    for name in sys.argv[1:] or CASES:
        cases.check(name, *CASES[name])
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
