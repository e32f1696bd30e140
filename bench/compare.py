"""Before and after by turns: the measurements of two checkouts in one run, and their ratios.

    bench/compare.py ../before .                    # three turns each, half an hour
    bench/compare.py ../before . --turns 5 --only shim_calls.py

Each checkout is set up already (`make setup-test`) and runs its own bench with its own
environment. A row's value is the median of its turns' medians; the spread is that of the turns,
so a ratio within it says nothing. A bench that fails is told and costs its turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

Turn = dict[str, tuple[float, str]]
"""Name of a row -> (its median, unit)."""


def turn(checkout: Path, bench: str, extra: Sequence[str]) -> Turn:
    """Run a bench of one checkout once, with further options.

    Returns:
        No rows where it failed; it says why.

    Raises:
        SystemExit: Its environment is missing.
    """
    python = checkout / ".venv" / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is missing; run `make setup-test` in {checkout}")
    with tempfile.TemporaryDirectory(prefix="rrto-bench-") as folder:
        out = Path(folder) / "rows.json"
        command = [python, Path("bench") / bench, "--json", out, *extra]
        # Message libraries of another environment that is active would be loaded.
        active = str(Path(os.environ.get("VIRTUAL_ENV", "/nowhere")) / "bin")
        folders = [one for one in os.environ.get("PATH", "").split(os.pathsep) if one != active]
        path = os.pathsep.join((str(python.parent), *folders))
        environment = {**os.environ, "PATH": path}
        environment.pop("VIRTUAL_ENV", None)
        done = subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, check=False,
            env=environment,
        )  # fmt: skip
        if done.returncode:
            sys.stderr.write(f"{checkout}: bench/{bench} failed:\n{done.stdout}{done.stderr}\n")
            return {}
        rows = json.loads(out.read_text())["rows"]
    return {r["name"]: (r["median"], r["unit"]) for r in rows}


def table(before: list[Turn], after: list[Turn]) -> list[str]:
    """Lines of Markdown: each row that both have, with the spread of its turns."""
    lines = ["| measurement | before | after | ratio |", "|---|---|---|---|"]
    for name, (_, unit) in after[-1].items():
        if name not in before[-1]:
            continue
        cells, middles = [], []
        for turns in (before, after):
            values = sorted(each[name][0] for each in turns)
            middles.append(median(values))
            cells.append(f"{middles[-1]:.3g} {unit} ({values[0]:.3g} to {values[-1]:.3g})")
        ratio = f"{middles[1] / middles[0]:.2f}" if middles[0] else "-"
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {ratio} |")
    return lines


def main() -> int:
    """Take turns and print the table; what was measured before Ctrl-C is printed too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another checkout")
    parser.add_argument("--turns", type=int, default=3, help="of each (%(default)s)")
    parser.add_argument("--only", default="run_all.py", help="file of bench/ (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a few iterations, the same path")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter of the nodes of `after`, as authentication=off",
    )  # fmt: skip
    chosen = parser.parse_args()
    if chosen.turns < 1:
        parser.error(f"--turns is {chosen.turns}, want 1 or more")
    before: list[Turn] = []
    after: list[Turn] = []
    try:
        for number in range(1, chosen.turns + 1):
            sys.stderr.write(f"turn {number} of {chosen.turns}\n")
            # Which comes first alternates: a machine that warms up or slows down favours neither.
            smoke = ["--smoke"] * chosen.smoke
            sides = [
                (chosen.before, before, smoke),
                (chosen.after, after, [*smoke, *(f"--set={one}" for one in chosen.set)]),
            ]
            for checkout, turns, extra in sides if number % 2 else sides[::-1]:
                if rows := turn(checkout.resolve(), chosen.only, extra):
                    turns.append(rows)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
    if not before or not after:
        return 130
    print("\n".join(table(before, after)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
