"""Host memory of every kind has what CUDA's order says, in every mode.

RRTO_HOST_MEMORY=100 runs so many programs of 100 inferences in each mode; the short form has some
hundreds of inferences in all. RRTO_HOST_MEMORY_SEED is the first program's.
"""

import os

import pytest
from support.series_runs import runs

COUNT = int(os.environ.get("RRTO_HOST_MEMORY", "0"))
FIRST = int(os.environ.get("RRTO_HOST_MEMORY_SEED", "1"))


@pytest.mark.timeout(max(300, 30 * COUNT))
@pytest.mark.parametrize(
    ("mode", "run_ahead"),
    [("rpc", "off"), ("batched", "off"), ("replay", "off"), ("replay", "reads"),
     ("replay", "auto")],
)  # fmt: skip
def test_every_byte_is_that_of_plain_execution(sockets, mode, run_ahead):
    count, inferences = (COUNT, 100) if COUNT else (2, 30)
    runs(sockets, "host_memory.py", mode, run_ahead, inferences, range(FIRST, FIRST + count))
