"""Sessions on the server's end: message order, loss, limits, crashes and ends."""

import dataclasses
import gc
import os
import random
import signal
import struct
import threading
import time
from pathlib import Path

import pytest
import support
from support.memory_device import KERNELS, PTX
from support.robot_end import RobotEnd

from rrto_ros import zstd
from rrto_ros.api.results import CUresult
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.edge.fairness import PeerLimits
from rrto_ros.edge.host import HostLimits, SessionHost
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.edge.table import SessionTable
from rrto_ros.errors import UnavailableError
from rrto_ros.wire.codec import blob_tag, pack_blob_ref, pack_call
from rrto_ros.wire.format import (
    FLAG_BLOB_REF,
    FLAG_KEEP,
    FLAG_REPLY,
    FLAG_WAITED,
    RESULT_BLOB_WANTED,
    RESULT_STICKY,
)
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_BUSY,
    FLAG_CLOSED,
    FLAG_FULL,
    FLAG_PACKED,
    CallsMessage,
    OpenRequest,
)
from rrto_ros.zstd import codec

TEST_FOLDER = Path(next(iter(support.__path__))).parent


class Edge:
    """A server without ROS: every result goes to every robot end."""

    def __init__(self, **changes):
        options = {
            "device": "null",
            "device_settings": DeviceSettings(limit_bytes=64 << 20),
            "factory": "support.memory_device:make",
            "max_sessions": 3,
            **changes,
        }
        self.ends = []
        self.events = []
        self.lines = []
        self.raw = []
        self.forward = lambda message: [end.receive(message) for end in self.ends]
        self._changed = threading.Condition()
        self.table = SessionTable(
            ServerSettings(**options), self._publish, self._announce, self.lines.append
        )

    def _publish(self, message):
        self.raw.append(message)
        self.forward(message)

    def _announce(self, event):
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def open(self, name=b"a", send=None, **changes):
        session = name * 16
        answer = self.table.open(OpenRequest(session, "robot", "program", "", 1, **changes))
        end = RobotEnd(session, send or self.table.receive)
        self.ends.append(end)
        return answer, end

    def closing(self, session, timeout_s=10.0):
        """Wait for the announcement that a session closed."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for event in self.events:
                    if event.session == session and not event.opened:
                        return event
                assert self._changed.wait(end - time.monotonic()), "the session did not close"


@pytest.fixture(autouse=True)
def _workers_find_the_test_devices(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TEST_FOLDER))


@pytest.fixture
def make_edge():
    made = []

    def make(**changes):
        made.append(Edge(**changes))
        return made[-1]

    yield make
    for edge in made:
        edge.table.close()


@pytest.fixture
def edge(make_edge):
    return make_edge()


def alloc(index, address, size):
    return pack_call("mem_alloc", index, address=address, size=size, stream=0)


def write(index, address, data, flags=0):
    return pack_call("memcpy_htod", index, record_flags=flags, dst=address, stream=0, payload=data)


def read(index, address, size):
    return pack_call("memcpy_dtoh", index, src=address, size=size, stream=0)


def synchronize(index):
    return pack_call("ctx_synchronize", index, context=0)


def load(index):
    return pack_call("module_load", index, module=1, payload=PTX)


def launch(index, kernel, params=b"", flags=0):
    return pack_call(
        "launch", index, record_flags=flags, module=1, kernel=KERNELS.index(kernel),
        flags=0, grid_x=1, grid_y=1,
        grid_z=1, block_x=1, block_y=1, block_z=1, shared_bytes=0, stream=0, params=params,
    )  # fmt: skip


def test_a_session_computes_and_closes(edge):
    answer, robot = edge.open()
    assert answer.accepted
    base = answer.info.arena_base
    robot.push(alloc(1, base, 8) + write(2, base, b"12345678") + read(3, base, 8))
    assert robot.answer(3) == (3, 0, 0, b"12345678")
    worker = edge.table.hosts[0].worker
    assert edge.table.close_session(b"a" * 16, "done") == (True, "")
    event = edge.closing(b"a" * 16)
    assert (event.reason, event.arena_base) == ("done", base)
    assert not worker.alive
    robot.wait(lambda end: end.closed, what="word that the session closed")
    assert edge.table.close_session(b"a" * 16, "") == (
        False, "session 61616161 is not open on this server",
    )  # fmt: skip


def test_calls_are_executed_once_and_in_order_over_a_bad_network(edge):
    chance = random.Random(3)
    kept = []

    def lossy(message):
        """Lose a fifth, duplicate a fifth, and swap neighbours."""
        draw = chance.random()
        if draw < 0.2:
            return
        kept.append(message)
        if draw < 0.4:
            kept.append(message)
        if len(kept) > 1 or draw > 0.7:
            batch, kept[:] = list(reversed(kept)), []
            for one in batch:
                edge.table.receive(one)

    answer, robot = edge.open(send=lossy)
    base = answer.info.arena_base
    straight = edge.forward
    edge.forward = lambda message: straight(message) if chance.random() > 0.2 else None
    robot.push(load(1) + alloc(2, base, 8) + write(3, base, struct.pack("<I", 0)))
    rounds = 40
    for i in range(rounds):
        index = 4 + 2 * i
        robot.push(
            launch(index, "add_one", struct.pack("<QI", base, 1)) + read(index + 1, base, 4)
        )
    for i in range(rounds):
        assert robot.answer(5 + 2 * i, 60)[3] == struct.pack("<I", i + 1)
    assert [r[0] for r in robot.records] == [1] + [5 + 2 * i for i in range(rounds)]
    received = edge.table.hosts[0].statistics()["received"]
    assert received["duplicates"] > 0
    assert received["reordered"] > 0


def test_a_batch_larger_than_a_message_is_put_together(make_edge):
    edge = make_edge(limits=HostLimits(max_message_bytes=4096))
    answer, robot = edge.open()
    assert answer.max_message_bytes == 4096
    robot.sender.max_message_bytes = 4096
    base, data = answer.info.arena_base, os.urandom(100_000)
    robot.push(alloc(1, base, len(data)) + write(2, base, data) + read(3, base, len(data)))
    assert robot.answer(3)[3] == data
    assert all(len(message.data) <= 4096 for message in edge.raw)


def test_two_sessions_at_one_address_do_not_disturb_each_other(edge):
    (one, first), (two, second) = edge.open(b"a"), edge.open(b"b")
    base = one.info.arena_base
    assert base == two.info.arena_base
    for robot, content in ((first, b"11111111"), (second, b"22222222")):
        robot.push(alloc(1, base, 8) + write(2, base, content))
    for robot, content in ((first, b"11111111"), (second, b"22222222")):
        robot.push(read(3, base, 8))
        assert robot.answer(3)[3] == content


def test_a_crash_fails_its_session_and_leaves_the_other_alone(edge):
    (_, first), (answer, second) = edge.open(b"a"), edge.open(b"b")
    base = answer.info.arena_base
    first.push(load(1))
    first.answer(1)
    first.push(launch(2, "segfault") + alloc(3, base, 8) + synchronize(4))
    first.push(synchronize(5))
    record = first.answer(2)
    assert record[1:3] == (CUresult.ILLEGAL_ADDRESS, RESULT_STICKY)
    assert b"launch #2 of kernel 'segfault'" in record[3]
    assert first.answer(4)[1] == CUresult.ILLEGAL_ADDRESS
    assert first.answer(5)[1] == CUresult.ILLEGAL_ADDRESS
    first.push(alloc(6, base, 8) + synchronize(7))
    assert first.answer(7)[1] == CUresult.ILLEGAL_ADDRESS
    assert [r[0] for r in first.records] == [1, 2, 4, 5, 7]
    second.push(alloc(1, base, 8) + write(2, base, b"87654321") + read(3, base, 8))
    assert second.answer(3)[3] == b"87654321"
    errors = [host.error for host in edge.table.hosts if host.error]
    assert len(errors) == 1
    assert "SIGSEGV" in errors[0]


def test_every_call_of_a_batch_that_crashes_is_answered_exactly_once(edge):
    _, robot = edge.open()
    robot.push(load(1))
    robot.answer(1)
    waited = pack_call("ctx_synchronize", 2, record_flags=FLAG_WAITED, context=0)
    robot.push(waited + launch(3, "segfault", flags=FLAG_REPLY) + synchronize(4))
    robot.answer(4)
    assert [r[:2] for r in robot.records] == [(1, 0), (2, 0), (3, 700), (4, 700)]


def test_a_worker_that_dies_before_its_session_is_there_is_told_to_it(edge, monkeypatch):
    class Late(SessionHost):
        """Is made when the worker's end has been noticed already."""

        def __init__(self, request, info, worker, *arguments):
            os.kill(worker.pid, signal.SIGKILL)
            name = f"worker {worker.pid} results"
            for thread in threading.enumerate():
                if thread.name == name:
                    thread.join(10)
            super().__init__(request, info, worker, *arguments)

    monkeypatch.setattr("rrto_ros.edge.table.SessionHost", Late)
    answer, robot = edge.open()
    assert answer.accepted
    robot.push(synchronize(1))
    assert robot.answer(1)[1] == CUresult.LAUNCH_FAILED
    assert any("SIGKILL" in line for line in edge.lines)


def test_a_killed_worker_is_a_failed_launch_for_its_session(edge):
    _, robot = edge.open()
    robot.push(synchronize(1))
    robot.answer(1)
    os.kill(edge.table.hosts[0].worker.pid, signal.SIGKILL)
    robot.wait(lambda end: any(r[2] & RESULT_STICKY for r in end.records))
    robot.push(synchronize(2))
    assert robot.answer(2)[1] == CUresult.LAUNCH_FAILED


def test_out_of_device_memory_is_what_cuda_says(edge):
    answer, robot = edge.open(limit_bytes=1 << 20)
    assert answer.info.total_bytes == 1 << 20
    robot.push(
        pack_call("mem_alloc", 1, record_flags=2, address=answer.info.arena_base,
                  size=(1 << 20) + 1, stream=0)
    )  # fmt: skip
    assert robot.answer(1)[1] == CUresult.OUT_OF_MEMORY


def test_a_session_from_which_nothing_is_heard_is_freed(make_edge):
    edge = make_edge(limits=HostLimits(timeout_s=0.6))
    _, robot = edge.open()
    robot.push(synchronize(1))
    robot.answer(1)
    worker = edge.table.hosts[0].worker
    event = edge.closing(b"a" * 16)
    assert "nothing was heard" in event.reason
    assert not worker.alive
    assert edge.table.hosts == []


def test_signs_of_life_keep_a_session_open_and_come_back(make_edge):
    edge = make_edge(limits=HostLimits(timeout_s=0.6))
    _, robot = edge.open()
    end = time.monotonic() + 1.5
    robot.wait(lambda _: time.monotonic() > end)
    assert len(edge.table.hosts) == 1
    assert len(robot.messages) >= 5
    assert not robot.closed


def test_a_busy_session_says_so_and_closes_at_once(edge):
    _, robot = edge.open()
    robot.push(load(1))
    robot.answer(1)
    robot.push(launch(2, "hang"))
    robot.wait(lambda end: any(m.flags & FLAG_BUSY for m in end.messages), what="BUSY")
    started = time.monotonic()
    edge.table.close_session(b"a" * 16, "enough")
    edge.closing(b"a" * 16)
    assert time.monotonic() - started < 1.5


def test_a_missing_blob_is_asked_for_and_kept(make_edge, tmp_path):
    edge = make_edge(blob_directory=tmp_path, blob_bytes=1 << 20)
    from hashlib import sha256

    weights = b"weights." * 1000
    digest = sha256(weights).digest()
    reference = pack_blob_ref(digest, len(weights))
    answer, robot = edge.open(b"a")
    assert answer.known_blobs == frozenset()
    base = answer.info.arena_base
    robot.push(
        alloc(1, base, 8000) + write(2, base, reference, FLAG_BLOB_REF) + read(3, base, 8000)
    )
    assert robot.answer(2) == (2, CUresult.NOT_FOUND, RESULT_BLOB_WANTED, b"")
    robot.push(pack_call("blob_data", 2, payload=weights))
    assert robot.answer(3)[3] == weights
    robot.push(write(4, base, b"x" * 5000, FLAG_KEEP) + synchronize(5))
    robot.answer(5)
    edge.table.close_session(b"a" * 16, "")
    edge.closing(b"a" * 16)
    answer, robot = edge.open(b"b")
    assert answer.known_blobs == {blob_tag(digest), blob_tag(sha256(b"x" * 5000).digest())}
    robot.push(
        alloc(1, base, 8000) + write(2, base, reference, FLAG_BLOB_REF) + read(3, base, 8000)
    )
    assert robot.answer(3)[3] == weights
    assert [r[0] for r in robot.records] == [3]


def test_blobs_are_not_announced_where_robots_must_not_read_each_other(make_edge, tmp_path):
    edge = make_edge(blob_directory=tmp_path, blob_bytes=1 << 20, announce_blobs=False)
    answer, robot = edge.open(b"a")
    base = answer.info.arena_base
    robot.push(alloc(1, base, 8) + write(2, base, b"x" * 8, FLAG_KEEP) + synchronize(3))
    robot.answer(3)
    edge.table.close_session(b"a" * 16, "")
    edge.closing(b"a" * 16)
    assert edge.open(b"b")[0].known_blobs == frozenset()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol_version": 99}, "protocol version 99"),
        ({"table_hash": b"x" * 32}, "table of operations"),
        ({"device": "cpu"}, "this server runs 'null'"),
        ({"device": "toaster"}, "none of cpu, gpu, null"),
        ({"limit_bytes": 1 << 50}, "limit_bytes"),
    ],
)
def test_a_session_that_cannot_be_is_refused_with_the_reason(edge, changes, words):
    answer, _ = edge.open(**changes)
    assert not answer.accepted
    assert words in answer.reason
    assert words in edge.table.statistics()["last_refusal"]
    assert edge.open()[0].accepted


def test_sessions_that_are_over_keep_no_descriptor(edge):
    def run(number):
        session = bytes([number]) * 16
        edge.open(bytes([number]))
        edge.table.close_session(session, "")
        edge.closing(session)

    def descriptors():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    run(1)
    before = descriptors()
    # What waits for the collection of cycles waits long in a server that allocates little.
    gc.disable()
    try:
        for number in range(2, 14):
            run(number)
        end = time.monotonic() + 10
        while descriptors() > before:
            assert time.monotonic() < end, f"{descriptors()} descriptors, {before} before"
            time.sleep(0.05)
    finally:
        gc.enable()


def test_a_stranger_leaves_a_place_for_others(make_edge):
    edge = make_edge(max_sessions=3)
    opened = [
        edge.table.open(OpenRequest(bytes([n]) * 16, "stranger", "p", "", 1)) for n in range(1, 5)
    ]
    assert [answer.accepted for answer in opened] == [True, True, False, False]
    assert "max_sessions_per_robot" in opened[2].reason
    assert edge.open()[0].accepted


def test_a_robot_that_floods_is_slowed_and_others_are_not(make_edge):
    edge = make_edge(peers=PeerLimits(messages_per_s=50))
    edge.table.open(OpenRequest(b"f" * 16, "flood", "p", "", 1))
    _, robot = edge.open(b"a")
    for number in range(1000):
        edge.table.receive(CallsMessage(b"f" * 16, number, 0, FLAG_ACK_ONLY, b""))
    to = {host.peer: host for host in edge.table.hosts}
    assert any(m.flags & FLAG_FULL for m in edge.raw if m.session == b"f" * 16)
    assert edge.table.statistics()["peers"]["dropped"] >= 800
    robot.push(synchronize(1))
    assert robot.answer(1)[1] == 0
    assert not any(m.flags & FLAG_FULL for m in edge.raw if m.session == b"a" * 16)
    assert set(to) == {"flood", "robot"}


def test_a_robot_that_sends_too_fast_and_obeys_has_its_calls_executed_all(make_edge):
    edge = make_edge(peers=PeerLimits(messages_per_s=40))
    _, robot = edge.open()
    for index in range(1, 121):
        robot.push(synchronize(index))
    robot.answer(120, 60)
    assert [r[0] for r in robot.records] == list(range(1, 121))


def test_a_server_that_was_stopped_does_not_blame_the_recorder(edge):
    _, robot = edge.open()
    robot.push(synchronize(1))
    robot.answer(1)
    host = edge.table.hosts[0]
    edge.table.close_session = lambda session, reason: reasons.append(reason)
    reasons = []
    # It looks a minute after it wanted to: what came meanwhile is in a queue.
    assert host.tick(host.deadline + 60.0) == ""
    now = time.monotonic() + 60.0
    while not (reason := host.tick(now)):
        now = max(host.deadline, now + 0.1)
        assert now < time.monotonic() + 80.0
    assert "nothing was heard" in reason


def test_sessions_have_a_limit_and_an_id_of_their_own(make_edge):
    edge = make_edge(peers=PeerLimits(sessions=3))
    assert [edge.open(name)[0].accepted for name in (b"a", b"b")] == [True, True]
    assert edge.open(b"b")[0].accepted, "a request that is sent again has the same answer"
    assert "already open" in edge.open(b"b", limit_bytes=4096)[0].reason
    assert edge.open(b"c")[0].accepted
    answer, _ = edge.open(b"d")
    assert "max_sessions" in answer.reason
    edge.table.close_session(b"a" * 16, "")
    assert edge.open(b"d")[0].accepted
    assert "not all zero" in edge.open(b"\0")[0].reason


def test_messages_out_of_bounds_are_refused_counted_and_named(make_edge):
    edge = make_edge(limits=HostLimits(max_message_bytes=4096))
    _, robot = edge.open()
    session = b"a" * 16
    bad = [
        CallsMessage(b"z" * 16, 1, 0, 0, b"x" * 24),
        CallsMessage(session, 1, 0, 0, b"x" * 4097),
        CallsMessage(session, 0, 0, 0, b"x" * 24),
        CallsMessage(session, 1 << 63, 0, 0, b"x" * 24),
        CallsMessage(session, 1, 0, 0, b""),
        CallsMessage(session, 1, 0, FLAG_PACKED, b"no frame at all"),
        CallsMessage(session, 1, 0, FLAG_PACKED, codec().compress(bytes(4097))),
        CallsMessage(session, 1, 0, FLAG_PACKED, codec().compress(bytes(400))[:-3]),
        CallsMessage(session, 1, 99, 0, b"x" * 24),
    ]
    for number, message in enumerate(bad, 1):
        edge.table.receive(message)
        assert edge.table.refused[0] == number
    assert "99" in edge.table.refused[1]
    robot.push(synchronize(1))
    assert robot.answer(1)[1] == 0
    assert any(m.session == b"z" * 16 and m.flags & FLAG_CLOSED for m in edge.raw)
    refusals = [line for line in edge.lines if line.startswith("refused")]
    assert 1 <= len(refusals) < len(bad)


def test_packed_messages_are_executed(edge):
    def packing(message):
        if message.flags & FLAG_ACK_ONLY:
            edge.table.receive(message)
            return
        flags, data = message.flags | FLAG_PACKED, codec().compress(bytes(message.data))
        edge.table.receive(dataclasses.replace(message, flags=flags, data=data))

    answer, robot = edge.open(send=packing)
    base = answer.info.arena_base
    robot.push(load(1) + alloc(2, base, 8) + write(3, base, bytes(8)))
    robot.push(launch(4, "add_one", struct.pack("<QI", base, 1)) + read(5, base, 4))
    assert robot.answer(5)[3] == struct.pack("<I", 1)


def test_a_replayed_message_is_not_executed_again(edge):
    sent = []

    def note(message):
        sent.append(message)
        edge.table.receive(message)

    answer, robot = edge.open(send=note)
    base = answer.info.arena_base
    robot.push(load(1) + alloc(2, base, 8) + write(3, base, bytes(8)))
    robot.push(launch(4, "add_one", struct.pack("<QI", base, 1)) + read(5, base, 4))
    robot.answer(5)
    for message in tuple(sent):
        edge.table.receive(message)
    robot.push(read(6, base, 4))
    assert robot.answer(6)[3] == struct.pack("<I", 1)


def test_a_malformed_batch_fails_its_session_only(edge):
    (_, first), (_, second) = edge.open(b"a"), edge.open(b"b")
    first.push(b"\xff" * 64)
    first.wait(lambda end: end.records)
    assert first.records[0][1:3] == (CUresult.UNKNOWN, RESULT_STICKY)
    # What the garbage displaced may be waited for: only the session's end answers that.
    assert "malformed" in edge.closing(b"a" * 16).reason
    second.push(synchronize(1))
    assert second.answer(1)[1] == 0


def test_when_the_worker_is_behind_calls_wait_on_the_robot(make_edge):
    edge = make_edge(limits=HostLimits(unexecuted_bytes=100_000, timeout_s=30))
    answer, robot = edge.open()
    base = answer.info.arena_base
    robot.push(alloc(1, base, 60_000))
    data = [os.urandom(60_000) for _ in range(8)]
    for i, content in enumerate(data):
        robot.push(write(2 + i, base, content))
    robot.push(read(10, base, 60_000))
    assert robot.answer(10)[3] == data[-1]


def test_a_device_that_cannot_be_made_refuses_the_session(make_edge):
    edge = make_edge(factory="support.memory_device:make_none")
    answer, _ = edge.open()
    assert not answer.accepted
    assert "no memory for the arena" in answer.reason


def test_a_server_that_cannot_unpack_says_at_once_what_to_install(make_edge, monkeypatch):
    monkeypatch.setattr(zstd, "_NAMES", ("no_such_package",))
    with pytest.raises(UnavailableError, match="package backports"):
        make_edge()


def test_a_server_for_a_gpu_says_at_once_that_there_is_none(make_edge, monkeypatch):
    def no_module():
        raise UnavailableError("device 'gpu' needs cuda-python")

    monkeypatch.setattr("rrto_ros.devices.gpu.driver.load", no_module)
    with pytest.raises(UnavailableError, match="needs cuda-python"):
        make_edge(device="gpu", factory="")


def test_workers_of_a_gpu_are_confined_only_where_the_user_says_so(make_edge, monkeypatch):
    from rrto_ros.edge import table

    monkeypatch.setattr(table, "check_available", lambda _: None)
    for mode, wanted in (("auto", "off"), ("required", "required"), ("off", "off")):
        edge = make_edge(device="gpu", factory="", spare_workers=0, confinement=mode)
        assert edge.table._pool._confinement == wanted
        assert any("not confined" in line for line in edge.lines) is (mode == "auto")


def test_a_name_with_lines_and_escape_codes_of_its_own_is_written_out(make_edge):
    edge = make_edge()
    name = "x\n[FATAL] [1.0] [offload_server]: all is lost\x1b[2J\x9b31m"
    request = OpenRequest(b"n" * 16, "robot", name, "label\r\x07", 1)
    for _ in range(2):  # asked again, it is the same session
        assert edge.table.open(request).accepted
    (host,) = edge.table.hosts
    shown = [host.request.program, host.request.label, edge.events[0].program, *edge.lines]
    assert all(text.isprintable() for text in shown)
    assert any("\\n[FATAL]" in line for line in edge.lines)
    # The limit is for what was sent.
    assert edge.table.open(
        dataclasses.replace(request, session=b"m" * 16, program="\n" * 256)
    ).accepted
    refused = edge.table.open(dataclasses.replace(request, session=b"o" * 16, program="x" * 257))
    assert "at most 256" in refused.reason
