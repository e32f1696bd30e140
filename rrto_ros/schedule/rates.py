"""The best placement at every rate of the link: owns the table, and its making.

With a given round trip a placement's cost is a line over the time that a byte takes: what its
calls and changes of side cost, plus its bytes times that. The least over all placements is the
lower envelope of these lines, of which only a few are part. They are found as in Eisner and
Severance, "Mathematical techniques for efficient record segmentation in large shared databases"
(JACM 23(4), 1976): the best at two rates are two lines; if something is cheaper where they cross,
each of the two intervals is looked at in turn. For K lines this takes 2K - 1 solutions.

Where we depart: the rates have a least and a greatest value, and what the solver finds counts as
cheaper only beyond its own accuracy. With a heuristic the table is only as good as that.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from rrto_ros.errors import ConfigError
from rrto_ros.schedule.algorithms import Algorithm
from rrto_ros.schedule.costs import Link, Measured
from rrto_ros.schedule.min_cut import min_cut
from rrto_ros.schedule.power import Power
from rrto_ros.schedule.problem import Placement, Problem

SLOWEST, FASTEST = 1e3, 1.25e10
"""Bytes per second: rates beyond are looked up as these."""
ACCURACY = 1e-6
"""What is cheaper by less than this part is not."""
FITS = 0.25
"""A table is for round trips that differ from its own by at most this part of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A placement's cost over the link's rate.

    Attributes:
        placement: Of the calls.
        fixed: What it costs if bytes cost nothing.
        per_byte_time: What is added for each second that a byte takes on the way up.
    """

    placement: Placement
    fixed: float
    per_byte_time: float

    def cost(self, up_bytes_per_s: float) -> float:
        """At a rate, more than 0; in the objective's unit."""
        return self.fixed + self.per_byte_time / up_bytes_per_s


@dataclass(frozen=True)
class RateTable:
    """The best placements over the rate up; the rate down is always the same multiple of it.

    Attributes:
        round_trip_s: For which it was made.
        rates: Where one placement takes the other's place, bytes per second, ascending.
        lines: One more than rates: the first one is for links slower than all of them.
        unit: The problem where a byte takes one second on the way up.
    """

    round_trip_s: float
    rates: tuple[float, ...]
    lines: tuple[Line, ...]
    unit: Problem

    def best(self, up_bytes_per_s: float) -> Line:
        """The cheapest at a rate; where two are equal, the one that sends less."""
        return self.lines[bisect_left(self.rates, up_bytes_per_s)]

    def line(self, placement: Placement) -> Line:
        """The cost of any placement of these calls, as at this table's round trip.

        Raises:
            ConfigError: It is none of these calls.
        """
        return line_of(self.unit, placement)

    def fits(self, round_trip_s: float) -> bool:
        """Whether the table is good for a round trip; if not, a new one is to be made."""
        return abs(round_trip_s - self.round_trip_s) <= FITS * self.round_trip_s


def line_of(unit: Problem, placement: Placement) -> Line:
    """A placement's line, of the problem where a byte takes one second on the way up.

    Raises:
        ConfigError: As `Problem.parts`.
    """
    parts = unit.parts(placement)
    fixed = parts.local + parts.edge + parts.changes * unit.switch
    return Line(placement, fixed, parts.up + parts.down)


def rate_table(
    measured: Measured,
    round_trip_s: float,
    *,
    down_per_up: float = 1.0,
    objective: str = "latency",
    power: Power | None = None,
    omega: float = 0.5,
    solve: Algorithm = min_cut,
) -> RateTable:
    """The best placements for every rate from `SLOWEST` to `FASTEST`.

    Args:
        measured: The inference.
        round_trip_s: Of the link.
        down_per_up: The rate down divided by the rate up.
        objective: As `Measured.problem` takes it, with power and omega.
        power: Of the robot.
        omega: Of latency against energy.
        solve: Finds a placement at one rate.

    Raises:
        ConfigError: As `Link` and `Measured.problem` say.
        UnavailableError: As `solve` does.
    """
    if not down_per_up > 0:
        raise ConfigError(
            f"down_per_up {down_per_up}: want the rate down divided by the rate up, more than 0; "
            "measure both ways"
        )

    def at(rate: float) -> Problem:
        link = Link(rate, rate * down_per_up, round_trip_s)
        return measured.problem(link, objective, power, omega)

    unit = at(1.0)

    def best(rate: float) -> Line:
        return line_of(unit, solve(at(rate)))

    slow, fast = best(SLOWEST), best(FASTEST)
    lines, todo = [slow, fast], [(slow, fast)]
    while todo:
        left, right = todo.pop()
        if not left.fixed > right.fixed:
            continue
        met = _meet(left, right)
        if not SLOWEST < met < FASTEST:
            continue
        found = best(met)
        between = right.per_byte_time > found.per_byte_time > left.per_byte_time
        if between and found.cost(met) < left.cost(met) * (1 - ACCURACY):
            lines.append(found)
            todo += [(left, found), (found, right)]
    return RateTable(round_trip_s, *_envelope(lines), unit)


def _meet(slow: Line, fast: Line) -> float:
    """The rate from which on `fast` is cheaper, which is the one whose fixed cost is less."""
    return (fast.per_byte_time - slow.per_byte_time) / (slow.fixed - fast.fixed)


def _envelope(lines: list[Line]) -> tuple[tuple[float, ...], tuple[Line, ...]]:
    """Where lines take each other's place, and those that are the cheapest somewhere."""
    kept, rates = list[Line](), list[float]()
    for line in sorted(lines, key=lambda one: (one.per_byte_time, one.fixed)):
        if kept and line.fixed >= kept[-1].fixed:
            continue
        while rates and _meet(kept[-1], line) <= rates[-1]:
            kept.pop()
            rates.pop()
        if kept:
            rates.append(_meet(kept[-1], line))
        kept.append(line)
    return tuple(rates), tuple(kept)
