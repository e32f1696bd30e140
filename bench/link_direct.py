"""The non-transparent server of `link_table`: input by topic, the program here, output by topic.

    link_direct.py NETWORK ROBOT

The same program on the same device as behind the offload server, in this one process: the driver
calls reach the device through the shim's ring and nothing else. The answer begins with two numbers
(float64): the seconds that the inference took here, and those of the device.
"""

from __future__ import annotations

import argparse
import os
import queue
import struct
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from link_models import NETWORKS, load
from local_device import LocalDevice

from rrto_ros.devices.cpu.device import CpuDevice
from rrto_ros.ros.context import use_profile
from rrto_ros.ros.server_port import RosServerPort
from rrto_ros.wire.port import CallsMessage, OpenAnswer, ResultsMessage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("robot")
    options = parser.parse_args()
    network = NETWORKS[options.network]
    device = LocalDevice(CpuDevice(), Path(os.environ["RRTO_SOCKET"]))
    infer = load(options.network)
    use_profile()
    inbox: queue.SimpleQueue[CallsMessage] = queue.SimpleQueue()
    port = RosServerPort(
        None, options.robot, inbox.put, lambda _: OpenAnswer(False, "no sessions here"),
        lambda *_: (False, ""), "direct_server",
    )  # fmt: skip
    print("ready", flush=True)
    try:
        while True:
            message = inbox.get()
            answer = b""
            if len(message.data):
                # tinygrad wants memory that could be written to.
                given = np.frombuffer(bytearray(message.data), network.dtype)
                given = given.reshape(network.shape)
                busy, started = device.statistics()["busy_s"], time.perf_counter()
                out = infer(given)
                seconds = time.perf_counter() - started
                busy = device.statistics()["busy_s"] - busy
                answer = struct.pack("<2d", seconds, busy) + out.tobytes()
            port.publish_results(
                ResultsMessage(message.session, message.sequence, 0, 0, (), 0, answer)
            )
    finally:
        port.close()
        device.close()


if __name__ == "__main__":
    main()
