"""Mutated messages at both ends, in order and not: no crash, no hang, no growth, no other's harm.

A short form runs with every test; RRTO_WIRE_FUZZ=1000000 asks for that many messages at each end
(an hour or two), RRTO_FUZZ_SEED for others.
"""

import contextlib
import dataclasses
import os
import queue
import resource
import threading
import time

import pytest
from support.echo_server import EchoServer
from support.memory_device import MemoryDevice
from support.message_fuzz import ThreadPool, mutated, seeded
from support.ring_client import RingClient
from support.robot_end import RobotEnd

from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.fairness import PeerLimits
from rrto_ros.edge.host import MAX_UNEXECUTED_BYTES, MOST_UNASKED_BYTES
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.edge.table import SessionTable
from rrto_ros.errors import CudaError, ProtocolError, UnavailableError
from rrto_ros.robot.host import RobotHost
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.codec import OP_BY_NAME, pack_call
from rrto_ros.wire.format import HEADER_BYTES
from rrto_ros.wire.link import WINDOW_BYTES
from rrto_ros.wire.plan import Plan, Varying, pack_define
from rrto_ros.wire.port import FLAG_ACK_ONLY, FLAG_CLOSED, FLAG_PACKED, FLAG_PROBE, OpenRequest
from rrto_ros.wire.reference import pack_reference
from rrto_ros.wire.templates import CallTemplate
from rrto_ros.zstd import codec

COUNT = int(os.environ.get("RRTO_WIRE_FUZZ", "6000"))
SEED = int(os.environ.get("RRTO_FUZZ_SEED", "1"))
LIMIT_BYTES = 1 << 20
MOST_GROWN_BYTES = 256 << 20
"""Of the whole process, for both ends' queues, windows and what is ahead."""
GOOD, BAD = b"g" * 16, b"b" * 16


def resident():
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def read(index, address, size):
    return pack_call("memcpy_dtoh", index, record_flags=3, src=address, size=size, stream=0)


def write(index, address, data):
    return pack_call("memcpy_htod", index, dst=address, stream=0, payload=data)


def traffic(rng, base):
    """Batches as programs make them: literal calls, a plan, references to it. First call is 1."""
    size = 64
    yield pack_call("mem_alloc", 1, address=base, size=4096, stream=0)
    body = pack_call("memcpy_dtoh", 1, src=base, size=size, stream=0)[HEADER_BYTES:]
    dtoh = OP_BY_NAME["memcpy_dtoh"].code
    calls = (CallTemplate(dtoh, 0, bytes(8) + body[8:]), CallTemplate(dtoh, 0, body))
    plan = Plan(calls, (Varying(0, HEADER_BYTES, 8),))
    index = 2
    while True:
        kind = rng.randrange(4)
        if kind == 0:
            yield write(index, base + rng.randrange(16) * 64, rng.randbytes(size))
        elif kind == 1:
            yield read(index, base, rng.choice((1, 64, 4096)))
        elif kind == 2:
            yield pack_define(rng.randint(1, 3), plan) + pack_call(
                "ctx_synchronize", index, record_flags=3, context=1
            )
        else:
            yield pack_define(1, plan) + pack_reference(1, 0, 2, index, 1, [], [base], b"")
            index += 1
        index += 1


class Attacked:
    """A server with a session that must not notice, and one whose messages are mutated."""

    def __init__(self, seed):
        self.rng = seeded(seed)
        settings = ServerSettings(
            device="null", device_settings=DeviceSettings(limit_bytes=LIMIT_BYTES),
            factory="support.memory_device:make", max_sessions=4, spare_workers=0,
            peers=PeerLimits(messages_per_s=0, bytes_per_s=0),
        )  # fmt: skip
        self.good = self.bad = None
        self.lines = []
        self.table = SessionTable(settings, self.results, lambda _: None, self.lines.append)
        self.pool = self.table._pool = ThreadPool(lambda: MemoryDevice(LIMIT_BYTES))
        self.good, self.base = self.open(GOOD, "good")
        self.sent = 0
        self.opened = 0
        self.index = 1

    def results(self, message):
        if self.good is not None:
            self.good.receive(message)
        # What took the place of its messages is acknowledged to this end, too.
        with contextlib.suppress(ProtocolError):
            if self.bad is not None:
                self.bad.receive(message)

    def open(self, session, robot):
        answer = self.table.open(OpenRequest(session, robot, "p", "", 1))
        assert answer.accepted, answer.reason
        return RobotEnd(session, self.table.receive, MAX_DATA), answer.info.arena_base

    def reopen(self):
        """A session to attack; ids are never used twice by a robot."""
        self.opened += 1
        session = self.opened.to_bytes(8, "little") + BAD[:8]
        self.bad, base = self.open(session, "bad")
        self.batches = traffic(self.rng, base)
        self.until = self.sent + self.rng.choice((20, 100, 400))
        self.late = []

    def attack(self):
        """The next batch of the session, mutated or not, now or later or twice."""
        rng, end = self.rng, self.bad
        end.sender.push(next(self.batches))
        for message in end.sender.due(time.monotonic()):
            from_robot = message_of(end, message, rng)
            for _ in range(rng.choice((1, 1, 2, 6))):
                bad = mutated(rng, from_robot, (GOOD_NOT_ITS_OWN, end.session))
                if rng.random() < 0.2:
                    self.late.append(bad)
                else:
                    self.send(bad)
            if rng.random() < 0.6:
                self.send(from_robot)
        if rng.random() < 0.1:
            rng.shuffle(self.late)
            for bad in self.late:
                self.send(bad)
            self.late.clear()

    def send(self, message):
        self.sent += 1
        self.table.receive(message)

    def check_good(self):
        """The other session computes what it should."""
        data = self.rng.randbytes(256)
        end, index = self.good, self.index
        batch = write(index + 1, self.base, data) + read(index + 2, self.base, len(data))
        end.push(batch)
        assert end.answer(index + 2, 30)[3] == data
        self.index += 2

    def held(self):
        """Bytes that sessions keep."""
        numbers = [host.statistics() for host in self.table.hosts]
        return sum(
            n["unexecuted_bytes"] + n["received"]["ahead_bytes"] + n["sent"]["queued_bytes"]
            + n["sent"]["unacknowledged_bytes"] for n in numbers
        )  # fmt: skip


MAX_DATA = 4096
GOOD_NOT_ITS_OWN = b"h" * 16
"""Of no session: what is sent to another session's id takes part in that session, without keys."""


def message_of(end, message, rng):
    """A message as the robot would send it, packed now and then."""
    from rrto_ros.wire.port import FLAG_MORE, CallsMessage

    flags = FLAG_MORE if message.more else 0
    data = bytes(message.data)
    if rng.random() < 0.1:
        flags, data = flags | FLAG_PACKED, codec().compress(data)
    return CallsMessage(end.session, message.sequence, end.receiver.ack, flags, data)


@pytest.mark.timeout(120 + COUNT // 20)
def test_mutated_calls_neither_end_the_server_nor_touch_another_session():
    world = Attacked(SEED)
    world.good.push(pack_call("mem_alloc", 1, address=world.base, size=4096, stream=0))
    world.check_good()
    start = resident()
    checked = 0
    try:
        while world.sent < COUNT:
            if world.bad is None or world.bad.closed or not alive(world):
                if world.bad is not None:
                    world.table.close_session(world.bad.session, "over")
                world.reopen()
            world.attack()
            if world.sent // 500 > checked:
                checked = world.sent // 500
                world.check_good()
                assert not world.pool.failures, world.pool.failures
                held = 2 * (MAX_UNEXECUTED_BYTES + MOST_UNASKED_BYTES + 3 * WINDOW_BYTES)
                assert world.held() < held
                assert resident() - start < MOST_GROWN_BYTES
        world.check_good()
        assert not world.pool.failures, world.pool.failures
        statistics = world.table.statistics()
        # Neither a generator that makes only nonsense nor a server that refuses all.
        assert statistics["refused"] > COUNT // 20
        assert world.opened > COUNT // 1000
    finally:
        world.table.close()


def alive(world):
    """Whether the attacked session still takes messages, and did not have its share of them."""
    open_ = any(host.session == world.bad.session for host in world.table.hosts)
    return open_ and world.bad.sender.room and world.sent < world.until


class MutatingServer(EchoServer):
    """Answers right, and lets mutated messages go before, after and in the place of its own."""

    def __init__(self, on_results, rng):
        self.rng = rng
        self.sent = 0
        self.real = on_results
        super().__init__(self.pass_on)

    def pass_on(self, message):
        rng = self.rng
        for _ in range(rng.choice((0, 1, 4, 16))):
            self.give(mutated(rng, message, (message.session,)))
        if rng.random() < 0.9:
            self.give(message)
        if rng.random() < 0.2:
            self.give(mutated(rng, message, (message.session,)))

    def give(self, message):
        # That a session is closed is believed; who may say so is what keys are for.
        message = dataclasses.replace(message, flags=message.flags & ~FLAG_CLOSED)
        self.sent += 1
        self.real(message)

    def receive(self, message):
        # Mutated acknowledgements come back as the robot's; a server refuses them.
        with contextlib.suppress(ProtocolError, KeyError):
            super().receive(message)

    def speak(self, now):
        for session, _ in self.closed:
            self.links.pop(session, None)
        self.closed.clear()
        super().speak(now)


@pytest.mark.timeout(120 + COUNT // 20)
def test_mutated_results_end_sessions_by_name_and_never_a_recorder_or_a_wait(sockets):
    rng = seeded(SEED)
    reports = queue.SimpleQueue()
    config = SessionConfig(server_timeout_s=0.25, connect_timeout_s=5.0)
    host = RobotHost(sockets / "r" / "s", config, 4, reports.put, lambda _: None)
    server = MutatingServer(host.on_results, rng)
    server.answer = lambda call: call.index.to_bytes(8, "little")
    host.activate(server)
    start = resident()
    endless = 0
    ends = {"answers": 0, "errors": 0, "wrong": 0}
    try:
        # Each session that is lost takes its time to be; in a short run there are few.
        while server.sent < (COUNT if COUNT > 100_000 else COUNT // 4):
            client = RingClient(host.path)
            try:
                for index in range(1, 200):
                    client.put(
                        pack_call("ctx_synchronize", index, record_flags=1, context=1), 10.0
                    )
                    begun = time.monotonic()
                    answer = client.wait(index, 20.0)
                    ends["answers"] += 1
                    ends["wrong"] += bytes(answer.payload) != index.to_bytes(8, "little")
            except CudaError as error:
                endless += "in time" in str(error) or time.monotonic() - begun > 15
                ends["errors"] += 1
            except UnavailableError:
                ends["errors"] += 1
            finally:
                client.close()
            assert not endless, "a program waited without an end"
            report = reports.get(timeout=10)
            assert report.phase in ("lost", "closed")
            assert not report.error.startswith("recorder_replayer failed"), report.error
            assert resident() - start < MOST_GROWN_BYTES
        assert min(ends["answers"], ends["errors"]) > 0
    finally:
        host.close()
        server.stop()
    assert not [t for t in threading.enumerate() if t.name == "ring-session"]


def test_results_for_no_session_cost_nothing(sockets):
    rng = seeded(SEED)
    host = RobotHost(sockets / "r" / "s", SessionConfig(), 4, lambda _: None, lambda _: None)
    try:
        from rrto_ros.wire.port import ResultsMessage

        one = ResultsMessage(b"x" * 16, 1, 0, 0, (), FLAG_ACK_ONLY | FLAG_PROBE, b"")
        for _ in range(2000):
            host.on_results(mutated(rng, one, ()))
        assert host.statistics()["stray_results"] == 2000
    finally:
        host.close()
