"""Waits for the search of sessions, for tests that count what is replayed."""

import time


def thought(host):
    """Wait until the search has seen what was called; that is when nothing else is to do.

    How many inferences are replayed would else depend on what the machine has to do.
    """
    end = time.monotonic() + 10
    for session in host.sessions:
        while (counts := session.statistics())["replay_backlog_bytes"]:
            if counts["replay_search_failure"]:
                break
            assert time.monotonic() < end, counts
            time.sleep(0.002)  # asked all the time, the session would not get its lock
