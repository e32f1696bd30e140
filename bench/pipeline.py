"""Several inferences under way: what does the best cut gain, with all bits and with fewer?

    python bench/pipeline.py --profiles FILE --byte-ends AGRNav        # the tables, as Markdown

Simulated from profiles: times of operators that others measured on a robot's computer and on a
server, and the stages of `rrto_ros/schedule/pipeline.py`. Nothing is executed or sent here, and
accuracy with fewer bits is taken for granted, not looked at.

Profiles are as bench/partition_profiles.py says. With fewer bits, everything crosses in them but
the results, and an input that has one byte per element already (`--byte-ends`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from partition import head, ms
from partition_profiles import MBIT, Model, models

from rrto_ros.errors import RrtoError
from rrto_ros.schedule.costs import Link
from rrto_ros.schedule.in_turn import best_turns
from rrto_ros.schedule.min_cut import min_cut
from rrto_ros.schedule.pipeline import STAGES, Stream
from rrto_ros.schedule.pipelined import Plan, Task, made
from rrto_ros.schedule.single_cuts import best_cut
from rrto_ros.schedule.spare_bits import widened
from rrto_ros.schedule.widths import EXACT

MBITS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TRIPS_MS = (1, 5, 10, 50)
SHOWN_MBITS, SHOWN_TRIP_MS = (5, 20, 50, 100, 200, 500), 5
THROUGHPUT, LATENCY = 2.1, 1.7
"""COACH's figures, against baselines that are not known."""
FRAMES = (10, 30)
"""Per second, of a camera."""


@dataclass(frozen=True)
class Setting:
    """A model over a link.

    Attributes:
        model: Of the profiles.
        link: Between robot and edge.
        in_flight: Inferences under way.
        bits: Where fewer than all are sent.
        byte_ends: Whether its input and results have one byte per element.
    """

    model: Model
    link: Link
    in_flight: int
    bits: int
    byte_ends: bool

    def task(self, narrow: bool, in_flight: int | None = None, every_s: float = 0.0) -> Task:
        data, last = self.model.measured.data, len(self.model.measured.local_s) - 1

        def passes(tensor: int, _: int) -> bool:
            one = data[tensor]
            return last not in one.readers and not (self.byte_ends and one.producer == 0)

        return Task(
            self.model.measured,
            self.link,
            Stream(in_flight or self.in_flight, every_s),
            passes if narrow else None,
            (self.bits,),
        )


@dataclass(frozen=True)
class Answer:
    """What a setting comes to.

    Attributes:
        local: All at the robot.
        edge: All at the edge.
        least: The placement with the least latency.
        best: The single cut with the shortest period.
        narrow: The same, with fewer bits.
        alone: The single cut with the least latency, with fewer bits.
    """

    local: Plan
    edge: Plan
    least: Plan
    best: Plan
    narrow: Plan
    alone: Plan


def answer(setting: Setting) -> Answer:
    task, measured = setting.task(False), setting.model.measured
    problem = measured.problem(setting.link)
    local, edge, least = (
        made(task, one, ()) for one in (problem.all_local, problem.all_edge, min_cut(problem))
    )
    narrow, alone = (best_cut(setting.task(True, flight)) for flight in (None, 1))
    return Answer(local, edge, least, best_cut(task), narrow, alone)


def latency(plan: Plan) -> float:
    return plan.pipeline.alone_s


def period(plan: Plan) -> float:
    return plan.period_s


def per_second(seconds: float) -> str:
    return f"{1 / seconds:,.1f}"


def throughput_table(answers: dict[tuple[str, int, int], Answer]) -> list[str]:
    out = head(
        "model", "Mbit/s", "all robot", "all edge, one by one", "all edge", "least latency",
        "best cut", "slowest", "best cut, fewer bits", "slowest", "against the better of two",
        "latency of these, ms (all robot, all edge, best, fewer bits)",
    )  # fmt: skip
    for (name, trip, mbit), one in answers.items():
        if trip != SHOWN_TRIP_MS or mbit not in SHOWN_MBITS:
            continue
        simple = min(period(one.local), period(one.edge))
        rates = [per_second(period(w)) for w in (one.local, one.edge, one.least)]
        rates.insert(1, per_second(latency(one.edge)))
        for best in (one.best, one.narrow):
            rates += [per_second(period(best)), STAGES[best.pipeline.slowest]]
        gains = " / ".join(f"{simple / period(w):.2f}" for w in (one.best, one.narrow))
        times = ", ".join(ms(latency(w)) for w in (one.local, one.edge, one.best, one.narrow))
        out.append(f"| {name} | {mbit} | {' | '.join(rates)} | {gains} | {times} |")
    return out


Ratio = Callable[[Answer], float]


def _throughput(than: Ratio) -> tuple[Ratio, Ratio]:
    """How many times more than a baseline that makes one in so many seconds: all bits, fewer."""
    return lambda a: than(a) / period(a.best), lambda a: than(a) / period(a.narrow)


def _latency(than: Ratio) -> tuple[Ratio, Ratio]:
    """How many times faster than a baseline that takes so many seconds: all bits, fewer."""
    return lambda a: than(a) / latency(a.least), lambda a: than(a) / latency(a.alone)


AGAINST: dict[str, tuple[Ratio, Ratio]] = {
    "throughput, all robot": _throughput(lambda a: period(a.local)),
    "throughput, all edge one by one": _throughput(lambda a: latency(a.edge)),
    "throughput, all edge overlapped": _throughput(lambda a: period(a.edge)),
    "throughput, the better of all robot and all edge overlapped": _throughput(
        lambda a: min(period(a.local), period(a.edge))
    ),
    "throughput, cut of least latency one by one": _throughput(lambda a: latency(a.least)),
    "throughput, cut of least latency overlapped": _throughput(lambda a: period(a.least)),
    "latency, all edge": _latency(lambda a: latency(a.edge)),
    "latency, the better of all robot and all edge": _latency(
        lambda a: min(latency(a.local), latency(a.edge))
    ),
}


def claims_table(answers: dict[tuple[str, int, int], Answer]) -> list[str]:
    """In how many settings COACH's figures are reached, against which baseline."""
    names = list(dict.fromkeys(name for name, _, _ in answers))
    out = head("of", "all bits or fewer", "wanted", *names)
    for what, ways in AGAINST.items():
        wanted = THROUGHPUT if what.startswith("throughput") else LATENCY
        for said, ratio in zip(("all", "fewer"), ways, strict=True):
            cells = []
            for name in names:
                ratios = [(ratio(a), key[2]) for key, a in answers.items() if key[0] == name]
                reached = sorted(mbit for value, mbit in ratios if value >= wanted * (1 - 1e-9))
                span = f", {reached[0]} to {reached[-1]} Mbit/s" if reached else ""
                middle = float(np.median([value for value, _ in ratios]))
                cells.append(
                    f"{len(reached)} of {len(ratios)}{span} "
                    f"(median {middle:.2f}, most {max(ratios)[0]:.1f})"
                )
            out.append(f"| {what} | {said} | {wanted} | {' | '.join(cells)} |")
    return out


def spare_table(
    some: list[Model], make: Callable[[Model, float, float], Setting], few: int
) -> list[str]:
    """How many bits the best cut with few of them may have for the same throughput."""
    kinds = ("nothing packed", few, 16, EXACT)
    out = head("model", *(f"{one} bits" if isinstance(one, int) else one for one in kinds))
    for model in some:
        counts = dict.fromkeys(kinds, 0)
        for trip in TRIPS_MS:
            for mbit in MBITS:
                task = replace(make(model, mbit, trip).task(True), widths=(few, 16))
                plan = best_cut(task)
                packed = [n for n, bits in enumerate(plan.widths) if bits != EXACT]
                wide = widened(task, plan).widths
                counts[min((wide[n] for n in packed), default=kinds[0])] += 1
        out.append(f"| {model.name} | {' | '.join(map(str, counts.values()))} |")
    return out


def camera_table(some: list[Model], make: Callable[[Model, float, float], Setting]) -> list[str]:
    """From which rate on a camera's frames are kept up with."""
    out = head(
        "model", "frames per second", "all robot", "all edge from, Mbit/s", "best cut from",
        "with fewer bits from", "latency there, ms (all edge, best, fewer bits)",
    )  # fmt: skip
    rates = np.geomspace(1, 2000, 200).tolist()
    for model in some:
        for frames in FRAMES:
            robot = sum(model.measured.local_s)
            cells = ["yes" if robot <= 1 / frames else "no"]
            times = []

            def edge(setting: Setting) -> Plan:
                task = setting.task(False)
                return made(task, task.measured.problem(setting.link).all_edge, ())

            def best(setting: Setting, frames: int = frames) -> Plan:
                return best_cut(setting.task(False, 100, 1 / frames))

            def narrow(setting: Setting, frames: int = frames) -> Plan:
                return best_cut(setting.task(True, 100, 1 / frames))

            for way in (edge, best, narrow):
                # Periods fall with the rate: the first of the rates that is fast enough.
                low, high = 0, len(rates)
                while low < high:
                    middle = (low + high) // 2
                    plan = way(make(model, rates[middle], SHOWN_TRIP_MS))
                    if max(plan.pipeline.stages_s) <= 1 / frames:
                        high = middle
                    else:
                        low = middle + 1
                if low == len(rates):
                    cells.append("never")
                    times.append("-")
                    continue
                cells.append(f"{rates[low]:,.0f}" if low else "any")
                times.append(ms(latency(way(make(model, rates[low], SHOWN_TRIP_MS)))))
            out.append(f"| {model.name} | {frames} | {' | '.join(cells)} | {', '.join(times)} |")
    return out


def turns_table(some: list[Model], make: Callable[[Model, float, float], Setting]) -> list[str]:
    """What placements that are no single cut add, and several that are taken in turn."""
    out = head("model", "Mbit/s", "bits", "best cut, ms", "best placement", "in turn",
               "no shares below", "against the better of two", "all robot, all edge, others",
               "latency, ms")  # fmt: skip
    for model in some:
        for mbit in SHOWN_MBITS:
            setting = make(model, mbit, SHOWN_TRIP_MS)
            problem = model.measured.problem(setting.link)
            local, edge = problem.all_local, problem.all_edge
            simple = min(period(made(setting.task(False), one, ())) for one in (local, edge))
            for narrow in (False, True):
                task = setting.task(narrow)
                turns = best_turns(task)
                shares = {local: 0.0, edge: 0.0}
                for plan, share in zip(turns.plans, turns.shares, strict=True):
                    if plan.placement in shares:
                        shares[plan.placement] += share
                parts = (*shares.values(), 1 - sum(shares.values()))
                cells = (
                    ms(period(best_cut(task))),
                    ms(period(turns.single)),
                    ms(turns.period_s),
                    ms(turns.bound_s),
                    f"{simple / turns.period_s:.2f}",
                    ", ".join(f"{max(part, 0.0):.0%}" for part in parts),
                    ms(turns.alone_s),
                )
                said = "fewer" if narrow else "all"
                out.append(f"| {model.name} | {mbit} | {said} | {' | '.join(cells)} |")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profiles", type=Path, required=True, help="times of operators (JSON)")
    parser.add_argument("--in-flight", type=int, default=4, help="inferences under way")
    parser.add_argument("--bits", type=int, default=8, help="of an element, where fewer are sent")
    parser.add_argument("--models", nargs="*", help="only these")
    parser.add_argument("--byte-ends", nargs="*", default=[], metavar="MODEL",
                        help="whose input and output have one byte per element")  # fmt: skip
    options = parser.parse_args()

    def make(model: Model, mbit: float, trip_ms: float) -> Setting:
        link = Link(mbit * MBIT, mbit * MBIT, trip_ms / 1e3)
        byte_ends = model.name in options.byte_ends
        return Setting(model, link, options.in_flight, options.bits, byte_ends)

    try:
        some = [
            model
            for model in models(options.profiles, options.byte_ends)
            if not options.models or model.name in options.models
        ]
        answers = {
            (model.name, trip, mbit): answer(make(model, mbit, trip))
            for model in some
            for trip in TRIPS_MS
            for mbit in MBITS
        }
        parts = {
            "Results per second": throughput_table(answers),
            "Where COACH's figures are reached": claims_table(answers),
            "Bits that cost no throughput": spare_table(some, make, options.bits),
            "A camera": camera_table(some, make),
            "Placements in turn": turns_table(some, make),
        }
    except RrtoError as error:
        print(f"pipeline.py: {error}", file=sys.stderr)
        return 1
    print("Simulated from profiles; nothing was executed or sent.")
    print(f"{options.in_flight} inferences under way; fewer bits: {options.bits} of each element.")
    for title, lines in parts.items():
        print(f"\n## {title}\n" + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
