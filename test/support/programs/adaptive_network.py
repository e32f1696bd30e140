"""A network whose depth depends on its input: layers are applied until it is sure enough.

The program reads the confidence after every layer and decides on the host whether to go on, and
which of two layers comes next. Compared with NumPy; one JSON line.
"""

import json
import sys

import numpy as np
from tinygrad import Tensor

WIDTH, MOST, SURE = 24, 12, 0.55


def main():
    rng = np.random.default_rng(5)
    layers = [(rng.standard_normal((WIDTH, WIDTH)) / 4).astype(np.float32) for _ in range(2)]
    head = rng.standard_normal((WIDTH, 6)).astype(np.float32)
    on_device = [Tensor(w).realize() for w in layers]
    head_on_device = Tensor(head).realize()
    depths, worst = [], 0.0
    for number in range(12):
        x = (rng.standard_normal((1, WIDTH)) * (0.2 + 0.4 * number)).astype(np.float32)
        ours, depth, path = Tensor(x).realize(), 0, []
        wanted, wanted_path = x.astype(np.float64), []
        while depth < MOST:
            depth += 1
            odd = int(ours[0, 0].item() > 0)
            path.append(odd)
            ours = ((ours @ on_device[odd]).tanh() + ours).realize()
            chances = (ours @ head_on_device).softmax()
            if chances.max().item() > SURE:
                break
        for _ in range(depth):
            odd = int(wanted[0, 0] > 0)
            wanted_path.append(odd)
            wanted = np.tanh(wanted @ layers[odd]) + wanted
        logits = wanted @ head
        exponents = np.exp(logits - logits.max())
        worst = max(worst, float(np.abs(chances.numpy() - exponents / exponents.sum()).max()))
        if path != wanted_path:
            worst = float("inf")
        depths.append(depth)
    print(json.dumps({"depths": depths, "worst": worst}))
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
