"""Print every status message of a robot's nodes as a JSON line: `status_watch.py ROBOT`.

The final reports of its sessions too, as {"report": ...}, and what is said on /diagnostics, as
{"diagnostics": ...}.
"""

import contextlib
import json
import sys

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from rrto_msgs.msg import SessionStatus, Status
from rrto_ros.wire.port import topic


def plain(value):
    """A message as JSON can say it."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if hasattr(value, "tobytes"):
        return value.tobytes().hex()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def show(message):
    """One line per message."""
    print(json.dumps(plain(message)), flush=True)


def report(message):
    """One line per session that ended."""
    print(json.dumps({"report": plain(message)}), flush=True)


def diagnosed(message):
    """One line per status in it."""
    for one in message.status:
        level = int.from_bytes(one.level, "little")
        line = {"name": one.name, "level": level, "message": one.message}
        print(json.dumps({"diagnostics": line}), flush=True)


rclpy.init()
node = rclpy.create_node("status_watch")
quality = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
node.create_subscription(Status, topic(sys.argv[1], "status"), show, quality)
lasting = QoSProfile(depth=64, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(SessionStatus, topic(sys.argv[1], "reports"), report, lasting)
node.create_subscription(DiagnosticArray, "/diagnostics", diagnosed, quality)
print('{"watching": true}', flush=True)
with contextlib.suppress(KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    rclpy.spin(node)
