"""`rrto analyze --partition`: where an inference of a bag would be cut, link by link, as text.

What the calls cost and hand on was found by executing them here (profiled.py). The robot is this
machine made slower by a factor that the user gives, and everything said of a link is modelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rrto_ros.api.choices import OBJECTIVES
from rrto_ros.errors import ConfigError
from rrto_ros.evaluation.profiled import Profiled
from rrto_ros.schedule.algorithms import algorithm
from rrto_ros.schedule.costs import Link, Measured, Modelled
from rrto_ros.schedule.dataflow import live
from rrto_ros.schedule.power import Power
from rrto_ros.schedule.problem import Placement
from rrto_ros.schedule.rates import RateTable, rate_table

RATES_MBIT = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MBIT = 1e6 / 8
"""Bytes per second."""
_CANDIDATES = 12


@dataclass(frozen=True)
class Situation:
    """What is taken for granted of robot and link.

    Attributes:
        slower: How many times longer the robot takes than this machine; more than 0.
        round_trip_s: Of the link, without load.
        objective: What is minimised, one of `api.choices.OBJECTIVES`.
        solver: One of `algorithms.ALGORITHMS`.
        power: Of the robot; None: energy is not said.
    """

    slower: float = 10.0
    round_trip_s: float = 4e-3
    objective: str = "latency"
    solver: str = "min_cut"
    power: Power | None = None

    def __post_init__(self) -> None:
        if not 0 < self.slower <= 1e6:
            raise ConfigError(f"the robot is {self.slower:g} times slower, want more than 0")
        if not 0 <= self.round_trip_s <= 60:
            raise ConfigError(f"a round trip takes {self.round_trip_s:g} s, want 0 to 60")
        algorithm(self.solver)
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective {self.objective!r}: want one of {', '.join(OBJECTIVES)}")
        if self.objective != "latency" and self.power is None:
            raise ConfigError(
                f"objective {self.objective!r} needs the robot's power: name a profile of "
                "config/power_profiles.yaml with --power"
            )


@dataclass(frozen=True)
class Choice:
    """What is best over a link, and what it takes."""

    rate_mbit: float
    placement: Placement
    best: Modelled
    all_local: Modelled
    all_edge: Modelled


@dataclass(frozen=True)
class Partitions:
    """An inference's placements.

    Attributes:
        profiled: The inference.
        measured: What of it the schedule was given.
        situation: What was taken for granted.
        table: The best placements over all rates.
        choices: At `RATES_MBIT`.
        live_bytes: Crossing a cut before each piece.
    """

    profiled: Profiled
    measured: Measured
    situation: Situation
    table: RateTable
    choices: tuple[Choice, ...]
    live_bytes: tuple[int, ...]


def partitions(profiled: Profiled, situation: Situation) -> Partitions:
    """Find the placements of an inference.

    Raises:
        ConfigError: The situation names no objective or algorithm, or lacks what one needs.
    """
    measured = profiled.measured(situation.slower)
    table = rate_table(
        measured,
        situation.round_trip_s,
        objective=situation.objective,
        power=situation.power,
        solve=algorithm(situation.solver),
    )
    choices = []
    for rate in RATES_MBIT:
        link = Link(rate * MBIT, rate * MBIT, situation.round_trip_s)
        chosen = table.best(rate * MBIT).placement
        whole = table.unit.all_local, table.unit.all_edge
        best, local, edge = (
            measured.modelled(one, link, situation.power) for one in (chosen, *whole)
        )
        choices.append(Choice(rate, chosen, best, local, edge))
    crossing = live(profiled.tensors, len(profiled.pieces))
    return Partitions(profiled, measured, situation, table, tuple(choices), tuple(crossing))


def at_edge(placement: Sequence[bool], free: Sequence[int]) -> str:
    """Which pieces run at the edge, of those that may."""
    away = [n for n in free if placement[n]]
    if not away:
        return "all at the robot"
    if len(away) == len(free):
        return "all at the edge"
    runs = []
    for _, group in groupby(enumerate(away), lambda pair: pair[1] - pair[0]):
        numbers = [n for _, n in group]
        runs.append(f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}")
    return "edge: " + ", ".join(runs)


def cut_points(found: Partitions) -> list[int]:
    """Places where few bytes cross: less than at both sides, or than anywhere before."""
    crossing = found.live_bytes
    points, least = [], math.inf
    for n in range(1, len(crossing) - 1):
        dip = crossing[n] < crossing[n - 1] and crossing[n] <= crossing[n + 1]
        if dip or crossing[n] < least:
            points.append(n)
        least = min(least, crossing[n])
    return sorted(sorted(points, key=lambda n: crossing[n])[:_CANDIDATES])


def report(found: Partitions) -> str:
    """The placements as text."""
    profiled, measured, situation = found.profiled, found.measured, found.situation
    here, robot = sum(measured.edge_s), sum(measured.local_s)
    lines = [
        f"inference of {profiled.program}",
        (
            f"    executed here {profiled.inferences} times: {len(profiled.pieces)} calls and "
            f"nodes, {1e3 * here:.1f} ms (device cpu, each timed alone)"
        ),
        f"    a robot that is {situation.slower:g} times slower: {1e3 * robot:.1f} ms (modelled)",
    ]
    if profiled.unknown:
        names = ", ".join(profiled.unknown[:5]) + (" ..." if len(profiled.unknown) > 5 else "")
        lines.append(
            f"    what {len(profiled.unknown)} kernels touch is not known, so they take all "
            f"memory with them: {names}"
        )
    lines += ["", "where few bytes cross:", "    before    bytes       of the time  next"]
    done, passed = [], 0.0
    for seconds in measured.edge_s:
        done.append(passed / here if here else 0.0)
        passed += seconds
    lines += (
        f"    {n:<8}  {found.live_bytes[n]:<10,}  {100 * done[n]:>6.1f} %     "
        f"{profiled.pieces[n].name}"
        for n in cut_points(found)
    )
    free = [n for n in range(len(profiled.pieces)) if n not in measured.at_robot]
    lines += [
        "",
        (
            f"best {situation.objective} over a round trip of {1e3 * situation.round_trip_s:g} ms "
            f"({situation.solver}, modelled):"
        ),
        row("Mbit/s", "latency ms", "all robot", "all edge", "bytes up", "bytes down")
        + "placement",
    ]
    for c in found.choices:
        times = (f"{1e3 * one.latency_s:.1f}" for one in (c.best, c.all_local, c.all_edge))
        sizes = f"{c.best.up_bytes:,.0f}", f"{c.best.down_bytes:,.0f}"
        lines.append(row(f"{c.rate_mbit:g}", *times, *sizes) + at_edge(c.placement, free))
    if situation.power is not None:
        lines += [
            "",
            "the robot's energy per inference, J (modelled):",
            row("Mbit/s", "best", "all robot", "all edge").rstrip(),
        ]
        for c in found.choices:
            joules = (f"{one.energy_j:.3f}" for one in (c.best, c.all_local, c.all_edge))
            lines.append(row(f"{c.rate_mbit:g}", *joules).rstrip())
    changes = ", ".join(f"{rate / MBIT:.3g}" for rate in found.table.rates)
    lines += ["", f"the best placement changes at {changes or 'no rate'} Mbit/s"]
    return "\n".join(lines)


def row(rate: str, *cells: str) -> str:
    """A line of a table, up to its last column."""
    return f"    {rate:<8}" + "".join(f"{cell:<12}" for cell in cells)


def as_json(found: Partitions) -> dict[str, Any]:
    """The placements, for JSON; seconds, joules and bytes."""
    situation = found.situation
    return {
        "program": found.profiled.program,
        "calls": len(found.profiled.pieces),
        "unknown_kernels": list(found.profiled.unknown),
        "here_s": sum(found.measured.edge_s),
        "robot_s": sum(found.measured.local_s),
        "round_trip_s": situation.round_trip_s,
        "objective": situation.objective,
        "algorithm": situation.solver,
        "changes_at_mbit_per_s": [rate / MBIT for rate in found.table.rates],
        "rates": [
            {
                "mbit_per_s": one.rate_mbit,
                "at_edge": [call for call, away in enumerate(one.placement) if away],
                "best": _modelled(one.best),
                "all_local": _modelled(one.all_local),
                "all_edge": _modelled(one.all_edge),
            }
            for one in found.choices
        ],
    }


def _modelled(one: Modelled) -> dict[str, float | int | None]:
    # JSON has no number that is none.
    return {k: None if v != v else v for k, v in asdict(one).items()}
