"""What DDS alone takes for the messages of `round_trip`: a reference without shim and device.

Two processes with the package's own ports and no session between them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from common import Row, row

from rrto_ros.bringup.environment import node_environment
from rrto_ros.errors import UnavailableError
from rrto_ros.ros.context import use_profile
from rrto_ros.wire.port import CallsMessage, OpenAnswer, OpenRequest, ResultsMessage

SESSION = bytes(range(16))
ANSWER_BYTES = 400
SIZES = {"DDS alone: echo of 200 bytes": 200, "DDS alone: 600 KB up, 400 bytes back": 600_000}


def serve(robot: str) -> None:
    """Answer every message with its first 400 bytes, until standard input closes."""
    from rrto_ros.ros.server_port import RosServerPort

    ports: list[RosServerPort] = []

    def echo(m: CallsMessage) -> None:
        answer = bytes(m.data[:ANSWER_BYTES])
        ports[0].publish_results(ResultsMessage(m.session, m.sequence, 0, 0, (), 0, answer))

    ports.append(
        RosServerPort(
            None, robot, echo, lambda _: OpenAnswer(False, "echo"), lambda *_: (False, "")
        )
    )
    sys.stdin.read()
    ports[0].close()


def probe(robot: str, repeats: int) -> None:
    """Print one line per size, like bench/driver_calls.c."""
    import json
    import statistics

    from rrto_ros.ros.robot_port import RosRobotPort

    answered = threading.Event()
    port = RosRobotPort(None, robot, lambda _: answered.set())
    # The answer shows that both sides know each other's services; the topics follow.
    port.open_session(OpenRequest(SESSION, robot, "", "", os.getpid()), 20.0)
    for name, size in SIZES.items():
        times = []
        for number in range(repeats + 10):
            data = number.to_bytes(8, "little") * (size // 8)
            start = time.perf_counter_ns()
            for _ in range(20):
                answered.clear()
                port.publish_calls(CallsMessage(SESSION, number, 0, 0, data))
                # Lost only before the topics are matched.
                if answered.wait(0.5):
                    break
            times.append(time.perf_counter_ns() - start)
        times = sorted(times[10:])
        numbers = {
            "name": name,
            "median_ns": statistics.median(times),
            "p10_ns": times[len(times) // 10],
            "p99_ns": times[len(times) * 99 // 100],
            "samples": len(times),
        }
        print(json.dumps(numbers), flush=True)
    port.close()


def dds_alone(smoke: bool) -> list[Row]:
    """Both sizes.

    Raises:
        UnavailableError: The two processes did not find each other.
    """
    import json

    robot = f"echo{os.getpid()}"
    env = {
        **os.environ,
        **node_environment(),
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 101),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
    }
    command = [sys.executable, __file__]
    with subprocess.Popen([*command, "serve", robot], env=env, stdin=subprocess.PIPE) as server:
        try:
            done = subprocess.run(
                [*command, "probe", robot, str(10 if smoke else 1000)],
                env=env, capture_output=True, text=True, timeout=200, check=False,
            )  # fmt: skip
        finally:
            assert server.stdin is not None
            server.stdin.close()
    if done.returncode:
        raise UnavailableError(f"the echo failed: {done.stderr[-1000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [row(line["name"], line, "ms") for line in lines]


if __name__ == "__main__":
    use_profile()
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        probe(sys.argv[2], int(sys.argv[3]))
