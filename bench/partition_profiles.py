"""Models of a file of profiles: operators' times and sizes, for bench/partition.py.

A file is JSON: {model: {"op": names, "dst": readers of each, "bytes": of each one's output,
"robot_ms": .., "server_ms": ..}}; the first operator is the input and the last one the end, both
at the robot. A model whose lists differ in length is left out by name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rrto_ros.errors import ConfigError  # noqa: E402
from rrto_ros.schedule.costs import Data, Link, Measured  # noqa: E402
from rrto_ros.schedule.power import Power, power_profiles  # noqa: E402
from rrto_ros.schedule.problem import Placement, Problem  # noqa: E402
from rrto_ros.schedule.rates import Line, RateTable, line_of, rate_table  # noqa: E402

MBIT = 1e6 / 8
"""Bytes per second."""


@dataclass(frozen=True)
class Model:
    """A model of the profiles.

    Attributes:
        name: Its own.
        measured: Its operators.
        power: Of the robot, for least energy; None for least latency.
    """

    name: str
    measured: Measured
    power: Power | None = None

    def problem(self, rate: float, trip_s: float) -> Problem:
        """At a rate in bytes per second, the same both ways."""
        link = Link(rate, rate, trip_s)
        return self.measured.problem(link, "energy" if self.power else "latency", self.power)

    @cache  # noqa: B019 (a handful of models, which live as long as the program)
    def lines(self, trip_s: float) -> dict[str, list[Line]]:
        """All at the robot, all at the edge, and every prefix at the robot with the rest there."""
        unit = self.problem(1.0, trip_s)
        calls = len(self.measured.local_s)
        prefixes: list[Placement] = [
            tuple(first <= call < calls - 1 for call in range(calls)) for first in range(1, calls)
        ]
        return {
            "local": [line_of(unit, unit.all_local)],
            "edge": [line_of(unit, unit.all_edge)],
            "prefix": [line_of(unit, one) for one in prefixes],
        }

    @cache  # noqa: B019
    def table(self, trip_s: float) -> RateTable:
        """The best placements at every rate."""
        objective = "energy" if self.power else "latency"
        return rate_table(self.measured, trip_s, objective=objective, power=self.power)


def models(file: Path, byte_ends: list[str]) -> Iterator[Model]:
    """The models of a file of profiles; says on stderr which are left out.

    Args:
        file: As this program's text says.
        byte_ends: Models whose input and output have one byte per element, not four.

    Raises:
        ConfigError: It is no such file.
    """
    try:
        for name, one in json.loads(file.read_text()).items():
            if not len(one["op"]) == len(one["robot_ms"]) == len(one["server_ms"]):
                print(f"{name}: the graphs of robot and server differ, left out", file=sys.stderr)
                continue
            sizes, calls = list(map(float, one["bytes"])), len(one["op"])
            if name in byte_ends:
                ends = {0, *(call for call in range(calls) if calls - 1 in one["dst"][call])}
                sizes = [size / 4 if call in ends else size for call, size in enumerate(sizes)]
            data = tuple(
                Data(call, tuple(readers), sizes[call], sizes[call])
                for call, readers in enumerate(one["dst"])
                if readers
            )
            local, edge = (tuple(ms / 1e3 for ms in one[key]) for key in ("robot_ms", "server_ms"))
            yield Model(name, Measured(local, edge, data, frozenset({0, calls - 1})))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"profiles {file}: {type(error).__name__} {error}; want the JSON that "
            "bench/partition_profiles.py describes"
        ) from error


def profile(name: str) -> Power:
    """A power profile of the package.

    Raises:
        ConfigError: There is none of that name.
    """
    profiles = power_profiles(ROOT / "config" / "power_profiles.yaml")
    if name not in profiles:
        raise ConfigError(f"--energy {name!r}: want one of {', '.join(profiles)}; choose one")
    return profiles[name]
