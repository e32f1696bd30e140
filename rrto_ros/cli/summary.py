"""Sums up the sessions of a run: the table at the end of `rrto run`, and its JSON."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from rrto_ros.api.runtime_tables import VALIDITY_REFUSED, VALIDITY_VARIABLE

Plain = dict[str, Any]

_SUMS = (
    "calls_local", "calls_async", "calls_sync", "calls_unsupported", "round_trips", "batches",
    "messages_sent", "messages_received", "messages_resent", "messages_refused", "bytes_sent",
    "bytes_received", "blob_bytes_saved", "wait_s",
)  # fmt: skip
MOST_CALLS = 8
HINTS = {
    VALIDITY_REFUSED: (
        "This program uses NVIDIA's CUDA runtime library, whose check that the driver is NVIDIA's "
        f"was not answered. To have it answered: rrto run --cuda-runtime, or {VALIDITY_VARIABLE}=1"
        " (docs/cuda_runtime.md). That is for you to decide; NVIDIA's licence terms apply."
    ),
}
"""Refusal -> what a user can do."""


def counts(entries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """A list of CallCount as {name: count}, most frequent first."""
    total: Counter[str] = Counter()
    for entry in entries:
        total[str(entry["name"])] += int(entry["count"])
    return dict(total.most_common())


def named(entries: Mapping[str, int]) -> list[str]:
    """Names with their counts; what is more than a name is told apart from its count."""
    return [
        f"{name} {count:,}" if " " not in name else f"{name} ({count:,} x)"
        for name, count in entries.items()
    ]


def totals(sessions: Iterable[Plain]) -> Plain:
    """Sums over sessions, with the calls by name."""
    found = list(sessions)
    out: Plain = {name: sum(s[name] for s in found) for name in _SUMS}
    for name in ("calls", "unsupported"):
        out[name] = counts(itertools.chain.from_iterable(s[name] for s in found))
    out["sessions"] = len(found)
    return out


def report(
    command: list[str], exit_code: int, seconds: float, sessions: list[Plain], complete: bool
) -> Plain:
    """The JSON report of a run.

    Args:
        command: The program's command line.
        exit_code: Of the program.
        seconds: Its wall time.
        sessions: Final reports, fields as in SessionStatus.msg.
        complete: Whether the reports of all sessions arrived.
    """
    listed = [
        {**s, "calls": counts(s["calls"]), "unsupported": counts(s["unsupported"])}
        for s in sessions
    ]
    return {
        "command": command,
        "exit_code": exit_code,
        "seconds": seconds,
        "complete": complete,
        "sessions": listed,
        "totals": totals(sessions),
    }


def human_bytes(count: float) -> str:
    """1234567 -> 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def summary_table(result: Plain) -> Table:
    """The table that ends `rrto run` and `rrto demo`, from `report`'s value."""
    total, sessions = result["totals"], result["sessions"]
    table = Table(title="driver calls of this run", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    modes = ", ".join(sorted({f"{s['mode']} on {s['device']}" for s in sessions})) or "none"
    table.add_row("sessions", f"{total['sessions']} ({modes})")
    table.add_row(
        "calls",
        f"{total['calls_local']:,} answered locally, {total['calls_async']:,} asynchronous, "
        f"{total['calls_sync']:,} synchronous, {total['calls_unsupported']:,} unsupported",
    )
    most = list(total["calls"].items())[:MOST_CALLS]
    table.add_row("most frequent", ", ".join(f"{name} {count:,}" for name, count in most) or "-")
    table.add_row("round trips", f"{total['round_trips']:,} in {total['batches']:,} batches")
    table.add_row(
        "network",
        f"{human_bytes(total['bytes_sent'])} sent, {human_bytes(total['bytes_received'])} "
        f"received, {human_bytes(total['blob_bytes_saved'])} not sent again",
    )
    table.add_row("time waiting", f"{total['wait_s']:.3f} s of {result['seconds']:.3f} s")
    bad = total["unsupported"]
    table.add_row("unsupported", "\n".join(map(escape, named(bad))) or "none")
    for refusal, hint in HINTS.items():
        if refusal in bad:
            table.add_row("[yellow]hint[/yellow]", escape(hint))
    for session in sessions:
        if session["error"]:
            table.add_row("[red]error[/red]", str(session["error"]).replace("[", "\\["))
    if not result["complete"]:
        table.add_row("[yellow]note[/yellow]", "not all reports arrived: numbers are too small")
    return table
