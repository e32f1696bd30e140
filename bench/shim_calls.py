"""What a driver call costs the program: answered locally, recorded (mode batched), and replayed.

Targets: 100 ns for a call that the shim answers and for one of a plan (mode replay), 1 us for a
recorded launch (medians).
"""

from __future__ import annotations

import sys

from common import Row, compiled, driver_calls, main, row, temporary
from stack import stack


def shim_calls(smoke: bool) -> list[Row]:
    """Local calls, launches into the ring, and launches of a plan, over a null device."""
    repeats = 5 if smoke else 400
    with temporary() as folder, stack("null", "batched") as nodes:
        program = compiled(folder)
        local = driver_calls(nodes, program, "local", repeats)
        launch = driver_calls(nodes, program, "launch", repeats)
    with temporary() as folder, stack("null", "replay") as nodes:
        program = compiled(folder)
        replayed = driver_calls(nodes, program, "inference", 20 if smoke else 2000)
    return [
        *(row(f"local {name}", measured, target=100.0) for name, measured in local.items()),
        *(row(f"recorded {name}", measured, target=1000.0) for name, measured in launch.items()),
        *(row(f"replayed {name}", measured, target=100.0) for name, measured in replayed.items()),
    ]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", [shim_calls]))
