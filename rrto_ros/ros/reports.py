"""Collects the final reports of the sessions that carry one label."""

from __future__ import annotations

import time
from typing import Any

from rrto_ros.ros.client import RECORDER, RobotClient

REPORT_TIMEOUT_S = 10.0


def collect_reports(
    client: RobotClient, label: str, timeout_s: float = REPORT_TIMEOUT_S
) -> tuple[list[dict[str, Any]], bool]:
    """Wait until the recorder lists no open session with the label, and all their reports are in.

    Call it after the program has ended.

    Args:
        client: Follows the robot since before the program began.
        label: RRTO_LABEL of the program.
        timeout_s: How long at most.

    Returns:
        (the reports in the order of process ids, whether they are all).
    """
    since = time.monotonic()
    seen: set[str] = set()
    rounds: list[float] = []

    def done() -> bool:
        status = client.status(RECORDER, since)
        if status is None:
            return False
        mine = [s for s in status["sessions"] if s["label"] == label]
        seen.update(s["session"] for s in mine)
        if any(s["phase"] != "closed" for s in mine):
            return False
        # A report and the status travel apart: a second status leaves the report time to arrive.
        stamp = status["stamp"]["sec"] + status["stamp"]["nanosec"] * 1e-9
        if not rounds or rounds[-1] != stamp:
            rounds.append(stamp)
        return len(rounds) >= 2 and seen <= {r["session"] for r in client.reports(label)}

    complete = client.wait(done, timeout_s)
    return sorted(client.reports(label), key=lambda r: (r["pid"], r["session"])), complete
