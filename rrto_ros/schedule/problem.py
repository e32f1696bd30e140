"""What a partition is chosen for: owns what it costs to have calls at the robot or at the edge.

Calls stand in the order in which they run, one after the other. Costs are of one unit, whichever
(seconds, joules); they add up, so one side works at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rrto_ros.errors import ConfigError

Placement: TypeAlias = tuple[bool, ...]
"""Of each call, whether it runs at the edge."""
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Bytes that one call writes and others read; they cross at most once in each direction.

    Attributes:
        producer: The call that writes them. A reader may stand before it: it reads what the last
            inference left.
        readers: The calls that read them.
        up: What it costs to bring them from robot to edge.
        down: What it costs to bring them from edge to robot.
    """

    producer: int
    readers: tuple[int, ...]
    up: float
    down: float


@dataclass(frozen=True)
class Arrays:
    """A problem's numbers for NumPy.

    Attributes:
        local: Of each call, at the robot.
        edge: Of each call, at the edge.
        producer: Of each tensor.
        up: Of each tensor.
        down: Of each tensor.
        read: The tensor of each read; what a call reads of itself is none, and no read is double.
        reader: The call of each read.
    """

    local: Floats
    edge: Floats
    producer: Indices
    up: Floats
    down: Floats
    read: Indices
    reader: Indices


@dataclass(frozen=True)
class Parts:
    """What a placement costs, by what it is paid for.

    Attributes:
        local: Calls at the robot.
        edge: Calls at the edge.
        up: Tensors from robot to edge.
        down: Tensors from edge to robot.
        changes: How often the side changes from one call to the next.
    """

    local: float
    edge: float
    up: float
    down: float
    changes: int


@dataclass(frozen=True)
class Problem:
    """Calls, what each costs on each side, and what it costs to cross.

    Attributes:
        local: Of each call, at the robot.
        edge: Of each call, at the edge.
        tensors: What calls hand to each other.
        at_robot: Calls that can only run at the robot.
        at_edge: Calls that can only run at the edge.
        switch: Paid wherever a call runs on another side than the one before it.

    Raises:
        ConfigError: Lengths differ, a call is named that there is not, a cost is negative or not
            finite, or a call is fixed on both sides.
    """

    local: tuple[float, ...]
    edge: tuple[float, ...]
    tensors: tuple[Tensor, ...] = ()
    at_robot: frozenset[int] = frozenset()
    at_edge: frozenset[int] = frozenset()
    switch: float = 0.0

    def __post_init__(self) -> None:
        calls = len(self.local)
        if len(self.edge) != calls:
            raise ConfigError(
                f"{calls} costs at the robot, {len(self.edge)} at the edge: want one of each for "
                "every call; measure the calls that lack one"
            )
        arrays = self.arrays
        for what, costs in (
            ("local", arrays.local),
            ("edge", arrays.edge),
            ("up", arrays.up),
            ("down", arrays.down),
            ("switch", np.array([self.switch])),
        ):
            wrong = np.flatnonzero(~(np.isfinite(costs) & (costs >= 0)))
            if len(wrong):
                raise ConfigError(
                    f"cost `{what}` {wrong[0]} is {costs[wrong[0]]}: want a finite number, "
                    "0 or more; leave out what could not be measured"
                )
        pins = np.array([*self.at_robot, *self.at_edge], np.int64)
        for what, named in (
            ("producer", arrays.producer),
            ("reader", arrays.reader),
            ("fixed call", pins),
        ):
            wrong = np.flatnonzero((named < 0) | (named >= calls))
            if len(wrong):
                raise ConfigError(
                    f"{what} {named[wrong[0]]}: want a call from 0 to {calls - 1}; "
                    "number the calls in the order in which they run"
                )
        both = self.at_robot & self.at_edge
        if both:
            raise ConfigError(
                f"call {min(both)} is fixed at the robot and at the edge: want one side; "
                "take it out of at_robot or at_edge"
            )

    @cached_property
    def arrays(self) -> Arrays:
        """The numbers as arrays, made once."""
        tensors = self.tensors
        producer = np.array([one.producer for one in tensors], np.int64)
        counts = np.array([len(one.readers) for one in tensors], np.int64)
        reads = np.repeat(np.arange(len(tensors)), counts)
        readers = np.array([r for one in tensors for r in one.readers], np.int64)
        pairs = np.stack([reads, readers], axis=1)[readers != producer[reads]]
        pairs = np.unique(pairs, axis=0)
        return Arrays(
            np.array(self.local, np.float64),
            np.array(self.edge, np.float64),
            producer,
            np.array([one.up for one in tensors], np.float64),
            np.array([one.down for one in tensors], np.float64),
            pairs[:, 0],
            pairs[:, 1],
        )

    @cached_property
    def all_local(self) -> Placement:
        """Everything at the robot but what is fixed at the edge."""
        return tuple(call in self.at_edge for call in range(len(self.local)))

    @cached_property
    def all_edge(self) -> Placement:
        """Everything at the edge but what is fixed at the robot."""
        return tuple(call not in self.at_robot for call in range(len(self.local)))

    def cost(self, placement: Placement) -> float:
        """What a placement costs; correctly rounded, so that equal costs are equal numbers.

        Raises:
            ConfigError: It is of another length, or has a call where it cannot run.
        """
        sides = self._sides(placement)
        up, down = self._crossing(sides)
        arrays = self.arrays
        calls = np.where(sides, arrays.edge, arrays.local)
        crossing = [*arrays.up[up].tolist(), *arrays.down[down].tolist()]
        return math.fsum([*calls.tolist(), *crossing, self.switch * _changes(sides)])

    def parts(self, placement: Placement) -> Parts:
        """What a placement's cost is made of.

        Raises:
            ConfigError: As of `cost`.
        """
        sides = self._sides(placement)
        up, down = self._crossing(sides)
        arrays = self.arrays
        return Parts(
            math.fsum(arrays.local[~sides].tolist()),
            math.fsum(arrays.edge[sides].tolist()),
            math.fsum(arrays.up[up].tolist()),
            math.fsum(arrays.down[down].tolist()),
            _changes(sides),
        )

    def cheapest(self, placements: Iterable[Placement]) -> Placement:
        """The placement that costs least; of equal ones the one with most calls at the robot."""
        return min(placements, key=lambda one: (self.cost(one), sum(one)))

    def _sides(self, placement: Placement) -> Flags:
        if len(placement) != len(self.local):
            raise ConfigError(
                f"a placement of {len(placement)} calls: want one of {len(self.local)}; "
                "make it for this problem"
            )
        for side, fixed, wrong in (
            ("robot", self.at_robot, True),
            ("edge", self.at_edge, False),
        ):
            for call in fixed:
                if placement[call] is wrong:
                    raise ConfigError(
                        f"call {call} on the other side: want it at the {side}, where it is "
                        "fixed; start from all_local or all_edge"
                    )
        return np.array(placement, np.bool_)

    def _crossing(self, sides: Flags) -> tuple[Flags, Flags]:
        """Of each tensor, whether it goes up, and whether it goes down."""
        arrays = self.arrays
        there = sides[arrays.reader]
        wanted_at_edge = np.zeros(len(self.tensors), np.bool_)
        wanted_at_edge[arrays.read[there]] = True
        wanted_at_robot = np.zeros(len(self.tensors), np.bool_)
        wanted_at_robot[arrays.read[~there]] = True
        made_at_edge = sides[arrays.producer]
        return wanted_at_edge & ~made_at_edge, wanted_at_robot & made_at_edge


def _changes(sides: Flags) -> int:
    return int(np.count_nonzero(sides[1:] != sides[:-1]))
