#!/usr/bin/env python3
"""Drive a robot to a goal past obstacles: mppi_numba.py's controller written in JAX.

The futures are a vmap of a scan under jit; the plan, its weighting and the noise stay on the
device too, so that a step takes a pose there and brings one command back. The costs of every step
are compared with NumPy's. Exits with 77 where JAX is not installed.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from mppi_numba import (
    DEVIATIONS,
    MISSING,
    OBSTACLES,
    SPEEDS,
    STEP_S,
    Decision,
    costs_of,
    drive,
    parsed,
)


def main() -> int:
    """Drive, and compare."""
    arguments = parsed(__doc__)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
        import jax.numpy as jnp
    except ImportError as error:
        print(f"skipped: {error}; pip install jax[cuda13]", file=sys.stderr)
        return MISSING

    def cost_of(pose: jax.Array, goal: jax.Array, commands: jax.Array) -> jax.Array:
        """Of one future."""

        def step(state: jax.Array, command: jax.Array) -> tuple[jax.Array, jax.Array]:
            forward, turn = jnp.clip(command, SPEEDS[:, 0], SPEEDS[:, 1])
            heading = state[2] + turn * STEP_S
            x = state[0] + forward * jnp.cos(heading) * STEP_S
            y = state[1] + forward * jnp.sin(heading) * STEP_S
            inside = OBSTACLES[:, 2] + 0.25 - jnp.hypot(x - OBSTACLES[:, 0], y - OBSTACLES[:, 1])
            cost = jnp.hypot(x - goal[0], y - goal[1])
            cost += jnp.where(inside > 0, 20 * inside + 5, 0).sum()
            return jnp.stack([x, y, heading]), cost

        return jax.lax.scan(step, pose, commands)[1].sum()

    @jax.jit
    def decide(
        pose: jax.Array, goal: jax.Array, plan: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(the next command, the plan after it, the costs of the futures)."""
        costs = jax.vmap(cost_of, (None, None, 0))(pose, goal, plan + noise)
        weights = jax.nn.softmax((costs.min() - costs) / 2)
        mean = plan + (weights[:, None, None] * noise).sum(0)
        mean = jnp.clip(mean, SPEEDS[:, 0], SPEEDS[:, 1])
        return mean[0], jnp.concatenate([mean[1:], mean[-1:]]), costs

    rng = np.random.default_rng(0)
    shape = (arguments.samples, arguments.horizon, 2)
    futures = (rng.standard_normal(shape) * DEVIATIONS).astype(np.float32)
    futures[0] = 0  # the plan itself is one of them
    noise, plan = jnp.asarray(futures), jnp.zeros(shape[1:], jnp.float32)

    def control(pose: np.ndarray, goal: np.ndarray) -> Decision:
        nonlocal plan
        before = np.asarray(plan)
        command, plan, costs = decide(pose, goal, plan, noise)
        wanted = lambda: costs_of(pose, goal, before, futures)  # noqa: E731
        return np.asarray(command), np.asarray(costs), wanted

    return drive(control, arguments, f" on {jax.devices()[0]}")


if __name__ == "__main__":
    raise SystemExit(main())
