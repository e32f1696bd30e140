"""A recorder with few descriptors: `few_descriptors.py SOCKET LIMIT`, an in-process server behind.

Prints one JSON line when it listens; then what happened when its input closes.
"""

import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.echo_server import EchoServer

from rrto_ros.robot.host import RobotHost
from rrto_ros.robot.status import SessionConfig


def main():
    path, limit = Path(sys.argv[1]), int(sys.argv[2])
    host = RobotHost(path, SessionConfig(), 256, lambda _: None, lambda _: None)
    host.activate(EchoServer(host.on_results))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(json.dumps({"listens": True}), flush=True)
    sys.stdin.read()
    print(json.dumps(host.statistics()), flush=True)
    host.close()


if __name__ == "__main__":
    main()
