"""What the measurements share: rows with targets, the command line, table and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from stack import NODES, SETTINGS, Running, compile_c  # noqa: E402

from rrto_ros.errors import RrtoError  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One measured value.

    Attributes:
        name: What was measured, under which mode and device.
        unit: "ns" or "ms".
        median: Of the samples.
        p10: 10th percentile: what a busy machine shows of its quiet moments.
        p99: 99th percentile.
        samples: How many.
        target: Wanted upper bound of the median, 0 for none.
    """

    name: str
    unit: str
    median: float
    p10: float
    p99: float
    samples: int
    target: float = 0.0

    @property
    def ratio(self) -> float | None:
        """Median by target; at most 1 is wanted."""
        return self.median / self.target if self.target else None


Measure = Callable[[bool], list[Row]]
"""Takes whether only a few iterations are wanted."""


def driver_calls(stack: Running, program: Path, *arguments: object) -> dict[str, dict[str, float]]:
    """Run bench/driver_calls.c over a stack; {name of the measurement: its numbers}.

    Raises:
        UnavailableError: It failed, for one because results were wrong.
    """
    lines = stack.run([str(program), *map(str, arguments)])
    return {str(line["name"]): line for line in lines}


def row(name: str, measured: dict[str, float], unit: str = "ns", target: float = 0.0) -> Row:
    """A row from one line of bench/driver_calls.c."""
    scale = 1e6 if unit == "ms" else 1.0
    median, p10, p99 = (measured[f"{which}_ns"] / scale for which in ("median", "p10", "p99"))
    return Row(name, unit, median, p10, p99, int(measured["samples"]), target)


def compiled(folder: str) -> Path:
    """bench/driver_calls.c, built into `folder`."""
    return compile_c(HERE / "driver_calls.c", Path(folder))


def show(rows: Sequence[Row]) -> None:
    """Print the rows as one table."""
    width = max([len(r.name) for r in rows], default=10)
    print(
        f"{'measurement':{width}}  {'median':>12} {'10 %':>12} {'99 %':>12} {'samples':>8}  "
        "target    ratio"
    )
    for r in rows:
        goal = f"{r.target:g} {r.unit}" if r.target else "-"
        ratio = f"{r.ratio:.2f}{'' if r.ratio <= 1 else '  missed'}" if r.ratio is not None else ""
        numbers = " ".join(f"{value:9.3f} {r.unit}" for value in (r.median, r.p10, r.p99))
        print(f"{r.name:{width}}  {numbers} {r.samples:8}  {goal:9} {ratio}")
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > cores / 2:
        print(f"the machine is busy (load {busy:.1f} on {cores} cores): times are too long")


def machine() -> dict[str, object]:
    """What the numbers were taken on; figures of different machines do not compare."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def main(description: str, measures: Sequence[Measure]) -> int:
    """The command line of a measurement.

    Returns:
        0 measured (whatever the times), 1 failed or wrong results.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="a few iterations, the same path")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter of the nodes that have it, as resume=off",
    )  # fmt: skip
    options = parser.parse_args()
    for setting in options.set:
        name, _, value = setting.partition("=")
        if not any(name in node for node in NODES.values()):
            parser.error(f"--set {setting}: no node has a parameter {name!r}")
        SETTINGS[name] = value
    rows: list[Row] = []
    code = 0
    for measure in measures:
        try:
            rows += measure(options.smoke)
        except RrtoError as error:
            print(f"{measure.__module__}.{measure.__name__}: {error}", file=sys.stderr)
            code = 1
    show(rows)
    if options.json:
        body = {"on": machine(), "smoke": options.smoke, "rows": [asdict(r) for r in rows]}
        options.json.write_text(json.dumps(body, indent=1) + "\n")
    return code


def temporary() -> tempfile.TemporaryDirectory[str]:
    """A folder for a built program."""
    return tempfile.TemporaryDirectory(prefix="rrto-bench-")
