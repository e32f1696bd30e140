"""What a search for a pipeline's best placement works with: owns the choices that tensors have.

A tensor crosses as it is or packed, in the narrowest width that accuracy allows (`widths.py`):
any width between costs as much to pack and more to send. Whether a width is allowed may take many
inferences to find out, so it is asked only for tensors that a promising placement brings across;
until then a tensor counts as allowed in the narrowest width that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import TypeAlias

import numpy as np

from rrto_ros.schedule.costs import Link, Measured
from rrto_ros.schedule.fifo import passed
from rrto_ros.schedule.pipeline import (
    DOWN,
    EDGE,
    FREE,
    ROBOT,
    STAGES,
    UP,
    Pipeline,
    Steady,
    Stream,
    pipeline,
)
from rrto_ros.schedule.problem import Floats, Indices, Placement
from rrto_ros.schedule.widths import EXACT, WIDTHS, Packing, narrowest, packed_bytes

Passes: TypeAlias = Callable[[int, int], bool]
"""Whether accuracy is kept if a tensor (its place in `Measured.data`) crosses in so many bits."""
Key: TypeAlias = tuple[float, float]
"""What is minimised: the period, then the latency of an inference by itself; seconds.

Bubbles are no aim of their own: at the same period, fewer of them mean that more is done for an
inference, and so that it takes longer.
"""
SIMULATED = 60
"""Rounds of all streams, where a period has to be simulated."""
TOGETHER = 6
"""So many tensors, or fewer, are tried packed and as they are in every combination."""
SAME = 1e-9
"""What is better by less than this part is not."""


@dataclass(frozen=True)
class Task:
    """What is to be placed.

    Attributes:
        measured: The inference.
        link: Between robot and edge.
        stream: Of inferences.
        passes: Which tensors may cross in how many bits; None: all cross as they are.
        widths: That are tried, ascending.
        packing: What it takes to make elements narrower.
    """

    measured: Measured
    link: Link
    stream: Stream = field(default_factory=Stream)
    passes: Passes | None = None
    widths: Sequence[int] = WIDTHS
    packing: Packing = FREE


@dataclass(frozen=True)
class Plan:
    """What a search found.

    Attributes:
        placement: Of the calls.
        widths: Of each tensor, as `pipeline` takes them; `EXACT` for those that do not cross.
        pipeline: How an inference goes through the stages.
        steady: What the stream settles to; its period is a lower bound unless `pipeline.once`.
        period_s: What is reached, first come first served; simulated unless `pipeline.once`.
        bound_s: No placement whatever has a shorter period; 0 if that is not known.
        questions: How often it was asked whether a width is allowed.
    """

    placement: Placement
    widths: tuple[int, ...]
    pipeline: Pipeline
    steady: Steady
    period_s: float
    bound_s: float = 0.0
    questions: int = 0


class Choices:
    """What each tensor's crossing takes of each stage, as it is and packed.

    Args:
        task: What is to be placed.

    Attributes:
        up: Seconds by choice (as it is, packed), tensor and stage, from robot to edge.
        down: The same, from edge to robot.
        questions: How often it was asked whether a width is allowed.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        data = task.measured.data
        least = EXACT if task.passes is None else min(task.widths, default=EXACT)
        self._bits = [least] * len(data)
        self._known = [least == EXACT] * len(data)
        self.questions = 0
        self.up = np.zeros((2, len(data), len(STAGES)))
        self.down = np.zeros((2, len(data), len(STAGES)))
        for tensor in range(len(data)):
            self._price(tensor)

    def learn(self, tensors: Iterable[int]) -> None:
        """Ask for tensors how narrow they may be; each is asked for once."""
        for tensor in tensors:
            if self._known[tensor]:
                continue
            self._known[tensor] = True
            bits = narrowest(partial(self._asked, tensor), self._task.widths)
            if bits != self._bits[tensor]:
                self._bits[tensor] = bits
                self._price(tensor)

    def best(
        self, calls_s: Floats, delay_s: float, up: Indices, down: Indices
    ) -> tuple[Key, tuple[int, ...]]:
        """The best way to bring tensors across; asks how narrow they may be.

        Of more than `TOGETHER` of them, where packing takes time, those that gain most by it are
        packed: all, none, or any number between. Of fewer, every combination is tried.

        Args:
            calls_s: What calls take of each stage.
            delay_s: What changes of side add to the latency.
            up: Tensors that go from robot to edge.
            down: Tensors that go from edge to robot.

        Returns:
            What is minimised, and the tensors that are packed.
        """
        crossing = np.concatenate([up, down])
        self.learn(crossing.tolist())
        parts = np.concatenate([self.up[:, up], self.down[:, down]], axis=1)
        ways = _ways(parts)
        stages = calls_s + parts[ways, np.arange(len(crossing))].sum(axis=1)
        alone = stages.sum(axis=1) + delay_s
        stream = self._task.stream
        periods = np.maximum(stages.max(axis=1), alone / stream.in_flight)
        periods = np.maximum(periods, stream.every_s)
        way = int(np.lexsort((alone, periods))[0])
        packed = crossing[ways[way] == 1].tolist()
        return (float(periods[way]), float(alone[way])), tuple(packed)

    def widths(self, packed: Iterable[int]) -> tuple[int, ...]:
        """Of each tensor, if these are packed."""
        out = [EXACT] * len(self._bits)
        for tensor in packed:
            out[tensor] = self._bits[tensor]
        return tuple(out)

    def _asked(self, tensor: int, bits: int) -> bool:
        self.questions += 1
        return self._task.passes is not None and self._task.passes(tensor, bits)

    def _price(self, tensor: int) -> None:
        one, link, packing = self._task.measured.data[tensor], self._task.link, self._task.packing
        for where, size, stage, rate in (
            (self.up, one.up_bytes, UP, link.up_bytes_per_s),
            (self.down, one.down_bytes, DOWN, link.down_bytes_per_s),
        ):
            sent = packed_bytes(size, self._bits[tensor])
            where[:, tensor] = 0.0
            where[0, tensor, stage] = size / rate
            where[1, tensor, stage] = sent / rate
            if sent < size:
                where[1, tensor, ROBOT] = size / packing.robot_bytes_per_s
                where[1, tensor, EDGE] = size / packing.edge_bytes_per_s


def _ways(parts: Floats) -> Indices:
    """Which tensors to pack: rows of the combinations that may be the best, 0 or 1 for each."""
    narrower = np.flatnonzero((parts[1] != parts[0]).any(axis=1))
    saved = (parts[0] - parts[1])[narrower]
    if (saved >= 0).all():
        # Packing takes no time, so nothing speaks against it.
        some = np.ones((1, len(narrower)), np.int64)
    elif len(narrower) <= TOGETHER:
        some = np.array(list(product((0, 1), repeat=len(narrower))), np.int64)
    else:
        narrower = narrower[np.argsort(-saved.sum(axis=1), kind="stable")]
        some = np.tri(len(narrower) + 1, len(narrower), -1, np.int64)
    out = np.zeros((len(some), parts.shape[1]), np.int64)
    out[:, narrower] = some
    return out


def made(task: Task, placement: Placement, widths: tuple[int, ...]) -> Plan:
    """The plan of a placement, with the period that it reaches."""
    found = pipeline(task.measured, placement, task.link, widths, task.packing)
    steady, stream = found.steady(task.stream), task.stream
    period = steady.period_s
    if not found.once:
        period = max(period, passed(found, stream, SIMULATED * stream.in_flight).period_s)
    return Plan(placement, widths, found, steady, period)


def better(one: Key, other: Key) -> bool:
    """Whether one is less by more than rounding."""
    if abs(one[0] - other[0]) > SAME * max(one[0], other[0]):
        return one[0] < other[0]
    return one[1] < other[1] * (1 - SAME)


def totals(choice: Floats) -> Floats:
    """Seconds that each tensor's crossing adds to the latency, by choice."""
    return np.asarray(choice.sum(axis=2), np.float64)
