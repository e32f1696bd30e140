"""Recorder and server find each other, however often either comes and goes, and after kills.

RRTO_PARTICIPANTS sets how many come and go (default 6, 500 take a quarter of an hour).
"""

import json
import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.processes import PATIENCE_S
from support.rig import PROGRAMS, ROOT, START_S

pytest.importorskip("rclpy")
pytest.importorskip("rrto_msgs.msg")

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from rrto_ros.errors import UnavailableError
from rrto_ros.ros import robot_port as ros_robot_port
from rrto_ros.ros import server_port as ros_server_port
from rrto_ros.ros.context import keep_private, leave, own_context, quiet_node, use_profile
from rrto_ros.ros.participant import SpinThread
from rrto_ros.ros.robot_port import APART_S, RosRobotPort
from rrto_ros.ros.server_port import RosServerPort
from rrto_ros.shim.build import compiler
from rrto_ros.wire.port import OpenAnswer, OpenRequest

COUNT = int(os.environ.get("RRTO_PARTICIPANTS", "6"))
BOUND_S = 20.0
FEW_PORTS = """
ip link set lo up && ip link set lo multicast on && mount -t tmpfs tmpfs /dev/shm &&
echo "40000 $0" > /proc/sys/net/ipv4/ip_local_port_range && exec "$@"
"""
"""Runs a command on a network of its own where TCP ports come again after a few starts, as they do
on a robot after some thousands. $0 is the last port."""
ISOLATED = ["unshare", "--net", "--mount", "bash", "-c", FEW_PORTS]


def isolated(last_port):
    """A command's prefix; none on a machine where it may not be used."""
    prefix = [*ISOLATED, str(last_port)]
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return prefix if done.returncode == 0 else []


@pytest.mark.parametrize("stays", ["server", "robot"])
@pytest.mark.parametrize(
    ("kill_every", "still_s", "apart"),
    [(0, 0, "0"), (2, 0, "0"), (2, 0, "1"), (0, 5, "1")],
    ids=["closed", "killed", "killed-tcp", "still-tcp"],
)
def test_both_ends_find_each_other_whoever_comes_and_goes(rig, stays, kill_every, still_s, apart):
    program = [sys.executable, PROGRAMS / "participants.py"]
    count = -(-COUNT // 2) if still_s else COUNT
    arguments = [stays, str(count), str(BOUND_S), str(kill_every), str(still_s)]
    env = rig.environment(ROS_AUTOMATIC_DISCOVERY_RANGE="SUBNET", RRTO_APART=apart)
    prefix = isolated(60000 if still_s else 40019)
    process = rig.start("participants", [*prefix, *program, *arguments], env)
    assert process.wait(PATIENCE_S + COUNT * BOUND_S) == 0, process.text(15)
    found = [json.loads(line) for line in process.lines if line.startswith("[")]
    assert len(found) == count
    assert not [one for one in found if one[1] is None], found
    times = sorted(taken for _, taken, _ in found)
    # Most need no second try: half a second, and one or two where a message was lost; a busy
    # machine doubles that.
    assert times[len(times) // 2] < 4.0 + 2 * still_s, times


@pytest.mark.parametrize(("edge", "robot"), [("1", "0"), ("0", "1")], ids=["tcp", "udp"])
def test_a_recorder_takes_the_transports_of_the_server_that_it_sees(rig, tmp_path, edge, robot):
    """Who starts the edge says that it is apart; a recorder that `rrto run` starts is not told."""
    rig.variables = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "RRTO_APART": robot}
    recorder = rig.recorder()
    rig.variables["RRTO_APART"] = edge
    rig.server("null", wait=False)
    watch = rig.watch()
    kind = {"1": "LARGE_DATA", "0": "UDPv4"}
    for node in ("offload_server", "recorder_replayer"):
        watch.wait(node, lambda m: m["transports"].startswith(kind[edge]), what="its transports")
    watch.wait("recorder_replayer", lambda m: m["server_state"] == "connected", what="a server")
    recorder.wait_for("taken here too")
    # A tool asks too.
    rig.variables["RRTO_APART"] = robot
    command = [sys.executable, "-m", "rrto_ros.cli.main", "bag", "record", tmp_path / "bag"]
    bag = rig.start("bag", command, rig.environment(RRTO_ROBOT=rig.robot))
    bag.wait_for("recording to", START_S)


def shared_memory(rig):
    """What the rig's nodes share by Fast DDS."""
    return {
        Path(line[line.index("/dev/shm/") :])
        for process in rig.processes
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        if "/dev/shm/fastdds" in line
    }


@pytest.mark.parametrize("discovery", ["LOCALHOST", "SUBNET"])
def test_the_nodes_share_no_memory_that_one_that_is_killed_could_leave_locked(rig, discovery):
    rig.variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] = discovery
    rig.both("null")
    assert not shared_memory(rig)


def test_only_the_user_reads_what_nodes_share_whose_user_wants_that(rig):
    rig.variables["FASTDDS_BUILTIN_TRANSPORTS"] = "DEFAULT"
    rig.both("null")
    shared = shared_memory(rig)
    assert shared
    assert not [path for path in shared if path.exists() and path.stat().st_mode & 0o077]


def wait(until, timeout_s=PATIENCE_S):
    end = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_participant_that_does_not_reach_a_server_that_others_see_is_made_anew(rig):
    domain = rig.domain
    lines, changes, asked = [], [], []
    elsewhere = 1
    port = RosRobotPort(
        domain, "alone", lambda _: None, on_change=lambda: changes.append(port.server_seen()),
        elsewhere=lambda: elsewhere, log=lines.append,
    )  # fmt: skip
    try:
        began = time.monotonic()
        wait(lambda: port.statistics()["renewed"] == 1)
        assert time.monotonic() - began >= APART_S * 0.9
        # Seldom and more seldom: each costs the server's others an announcement.
        wait(lambda: port.statistics()["renewed"] == 2)
        assert time.monotonic() - began >= 3 * APART_S * 0.9
        assert all("made anew" in line for line in lines)
        assert len(lines) == 2
        assert not changes
        server = RosServerPort(
            domain, "alone", lambda _: None, lambda _: OpenAnswer(False, "a test"),
            lambda session, reason, proof: (asked.append((session, reason)) or False, "a test"),
        )  # fmt: skip
        wait(lambda: port.server_seen())
        assert changes == [True]
        assert {session for session, _ in asked} == {bytes(16)}
        renewed = port.statistics()["renewed"]
        server.close()
        elsewhere = 0
        wait(lambda: not port.server_seen())
        assert changes == [True, False]
        time.sleep(2 * APART_S)
        assert port.statistics()["renewed"] == renewed
    finally:
        port.close()


def refusing_server(rig, robot):
    return RosServerPort(
        rig.domain, robot, lambda _: None, lambda _: OpenAnswer(False, "a test"),
        lambda session, reason, proof: (False, "a test"),
    )  # fmt: skip


def test_a_participant_that_reaches_one_of_two_servers_is_made_anew(rig, monkeypatch):
    monkeypatch.setattr(ros_robot_port, "OTHERS_S", 1.0)
    lines = []
    servers = [refusing_server(rig, "two")]
    port = RosRobotPort(
        rig.domain, "two", lambda _: None, elsewhere=lambda: 2, log=lines.append
    )  # fmt: skip
    try:
        wait(lambda: port.statistics()["renewed"] == 1)
        assert "2 offload servers are seen but only 1 were reached for 1 s" in lines[-1]
        wait(port.server_seen)
        servers.append(refusing_server(rig, "two"))
        wait(lambda: len(servers[1].listeners()) == 1)
        wait(lambda: port._ends.take.publishers() == 2)
        renewed = port.statistics()["renewed"]
        time.sleep(2.0)
        assert port.statistics()["renewed"] == renewed
    finally:
        port.close()
        for server in servers:
            server.close()


def test_a_server_whose_recorder_reaches_another_one_only_is_made_anew(rig, monkeypatch):
    monkeypatch.setattr(ros_server_port, "APART_S", 0.5)
    lines = []
    server = refusing_server(rig, "beside")
    port = None
    try:
        wait(lambda: server.judge(True, True, lines.append) or lines)
        assert "has not reached this server for 0.5 s" in lines[0]
        port = RosRobotPort(rig.domain, "beside", lambda _: None)
        wait(lambda: server.judge(True, True, lines.append) or port.server_seen())
        made = len(lines)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            server.judge(True, True, lines.append)
            server.judge(False, False, lines.append)
            time.sleep(0.05)
        assert len(lines) == made
    finally:
        if port is not None:
            port.close()
        server.close()


def test_a_participant_made_anew_does_not_wait_for_the_old_one_to_be_destroyed(rig, monkeypatch):
    """Fast DDS may not come back from that, and rclpy lets nothing else run meanwhile."""
    destroyed = []
    port = RosRobotPort(rig.domain, "stuck", lambda _: None, elsewhere=lambda: 1)
    monkeypatch.setattr(Node, "destroy_node", lambda node: destroyed.append(node.get_name()))
    server = None
    try:
        wait(lambda: port.statistics()["renewed"] == 2)
        server = RosServerPort(
            rig.domain, "stuck", lambda _: None, lambda _: OpenAnswer(False, "a test"),
            lambda session, reason, proof: (False, "a test"),
        )  # fmt: skip
        wait(port.server_seen)
        assert not destroyed
        # What was abandoned answers to nothing: the server sends its results to one only.
        wait(lambda: len(server.listeners()) == 1)
    finally:
        monkeypatch.undo()
        port.close()
        if server is not None:
            server.close()


LOST_SERVER = """
import sys, time
from pathlib import Path
from rrto_ros.ros import server_port
from rrto_ros.wire.port import OpenAnswer
server_port.APART_S = 0.1
server = server_port.RosServerPort(
    None, "lost", lambda _: None, lambda _: OpenAnswer(False, "a test"),
    lambda session, reason, proof: (False, "a test"),
)
for line in Path("/proc/self/maps").read_text().splitlines():
    if "/dev/shm/fastdds_port" in line:
        Path(line[line.index("/dev/shm/"):]).unlink(missing_ok=True)
print("lost", flush=True)
sys.stdin.readline()
while not server.statistics()["renewed"]:
    server.judge(True, False, print)
    time.sleep(0.05)
print("listeners", len(server.listeners()), flush=True)
sys.stdin.readline()
server.close()
"""
"""A server whose part of the shared memory is gone, and who makes another when told to."""


def test_a_server_that_a_recorder_sees_and_does_not_reach_is_made_anew(rig, monkeypatch):
    """However often the recorder's participant is: what is lost is the server's."""
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")
    command = [sys.executable, "-c", LOST_SERVER]
    server = rig.start("lost", command, rig.environment(), "edge", stdin=True)
    server.wait_for("lost", START_S)
    port = RosRobotPort(rig.domain, "lost", lambda _: None, elsewhere=lambda: 1)
    try:
        wait(lambda: port.statistics()["renewed"] == 2)
        assert not port.server_seen()
        server.say("")
        server.wait_for("a recorder is seen that has not reached this server for 0.1 s")
        wait(port.server_seen)
        request = OpenRequest(b"s" * 16, "lost", "program", "", 1, "", 0, 0, 1, bytes(32))
        assert port.open_session(request, 5.0).reason == "a test"
        server.say("")
        assert server.wait() == 0
    finally:
        port.close()


STANDS_STILL = """
#include <unistd.h>
#define STAYS(name) int name(void *node, void *end) { (void)node; (void)end; for (;;) pause(); }
STAYS(rmw_destroy_publisher)
STAYS(rmw_destroy_subscription)
STAYS(rmw_destroy_service)
"""
"""Preloaded: what takes Fast DDS's lock of discovery does not come back."""


def test_a_server_goes_on_whose_old_participant_stands_still(rig):
    source, library = rig.folder / "still.c", rig.folder / "still.so"
    source.write_text(STANDS_STILL)
    subprocess.run([compiler(), "-shared", "-fPIC", source, "-o", library], check=True)
    command = [sys.executable, "-c", LOST_SERVER]
    env = rig.environment(LD_PRELOAD=str(library))
    server = rig.start("lost", command, env, "edge", stdin=True)
    server.wait_for("lost", START_S)
    server.say("")
    server.wait_for("made anew")
    server.wait_for("listeners 0")
    port = RosRobotPort(rig.domain, "lost", lambda _: None)
    try:
        wait(port.server_seen)
    finally:
        port.close()


@pytest.mark.parametrize("profile", ["apart", "local", "nodes"])
def test_participants_of_one_process_do_not_call_each_other(profile):
    """Fast DDS 3.2.3 then takes the locks of both, in either order (see `bringup.meeting`)."""
    text = (ROOT / "rrto_ros" / "data" / f"fastdds_{profile}.xml").read_text()
    assert "<intraprocess_delivery>OFF</intraprocess_delivery>" in text


@pytest.mark.parametrize("silent", ["open", "close"])
def test_a_server_is_reached_once_it_answers_on_both_services(rig, monkeypatch, silent):
    server = RosServerPort(
        rig.domain, "half", lambda _: None, lambda _: OpenAnswer(False, "a test"),
        lambda session, reason, proof: (False, "a test"),
    )  # fmt: skip
    service = getattr(server._ends, silent)
    monkeypatch.setattr(service, "send_response", lambda response, header: None)
    port = RosRobotPort(rig.domain, "half", lambda _: None, elsewhere=lambda: 1)
    try:
        wait(lambda: port.statistics()["renewed"])
        assert not port.server_seen()
        monkeypatch.undo()
        wait(port.server_seen)
    finally:
        port.close()
        server.close()


def test_a_process_that_cannot_leave_the_graph_ends_all_the_same(rig):
    program = (
        "import time\n"
        "from rrto_ros.ros import context\n"
        "context.STUCK_S = 1.0\n"
        "own = context.own_context()\n"
        "node = context.quiet_node('stuck', own)\n"
        "node.destroy_node = lambda: time.sleep(60)\n"
        "context.leave(own, node)\n"
    )
    process = rig.start("stuck", [sys.executable, "-c", program], rig.environment())
    assert process.wait(PATIENCE_S) == 1
    assert "Timeout" in process.text(30)


def test_a_server_that_answers_no_more_does_not_stay_reached(rig, monkeypatch):
    monkeypatch.setattr(ros_robot_port, "DOUBT_S", 1.0)
    deaf, went_on = threading.Event(), threading.Event()

    def said(value):
        if deaf.is_set():
            went_on.wait(PATIENCE_S)
        return value

    server = RosServerPort(
        rig.domain, "deaf", lambda _: None, lambda _: said(OpenAnswer(False, "a test")),
        lambda session, reason, proof: said((False, "a test")),
    )  # fmt: skip
    port = RosRobotPort(rig.domain, "deaf", lambda _: None, elsewhere=lambda: 1)
    request = OpenRequest(b"s" * 16, "deaf", "program", "", 1, "", 0, 0, 1, bytes(32))
    try:
        wait(port.server_seen)
        assert port.open_session(request, 5.0).reason == "a test"
        deaf.set()
        with pytest.raises(UnavailableError, match="no offload server answered"):
            port.open_session(request, 3.0)
        wait(lambda: port.statistics()["renewed"])
        assert not port.server_seen()
        deaf.clear()
        went_on.set()
        wait(port.server_seen)
        assert port.open_session(request, 5.0).reason == "a test"
    finally:
        went_on.set()
        port.close()
        server.close()


@pytest.mark.parametrize("name", ["fastdds", "fastrtps"])
def test_what_either_version_of_fast_dds_shares_is_made_private(name):
    path = Path(f"/dev/shm/{name}_rrto_test_{os.getpid()}")
    try:
        path.write_bytes(bytes(4096))
        path.chmod(0o666)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            keep_private()
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("distro", "name"),
    [
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_either_version_of_fast_dds_is_told_the_profile(monkeypatch, distro, name):
    monkeypatch.setattr(os, "environ", {"ROS_DISTRO": distro})
    use_profile()
    assert {key: Path(value).name for key, value in os.environ.items()} == {
        "ROS_DISTRO": distro,
        name: "fastdds_nodes.xml",
    }
    monkeypatch.setattr(os, "environ", {name: "/the/users.xml"})
    use_profile()
    assert os.environ == {name: "/the/users.xml"}


@pytest.mark.parametrize(
    ("variables", "profile"),
    [
        ({}, "fastdds_local.xml"),
        ({"ROS_STATIC_PEERS": "127.0.0.1;localhost"}, "fastdds_local.xml"),
        ({"ROS_STATIC_PEERS": "192.168.1.7"}, "fastdds_nodes.xml"),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "DEFAULT"}, "fastdds_nodes.xml"),
    ],
    ids=["alone", "peers here", "a peer elsewhere", "the user's transports"],
)
def test_discovery_on_this_machine_alone_is_the_profiles_unless_it_is_the_users(
    monkeypatch, variables, profile
):
    monkeypatch.setattr(os, "environ", {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **variables})
    use_profile()
    assert Path(os.environ["FASTDDS_DEFAULT_PROFILES_FILE"]).name == profile
    ours = profile == "fastdds_local.xml"
    taken = os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"]
    assert taken == ("SYSTEM_DEFAULT" if ours else "LOCALHOST")


def test_a_callback_that_raises_does_not_silence_its_node(rig, capfd):
    context = own_context(rig.domain)
    node = quiet_node("raising", context)
    calls = []

    def raising():
        calls.append(0)
        raise ValueError("in a callback")

    guard = node.create_guard_condition(raising)
    spin = SpinThread(node)
    for count in (1, 2, 3):
        guard.trigger()
        wait(lambda: len(calls) == count)  # noqa: B023
    wait(lambda: spin.statistics()["failures"] == 3)
    assert capfd.readouterr().err.count("ValueError: in a callback") == 3
    spin.close()
    leave(context, node)


def test_a_spin_that_is_closed_while_a_callback_begins_lets_it_run(rig, capfd, monkeypatch):
    """What rclpy's shutdown takes away while one begins, it still uses."""
    began, closing, called = threading.Event(), threading.Event(), threading.Event()

    class Held(MutuallyExclusiveCallbackGroup):
        def beginning_execution(self, entity):
            began.set()
            assert closing.wait(PATIENCE_S)
            return super().beginning_execution(entity)

    context = own_context(rig.domain)
    node = quiet_node("held", context)
    guard = node.create_guard_condition(called.set, callback_group=Held())
    spin = SpinThread(node)
    join = spin._thread.join
    monkeypatch.setattr(spin._thread, "join", lambda timeout: (closing.set(), join(timeout)))
    guard.trigger()
    assert began.wait(PATIENCE_S)
    spin.close()
    assert not spin._thread.is_alive()
    assert called.is_set()
    assert spin.statistics()["failures"] == 0
    leave(context, node)
    assert "Traceback" not in capfd.readouterr().err
