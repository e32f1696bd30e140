"""A bad network between recorder and server: `relay.py FROM TO SEED DROP DOUBLE SWAP
[DELAY_MS]`.

The recorder is robot FROM's, the server is robot TO's; this program is the server of the one and
the recorder of the other. Of the messages, both ways, it drops, sends twice and swaps with a
later one the given shares (0 to 1); each is under way for DELAY_MS. When its
input ends it prints what it did as a JSON line.
"""

import dataclasses
import json
import queue
import random
import sys
import threading
import time

from rrto_ros.ros.robot_port import RosRobotPort
from rrto_ros.ros.server_port import RosServerPort


class Way:
    """One direction."""

    def __init__(self, send, seed, drop, double, swap, delay_ms=0.0):
        self._deliver = send
        self._delay_s = delay_ms / 1000
        self._under_way = queue.SimpleQueue()
        if delay_ms:
            threading.Thread(target=self._arrive, daemon=True).start()
        self._random = random.Random(seed)
        self._drop, self._double, self._swap = drop, double, swap
        self._kept = []
        self._lock = threading.Lock()
        self.counts = {"passed": 0, "dropped": 0, "doubled": 0, "swapped": 0}

    def _send(self, message):
        if self._delay_s:
            self._under_way.put((time.monotonic() + self._delay_s, message))
        else:
            self._deliver(message)

    def _arrive(self):
        while True:
            at, message = self._under_way.get()
            time.sleep(max(0.0, at - time.monotonic()))
            self._deliver(message)

    def take(self, message):
        """Pass one message on, or not."""
        message = dataclasses.replace(message, data=bytes(message.data))
        with self._lock:
            dice = self._random.random()
            if dice < self._drop:
                self.counts["dropped"] += 1
                return
            if dice < self._drop + self._swap and len(self._kept) < 3:
                self.counts["swapped"] += 1
                self._kept.append(message)
                return
            out = [message, *reversed(self._kept)]
            self._kept.clear()
            if dice > 1 - self._double:
                self.counts["doubled"] += 1
                out.append(message)
            self.counts["passed"] += len(out)
        for one in out:
            self._send(one)


def main():
    near, far, seed, *shares = sys.argv[1:]
    shares = [float(share) for share in shares]
    ways = {}
    robot = RosRobotPort(None, far, lambda m: ways["down"].take(m), name="relay_far")

    def close(session, reason, proof):
        robot.close_session(session, reason, proof)
        return True, ""

    server = RosServerPort(
        None,
        near,
        lambda m: ways["up"].take(m),
        lambda request: robot.open_session(dataclasses.replace(request, robot=far), 10.0),
        close,
        name="relay_near",
    )
    ways["up"] = Way(robot.publish_calls, int(seed), *shares)
    ways["down"] = Way(server.publish_results, int(seed) + 1, *shares)
    print('{"relaying": true}', flush=True)
    sys.stdin.read()
    print(json.dumps({name: way.counts for name, way in ways.items()}), flush=True)
    server.close()
    robot.close()


if __name__ == "__main__":
    main()
