"""A program whose calls depend on its pictures: what mode replay costs it, beside mode batched.

examples/cascade_cuda_bindings.py on the cpu device, the same pictures in both modes, several times
in turn; of each picture the shortest time counts, so that a busy moment of the machine is not
taken for one of the program. Plans are learnt anew in each run. Target: replay at most 5 % above
batched (median over the pictures).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import HERE, Row, main
from stack import stack

from rrto_ros.errors import UnavailableError

PROGRAM = HERE.parent / "examples" / "cascade_cuda_bindings.py"
ALLOWED = 1.05
MODES = ("batched", "replay")


def times(mode: str, pictures: int, program: Path = PROGRAM) -> tuple[list[float], str]:
    """Milliseconds of each picture, and the digest of all results."""
    learns = {"recorder_replayer": {"plan_cache_bytes": 0}}
    with stack("cpu", mode, parameters=learns) as nodes:
        (line,) = nodes.run([sys.executable, str(program), "--json", "--pictures", str(pictures)])
    return line["milliseconds"], line["digest"]


def cascade(smoke: bool) -> list[Row]:
    """Both modes in turn.

    Raises:
        UnavailableError: A run failed, or the modes do not agree.
    """
    rounds, pictures = (1, 30) if smoke else (5, 200)
    taken: dict[str, list[list[float]]] = {mode: [] for mode in MODES}
    digests = set()
    for _ in range(rounds):
        for mode in MODES:
            each, digest = times(mode, pictures)
            taken[mode].append(each)
            digests.add(digest)
    if len(digests) != 1:
        raise UnavailableError("the modes do not give the same results")
    rows: list[Row] = []
    for mode in MODES:
        best = np.min(taken[mode], axis=0)
        target = ALLOWED * rows[0].median if rows else 0.0
        low, middle, high = (float(np.percentile(best, q)) for q in (10, 50, 99))
        name = f"cascade, a picture, {mode} (cpu)"
        rows.append(Row(name, "ms", middle, low, high, len(best), target))
    return rows


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", [cascade]))
