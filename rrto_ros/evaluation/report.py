"""The report of an evaluation as one HTML page that loads nothing else."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from html import escape

from rrto_ros.evaluation.charts import cumulative, stacked
from rrto_ros.evaluation.figures import (
    MEASURES,
    by_round,
    latencies,
    middle,
    notes,
    number,
    source,
    table,
)
from rrto_ros.evaluation.results import Results

_NAMED = {measure.name: measure for measure in MEASURES}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 62rem;
  padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
code {{ font-family: ui-monospace, monospace; overflow-wrap: anywhere; }}
div.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #8886; padding: .25rem .5rem; text-align: right; }}
th {{ font-weight: 600; vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; }}
svg {{ width: 100%; max-width: 46rem; height: auto; }}
</style></head><body>
<h1>Evaluation</h1>
<p><code>{program}</code></p>
{body}
</body></html>
"""


def _table(rows: list[list[str]]) -> str:
    head, *rest = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rest
    )
    return (
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _note(text: str) -> str:
    """A sentence of `notes`, which has Markdown's bold and code."""
    text = escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text, flags=re.DOTALL)


def _part(title: str, picture: str, below: str = "") -> str:
    return f"<h2>{escape(title)}</h2>{picture}{below}" if picture else ""


def _medians(results: Results, names: dict[str, str]) -> dict[str, dict[str, float]]:
    """Mode -> part -> median, for bars."""
    out: dict[str, dict[str, float]] = {}
    for mode in results.settings.modes:
        found = {part: middle(results, mode, _NAMED[name]) for part, name in names.items()}
        out[mode] = {part: value for part, value in found.items() if value is not None}
    return out


def _times(results: Results) -> str:
    """The time of an inference, or of the program where that is all that is known."""
    rows: dict[str, dict[str, float]] = {}
    for mode in results.settings.modes:
        waits = by_round(results, mode, _NAMED["waiting"])
        if waits:
            rows[mode] = _medians(results, {"program": "own", "waiting": "waiting"})[mode]
    if rows:
        return _part(
            "Time from one inference to the next",
            stacked(rows, "ms"),
            "<p>Waiting: its threads wait for results (link, edge and recorder). Program: the "
            "rest, with what it does between two inferences. Of inferences in the later two "
            "thirds of a run.</p>",
        )
    return _part("Time of the whole program", stacked(_medians(results, {"s": "seconds"}), "s"))


def _rounds(results: Results) -> str:
    """Every round's value, for who wants to see how much they vary."""
    name = "latency_median" if source(results) else "seconds"
    measure = _NAMED[name]
    last = max((run["round"] for run in results.runs), default=-1)
    rows = [["mode", *(f"round {n + 1}" for n in range(last + 1))]]
    for mode in results.settings.modes:
        found = by_round(results, mode, measure)
        rows.append([mode, *(number(found.get(n), measure.unit) for n in range(last + 1))])
    return f"<h2>{escape(measure.title)} of each round, {measure.unit}</h2>{_table(rows)}"


def page(results: Results) -> str:
    """The whole page."""
    modes = results.settings.modes
    all_ms = {mode: [v for run in results.of(mode) for v in latencies(run)] for mode in modes}
    parts = [
        _table(table(results)),
        f"<ul>{''.join(f'<li>{_note(note)}</li>' for note in notes(results))}</ul>",
        _part("Latency", cumulative(all_ms, "latency of an inference, ms")),
        _times(results),
        _part(
            "Bytes per inference",
            stacked(_medians(results, {"up": "bytes_up", "down": "bytes_down"}), "bytes"),
        ),
        _part(
            "Bytes on the link, whole program",
            stacked(_medians(results, {"up": "wire_up", "down": "wire_down"}), "bytes"),
        ),
        _part("Round trips per inference", stacked(_medians(results, {"all": "round_trips"}), "")),
        _part("First result after", stacked(_medians(results, {"all": "first"}), "s")),
        _part(
            "The robot's processor time, whole program",
            stacked(
                _medians(results, {"program": "program_cpu", "recorder": "recorder_cpu"}), "s"
            ),
        ),
        _part(
            "The robot's memory",
            stacked(
                _medians(results, {"program": "program_memory", "recorder": "recorder_memory"}),
                "MB",
            ),
        ),
        _rounds(results),
        "<h2>Settings</h2>",
        _table([["what", "value"], *_settings(results)]),
    ]
    return _PAGE.format(
        program=escape(shlex.join(results.settings.program)), body="\n".join(parts)
    )


def _settings(results: Results) -> list[list[str]]:
    rows = []
    for group in (asdict(results.settings), results.on, results.versions):
        for name, value in group.items():
            text = json.dumps(value) if isinstance(value, list) else str(value)
            rows.append([name.replace("_", " "), text])
    loads = [run["load"] for run in results.runs]
    if loads:
        rows.append(["load of the machine", f"{min(loads):.1f} to {max(loads):.1f}"])
    return rows
