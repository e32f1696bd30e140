"""The ways to choose a placement, by name: what the parameter `partition_algorithm` may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from rrto_ros.api.choices import PARTITION_ALGORITHMS
from rrto_ros.errors import ConfigError
from rrto_ros.schedule.mcop import mcop
from rrto_ros.schedule.min_cut import min_cut
from rrto_ros.schedule.problem import Placement, Problem

Algorithm: TypeAlias = Callable[[Problem], Placement]


def all_local(problem: Problem) -> Placement:
    """Everything at the robot but what is fixed at the edge."""
    return problem.all_local


def all_edge(problem: Problem) -> Placement:
    """Everything at the edge but what is fixed at the robot."""
    return problem.all_edge


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    dict(zip(PARTITION_ALGORITHMS, (min_cut, mcop, all_local, all_edge), strict=True))
)
"""`min_cut` is exact; `mcop` is the published heuristic."""


def algorithm(name: str) -> Algorithm:
    """The algorithm of a name.

    Raises:
        ConfigError: There is none.
    """
    found = ALGORITHMS.get(name)
    if found is None:
        raise ConfigError(
            f"partition_algorithm {name!r}: want one of {', '.join(ALGORITHMS)}; choose one"
        )
    return found
