"""Two evaluations side by side: how many times as much a mode takes, and whether that counts."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from rrto_ros.errors import ConfigError
from rrto_ros.evaluation.figures import MEASURES, Measure, by_round, number
from rrto_ros.evaluation.results import Results, differences

BASES = ("rpc", "batched", "local", "replay")
"""Modes that others are compared with in their own run, the first that both have."""
RELATIVE = ("latency_median", "seconds")


@dataclass(frozen=True)
class Difference:
    """A measure of a mode in two evaluations.

    Attributes:
        mode: Of the recorder; as `replay : rpc` where it is a ratio within each round.
        measure: What was measured.
        before, after: Medians of the rounds.
        spread: How far apart the rounds of one evaluation are at most, as a share of its median;
            None where neither has two rounds.
        counts: Whether there is a difference that is larger than the spread: no round of one lies
            between two of the other, and the medians are farther apart than any two rounds.
    """

    mode: str
    measure: Measure
    before: float
    after: float
    spread: float | None
    counts: bool

    @property
    def ratio(self) -> float | None:
        """How many times as much it is after; less is better."""
        return self.after / self.before if self.before else None

    def over(self, percent: float) -> bool:
        """Whether it is worse by more than so many per cent, and that counts."""
        worse = self.after > self.before * (1 + percent / 100)
        return self.counts and worse


def _difference(
    mode: str, measure: Measure, before: list[float], after: list[float]
) -> Difference:
    spreads = [
        (max(values) - min(values)) / statistics.median(values)
        for values in (before, after)
        if len(values) > 1 and statistics.median(values)
    ]
    widest = max(max(values) - min(values) for values in (before, after))
    apart = max(before) < min(after) or max(after) < min(before)
    larger = abs(statistics.median(after) - statistics.median(before)) > widest
    # A single round says nothing of how much rounds differ.
    known = len(before) > 1 and len(after) > 1
    return Difference(
        mode, measure, statistics.median(before), statistics.median(after),
        max(spreads, default=None), apart and larger and known,
    )  # fmt: skip


def compare(before: Results, after: Results) -> list[Difference]:
    """Every measure that both have, mode by mode; then each mode by the base mode of its own run.

    The ratio within a round is what a machine that was slower on the other day changes least: the
    modes of a round ran one after the other.

    Raises:
        ConfigError: They have no mode in common.
    """
    modes = [mode for mode in before.settings.modes if mode in after.settings.modes]
    if not modes:
        raise ConfigError(
            f"no mode in common: {', '.join(before.settings.modes)} and "
            f"{', '.join(after.settings.modes)}; want two evaluations that share one"
        )
    out = []
    for mode in modes:
        for measure in MEASURES:
            pair = [list(by_round(each, mode, measure).values()) for each in (before, after)]
            if all(pair):
                out.append(_difference(mode, measure, *pair))
    base = next((mode for mode in BASES if mode in modes), modes[0])
    for mode in modes:
        for measure in MEASURES:
            if mode == base or measure.name not in RELATIVE:
                continue
            pair = [_within(each, mode, base, measure) for each in (before, after)]
            if all(pair):
                out.append(_difference(f"{mode} : {base}", measure, *pair))
    return out


def _within(results: Results, mode: str, base: str, measure: Measure) -> list[float]:
    """The measure by that of the base mode, in each round that has both."""
    ours, theirs = by_round(results, mode, measure), by_round(results, base, measure)
    return [ours[n] / theirs[n] for n in sorted(ours) if theirs.get(n)]


def cautions(before: Results, after: Results) -> list[str]:
    """What else differs between two evaluations, in sentences."""
    out = [f"other settings: {text}" for text in differences(before.settings, after.settings)]
    for what in ("on", "versions"):
        kept, now = getattr(before, what), getattr(after, what)
        names = sorted(name for name in kept if kept[name] != now.get(name))
        out += [f"{name} {kept[name]}, now {now.get(name)}" for name in names]
    return out


def rows(found: list[Difference]) -> list[list[str]]:
    """Cells, the first row is the head."""
    out = [["mode", "measure", "A", "B", "B : A", "spread", ""]]
    for one in found:
        unit = "" if ":" in one.mode else one.measure.unit
        cells = [f"{number(value, unit)} {unit}".strip() for value in (one.before, one.after)]
        ratio = "-" if one.ratio is None else f"{one.ratio:.3f}"
        spread = "-" if one.spread is None else f"{one.spread:.0%}"
        says = ("less" if one.after < one.before else "more") if one.counts else ""
        out.append([one.mode, one.measure.title, *cells, ratio, spread, says])
    return out
