"""A server with sealed sessions, attacked by who can read and send every message."""

import dataclasses
import os
from pathlib import Path

import pytest
import support
from support.robot_end import RobotEnd

from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.gate import Gate
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.edge.table import SessionTable
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.handshake import Credentials
from rrto_ros.wire.opening import believed, close_session, open_session
from rrto_ros.wire.port import FLAG_ACK_ONLY, FLAG_CLOSED, CallsMessage, OpenRequest

TEST_FOLDER = Path(next(iter(support.__path__))).parent
SECRET = b"a face that nobody else may see!" * 8
MOST = 1 << 20


class World:
    """A server of one user, and the network, on which everything can be heard.

    Attributes:
        up, down: Every message of calls and of results, as it was on the network.
        lost: Called with each message of calls; what it returns arrives instead.
    """

    def __init__(self, name="0-robot", local=None):
        self.user = Credentials(local=local or os.urandom(32))
        self.up, self.down, self.lines, self.events, self.refused = [], [], [], [], []
        self.change = lambda message: message
        self.robots = []
        settings = ServerSettings(
            device="null", device_settings=DeviceSettings(limit_bytes=64 << 20),
            factory="support.memory_device:make",
        )  # fmt: skip
        self.table = SessionTable(
            settings, self.publish, self.events.append, self.lines.append,
            Gate(lambda: self.user, name),
        )  # fmt: skip

    def publish(self, message):
        self.down.append(message)
        for robot in self.robots:
            robot.hear(message)

    def open(self, name=b"a"):
        robot = Robot(self, name * 16)
        self.robots.append(robot)
        return robot

    # the robot's port

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        return self.table.open(request)

    def close_session(self, session, reason, proof=b""):
        return self.table.close_session(session, reason, proof)

    def refusals(self):
        return self.table.refused[0]


class Robot:
    """A robot's end whose messages are sealed."""

    def __init__(self, world, session):
        self.session = session
        self.world = world
        self.believed, self.disbelieved = [], []
        self.end = RobotEnd(session, self.send)
        self.opened = open_session(
            world, OpenRequest(session, "robot", "program", "", 1), lambda: world.user, 5.0
        )
        assert self.opened.answer.accepted, self.opened.answer.reason
        self.base = self.opened.answer.info.arena_base

    def send(self, message):
        sealed = self.opened.seal.calls(message)
        self.world.up.append(sealed)
        changed = self.world.change(sealed)
        if changed is not None:
            self.world.table.receive(changed)

    def hear(self, message):
        if message.session != self.session:
            return
        from rrto_ros.errors import ProtocolError

        try:
            opened = believed(self.opened, self.session, message, MOST)
        except ProtocolError as error:
            self.disbelieved.append(str(error))
            return
        self.believed.append(opened)
        self.end.receive(opened)

    def write_secret(self):
        self.end.push(
            pack_call("mem_alloc", 1, address=self.base, size=4096, stream=0)
            + pack_call("memcpy_htod", 2, dst=self.base, stream=0, payload=SECRET)
        )

    def read(self, index):
        self.end.push(pack_call("memcpy_dtoh", index, src=self.base, size=len(SECRET), stream=0))
        return self.end.answer(index)[3]


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TEST_FOLDER))
    made = World()
    yield made
    made.table.close()


def test_what_a_program_writes_and_reads_is_in_no_message(world):
    robot = world.open()
    robot.write_secret()
    assert robot.read(3) == SECRET
    heard = [bytes(m.data) for m in world.up + world.down]
    assert sum(map(len, heard)) > 2 * len(SECRET)
    assert not [data for data in heard if SECRET[:16] in data]


def test_a_forged_batch_neither_reads_nor_writes_a_victims_memory(world):
    robot = world.open()
    robot.write_secret()
    robot.end.settled()
    forged = pack_call("memcpy_htod", 3, dst=robot.base, stream=0, payload=b"owned" * 8)
    forged += pack_call("memcpy_dtoh", 4, src=robot.base, size=64, stream=0)
    before, said = world.refusals(), len(world.down)
    last = world.up[-1]
    for message in (
        CallsMessage(robot.session, 2, 0, 0, forged),
        CallsMessage(robot.session, 2, 0, 0, forged, last.seal + 1),
        dataclasses.replace(last, sequence=2, data=forged, seal=last.seal + 1),
        dataclasses.replace(last, data=forged),
        CallsMessage(robot.session, 2, 0, FLAG_ACK_ONLY, b""),
    ):
        world.table.receive(message)
    assert world.refusals() == before + 5
    assert "sealed message refused" in world.table.refused[1]
    assert all(not m.flags & FLAG_CLOSED for m in world.down[said:])
    assert robot.read(3) == SECRET
    assert world.table.hosts[0].statistics()["seal"]["refused_forged"] == 2


def test_a_batch_that_was_overheard_is_executed_once_whenever_it_comes_again(world):
    robot = world.open()
    robot.write_secret()
    robot.end.settled()
    overheard = list(world.up)
    robot.end.push(
        pack_call("memcpy_htod", 3, dst=robot.base, stream=0, payload=bytes(len(SECRET)))
    )
    robot.end.settled()
    before = world.refusals()
    for message in overheard:
        world.table.receive(message)
    assert world.refusals() == before + len(overheard)
    assert robot.read(4) == bytes(len(SECRET))


def test_a_flipped_bit_is_refused_and_the_message_sent_again(world):
    robot = world.open()
    flipped = []

    def flip(message):
        if message.flags & FLAG_ACK_ONLY or len(flipped) >= 3:
            return message
        data = bytearray(message.data)
        data[len(data) // 2] ^= 4
        flipped.append(message.sequence)
        return dataclasses.replace(message, data=bytes(data))

    world.change = flip
    robot.write_secret()
    assert robot.read(3) == SECRET
    assert len(flipped) == 3
    assert world.refusals() >= 3
    assert robot.end.sender.statistics()["resent"] >= 2


def test_results_that_a_stranger_sends_are_not_believed(world):
    robot = world.open()
    robot.write_secret()
    robot.end.settled()
    world.change = lambda _: None  # its own messages are lost meanwhile
    last = next(m for m in world.down if m.session == robot.session)
    for forged in (
        dataclasses.replace(last, seal=0, data=b"", flags=FLAG_ACK_ONLY),
        dataclasses.replace(last, seal=0, sequence=9, flags=0, data=b"x" * 64),
        dataclasses.replace(last, seal=last.seal + 1000),
        last,
        dataclasses.replace(last, flags=FLAG_ACK_ONLY | FLAG_CLOSED, data=b""),
        dataclasses.replace(last, flags=FLAG_ACK_ONLY | FLAG_CLOSED, data=bytes(96)),
    ):
        count = len(robot.disbelieved)
        robot.hear(forged)
        assert len(robot.disbelieved) == count + 1
    assert not robot.end.closed
    world.change = lambda message: message
    assert robot.read(3) == SECRET


@pytest.mark.parametrize("proof", [b"", bytes(32), b"x" * 64])
def test_nobody_but_its_robot_closes_a_session(world, proof):
    robot = world.open()
    closed, why = world.close_session(robot.session, "go away", proof)
    assert not closed
    assert "not its robot" in why
    assert world.table.statistics()["unproven_closes"] == 1
    robot.write_secret()
    assert robot.read(3) == SECRET
    close_session(world, robot.opened, robot.session, "over")
    robot.end.wait(lambda end: end.closed, what="CLOSED")


def test_a_session_cannot_be_taken_over_by_opening_it_again(world):
    robot = world.open()
    opened = open_session(
        world, OpenRequest(robot.session, "robot", "program", "", 1), lambda: world.user, 5.0
    )
    assert not opened.answer.accepted
    assert "already open" in opened.answer.reason
    robot.write_secret()
    assert robot.read(3) == SECRET


def test_a_server_with_the_same_robots_name_ends_no_session_of_the_other(world):
    """Each hears the messages for the other's sessions and says that they are not open there."""
    other = World("0-robot")
    try:
        robot = world.open()
        robot.write_secret()
        robot.end.settled()
        other.robots.append(robot)
        for message in list(world.up):
            other.table.receive(message)
        assert [m for m in other.down if m.flags & FLAG_CLOSED]
        assert robot.disbelieved
        assert not robot.end.closed
        assert robot.read(3) == SECRET
    finally:
        other.table.close()


def test_a_server_that_was_started_anew_says_so_to_its_sessions_robots(world):
    robot = world.open()
    robot.write_secret()
    anew = World("0-robot", world.user.local)
    try:
        anew.robots.append(robot)
        anew.table.receive(world.up[-1])
        assert robot.end.closed
    finally:
        anew.table.close()


def test_a_session_that_timed_out_is_closed_for_its_robot_when_it_speaks_again(world):
    robot = world.open()
    world.robots.remove(robot)  # CLOSED is lost
    close_session(world, robot.opened, robot.session, "as a time-out would")
    assert not robot.end.closed
    world.robots.append(robot)
    robot.end.probe()
    robot.end.wait(lambda end: end.closed, what="CLOSED")


def test_a_flood_for_unknown_sessions_costs_few_answers(world):
    for number in range(2000):
        world.table.receive(
            CallsMessage(number.to_bytes(16, "little"), 1, 0, FLAG_ACK_ONLY, b"", 1)
        )
    assert world.refusals() == 2000
    # At most 100 in each second that it took.
    assert len(world.down) <= 500


def test_sessions_of_a_key_that_is_revoked_end(world):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    robot_key, edge_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    robot_user = Credentials(robot_key, {edge_key.public_key().public_bytes_raw(): "edge"})
    world.user = Credentials(edge_key, {robot_user.public: "robot7"}, world.user.local)
    opened = open_session(
        world, OpenRequest(b"k" * 16, "robot", "program", "", 1), lambda: robot_user, 5.0
    )
    assert opened.answer.accepted
    assert "key robot7" in world.lines[-1]
    own = open_session(
        world, OpenRequest(b"o" * 16, "robot", "program", "", 1), lambda: world.user, 5.0
    )
    assert own.answer.accepted
    world.table.end_untrusted()
    assert len(world.table.hosts) == 2
    world.user = dataclasses.replace(world.user, trusted={})
    world.table.end_untrusted()
    assert [host.session for host in world.table.hosts] == [b"o" * 16]
