"""What a driver call costs the program: answered locally, and recorded (mode batched).

Targets: 100 ns for a call that the shim answers, 1 us for a recorded launch (medians).
"""

from __future__ import annotations

import sys

from common import Row, compiled, driver_calls, main, row, temporary

from rrto_ros.evaluation.stack import stack


def shim_calls(smoke: bool) -> list[Row]:
    """Local calls and launches into the ring, over a null device."""
    repeats = 5 if smoke else 400
    with temporary() as folder, stack("null", "batched") as nodes:
        program = compiled(folder)
        local = driver_calls(nodes, program, "local", repeats)
        launch = driver_calls(nodes, program, "launch", repeats)
    return [
        *(row(f"local {name}", measured, target=100.0) for name, measured in local.items()),
        *(row(f"recorded {name}", measured, target=1000.0) for name, measured in launch.items()),
    ]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", [shim_calls]))
