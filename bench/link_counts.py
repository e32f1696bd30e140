"""Tells what the sessions of some recorders did so far: `link_counts.py DOMAIN ROBOT...`.

For every line on standard input one JSON line, {robot: its sessions}, from statuses that were
published after the line came. A session is as its recorder says, and `results_resent` as the
server does.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rrto_ros.ros.client import RECORDER, SERVER, RobotClient

STATUS_S = 20.0


def main() -> None:
    domain, *robots = sys.argv[1:]
    with ExitStack() as stack:
        clients = {robot: stack.enter_context(RobotClient(robot, int(domain))) for robot in robots}
        print("ready", flush=True)
        for _ in sys.stdin:
            asked = time.monotonic()
            found = {}
            for robot, client in clients.items():
                # The first one may have been on its way already.
                for _ in range(2):
                    client.wait(
                        lambda c=client, t=asked: c.status(RECORDER, t) and c.status(SERVER, t),
                        STATUS_S,
                    )
                    since, asked = asked, time.monotonic()
                there, here = client.status(SERVER, since), client.status(RECORDER, since)
                resent = {
                    s["session"]: s["messages_resent"] for s in (there or {}).get("sessions", [])
                }
                found[robot] = [
                    {**s, "results_resent": resent[s["session"]]}
                    for s in (here or {}).get("sessions", [])
                    if s["session"] in resent
                ]
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
