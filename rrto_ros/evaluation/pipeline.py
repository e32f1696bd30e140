"""`rrto analyze --partition --pipeline N`: an inference of a bag as one of several under way.

Times and bytes of its calls were found by executing them here (profiled.py); robot, link and what
happens at once are modelled (rrto_ros/schedule/pipeline.py). Each inference under way is of a
stream that waits for its result (a program, a thread, a camera), with memory of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rrto_ros.errors import ConfigError
from rrto_ros.evaluation.partition import MBIT, Partitions, at_edge, row
from rrto_ros.schedule.costs import Link
from rrto_ros.schedule.in_turn import Turns, best_turns
from rrto_ros.schedule.pipeline import STAGES, Stream
from rrto_ros.schedule.pipelined import Plan, Task, made
from rrto_ros.schedule.widths import EXACT


@dataclass(frozen=True)
class Overlap:
    """What is assumed of several inferences under way.

    Attributes:
        stream: Of inferences.
        bits: Of an element that goes between kernels and crosses; `EXACT`: as it is. Others would
            be wrong where elements are no float32. Whether accuracy allows it is not looked at.
    """

    stream: Stream
    bits: int = EXACT

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= EXACT:
            raise ConfigError(f"{self.bits} bits of an element: want 2 to {EXACT} (exact)")


@dataclass(frozen=True)
class Pipelined:
    """What is best over a link, and what other placements take there.

    Attributes:
        rate_mbit: Of the link, both ways.
        all_local: Everything at the robot.
        all_edge: Everything at the edge that can be there.
        fastest: The placement that is best for an inference by itself.
        turns: The placements with the shortest period if inferences take them in turn.
    """

    rate_mbit: float
    all_local: Plan
    all_edge: Plan
    fastest: Plan
    turns: Turns

    @property
    def best(self) -> Plan:
        """The placement with the shortest period, if all inferences have the same."""
        return self.turns.single


def pipelined(found: Partitions, overlap: Overlap) -> tuple[Pipelined, ...]:
    """Find the placements for several inferences under way, at the rates of `found`.

    Raises:
        UnavailableError: SciPy is not installed.
    """
    measured, unit = found.measured, found.table.unit
    inner = {
        n for n, one in enumerate(measured.data)
        if not measured.at_robot.intersection((one.producer, *one.readers))
    }  # fmt: skip
    out = []
    for choice in found.choices:
        rate = choice.rate_mbit * MBIT
        task = Task(
            measured,
            Link(rate, rate, found.situation.round_trip_s),
            overlap.stream,
            None if overlap.bits == EXACT else lambda tensor, _: tensor in inner,
            (overlap.bits,),
        )
        exact = (EXACT,) * len(measured.data)
        local, edge, fastest = (
            made(task, one, exact) for one in (unit.all_local, unit.all_edge, choice.placement)
        )
        out.append(Pipelined(choice.rate_mbit, local, edge, fastest, best_turns(task)))
    return tuple(out)


def report(found: Partitions, ways: tuple[Pipelined, ...], overlap: Overlap) -> str:
    """What several inferences under way take, as text."""
    trip, stream = 1e3 * found.situation.round_trip_s, overlap.stream
    free = [n for n in range(len(found.profiled.pieces)) if n not in found.measured.at_robot]
    bits = "" if overlap.bits == EXACT else f", {overlap.bits} bits between kernels"
    lines = [
        (
            f"results per second with {stream.in_flight} inferences under way, each with memory "
            f"of its own, over a round trip of {trip:g} ms{bits} (modelled):"
        ),
        row("Mbit/s", "best", "all robot", "all edge", "fastest one", "in turn")
        + "placement of the best",
    ]
    for one in ways:
        ways_here = (one.best, one.all_local, one.all_edge, one.fastest, one.turns)
        rates = (_per_second(way) for way in ways_here)
        lines.append(row(f"{one.rate_mbit:g}", *rates) + at_edge(one.best.placement, free))
    lines += [
        "",
        "the best, ms: from result to result, one by itself, and how long each stage is busy:",
        row("Mbit/s", "period", "latency", *STAGES) + "slowest",
    ]
    for one in ways:
        best = one.best.pipeline
        times = (one.best.period_s, best.alone_s, *best.stages_s)
        cells = (f"{1e3 * seconds:.1f}" for seconds in times)
        lines.append(row(f"{one.rate_mbit:g}", *cells) + STAGES[best.slowest])
    mixed = [one for one in ways if len(one.turns.plans) > 1]
    if mixed:
        lines += ["", "in turn: these shares of the inferences", row("Mbit/s").rstrip()]
    for one in mixed:
        shares = (
            f"{share:.0%} {at_edge(plan.placement, free)}"
            for plan, share in zip(one.turns.plans, one.turns.shares, strict=True)
        )
        lines.append(row(f"{one.rate_mbit:g}") + "; ".join(shares))
    return "\n".join(lines)


def as_json(ways: tuple[Pipelined, ...], overlap: Overlap) -> dict[str, Any]:
    """What several inferences under way take, for JSON; seconds."""
    return {
        "in_flight": overlap.stream.in_flight,
        "bits": overlap.bits,
        "rates": [
            {
                "mbit_per_s": one.rate_mbit,
                **{
                    name: _plan(getattr(one, name))
                    for name in ("best", "all_local", "all_edge", "fastest")
                },
                "in_turn": {
                    "period_s": one.turns.period_s,
                    "latency_alone_s": one.turns.alone_s,
                    "least_period_of_any_s": one.turns.bound_s,
                    "shares": list(one.turns.shares),
                    "plans": [_plan(plan) for plan in one.turns.plans],
                },
            }
            for one in ways
        ],
    }


def _plan(plan: Plan) -> dict[str, Any]:
    busy = plan.pipeline.stages_s
    return {
        "period_s": plan.period_s,
        "latency_alone_s": plan.pipeline.alone_s,
        "stages_s": dict(zip(STAGES, busy, strict=True)),
        "bubbles_s": {
            name: plan.period_s - one for name, one in zip(STAGES, busy, strict=True)
        },
        "slowest": STAGES[plan.pipeline.slowest],
        "filled_by": plan.pipeline.filled_by,
        "least_period_of_any_s": plan.bound_s or None,
        "at_edge": [call for call, away in enumerate(plan.placement) if away],
    }  # fmt: skip


def _per_second(way: Plan | Turns) -> str:
    return f"{1 / way.period_s:.2f}" if way.period_s else "any"
