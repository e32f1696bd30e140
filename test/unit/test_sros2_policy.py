"""The example policy for SROS 2: it names what the nodes use, in the right direction."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "config" / "sros2_policy.xml"
PREFIX = "/robot/rrto/"


def named(enclave, kind, **direction):
    """Topics or services below the robot's prefix that an enclave may use."""
    profiles = ET.parse(POLICY).getroot().findall(f".//enclave[@path='/rrto/{enclave}']//{kind}s")
    (key, value), *_ = direction.items()
    return {
        one.text.removeprefix(PREFIX)
        for group in profiles if group.get(key) == value
        for one in group.findall(kind) if one.text.startswith(PREFIX)
    }  # fmt: skip


def used(path, call):
    """Names of the topics or services that a source makes with a call."""
    text = (ROOT / "rrto_ros" / path).read_text()
    found = re.findall(rf'{call}\([^()]*?topic\((?:self\._)?robot, "(\w+)"\)', text)
    if call == "create_subscription" and path.startswith("ros/"):
        found += re.findall(r'TakeThread\([^()]*?topic\(robot, "(\w+)"\)', text)
    return set(found)


def test_the_edge_may_do_what_the_server_does_and_no_more():
    port = "ros/server_port.py"
    node = (ROOT / "rrto_ros/nodes/offload_server.py").read_text()
    assert 'status_topic = topic(self._robot, "status")' in node
    published = used(port, "create_publisher") | {"status"}
    assert named("edge", "topic", publish="ALLOW") == published
    heard = used(port, "create_subscription") | {"status"}
    assert named("edge", "topic", subscribe="ALLOW") == heard
    assert named("edge", "service", reply="ALLOW") == used(port, "create_service")


def test_the_robot_may_do_what_the_recorder_does_and_no_more():
    port, node = "ros/robot_port.py", "nodes/recorder_replayer.py"
    published = used(port, "create_publisher") | used(node, "create_publisher")
    assert named("robot", "topic", publish="ALLOW") == published
    heard = used(port, "create_subscription") | {"status"}
    assert named("robot", "topic", subscribe="ALLOW") == heard
    assert named("robot", "service", request="ALLOW") == used(port, "create_client")
    assert named("robot", "service", reply="ALLOW") == {"move_sessions"}
    assert 'create_service(MoveSessions, topic(robot, "move_sessions")' in (
        (ROOT / "rrto_ros" / node).read_text()
    )


def test_tools_cannot_send_calls_or_results():
    assert named("tools", "topic", publish="ALLOW") == set()
    assert named("tools", "service", request="ALLOW") == {"move_sessions"}
