"""Starts support/series.py and reads what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

SERIES = Path(__file__).resolve().parent / "series.py"


def runs(folder, program, mode, run_ahead, inferences, seeds):
    """One dictionary for each seed; see series.py.

    Raises:
        AssertionError: A program found a difference, or the recorder and device ended.
    """
    paths = [str(SERIES.parents[2]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(SERIES), str(folder), program, mode, run_ahead, str(inferences),
         *map(str, seeds)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [run for run in found if run["status"]]
    assert not wrong, "\n\n".join(f"seed {run['seed']}: {run['said']}" for run in wrong)
    assert done.returncode == 0, done.stderr
    assert len(found) == len(seeds)
    return found
