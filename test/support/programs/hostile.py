"""A hostile node on the call topics: `hostile.py ROBOT`, commanded by lines on its input.

It learns the session id from the calls that it overhears. Commands, each answered by one JSON
line: unknown, oversized, far, old, replay, garbage_ahead, garbage_next, sealed_next, acknowledge,
results, closed, close, open, find:HEX (whether it has heard these bytes), listen.
"""

import array
import json
import os
import sys
import threading
import time

import numpy as np
import rclpy

from rrto_msgs.msg import CallBatch, CallResult
from rrto_msgs.srv import CloseSession, OpenSession
from rrto_ros.ros.participant import call_qos
from rrto_ros.wire.format import PROTOCOL_VERSION, TABLE_HASH
from rrto_ros.wire.port import topic


class Hostile:
    """Knows the last calls message and makes bad ones from it."""

    def __init__(self, robot):
        self.node = rclpy.create_node("hostile")
        calls = topic(robot, "call_batches")
        self.calls = self.node.create_publisher(CallBatch, calls, call_qos())
        self.results = self.node.create_publisher(
            CallResult, topic(robot, "call_results"), call_qos()
        )
        self.heard = []
        self.bytes_heard = []
        self.told = {}
        self.mine = set()
        self.know = threading.Event()
        self.node.create_subscription(CallBatch, calls, self.overhear, call_qos())
        self.node.create_subscription(
            CallResult,
            topic(robot, "call_results"),
            lambda m: self.bytes_heard.append(bytes(m.data)),
            call_qos(),
        )
        self.robot = robot
        self.closer = self.node.create_client(CloseSession, topic(robot, "close_session"))
        self.opener = self.node.create_client(OpenSession, topic(robot, "open_session"))

    def overhear(self, message):
        """Remember what others sent, with data only."""
        own = (message.sequence, bytes(message.data)) in self.mine
        if not own:
            self.bytes_heard.append(bytes(message.data))
        if not own and not message.flags & CallBatch.ACK_ONLY:
            self.heard.append(message)
            self.know.set()

    def heard_by(self, name):
        """Whether the node of that name gets the calls from now on."""
        return name in {
            one.node_name
            for one in self.node.get_subscriptions_info_by_topic(self.calls.topic_name)
        }

    def results_heard(self):
        """Whether the recorder, if any is wanted, listens to results."""
        return "--server-only" in sys.argv or self.results.get_subscription_count() > 0

    def ask(self, client, request):
        """The server's answer, as what it says."""
        answered = threading.Event()
        client.wait_for_service()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        answered.wait()
        answer = future.result()
        self.told = {"reason": answer.reason}
        for name in ("accepted", "closed"):
            if hasattr(answer, name):
                self.told["done"] = getattr(answer, name)

    def send(self, sequence, data, session=None, flags=0, results_ack=0, seal=0):
        """Publish one calls message."""
        out = CallBatch()
        known = self.heard[-1].session if session is None else np.frombuffer(session, np.uint8)
        out.session = known
        out.sequence, out.flags, out.results_ack = sequence, flags, results_ack
        out.seal = seal
        out.data = array.array("B", data)
        self.mine.add((sequence, bytes(data)))
        self.calls.publish(out)

    def act(self, command):
        """Do one bad thing."""
        newest = self.heard[-1].sequence if self.heard else 0
        if command == "unknown":
            self.send(1, os.urandom(256), session=b"\x11" * 16)
        elif command == "oversized":
            self.send(newest + 1, bytes(9 << 20))
        elif command == "far":
            self.send(newest + 1_000_000, bytes(64))
        elif command == "old":
            self.send(1, os.urandom(64))
        elif command == "replay":
            for message in list(self.heard):
                self.mine.add((message.sequence, bytes(message.data)))
                self.calls.publish(message)
        elif command == "garbage_ahead":
            self.send(newest + 500, os.urandom(333))
        elif command == "garbage_next":
            self.send(newest + 1, os.urandom(336))
        elif command == "sealed_next":
            self.send(newest + 1, os.urandom(336), seal=self.heard[-1].seal + 1)
        elif command == "closed":
            out = CallResult()
            out.session = self.heard[-1].session
            out.flags = CallResult.ACK_ONLY | CallResult.CLOSED
            self.results.publish(out)
        elif command == "close":
            request = CloseSession.Request()
            request.session, request.reason = self.heard[-1].session, "hostile"
            self.ask(self.closer, request)
        elif command == "open":
            request = OpenSession.Request()
            request.session = np.frombuffer(b"h" * 16, np.uint8)
            request.protocol_version, request.robot = PROTOCOL_VERSION, self.robot
            request.table_hash = np.frombuffer(TABLE_HASH, np.uint8)
            self.ask(self.opener, request)
        elif command.startswith("find:"):
            wanted = bytes.fromhex(command[5:])
            self.told = {"found": sum(wanted in data for data in self.bytes_heard)}
        elif command == "acknowledge":
            self.send(newest, b"", flags=CallBatch.ACK_ONLY, results_ack=1 << 40)
        elif command == "results":
            out = CallResult()
            out.session = self.heard[-1].session
            out.sequence, out.batches_ack = 1 << 40, 1 << 50
            out.missing = array.array("Q", [1 << 60, 0])
            out.data = array.array("B", os.urandom(100))
            self.results.publish(out)
        else:
            raise SystemExit(f"unknown command {command!r}")


def main():
    rclpy.init()
    hostile = Hostile(sys.argv[1])
    threading.Thread(target=rclpy.spin, args=(hostile.node,), daemon=True).start()
    while not (hostile.heard_by("offload_server_data") and hostile.results_heard()):
        # DDS has no event for a match in rclpy.
        time.sleep(0.01)
    print('{"hostile": true}', flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "listen":
            hostile.know.wait()
        else:
            hostile.act(command)
        told, hostile.told = hostile.told, {}
        print(json.dumps({"did": command, "heard": len(hostile.heard), **told}), flush=True)
    rclpy.shutdown()


if __name__ == "__main__":
    main()
