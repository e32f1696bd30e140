"""The robot's program of `link_table`: runs blocks of inferences as it is told, and times them.

    link_robot.py NETWORK [--direct ROBOT]

A line "FIRST COUNT" on standard input runs so many inferences, the first on input FIRST; a JSON
line answers. With --direct the inferences are made by `link_direct` behind a topic.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from link_models import NETWORKS, Array, Network, load

ANSWER_S = 120.0


class DirectClient:
    """Inferences by topic: the input goes out, the output comes back."""

    def __init__(self, robot: str) -> None:
        import queue

        from rrto_ros.ros.context import use_profile
        from rrto_ros.ros.robot_port import RosRobotPort

        use_profile()
        self._answers: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._port = RosRobotPort(
            None, robot, lambda m: self._answers.put((m.sequence, bytes(m.data))), "direct_client"
        )
        self.session = os.urandom(16)
        self.messages = self.sent = self.received = 0
        self.compute_s: list[float] = []
        self.device_s: list[float] = []
        end = time.monotonic() + ANSWER_S
        while time.monotonic() < end:
            # What is sent before the topics are matched is lost.
            self._publish(0, b"")
            try:
                self._answers.get(timeout=0.5)
            except queue.Empty:
                continue
            break
        else:
            raise SystemExit("the direct server does not answer")

    def _publish(self, number: int, data: bytes) -> None:
        from rrto_ros.wire.port import CallsMessage

        self._port.publish_calls(CallsMessage(self.session, number, 0, 0, data))

    def __call__(self, given: Array) -> Array:
        data = given.tobytes()
        self.messages += 1
        self._publish(self.messages, data)
        number = 0
        while number != self.messages:
            # An answer to what was sent at the start may still come.
            number, answer = self._answers.get(timeout=ANSWER_S)
        self.sent += len(data)
        self.received += len(answer)
        compute_s, device_s = np.frombuffer(answer, np.float64, 2)
        self.compute_s.append(float(compute_s))
        self.device_s.append(float(device_s))
        return np.frombuffer(answer, np.uint8, offset=16)


def block(
    network: Network, infer: Callable[[Array], Array], first: int, count: int
) -> dict[str, object]:
    """Run and time `count` inferences."""
    inputs = [network.input(first + k) for k in range(count)]
    outputs, seconds = [], []
    cpu = time.process_time()
    for given in inputs:
        started = time.perf_counter()
        outputs.append(infer(given))
        seconds.append(time.perf_counter() - started)
    cpu = time.process_time() - cpu
    digests = [hashlib.sha256(out.tobytes()).hexdigest()[:16] for out in outputs]
    return {
        "latency_s": seconds,
        "cpu_s": cpu,
        "digests": digests,
        "output_bytes": outputs[0].nbytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--direct", metavar="ROBOT")
    options = parser.parse_args()
    direct = DirectClient(options.direct) if options.direct else None
    infer = direct or load(options.network)
    print(json.dumps({"loaded": True}), flush=True)
    for line in sys.stdin:
        first, count = map(int, line.split())
        before = (direct.messages, direct.sent, direct.received) if direct else ()
        measured = block(NETWORKS[options.network], infer, first, count)
        if direct:
            measured["messages"] = direct.messages - before[0]
            measured["sent"] = direct.sent - before[1]
            measured["received"] = direct.received - before[2]
            measured["compute_s"] = direct.compute_s[-count:]
            measured["device_s"] = sum(direct.device_s[-count:])
        print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
