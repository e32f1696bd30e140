"""`rrto compare`: owns its arguments, its help and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rrto_ros.cli.arguments import FAILED
from rrto_ros.errors import ConfigError


def print_cells(rows: list[list[str]], left: int) -> None:
    """Print cells, of which so many columns have words."""
    from rich import box
    from rich.table import Table

    from rrto_ros.cli.console import out

    head, *rest = rows
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, title in enumerate(head):
        shown.add_column(title, justify="left" if place < left else "right")
    for row in rest:
        shown.add_row(*row)
    out.print(shown)


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="results.json, or its folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The other one.")],
    fail_over: Annotated[
        float | None,
        typer.Option(
            help="Exit with 1 where B is worse by more than so many per cent, and by "
            "more than the rounds differ."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two evaluations: ratios of each mode and measure, and which are more than spread."""
    if fail_over is not None and not 0 <= fail_over <= 1e6:
        raise ConfigError(f"--fail-over is {fail_over:g} %, want 0 or more")
    from rrto_ros.cli.console import note, out, print_json
    from rrto_ros.evaluation.comparison import cautions, rows
    from rrto_ros.evaluation.comparison import compare as compared
    from rrto_ros.evaluation.results import read

    pair = read(before), read(after)
    found = compared(*pair)
    if as_json:
        print_json([
            {"mode": one.mode, "measure": one.measure.name, "before": one.before,
             "after": one.after, "ratio": one.ratio, "spread": one.spread, "counts": one.counts}
            for one in found
        ])  # fmt: skip
    else:
        print_cells(rows(found), left=2)
        out.print(
            "Medians of the rounds; less is better. `less` and `more`: no round of one lies "
            "between rounds of the other, and the medians are farther apart than any two rounds. "
            "`replay : rpc`: ratio within each round."
        )
    for text in cautions(*pair):
        note(text)
    if fail_over is not None:
        worse = [one for one in found if one.over(fail_over)]
        for one in worse:
            note(f"{one.mode}, {one.measure.title}: {one.ratio or 0:.3f} times as much")
        raise typer.Exit(FAILED if worse else 0)
