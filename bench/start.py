"""How long `rrto run` takes where nothing runs: to begin the program, to its session, in all.

    bench/start.py 1000                     # three quarters of an hour
    bench/start.py 100 --json starts.json

Each start has a session: the program is a call of cuInit. Everything is on one machine, in the
ROS domain of the environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from stack import compile_c  # noqa: E402

RRTO = [sys.executable, "-m", "rrto_ros.cli.main", "run", "--quiet", "--"]
PATIENCE_S = 120.0
COLUMNS = ("program begins", "has a session", "all is over")
SLOW_S = 3.0
"""Of a start that takes longer to its session, what `rrto run` said is printed."""


def start(program: Path, environment: dict[str, str]) -> tuple[list[float], str]:
    """One start: the times of `COLUMNS` in seconds and what was said; no times if it failed."""
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [*RRTO, str(program)], env=environment, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False, cwd=HERE.parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [], f"not over within {PATIENCE_S:g} s"
    end = time.monotonic()
    words = done.stdout.split()
    if done.returncode or len(words) != 3 or words[2] != "0":
        return [], f"exit code {done.returncode}: {done.stdout[-200:]} {done.stderr[-600:]}"
    times = [int(word) / 1e9 - begin for word in words[:2]]
    return [*times, end - begin], done.stderr


def _progress(done: int, wanted: int, begin: float) -> None:
    """A line on stderr: rewritten on a terminal, every hundred starts elsewhere."""
    terminal = sys.stderr.isatty()
    if not terminal and done % 100:
        return
    left = (time.monotonic() - begin) / done * (wanted - done)
    line = f"{done} of {wanted} starts, about {left / 60:.0f} min left"
    sys.stderr.write(f"\r{line}  " if terminal and done < wanted else f"{line}\n")
    sys.stderr.flush()


def quantile(values: list[float], share: float) -> float:
    """A value of the sorted list."""
    return values[min(int(len(values) * share), len(values) - 1)]


def main() -> int:
    """Start and count; 1 if a start failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("starts", type=int, nargs="?", default=20)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows: list[list[float]] = []
    failures: list[str] = []
    anew = 0
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rrto-") as folder:
        program = compile_c(HERE / "start_program.c", Path(folder))
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder, "RRTO_ROBOT": "start"}
        for name in ("RRTO_SOCKET", "RRTO_LABEL"):
            environment.pop(name, None)
        # The first one builds and caches what is missing.
        start(program, environment)
        # What was measured before Ctrl-C counts.
        with contextlib.suppress(KeyboardInterrupt):
            while len(rows) + len(failures) < chosen.starts:
                times, said = start(program, environment)
                if times:
                    rows.append(times)
                else:
                    failures.append(said)
                anew += "starting anew" in said
                count = len(rows) + len(failures)
                if not times or times[1] > SLOW_S:
                    what = f"took {times[1]:.2f} s" if times else "failed"
                    sys.stderr.write(f"start {count} {what}: {said.strip()}\n")
                _progress(count, chosen.starts, begin)
                if time.monotonic() - begin > chosen.minutes * 60:
                    break
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{len(rows) + len(failures)} starts, {len(failures)} failed, {anew} with a node "
          f"started anew; {os.cpu_count()} cores, load {load} at the end")  # fmt: skip
    for column, name in enumerate(COLUMNS):
        values = sorted(row[column] for row in rows)
        if values:
            low, middle, high = (quantile(values, share) for share in (0.1, 0.5, 0.99))
            print(f"{name:15} median {middle:.2f} s, 10 % {low:.2f}, 99 % {high:.2f}, "
                  f"longest {values[-1]:.2f}")  # fmt: skip
    if chosen.json is not None:
        found = {"columns": COLUMNS, "starts": rows, "failures": failures}
        chosen.json.write_text(json.dumps(found) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
