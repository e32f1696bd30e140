"""What one program left in the plan cache never changes what another one gets.

RRTO_SERIES=2500 runs so many programs of 40 inferences in each setting, some hours; the short form
is for every change.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SERIES = Path(__file__).resolve().parents[1] / "support" / "series.py"
COUNT = int(os.environ.get("RRTO_SERIES", "0"))
FIRST = int(os.environ.get("RRTO_SERIES_SEED", "1"))


@pytest.mark.timeout(max(300, 5 * COUNT))
@pytest.mark.parametrize(("run_ahead", "programs"), [("auto", 12), ("reads", 3), ("off", 2)])
def test_programs_with_other_memory_are_right_whatever_plans_were_left(
    sockets, run_ahead, programs
):
    count = COUNT or programs
    paths = [str(SERIES.parents[2]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(SERIES), str(sockets), run_ahead, "40",
         *map(str, range(FIRST, FIRST + count))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [run for run in runs if run["status"]] == []
    assert done.returncode == 0, done.stderr
    assert len(runs) == count
    assert sum(run["references"] for run in runs) > 20 * count, "the plans are walked"
    if run_ahead == "auto":
        assert sum(run["ahead_chosen"] for run in runs) > 2 * count, "and launches are guessed"
        assert sum(run["ahead_restores"] for run in runs) > 0, "sometimes wrongly"
