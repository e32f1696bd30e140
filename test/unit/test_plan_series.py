"""What one program left in the plan cache never changes what another one gets.

RRTO_SERIES=2500 runs so many programs of 40 inferences in each setting, some hours; the short form
is for every change. RRTO_SERIES_SEED is the first program's.
"""

import os

import pytest
from support.series_runs import runs

COUNT = int(os.environ.get("RRTO_SERIES", "0"))
FIRST = int(os.environ.get("RRTO_SERIES_SEED", "1"))


@pytest.mark.timeout(max(300, 5 * COUNT))
@pytest.mark.parametrize(("run_ahead", "programs"), [("auto", 8), ("reads", 1), ("off", 1)])
def test_programs_with_other_memory_are_right_whatever_plans_were_left(
    sockets, run_ahead, programs
):
    count = COUNT or programs
    found = runs(sockets, "strangers.py", "replay", run_ahead, 40, range(FIRST, FIRST + count))
    assert sum(run["references"] for run in found) > 20 * count, "the plans are matched"
    if run_ahead == "auto":
        assert sum(run["speculation_chosen"] for run in found) > 2 * count, (
            "and launches are guessed"
        )
        assert sum(run["speculation_rollbacks"] for run in found) > 0, "sometimes wrongly"
