from __future__ import annotations

import os
import stat
import struct

import pytest

from rrto_ros.api import ring_layout as layout
from rrto_ros.errors import ConfigError, ProtocolError, UnavailableError
from rrto_ros.robot.atomics import atomics
from rrto_ros.robot.reply_writer import ReplyWriter
from rrto_ros.robot.ring import RingConsumer, RingMemory, drain_eventfd
from rrto_ros.robot.ring_socket import MAX_PATH_BYTES, RingListener
from rrto_ros.runtime_files import held, hold, server_lock, serves, socket_lock, socket_path
from rrto_ros.wire.codec import iter_headers, pack_call
from rrto_ros.wire.port import HIGHEST_DOMAIN, MAX_ROBOT, topic
from rrto_ros.wire.result_codec import iter_results, pack_result


@pytest.fixture
def ring():
    made = RingMemory(call_bytes=4096, reply_bytes=4096, mode=1, wait_timeout_ms=1234)
    yield made
    made.close()


def publish(ring, head):
    atomics().store_u64(ring.address + layout.CALL_HEAD, head)


def test_the_header_says_magic_version_sizes_mode_and_timeout_at_the_documented_places(ring):
    assert struct.unpack_from("<IIQQ", ring.view, 0) == (0x4F545252, 1, 4096, 4096)
    assert struct.unpack_from("<IIII", ring.view, 512) == (1, 0, 1234, 0)
    ring.beat()
    ring.set_state(46)
    ring.set_mode(0)
    assert struct.unpack_from("<IIII", ring.view, 512) == (0, 46, 1234, 1)
    assert drain_eventfd(ring.reply_fd) == 1


def test_the_program_cannot_shrink_the_memory_under_the_recorder(ring):
    with pytest.raises(PermissionError):
        os.ftruncate(ring.memory_fd, 4096)


def test_records_come_out_in_order_across_the_rings_end(ring):
    consumer = RingConsumer(ring)
    record = pack_call("memcpy_htod", 1, dst=1, stream=0, payload=b"x" * 960)
    head, taken = 0, []
    for index in range(1, 40):
        record = pack_call("memcpy_htod", index, dst=1, stream=0, payload=b"x" * 960)
        offset = head % 4096
        if offset + len(record) > 4096:
            struct.pack_into("<IHH", ring.view, layout.RINGS + offset, 4096 - offset, 0, 0)
            head += 4096 - offset
        start = layout.RINGS + head % 4096
        ring.view[start : start + len(record)] = record
        head += len(record)
        publish(ring, head)
        while data := consumer.take():
            taken += [h.index for h in iter_headers(data)]
    assert taken == list(range(1, 40))
    assert consumer.statistics()["bytes"] == head
    assert struct.unpack_from("<Q", ring.view, 128)[0] == head


@pytest.mark.parametrize("head", [4097, 4104, 1 << 63, 12])
def test_an_impossible_position_of_the_program_is_refused(ring, head):
    consumer = RingConsumer(ring)
    publish(ring, head)
    with pytest.raises(ProtocolError, match="impossible"):
        consumer.take()


def test_taking_wakes_a_program_that_waits_for_room(ring):
    consumer = RingConsumer(ring)
    atomics().store_u32(ring.address + layout.PRODUCER_WAITING, 1)
    publish(ring, 64)
    consumer.take()
    assert drain_eventfd(ring.reply_fd) == 1
    assert atomics().load_u32(ring.address + layout.PRODUCER_WAITING) == 0


class Program:
    """The taking side of the reply ring."""

    def __init__(self, ring):
        self.ring, self.tail = ring, 0

    def take(self):
        head = atomics().load_u64(self.ring.address + layout.REPLY_HEAD)
        out = []
        while self.tail != head:
            offset = self.tail % 4096
            size = min(head - self.tail, 4096 - offset)
            start = layout.RINGS + 4096 + offset
            data = bytes(self.ring.view[start : start + size])
            out += [(r.index, bytes(r.payload)) for r in iter_results(data)]
            self.tail += size
        atomics().store_u64(self.ring.address + layout.REPLY_TAIL, self.tail)
        return out


def test_results_that_do_not_fit_wait_in_order_and_ask_to_be_woken(ring):
    writer, program = ReplyWriter(ring), Program(ring)
    wanted = [(i, bytes([i]) * (i * 37 % 1800)) for i in range(1, 30)]
    writer.write([pack_result(i, 0, data) for i, data in wanted])
    got = []
    while len(got) < len(wanted):
        some = program.take()
        assert some, "stalled"
        got += some
        if writer.statistics()["pending"]:
            assert atomics().load_u32(ring.address + layout.REPLY_WAITING) == 1
        writer.flush()
    assert got == wanted
    assert writer.statistics()["stalls"] > 0


def test_a_result_as_large_as_the_ring_passes_from_any_position(ring):
    writer, program = ReplyWriter(ring), Program(ring)
    writer.write([pack_result(1, 0, b"a" * 1000)])
    program.take()
    writer.write([pack_result(2, 0, b"b" * (4096 - 24))])
    got = program.take()
    writer.flush()
    got += program.take()
    assert got == [(2, b"b" * 4072)]


def test_a_result_larger_than_the_ring_is_refused_by_name(ring):
    with pytest.raises(ProtocolError, match="cannot pass a reply ring of 4096"):
        ReplyWriter(ring).write([pack_result(1, 0, b"a" * 4096)])


def test_results_that_wait_make_the_writer_full_until_half_of_the_bound_is_left(ring):
    writer, program = ReplyWriter(ring, max_pending_bytes=10_000), Program(ring)
    writer.write([pack_result(i, 0, b"a" * 1000) for i in range(9)])
    assert not writer.full, "three are in the ring, six beside it"
    writer.write([pack_result(i, 0, b"a" * 1000) for i in range(9, 14)])
    assert writer.full
    got, filled = [], []
    while len(got) < 14:
        got += program.take()
        writer.flush()
        filled.append((writer.statistics()["pending_bytes"], writer.full))
    assert [index for index, _ in got] == list(range(14))
    assert [full for _, full in filled] == [size > 5_000 for size, _ in filled]
    assert {full for _, full in filled} == {True, False}


def test_a_server_that_never_holds_back_is_refused_beyond_a_bound(ring, monkeypatch):
    monkeypatch.setattr("rrto_ros.robot.reply_writer.MOST_UNASKED_BYTES", 4096)
    writer = ReplyWriter(ring, max_pending_bytes=10_000)
    writer.write([pack_result(i, 0, b"a" * 4000) for i in range(4)])
    assert writer.full
    with pytest.raises(ProtocolError, match="does not hold back"):
        writer.write([pack_result(4, 0, b"a" * 4000)])


def test_a_long_row_of_records_is_taken_in_parts_of_whole_records(ring, monkeypatch):
    monkeypatch.setattr("rrto_ros.robot.ring.TAKE_BYTES", 1000)
    records = [struct.pack("<IHH", size, 1, 0) + bytes(size - 8) for size in (400, 400, 400, 2000)]
    row = b"".join(records)
    ring.view[layout.RINGS : layout.RINGS + len(row)] = row
    atomics().store_u64(ring.address + layout.CALL_HEAD, len(row))
    consumer = RingConsumer(ring)
    assert (consumer.take(), consumer.more) == (row[:1200], True)
    assert (consumer.take(), consumer.more) == (row[1200:], False)
    assert consumer.take() == b""


def test_an_impossible_reply_position_is_refused(ring):
    atomics().store_u64(ring.address + layout.REPLY_TAIL, 8)
    with pytest.raises(ProtocolError, match="impossible"):
        ReplyWriter(ring).write([pack_result(1, 0)])


def test_the_socket_folder_is_private_and_a_second_recorder_is_refused(sockets):
    path = sockets / "rrto-1" / "robot.sock"
    listener = RingListener(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(UnavailableError, match="another recorder_replayer listens"):
        RingListener(path)
    listener.close()
    assert not path.exists()
    RingListener(path).close()


def test_a_socket_that_a_killed_recorder_left_is_replaced(sockets):
    path = sockets / "r" / "robot.sock"
    pid = os.fork()
    if pid == 0:
        RingListener(path)
        os._exit(0)
    os.waitpid(pid, 0)
    assert path.exists()
    RingListener(path).close()


def test_a_folder_that_others_may_write_is_refused(sockets):
    folder = sockets / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="not be writable by others"):
        RingListener(folder / "robot.sock")


def test_a_path_longer_than_a_socket_address_is_refused_with_the_cure(sockets):
    with pytest.raises(ConfigError, match="RRTO_SOCKET"):
        RingListener(sockets / ("x" * 120) / "robot.sock")


def test_the_socket_path_follows_the_environment(monkeypatch, sockets):
    monkeypatch.delenv("RRTO_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/x")
    assert str(socket_path("robot", 0)) == f"/run/x/rrto-{os.getuid()}/0-robot.sock"
    assert str(socket_path("fleet/r2", 7)) == f"/run/x/rrto-{os.getuid()}/7-fleet.r2.sock"
    monkeypatch.setenv("RRTO_SOCKET", str(sockets / "s"))
    assert socket_path("robot", 7) == sockets / "s"


def test_a_lock_is_seen_while_its_holder_lives(sockets):
    lock = sockets / "run" / "x.lock"
    assert not held(lock)
    fd = hold(lock)
    assert held(lock)
    assert hold(lock) is None
    os.close(fd)
    assert not held(lock)
    assert lock.stat().st_mode & 0o777 == 0o600
    assert lock.parent.stat().st_mode & 0o777 == 0o700


def test_no_two_robots_share_a_file(monkeypatch):
    monkeypatch.delenv("RRTO_SOCKET", raising=False)
    robots = ["a", "b", "a/b", "a_b", "ab", "A", "b/a", "a/b/c"]
    servers = ["a", "b", "a.b", "x.sock", "server"]
    places = [(r, d) for r in robots for d in (0, 1, 11)]
    paths = {socket_path(*place) for place in places}
    paths |= {socket_lock(path) for path in paths}
    paths |= {server_lock(*place, server) for place in places for server in servers}
    assert len(paths) == (2 + len(servers)) * len(places)


def test_any_server_of_a_robot_is_found_and_no_other_robots(sockets, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(sockets))
    assert not serves("a", 1)
    fds = [hold(server_lock("a", 1, "east")), hold(server_lock("a", 1, "west"))]
    assert hold(server_lock("a", 1, "west")) is None
    for fd in fds:
        assert serves("a", 1)
        assert not serves("a", 0)
        assert not serves("a/b", 1)
        os.close(fd)
    assert not serves("a", 1)


def test_the_longest_robot_name_fits_into_a_sockets_address(monkeypatch):
    monkeypatch.delenv("RRTO_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/4294967294")
    path = str(socket_path("r" * MAX_ROBOT, HIGHEST_DOMAIN))
    longest = path.replace(f"rrto-{os.getuid()}", "rrto-4294967294")
    assert len(longest) <= MAX_PATH_BYTES
    topic("r" * MAX_ROBOT, "status")
    with pytest.raises(ConfigError, match="has 61 characters, want 60 at most"):
        topic("r" * (MAX_ROBOT + 1), "status")
