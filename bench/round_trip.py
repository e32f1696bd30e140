"""What waiting for the edge costs: small round trips in mode rpc, an upload with its answer.

DDS alone is measured beside it, with the same nodes and settings, as the part that is not ours.
Targets (loopback, medians): 0.6 ms for a small rpc round trip, 3 ms for a 600 KB upload and a
small answer in mode batched.
"""

from __future__ import annotations

import sys

from common import Row, compiled, driver_calls, main, row, temporary
from dds_echo import dds_alone
from stack import stack

UPLOAD_BYTES = 600_000


def small(smoke: bool, device: str = "null") -> list[Row]:
    """A launch that waits (mode rpc) and a copy of 4 bytes."""
    repeats = 20 if smoke else 2000
    with temporary() as folder, stack(device, "rpc") as nodes:
        measured = driver_calls(nodes, compiled(folder), "round_trip", repeats)
    return [row(f"{name} ({device})", numbers, "ms", 0.6) for name, numbers in measured.items()]


def small_with_results(smoke: bool) -> list[Row]:
    """The same on the cpu device, where results are checked."""
    return small(smoke, "cpu")


def upload(smoke: bool) -> list[Row]:
    """600 KB up, 400 bytes down, on the cpu device, whose answer is checked.

    With ROS's default range of discovery, and with LOCALHOST, which has a profile of its own.
    """
    repeats = 10 if smoke else 400
    rows = []
    ways = (("batched", "SUBNET", 3.0), ("batched", "LOCALHOST", 0.0), ("rpc", "SUBNET", 0.0))
    for mode, discovery, target in ways:
        with temporary() as folder, stack("cpu", mode, discovery=discovery) as nodes:
            measured = driver_calls(nodes, compiled(folder), "upload", repeats, UPLOAD_BYTES)
        rows += [
            row(f"{mode}, {discovery}: 600 KB {name}", numbers, "ms", target)
            for name, numbers in measured.items()
        ]
    return rows


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", [dds_alone, small, small_with_results, upload]))
