"""What the runs of an evaluation come to: measures, their medians and ranges, a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rrto_ros.evaluation.results import Results, unequal

Run = dict[str, Any]
APART = ("rpc", "batched", "replay")
"""Modes whose session's own counts are of what goes to the edge; in the others they are of what
goes to a place on the robot."""
TOLD, SAMPLED = "told", "sampled"


def latencies(run: Run) -> list[float]:
    """An inference's times in ms, without the first one where there are more.

    What the program told, else what the recorder measured of the inferences whose sequence it
    knows, looked at ten times per second; empty where neither is known.
    """
    told, found = run["told_ms"], run["sampled_ms"]
    return list((told[1:] or told) if told else found)


def source(results: Results) -> str:
    """Where times of inferences come from: `TOLD`, `SAMPLED`, or empty where there are none."""
    if any(run["told_ms"] for run in results.runs):
        return TOLD
    return SAMPLED if any(run["sampled_ms"] for run in results.runs) else ""


def share(values: Sequence[float], part: float) -> float:
    """The value below or at which this part of all lies."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def _latency(part: float) -> Callable[[Run], float | None]:
    def get(run: Run) -> float | None:
        found = latencies(run)
        return share(found, part) if found else None

    return get


def _plain(name: str, scale: float = 1.0) -> Callable[[Run], float | None]:
    def get(run: Run) -> float | None:
        value = run.get(name)
        return None if value is None else float(value) * scale

    return get


def _each(name: str) -> Callable[[Run], float | None]:
    """Of an inference: as the recorder counted it, else by the difference of two statuses."""

    def get(run: Run) -> float | None:
        if run["mode"] == "replay" and len(run["sessions"]) == 1:
            session = run["sessions"][0]
            if session["inferences"]:
                return float(session[f"inference_{name}"])
        value = run["steady"].get(name)
        return None if value is None or run["mode"] not in APART else float(value)

    return get


def _sum(name: str) -> Callable[[Run], float | None]:
    def get(run: Run) -> float | None:
        if run["mode"] not in APART or not run["complete"]:
            return None
        return float(sum(session[name] for session in run["sessions"]))

    return get


def waiting_ms(run: Run) -> float | None:
    """Of an inference, the time in which the program waits for results."""
    found = run["steady"]
    return 1e3 * found["wait_s"] if found else None


def own_ms(run: Run) -> float | None:
    """Of an inference, all other time, with what the program does between two."""
    found = run["steady"]
    return 1e3 * max(0.0, found["seconds"] - found["wait_s"]) if found else None


@dataclass(frozen=True)
class Measure:
    """Something that is measured in every run; less is better.

    Attributes:
        name: In JSON and for `rrto compare`.
        title: In tables.
        unit: Of its values.
        get: From a run; None where it is not known.
    """

    name: str
    title: str
    unit: str
    get: Callable[[Run], float | None]


MEASURES = (
    Measure("latency_median", "latency, median", "ms", _latency(0.5)),
    Measure("latency_p95", "latency, 95 %", "ms", _latency(0.95)),
    Measure("latency_p99", "latency, 99 %", "ms", _latency(0.99)),
    Measure("latency_longest", "latency, longest", "ms", _latency(1.0)),
    Measure("waiting", "waiting per inference", "ms", waiting_ms),
    Measure("own", "own time per inference", "ms", own_ms),
    Measure(
        "round_trips",
        "round trips per inference",
        "",
        _each("round_trips"),
    ),
    Measure("bytes_up", "bytes up per inference", "B", _each("bytes_sent")),
    Measure(
        "bytes_down",
        "bytes down per inference",
        "B",
        _each("bytes_received"),
    ),
    Measure("first", "first result after", "s", _plain("first_s")),
    Measure("seconds", "whole program", "s", _plain("seconds")),
    Measure("round_trips_all", "round trips, whole", "", _sum("round_trips")),
    Measure("bytes_up_all", "bytes up, whole", "B", _sum("bytes_sent")),
    Measure("wire_up", "link's bytes up", "B", _plain("wire_up")),
    Measure("wire_down", "link's bytes down", "B", _plain("wire_down")),
    Measure("program_cpu", "program's CPU time", "s", _plain("program_cpu_s")),
    Measure("recorder_cpu", "recorder's CPU time", "s", _plain("recorder_cpu_s")),
    Measure("program_memory", "program's memory", "MB", _plain("program_memory_kb", 1e-3)),
    Measure("recorder_memory", "recorder's memory", "MB", _plain("recorder_memory_kb", 1e-3)),
)
IN_TABLE = (
    "latency_median", "latency_p95", "latency_p99", "latency_longest", "first", "seconds",
    "round_trips", "bytes_up", "bytes_down", "wire_up", "wire_down", "program_cpu",
    "recorder_cpu", "recorder_memory",
)  # fmt: skip
"""Measures that the table of the modes has."""
WHOLE = {"round_trips": "round_trips_all", "bytes_up": "bytes_up_all"}
"""Per inference -> of the whole program."""


def by_round(results: Results, mode: str, measure: Measure) -> dict[int, float]:
    """A measure in every round of a mode where it is known."""
    found = ((run["round"], measure.get(run)) for run in results.of(mode))
    return {number: value for number, value in found if value is not None}


def middle(results: Results, mode: str, measure: Measure) -> float | None:
    """Median of the rounds; None where it is not known."""
    found = by_round(results, mode, measure)
    return statistics.median(found.values()) if found else None


def known(results: Results, names: Sequence[str] = IN_TABLE) -> list[Measure]:
    """Those of the measures that are known in one mode at least.

    Round trips and bytes of the whole program are only for who has none per inference.
    """
    found = [
        measure for measure in MEASURES
        if any(by_round(results, mode, measure) for mode in results.settings.modes)
    ]  # fmt: skip
    here = {measure.name for measure in found}
    wanted = {*names, *(whole for each, whole in WHOLE.items() if each not in here)}
    return [measure for measure in found if measure.name in wanted]


def number(value: float | None, unit: str = "") -> str:
    """A value as people read it: three digits that count, large ones whole."""
    if value is None:
        return "-"
    if unit == "B" or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def notes(results: Results) -> list[str]:
    """What has to be known to read the figures, in sentences."""
    chosen, kind = results.settings, source(results)
    rounds = {mode: len(results.of(mode)) for mode in chosen.modes}
    where = (
        f"Link `{chosen.link}`: {chosen.link_origin}. Robot and edge share this machine's "
        f"{results.on['cores']} cores; device `{chosen.device}`."
    )
    out = [
        where,
        "Values are medians of the rounds ("
        + ", ".join(f"{mode} {count}" for mode, count in rounds.items())
        + "); within a round the modes take turns and begin at the same place of the link.",
    ]
    if kind == TOLD:
        out.append(
            "Latencies are those that the program itself told, without its first inference."
        )
    elif kind == SAMPLED:
        out.append(
            "The program tells no latencies. They are the recorder's, from an inference's first "
            "call to the last result it waits for, of the last inference whenever the recorder "
            "was asked (ten times per second); modes that know no sequence have none, there the "
            "time of the whole program counts."
        )
    else:
        out.append(
            "Times of single inferences are not known: the program tells none and no sequence "
            "repeated. The time of the whole program counts."
        )
    out.append(
        "Round trips and bytes per inference are the recorder's medians in mode replay, elsewhere "
        "differences of two of its statuses in the later two thirds of a run, right to an "
        "inference or two of all those. Bytes on the link are of a whole run, with all headers, "
        "heartbeats (some for the process that watches here) and what the start sends."
    )
    first = "latency was told" if chosen.latency_pattern else "line was written"
    out.append(
        f"First result: when the first {first}, from the program's start. CPU time is of a whole "
        "run, the program's with those of its children that it waited for. Memory: of the "
        "program's main process at most, of the recorder at the end of the run."
    )
    if {"local", "partition"} & set(chosen.modes):
        out.append(
            "In the modes local and partition the session's own counts are of what it hands to a "
            "place on the robot, so they are left out; the link's bytes say what has crossed."
        )
    if chosen.compare_output:
        wrong = unequal(results)
        what = (
            "What `--result-pattern` finds in the output"
            if chosen.result_pattern
            else "What the program wrote, times aside,"
        )
        out.append(
            f"**The output differs from the first run's in {'; '.join(wrong)}.**" if wrong
            else f"{what} is equal in all runs."
        )  # fmt: skip
    failed = [run for run in results.runs if run["failed"]]
    out += [
        f"**{run['mode']}, round {run['round'] + 1}, failed: {run['failed'].strip()[:300]}**"
        for run in failed
    ]
    return out


def table(results: Results) -> list[list[str]]:
    """The modes and their measures, as cells; the first row is the head."""
    shown = known(results)
    head = ["mode", *(f"{m.title}{f', {m.unit}' if m.unit else ''}" for m in shown)]
    rows = [
        [mode, *(number(middle(results, mode, measure), measure.unit) for measure in shown)]
        for mode in results.settings.modes
    ]
    return [head, *rows]


def markdown(results: Results) -> str:
    """The evaluation as a page of Markdown."""
    head, *rows = table(results)
    program = " ".join(results.settings.program)
    lines = ["# Evaluation", "", f"`{program}`", ""]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"- {note}" for note in notes(results)), ""]
    return "\n".join(lines)
