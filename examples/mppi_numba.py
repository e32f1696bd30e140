#!/usr/bin/env python3
"""Drive a robot to a goal past obstacles with a sampling controller (MPPI) on a GPU.

Model-predictive path integral control, as mobile robots use it: in every step some hundred futures
of a unicycle are rolled out, one by each thread of a numba-cuda kernel; the next command is the
mean of their commands, weighted by cost. The noise lies on the device, so that a step takes a
plan and a pose there and brings costs back. The costs of every step are compared with NumPy's.
Exits with 77 where numba-cuda, or what it needs to compile, is not installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MISSING = 77
BLOCK = 128
STEP_S = 0.1
SPEEDS = np.array([[0.0, 1.2], [-1.5, 1.5]], np.float32)
"""Least and greatest: m/s, rad/s."""
DEVIATIONS = np.array([0.3, 0.6], np.float32)
REACHED_M = 0.3
OBSTACLES = np.array([[1.5, 0.4, 0.5], [3.0, -0.5, 0.6], [3.2, 1.6, 0.5]], np.float32)
"""Circles: x, y, radius, in m."""


def make_kernel(cuda: Any) -> Any:
    """A kernel: the cost of each future, of a plan to which each adds noise of its own."""
    import math

    @cuda.jit
    def costs(pose, goal, plan, noise, speeds, obstacles, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        sample = cuda.grid(1)
        if sample >= noise.shape[0]:
            return
        x, y, heading = pose[0], pose[1], pose[2]
        cost = np.float32(0)
        for t in range(plan.shape[0]):
            forward = min(max(plan[t, 0] + noise[sample, t, 0], speeds[0, 0]), speeds[0, 1])
            turn = min(max(plan[t, 1] + noise[sample, t, 1], speeds[1, 0]), speeds[1, 1])
            heading += turn * np.float32(STEP_S)
            x += forward * math.cos(heading) * np.float32(STEP_S)
            y += forward * math.sin(heading) * np.float32(STEP_S)
            cost += math.sqrt((x - goal[0]) ** 2 + (y - goal[1]) ** 2)
            for i in range(obstacles.shape[0]):
                away = math.sqrt((x - obstacles[i, 0]) ** 2 + (y - obstacles[i, 1]) ** 2)
                inside = obstacles[i, 2] + np.float32(0.25) - away
                if inside > 0:
                    cost += np.float32(20) * inside + np.float32(5)
        out[sample] = cost

    return costs


def costs_of(
    pose: np.ndarray, goal: np.ndarray, plan: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """The same costs by NumPy, in double precision."""
    pose = pose.astype(np.float64)
    x, y, heading = (np.full(len(noise), value) for value in pose)
    cost = np.zeros(len(noise))
    for t in range(len(plan)):
        commands = (plan[t] + noise[:, t]).astype(np.float64)
        forward = np.clip(commands[:, 0], *SPEEDS[0])
        turn = np.clip(commands[:, 1], *SPEEDS[1])
        heading = heading + turn * np.float32(STEP_S)
        x = x + forward * np.cos(heading) * np.float32(STEP_S)
        y = y + forward * np.sin(heading) * np.float32(STEP_S)
        cost += np.hypot(x - goal[0], y - goal[1])
        for ox, oy, radius in OBSTACLES:
            inside = radius + np.float32(0.25) - np.hypot(x - ox, y - oy)
            cost += np.where(inside > 0, 20 * inside + 5, 0)
    return cost


@dataclass
class Controller:
    """Chooses the next command; its plan moves on with each.

    Attributes:
        samples: Futures that are looked at in a step.
        horizon: Steps that each looks ahead.
        seed: Of the noise.
    """

    samples: int = 512
    horizon: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        from numba import cuda

        self._cuda = cuda
        self._kernel = make_kernel(cuda)
        rng = np.random.default_rng(self.seed)
        shape = (self.samples, self.horizon, 2)
        self.noise = (rng.standard_normal(shape) * DEVIATIONS).astype(np.float32)
        self.noise[0] = 0  # the plan itself is one of the futures
        self._on_device = [cuda.to_device(x) for x in (self.noise, SPEEDS, OBSTACLES)]
        self._costs = cuda.device_array(self.samples, np.float32)
        self.plan = np.zeros((self.horizon, 2), np.float32)

    def costs(self, pose: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The cost of each future from a pose (x, y, heading) to a goal (x, y)."""
        inputs = [self._cuda.to_device(x) for x in (pose, goal, self.plan)]
        grid = -(-self.samples // BLOCK)
        self._kernel[grid, BLOCK](*inputs, *self._on_device, self._costs)
        return self._costs.copy_to_host()  # type: ignore[no-any-return]

    def command(self, costs: np.ndarray) -> np.ndarray:
        """The next command (m/s, rad/s), from the costs of the futures."""
        weights = np.exp(-(costs - costs.min()).astype(np.float64) / 2.0)
        weights /= weights.sum()
        mean = self.plan + np.tensordot(weights, self.noise, 1)
        mean = np.clip(mean, SPEEDS[:, 0], SPEEDS[:, 1]).astype(np.float32)
        self.plan = np.concatenate([mean[1:], mean[-1:]])
        return mean[0]


def moved(pose: np.ndarray, command: np.ndarray) -> np.ndarray:
    """Where a robot is one step later."""
    heading = pose[2] + command[1] * STEP_S
    step = command[0] * STEP_S
    return np.array(
        [pose[0] + step * np.cos(heading), pose[1] + step * np.sin(heading), heading], np.float32
    )


def parsed(description: str | None) -> argparse.Namespace:
    """The options: futures, how far they look ahead, how many steps are driven."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=512, help="futures (%(default)s)")
    parser.add_argument("--horizon", type=int, default=25, help="steps ahead (%(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="at most (%(default)s)")
    parser.add_argument("--json", action="store_true", help="the last line as JSON")
    arguments = parser.parse_args()
    if min(arguments.samples, arguments.horizon, arguments.steps) < 1:
        parser.error("numbers must be at least 1")
    return arguments


Decision = tuple[np.ndarray, np.ndarray, Callable[[], np.ndarray]]
Control = Callable[[np.ndarray, np.ndarray], Decision]
"""(pose, goal) -> the next command, the costs of the futures, what gives the same by NumPy."""


def drive(control: Control, arguments: argparse.Namespace, where: str = "") -> int:
    """Drive to the goal in at most so many steps, and compare; 0 if all is as it should be.

    Args:
        control: What decides.
        arguments: Of `parsed`.
        where: The futures are looked at, for the last line.
    """
    futures, times, digest = f"{arguments.samples} futures{where}", [], hashlib.sha256()
    pose, goal = np.zeros(3, np.float32), np.array([4.5, 0.5], np.float32)
    worst, nearest, steps = 0.0, np.inf, 0
    while steps < arguments.steps and np.hypot(*(pose[:2] - goal)) > REACHED_M:
        started = time.perf_counter()
        command, costs, by_numpy = control(pose, goal)
        times.append(1e3 * (time.perf_counter() - started))
        digest.update(np.ascontiguousarray(costs).tobytes())
        wanted = by_numpy()
        # A future at an obstacle's edge may be inside for one and outside for the other.
        wrong = np.abs(costs - wanted) / np.maximum(wanted, 1)
        worst = max(worst, float(np.nan_to_num(np.quantile(wrong, 0.99), nan=np.inf)))
        pose = moved(pose, command)
        away = np.hypot(*(pose[:2] - OBSTACLES[:, :2]).T) - OBSTACLES[:, 2]
        nearest = min(nearest, float(away.min()))
        steps += 1
    left = float(np.hypot(*(pose[:2] - goal)))
    good = left <= REACHED_M and nearest > 0 and worst <= 1e-4
    if arguments.json:
        found = {"what": f"steps of {futures}", "frames": steps, "first_ms": times[0]}
        median = statistics.median(times[3:] or times)
        rest = {"worst": worst, "good": good, "sha256": digest.hexdigest()}
        print(json.dumps({**found, "median_ms": median, **rest}))
        return 0 if good else 1
    print(
        f"{steps} steps of {futures}: {left:.2f} m from the goal (want {REACHED_M}), "
        f"{nearest:.2f} m from the nearest obstacle (want more than 0), costs within {worst:.1e} "
        "of NumPy's (want 1e-4)"
    )
    return 0 if good else 1


def main() -> int:
    """Drive, and compare."""
    arguments = parsed(__doc__)
    try:
        from cuda.bindings import nvrtc, nvvm

        nvvm.version()
        nvrtc.nvrtcVersion()
        controller = Controller(arguments.samples, arguments.horizon)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a shared library is missing
        reason = str(error).strip().split("\n")[0]
        print(f'skipped: {reason}; pip install "numba-cuda[cu13]"', file=sys.stderr)
        return MISSING

    def control(pose: np.ndarray, goal: np.ndarray) -> Decision:
        costs, plan = controller.costs(pose, goal), controller.plan
        command = controller.command(costs)
        return command, costs, lambda: costs_of(pose, goal, plan, controller.noise)

    return drive(control, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
