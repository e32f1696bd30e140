"""For which models and links is any cut better than all at the robot, or all at the edge?

    python bench/partition.py --profiles FILE                     # the table, as Markdown
    python bench/partition.py --profiles FILE --picture OUT.png   # and a picture
    python bench/partition.py --profiles FILE --trace FILE        # and over a link that changes
    python bench/partition.py --profiles FILE --energy PROFILE    # and for the robot's energy

Simulated from profiles: times of operators that others measured on a robot's computer and on a
server, and the additive model of `rrto_ros/schedule/costs.py`. Nothing is executed or sent here.

Profiles are as bench/partition_profiles.py says; a trace is JSON: {name: [[seconds, whole MB/s],
..]}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from partition_picture import WORTH, picture
from partition_profiles import MBIT, Model, models, profile

from rrto_ros.errors import ConfigError, RrtoError
from rrto_ros.schedule.hysteresis import Chooser
from rrto_ros.schedule.mcop import mcop
from rrto_ros.schedule.min_cut import min_cut
from rrto_ros.schedule.rates import rate_table

MBITS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TRIPS_MS = (1, 5, 10, 50)
NOTHING = 1e-5
"""A cut that saves less than this part is none, but what rounding leaves."""
STEP_S = 1.0
"""Of a trace, an inference begins so often."""
TRACE_TRIP_S = 0.004


@dataclass(frozen=True)
class Answer:
    """What one model takes over one link, seconds.

    Attributes:
        best: With the exact cut.
        edge: All of it at the edge.
        local: All of it at the robot.
        prefix: With the best single cut (all at one side are such).
        heuristic: As MCOP places it; not a number if it was not asked.
        kept: Part of the robot's time that stays there.
    """

    best: float
    edge: float
    local: float
    prefix: float
    heuristic: float
    kept: float

    @property
    def gain(self) -> float:
        """What the cut saves of the better of all-local and all-edge, as a part of it."""
        return 1 - self.best / min(self.edge, self.local)


def head(*columns: str) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def answer(model: Model, mbit: float, trip_s: float, heuristic: bool) -> Answer:
    rate, lines = mbit * MBIT, model.lines(trip_s)
    problem = model.problem(rate, trip_s)
    found = min_cut(problem)
    at = {name: min(one.cost(rate) for one in some) for name, some in lines.items()}
    kept = problem.parts(found).local / problem.parts(problem.all_local).local
    other = problem.cost(mcop(problem)) if heuristic else float("nan")
    return Answer(problem.cost(found), at["edge"], at["local"], at["prefix"], other, kept)


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}" if seconds < 10 else f"{seconds * 1e3:,.0f}"


def grid(some: list[Model], heuristic: bool) -> dict[tuple[str, int, int], Answer]:
    return {
        (model.name, trip, mbit): answer(model, mbit, trip / 1e3, heuristic)
        for model in some
        for trip in TRIPS_MS
        for mbit in MBITS
    }


def latency_table(some: list[Model], answers: dict[tuple[str, int, int], Answer]) -> list[str]:
    out = head(
        "model",
        "round trip, ms",
        "Mbit/s",
        "best, ms",
        "all edge",
        "all local",
        "one cut",
        "MCOP",
        "cut saves",
        "stays",
    )
    for model in some:
        for trip in TRIPS_MS:
            for mbit in MBITS:
                one = answers[model.name, trip, mbit]
                bold = "**" if one.gain >= WORTH else ""
                out.append(
                    f"| {model.name} | {trip} | {mbit} | {bold}{ms(one.best)}{bold} | "
                    f"{ms(one.edge)} | {ms(one.local)} | {ms(one.prefix)} | "
                    f"{ms(one.heuristic)} | {max(one.gain, 0.0):.1%} | {one.kept:.0%} |"
                )
    return out


def summary(some: list[Model]) -> list[str]:
    """Where each model changes, from the table over all rates."""
    out = head(
        "model",
        "round trip, ms",
        "all local up to, Mbit/s",
        "all edge from, Mbit/s",
        "a cut saves at most",
        "at, Mbit/s",
    )
    for model in some:
        for trip in TRIPS_MS:
            table, lines = model.table(trip / 1e3), model.lines(trip / 1e3)
            (local,), (edge,), rates = lines["local"], lines["edge"], table.rates
            until = since = "never"
            if table.lines[0].placement == local.placement:
                until = f"{rates[0] / MBIT:,.1f}" if rates else "any"
            if table.lines[-1].placement == edge.placement:
                since = f"{rates[-1] / MBIT:,.1f}" if rates else "any"
            # What a cut saves is greatest at a breakpoint, or where the two simple ones meet.
            saved = local.fixed - edge.fixed
            met = [edge.per_byte_time / saved] if saved > 0 else []
            gain, where = 0.0, 0.0
            for rate in (*rates, *met):
                simple = min(local.cost(rate), edge.cost(rate))
                gain, where = max((gain, where), (1 - table.best(rate).cost(rate) / simple, rate))
            told = f"{gain:.1%} | {where / MBIT:,.0f}" if gain > NOTHING else "nothing | "
            out.append(f"| {model.name} | {trip} | {until} | {since} | {told} |")
    return out


def trace_table(some: list[Model], file: Path) -> list[str]:
    """Inferences that begin every `STEP_S` of a trace, each with the rate of its beginning."""
    try:
        traces = {
            name: np.array(steps, float).reshape(-1, 2)
            for name, steps in json.loads(file.read_text()).items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"trace {file}: {type(error).__name__} {error}; want the JSON that bench/partition.py "
            "describes"
        ) from error
    out = head(
        "trace",
        "model",
        "best in hindsight, ms",
        "all local",
        "all edge",
        "table, rate known",
        "table, rate of a second ago",
        "the same, any gain, at once",
        "changes per minute (known, ago, at once)",
    )
    for name, steps in traces.items():
        ends = np.cumsum(steps[:, 0])
        # Half of the least rate that is told, where it is told as 0: whole MB/s.
        rates = np.maximum(steps[:, 1], 0.5) * 1e6
        times = np.arange(0.0, ends[-1], STEP_S)
        now = rates[np.searchsorted(ends, times, side="right")]
        before = np.concatenate([now[:1], now[:-1]])
        for model in some:
            table, lines = model.table(TRACE_TRIP_S), model.lines(TRACE_TRIP_S)
            best = sum(table.best(rate).cost(rate) for rate in now.tolist())
            cells = [ms(best / len(now))]
            for way in ("local", "edge"):
                took = sum(lines[way][0].cost(rate) for rate in now.tolist())
                cells.append(regret(took, best, len(now)))
            changes = []
            for told, options in ((now, {}), (before, {}), (before, {"gain": 0.0, "rest_s": 0.0})):
                chooser = Chooser(table, **options)
                took = 0.0
                for when, rate, expected in zip(
                    times.tolist(), now.tolist(), told.tolist(), strict=True
                ):
                    took += table.line(chooser.choose(expected, when)).cost(rate)
                cells.append(regret(took, best, len(now)))
                changes.append(f"{chooser.changes / ends[-1] * 60:.1f}")
            cells.append(", ".join(changes))
            out.append(f"| {name} | {model.name} | {' | '.join(cells)} |")
    return out


def regret(took: float, best: float, count: int) -> str:
    return f"{ms(took / count)} (+{took / best - 1:.1%})"


def timed(run: Callable[[], object], count: int) -> float:
    """Median seconds of a call."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def decision_table(some: list[Model], heuristic: bool) -> list[str]:
    out = head(
        "model",
        "operators",
        "min cut, ms",
        "MCOP, ms",
        "table over all rates, ms",
        "placements in it",
        "look-up with hysteresis, us",
    )
    for model in some:
        problem = model.problem(1e7, TRACE_TRIP_S)
        table = model.table(TRACE_TRIP_S)
        chooser = Chooser(table, gain=0.0, rest_s=0.0)
        rates, clock = np.geomspace(1e5, 1e8, 1000).tolist(), iter(range(10**9))

        def look(chooser=chooser, rates=rates, clock=clock) -> None:
            for rate in rates:
                chooser.choose(rate, next(clock))

        exact = timed(partial(min_cut, problem), 9)
        other = timed(partial(mcop, problem), 1) if heuristic else float("nan")
        whole = timed(partial(rate_table, model.measured, TRACE_TRIP_S), 5)
        out.append(
            f"| {model.name} | {len(problem.local)} | {exact * 1e3:.1f} | {other * 1e3:,.0f} | "
            f"{whole * 1e3:.0f} | {len(table.lines)} | {timed(look, 5) / len(rates) * 1e6:.1f} |"
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profiles", type=Path, required=True, help="times of operators (JSON)")
    parser.add_argument("--trace", type=Path, help="a link's rate over time (JSON)")
    parser.add_argument("--picture", type=Path, help="a PNG to be written")
    parser.add_argument("--energy", help="a profile of config/power_profiles.yaml")
    parser.add_argument("--no-mcop", action="store_true", help="leave the slow heuristic out")
    parser.add_argument("--models", nargs="*", help="only these")
    parser.add_argument("--byte-ends", nargs="*", default=[], metavar="MODEL",
                        help="whose input and output have one byte per element")  # fmt: skip
    options = parser.parse_args()
    try:
        some = [
            model
            for model in models(options.profiles, options.byte_ends)
            if not options.models or model.name in options.models
        ]
        answers = grid(some, not options.no_mcop)
        parts = {
            "Where the answer changes": summary(some),
            "Time per inference": latency_table(some, answers),
            "What deciding takes": decision_table(some, not options.no_mcop),
        }
        if options.trace:
            parts["Over a link that changes"] = trace_table(some, options.trace)
        if options.energy:
            least = [replace(model, power=profile(options.energy)) for model in some]
            parts[f"For the least energy of {options.energy}"] = summary(least)
        if options.picture:
            picture(some, options.picture)
    except RrtoError as error:
        print(f"partition.py: {error}", file=sys.stderr)
        return 1
    print("Simulated from profiles; nothing was executed or sent.")
    for title, lines in parts.items():
        print(f"\n## {title}\n" + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
