"""A small network in tinygrad, again and again with other inputs: `cnn_loop.py N [--jit]`.

Prints a JSON line with a digest of all outputs, and one with their worst difference from NumPy.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples"))

from cnn_tinygrad import SIDE, Network, make_weights, reference
from tinygrad import Tensor, TinyJit

parser = argparse.ArgumentParser()
parser.add_argument("inferences", type=int)
parser.add_argument("--jit", action="store_true")
options = parser.parse_args()
rng = np.random.default_rng(11)
weights = make_weights(rng)
network = Network(weights)
infer = TinyJit(network) if options.jit else network
digest = hashlib.sha256()
worst = 0.0
for number in range(options.inferences):
    picture = rng.standard_normal((1, 3, SIDE, SIDE), dtype=np.float32)
    found = infer(Tensor(picture).realize()).numpy()
    digest.update(found.tobytes())
    if number % 20 == 0:
        worst = max(worst, float(np.abs(found - reference(picture, weights)).max()))
print(json.dumps({"done": True, "digest": digest.hexdigest(), "worst": worst}), flush=True)
