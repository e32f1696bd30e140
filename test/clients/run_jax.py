"""JAX: functions under jit on the CUDA device, compared with JAX's own CPU device.

Elementwise and reductions, a sort, a scan, a small MLP with its gradient, a small CNN by patches
and matrix products. lax.conv is left out: it is cuDNN's, which ends the process where it fails.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cuda,cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # else TF32, which a CPU has not

from agree import ABSENT, Cases, absent

try:
    import jax
    import jax.numpy as jnp
    import numpy as np
except ImportError as error:
    absent(error, "jax[cuda13]")

ROUNDS = 8
FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
"""JAX takes a machine with none of these for one without a GPU."""


def elementwise(x):
    return jnp.tanh(x) * jnp.exp(-x * x) + jnp.where(x > 0, jnp.sqrt(jnp.abs(x)), 0.5 * x)


def reductions(x):
    return jnp.concatenate([x.sum(0), x.max(1), jnp.var(x, 0), jnp.argsort(x[0])])


def mlp(w1, w2, x):
    return jax.nn.softmax(jax.nn.gelu(x @ w1 / 8) @ w2 / 8)


def gradient(w1, w2, x):
    return jax.grad(lambda w: (mlp(w, w2, x)[:, 0] ** 2).sum())(w1)


def scan(x):
    def step(state, row):
        state = 0.9 * state + 0.1 * jnp.sin(row)
        return state, state

    return jax.lax.scan(step, jnp.zeros(x.shape[1]), x)[1]


def patches(x):
    """Of an image (height, width, channels) the 3 x 3 neighbourhood of each inner pixel."""
    height, width = x.shape[0] - 2, x.shape[1] - 2
    parts = [x[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, -1)


def cnn(x, k1, k2):
    x = jax.nn.relu(patches(x) @ k1)
    x = x[:14, :14].reshape(7, 2, 7, 2, -1).max((1, 3))
    return jax.nn.relu(patches(x) @ k2).mean((0, 1))


def on(device, function, inputs):
    """What a function gives on a device, for each of some inputs."""
    with jax.default_device(device):
        compiled = jax.jit(function)
        return np.stack([np.asarray(compiled(*map(jnp.asarray, one))) for one in inputs])


def main():
    if not any(map(os.path.exists, FILES)):
        print(f"skipped: JAX looks for {' or '.join(FILES)}; touch one", file=sys.stderr)
        return ABSENT
    version = jax.__version__
    cases = Cases("JAX", version, "JAX on its CPU device")
    cpu = jax.devices("cpu")[0]
    rng = np.random.default_rng(3)

    def arrays(*shapes):
        return [
            tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
            for _ in range(ROUNDS)
        ]

    for name, function, inputs, tolerance in (
        ("elementwise", elementwise, arrays((64, 50)), 1e-5),
        ("reductions", reductions, arrays((16, 16)), 1e-5),
        ("scan", scan, arrays((20, 8)), 1e-5),
        ("MLP", mlp, arrays((32, 64), (64, 10), (16, 32)), 1e-4),
        ("MLP's gradient", gradient, arrays((32, 64), (64, 10), (16, 32)), 1e-3),
        ("CNN", cnn, arrays((16, 16, 3), (27, 8), (72, 4)), 1e-4),
    ):
        cases.check(
            name,
            lambda f=function, i=inputs: (on(jax.devices("cuda")[0], f, i), on(cpu, f, i)),
            tolerance,
        )
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
