"""A stranger on the domain that orders all sessions to move, as fast as it is answered.

order_moves.py ROBOT SECONDS
"""

import os
import sys
import time

from rrto_ros.ros.client import RobotClient
from rrto_ros.wire.port import domain_number

robot, seconds = sys.argv[1], float(sys.argv[2])
orders = taken = 0
with RobotClient(robot, domain_number(os.environ.get("ROS_DOMAIN_ID"))) as client:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in ("", "east", "west"):
            told, _ = client.move("", name)
            orders += 1
            taken += told
print(f"{orders} orders, {taken} taken", flush=True)
