"""The process that carries packets between two TUN devices: owns the forwarding loop.

Started by `link_emulator` with both devices as inherited file descriptors. One thread; it sleeps
in `select`, whose timeout is a high-resolution timer (epoll's would be whole milliseconds).
Commands come as JSON lines on standard input and are answered one line each on standard output:
{"set": {"up": {...}, "down": {...}}} and {"statistics": true}. It ends when its input closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import sys
import time
from collections.abc import Mapping
from typing import Any

from rrto_ros.errors import ConfigError
from rrto_ros.evaluation.link_queue import LinkQueue, LinkSettings

_PACKET_BYTES = 65536
_BURST = 32
_PR_SET_TIMERSLACK = 29


def settings_from(fields: Mapping[str, Any]) -> LinkSettings:
    """LinkSettings from a JSON object.

    Raises:
        ConfigError: An unknown field, or a value out of range.
    """
    try:
        return LinkSettings(**fields)
    except TypeError as error:
        raise ConfigError(f"not the settings of a link: {error}") from None


class Forwarder:
    """Carries packets from device to device as two LinkQueues say.

    Args:
        robot: File descriptor of the robot's TUN device, non-blocking.
        edge: That of the edge's.
        up: The link from robot to edge.
        down: The link from edge to robot.
    """

    def __init__(self, robot: int, edge: int, up: LinkQueue, down: LinkQueue) -> None:
        self.up = up
        self.down = down
        # (read from, queue, write to)
        self._ways = ((robot, up, edge), (edge, down, robot))
        self._late_ns_worst = 0
        self._wakeups = 0
        self._refused = 0

    def step(self, commands: int) -> bool:
        """Sleep until something is to do and do it; returns whether `commands` is readable."""
        wait: float | None = None
        dues = [d for _, queue, _ in self._ways if (d := queue.next_due_ns()) is not None]
        if dues:
            wait = max(0, min(dues) - time.monotonic_ns()) / 1e9
        readable, _, _ = select.select(
            [commands, self._ways[0][0], self._ways[1][0]], [], [], wait
        )
        self._wakeups += 1
        for source, queue, target in self._ways:
            if source in readable:
                self._take(source, queue)
            now = time.monotonic_ns()
            first = queue.next_due_ns()
            if first is None or first > now:
                continue
            self._late_ns_worst = max(self._late_ns_worst, now - first)
            for packet in queue.due(now):
                try:
                    os.write(target, packet)
                except OSError:
                    # The receiving interface is down or its queue is full: the packet is gone.
                    self._refused += 1
        return commands in readable

    def _take(self, source: int, queue: LinkQueue) -> None:
        read, clock = os.read, time.monotonic_ns
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BURST):
                queue.offer(read(source, _PACKET_BYTES), clock())

    def statistics(self) -> dict[str, Any]:
        """Both queues, refused writes, wake-ups and the worst lateness in milliseconds."""
        return {
            "up": self.up.statistics(),
            "down": self.down.statistics(),
            "refused": self._refused,
            "wakeups": self._wakeups,
            "worst_late_ms": self._late_ns_worst / 1e6,
        }

    def answer(self, line: str) -> dict[str, Any]:
        """Carry out one command line; an error is answered, never raised."""
        try:
            command = json.loads(line)
            if not isinstance(command, dict) or not set(command) <= {"set", "statistics"}:
                raise ConfigError(f"unknown command {line.strip()!r}")
            change = command.get("set", {})
            for name, queue in (("up", self.up), ("down", self.down)):
                if name in change:
                    queue.settings = settings_from(change[name])
        except (ConfigError, ValueError) as error:
            return {"error": str(error)}
        return self.statistics() if "statistics" in command else {"ok": True}


def _run(robot: int, edge: int, seed: int, up: LinkSettings, down: LinkSettings) -> None:
    # The default slack of 50 us would be added to every sleep.
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    # A link does not slow down because the machine is busy.
    with contextlib.suppress(PermissionError):
        os.nice(-15)
    os.set_blocking(robot, False)
    os.set_blocking(edge, False)
    forwarder = Forwarder(robot, edge, LinkQueue(up, seed), LinkQueue(down, seed + 1))
    commands = sys.stdin.fileno()
    print(json.dumps({"ok": True}), flush=True)
    pending = b""
    while True:
        if not forwarder.step(commands):
            continue
        got = os.read(commands, 65536)
        if not got:
            return
        *lines, pending = (pending + got).split(b"\n")
        for line in lines:
            print(json.dumps(forwarder.answer(line.decode())), flush=True)


def main() -> None:
    """Entry point: `robot_fd edge_fd seed up_json down_json`."""
    robot, edge, seed = (int(argument) for argument in sys.argv[1:4])
    up, down = (settings_from(json.loads(argument)) for argument in sys.argv[4:6])
    _run(robot, edge, seed, up, down)


if __name__ == "__main__":
    main()
