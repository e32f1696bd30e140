"""Asking a ROS service: owns the repeating that a lost answer needs.

A client counts a service as ready once it sees the server's two ends. The server may not see the
client's yet, and then drops the answer: Fast DDS waits 100 ms for them, which a busy machine
exceeds (ros2/ros2#1253, ros2/rmw_fastrtps#418). Nobody hears of it but the server's log.
"""

from __future__ import annotations

import queue
import time
from typing import Any

REPEAT_S = 1.0
"""After so long without an answer the question is asked once more."""


def ask(client: Any, request: Any, timeout_s: float) -> Any:
    """Ask until there is an answer.

    Args:
        client: The service's client, of a node that another thread spins.
        request: What may be carried out twice without harm.
        timeout_s: How long at most, waiting for the service included.

    Returns:
        The first answer; None if there was none in time.
    """
    end = time.monotonic() + timeout_s
    if not client.wait_for_service(timeout_sec=timeout_s):
        return None
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    asked: list[Any] = []
    try:
        while (left := end - time.monotonic()) > 0:
            future = client.call_async(request)
            future.add_done_callback(lambda done: answers.put(done.result()))
            asked.append(future)
            try:
                return answers.get(timeout=min(left, REPEAT_S))
            except queue.Empty:
                continue
        return None
    finally:
        for future in asked:
            client.remove_pending_request(future)
