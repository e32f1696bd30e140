"""Programs (the Python ring client), real recorder sessions and a server in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from support.echo_server import EchoServer
from support.ring_client import RingClient

from rrto_ros.api import ring_layout as layout
from rrto_ros.api.results import CUresult
from rrto_ros.errors import CudaError
from rrto_ros.robot.host import RobotHost
from rrto_ros.robot.status import SessionConfig
from rrto_ros.wire.codec import blob_tag, pack_call
from rrto_ros.wire.descriptions import HELLO, Hello, pack_hello
from rrto_ros.wire.format import RESULT_BLOB_WANTED
from rrto_ros.wire.link import MessageSender
from rrto_ros.wire.port import FLAG_ACK_ONLY, FLAG_PACKED, ResultsMessage
from rrto_ros.wire.result_codec import pack_result

CONFIG = SessionConfig(server_timeout_s=1.0, connect_timeout_s=0.2, resume="off")


class World:
    """A recorder and its server; `reports` collects the final snapshots."""

    def __init__(self, path, config, max_sessions=4, **server):
        self.reports = []
        self.reported = threading.Semaphore(0)
        self.lines = []
        self.host = RobotHost(path, config, max_sessions, self.report, self.lines.append)
        self.server = EchoServer(self.host.on_results, **server)
        self.host.activate(self.server)

    def report(self, snapshot):
        self.reports.append(snapshot)
        self.reported.release()

    def next_report(self):
        assert self.reported.acquire(timeout=5)
        return self.reports[-1]

    def client(self, **hello):
        return RingClient(
            self.host.path, Hello(**{"pid": 7, "program": "p", "label": "l"} | hello)
        )

    def close(self):
        self.host.close()
        self.server.stop()


@pytest.fixture
def world(sockets):
    made = []

    def make(config=CONFIG, **options):
        made.append(World(sockets / "r" / "robot.sock", config, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def htod(index, payload, dst=1 << 40, flags=0):
    return pack_call("memcpy_htod", index, dst=dst, stream=0, payload=payload, record_flags=flags)


def sync(index, thread=1):
    return pack_call("ctx_synchronize", index, thread=thread, context=1, record_flags=1)


def until(condition, timeout=5.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


def test_a_call_reaches_the_server_and_its_result_the_program(world):
    w = world()
    with_data = pack_call("memcpy_dtoh", 2, src=1, size=5, stream=0, record_flags=1)
    w.server.answer = lambda call: b"hello" if call.op.name == "memcpy_dtoh" else b""
    client = w.client(program="detector", label="run 1")
    assert client.info.name == "echo"
    client.put(htod(1, b"abc"))
    client.put(with_data)
    assert bytes(client.wait(2).payload) == b"hello"
    assert w.server.calls == [("memcpy_htod", 1, b"abc"), ("memcpy_dtoh", 2, b"")]
    request = w.server.opened[0]
    assert (request.program, request.label, request.pid) == ("detector", "run 1", 7)
    client.close()


def test_calls_that_nobody_waits_for_travel_together_up_to_the_linger_time(world):
    w = world(dataclasses.replace(CONFIG, linger_s=0.5))
    client = w.client()
    for index in range(1, 51):
        client.put(htod(index, b"x"))
    until(lambda: len(w.server.calls) == 50)
    data = [m for m in w.server.messages if len(m.data)]
    assert len(data) == 1
    client.put(htod(51, b"x"))
    client.put(sync(52))
    client.wait(52)
    data = [m for m in w.server.messages if len(m.data)]
    assert len(data) == 2
    assert client.signals <= 4, "lingering must not be woken by calls that nobody waits for"
    client.close()


def test_in_mode_rpc_nothing_lingers(world):
    w = world(dataclasses.replace(CONFIG, linger_s=5.0, mode="rpc"))
    client = w.client()
    assert client.mode == 0
    client.put(pack_call("mem_free", 1, address=1, stream=0, record_flags=2))
    started = time.monotonic()
    client.wait(1)
    assert time.monotonic() - started < 2.0
    client.close()


def test_a_half_full_ring_does_not_linger(world):
    w = world(
        dataclasses.replace(CONFIG, linger_s=30.0, batch_bytes=10_000, call_ring_bytes=1 << 16)
    )
    client = w.client()
    for index in range(1, 60):
        client.put(htod(index, b"x" * 1000))
    until(lambda: len(w.server.calls) >= 30, timeout=0.8)
    client.close()


def test_the_mode_of_open_sessions_changes_at_run_time(world):
    w = world()
    client = w.client()
    assert client.mode == 1
    w.host.set_mode("rpc")
    assert client.mode == 0
    assert w.host.sessions[0].snapshot().mode == "rpc"
    other = w.client()
    assert other.mode == 0
    client.close()
    other.close()


@pytest.mark.parametrize("seed", range(2))
def test_large_uploads_through_a_small_ring_and_a_lossy_link_arrive_in_order(world, seed):
    rng = random.Random(seed)
    config = dataclasses.replace(
        CONFIG,
        call_ring_bytes=1 << 16,
        reply_ring_bytes=1 << 16,
        max_message_bytes=5000,
        window=8,
        server_timeout_s=20.0,
        blob_min_bytes=4096,
    )
    w = world(config, loss=0.1, seed=seed, max_message_bytes=4000)
    w.server.answer = lambda call: w.server.calls[-2][2]
    client = w.client()
    wanted = []
    for index in range(1, 24, 2):
        payload = rng.randbytes(rng.choice([1, 100, 5000, 30_000]))
        client.put(htod(index, payload, dst=index))
        client.put(sync(index + 1))
        assert bytes(client.wait(index + 1, timeout_s=30.0).payload) == payload
        wanted += [("memcpy_htod", index, payload), ("ctx_synchronize", index + 1, b"")]
    assert w.server.calls == wanted
    assert w.host.sessions[0].snapshot().messages_resent > 0
    client.close()


def test_threads_of_a_program_get_their_own_results_in_any_order(world):
    w = world()
    held = []

    def answer(call):
        held.append(call.index)
        return struct.pack("<Q", call.index)

    w.server.answer = answer
    client = w.client()
    for index in range(1, 9):
        client.put(sync(index, thread=index))
    for index in reversed(range(1, 9)):
        assert struct.unpack("<Q", client.wait(index).payload)[0] == index
    client.close()


def test_an_upload_that_the_server_lists_is_named_instead_of_sent(world):
    content = bytes(range(256)) * 200
    digest = hashlib.sha256(content).digest()
    w = world(known=[blob_tag(digest)])
    w.server.blobs[digest] = content
    client = w.client()
    client.put(htod(1, content))
    client.put(sync(2))
    client.wait(2)
    assert w.server.calls[0] == ("memcpy_htod", 1, content)
    assert sum(len(m.data) for m in w.server.messages) < 1000
    assert w.host.sessions[0].snapshot().blob_bytes_saved == len(content)
    client.close()


def test_a_blob_that_the_server_has_lost_is_sent_when_it_asks(world):
    content = bytes(range(256)) * 200
    w = world(known=[blob_tag(hashlib.sha256(content).digest())])
    w.server.answer = lambda call: b"answer"
    client = w.client()
    client.put(htod(1, content))
    until(lambda: w.server.calls)
    client.put(sync(2))
    client.wait(2)
    assert w.server.calls[0] == ("memcpy_htod", 1, content)
    assert w.host.sessions[0].snapshot().blob_bytes_saved == 0
    client.close()


def test_the_same_upload_twice_is_sent_once(world):
    w = world()
    client = w.client()
    client.put(htod(1, b"w" * 50_000, dst=1))
    client.put(htod(2, b"w" * 50_000, dst=2))
    client.put(sync(3))
    client.wait(3)
    assert [c[2] for c in w.server.calls[:2]] == [b"w" * 50_000] * 2
    assert sum(len(m.data) for m in w.server.messages) < 1000
    assert w.host.sessions[0].statistics()["blobs_references"] == 1
    client.close()


def test_inputs_that_change_every_time_are_soon_not_hashed_any_more(world):
    w = world()
    client = w.client()
    for index in range(1, 21):
        client.put(htod(index, bytes([index]) * 50_000, dst=1))
    client.put(sync(21))
    client.wait(21)
    assert w.host.sessions[0].statistics()["blobs_hashed_bytes"] == 3 * 50_000
    client.close()


def packed(server):
    """Bytes of each data message that left, those that were packed apart."""
    out = {True: [], False: []}
    for message in server.messages:
        if not message.flags & FLAG_ACK_ONLY:
            out[bool(message.flags & FLAG_PACKED)].append(len(message.data))
    return out[True], out[False]


def test_what_the_server_lacks_travels_packed_where_it_shrinks(world):
    w = world()
    client = w.client()
    text, noise = b"machine code " * 40_000, random.Random(1).randbytes(400_000)
    client.put(pack_call("module_load", 1, module=1, payload=text))
    client.wait(1)
    small, whole = packed(w.server)
    assert whole == []
    assert 0 < sum(small) < len(text) / 20
    client.put(pack_call("module_load", 2, module=2, payload=noise))
    client.wait(2)
    client.close()
    assert w.next_report().bytes_sent == sum(map(sum, packed(w.server)))
    assert packed(w.server)[0] == small
    assert [c[2] for c in w.server.calls] == [text, noise]


def test_inputs_of_inferences_are_not_packed(world):
    w = world()
    client = w.client()
    for index in range(1, 21, 2):
        client.put(htod(index, bytes([index]) * 50_000, dst=1))
        client.put(sync(index + 1))
        client.wait(index + 1)
    small, whole = packed(w.server)
    assert len(small) == 3
    assert sum(size > 50_000 for size in whole) == 7
    client.close()


@pytest.mark.parametrize("setting", ["auto", "off"])
def test_inputs_leave_in_fewer_bytes_where_the_link_is_slow(world, monkeypatch, setting):
    monkeypatch.setattr(MessageSender, "bytes_per_s", property(lambda _: 1e6))
    w = world(dataclasses.replace(CONFIG, upload_compression=setting))
    client = w.client()
    steps = random.Random(3)
    inputs = [
        bytes(i % 251 + (i * n) % 3 + steps.randrange(2) for i in range(50_000)) for n in range(9)
    ]
    for number, content in enumerate(inputs):
        client.put(htod(2 * number + 1, content, dst=1))
        client.put(sync(2 * number + 2))
        client.wait(2 * number + 2)
    assert [call[2] for call in w.server.calls if call[0] == "memcpy_htod"] == inputs
    # The first three may be constants; they leave as Zstandard makes them.
    whole = [size for size in packed(w.server)[1] if size > 1000]
    assert whole == [] if setting == "auto" else len(whole) >= 6
    coded = w.host.sessions[0].statistics()
    assert coded.get("compressed_messages", 0) == (6 if setting == "auto" else 0)
    client.close()
    assert w.next_report().bytes_sent == sum(map(sum, packed(w.server)))


def test_a_lost_blob_travels_packed(world):
    content = bytes(range(256)) * 2000
    w = world(known=[blob_tag(hashlib.sha256(content).digest())])
    client = w.client()
    client.put(htod(1, content))
    until(lambda: w.server.calls)
    client.put(sync(2))
    client.wait(2)
    assert w.server.calls[0] == ("memcpy_htod", 1, content)
    assert sum(map(sum, packed(w.server))) < 20_000
    client.close()


def test_without_blob_references_every_upload_is_literal(world):
    content = b"w" * 50_000
    w = world(
        dataclasses.replace(CONFIG, blob_references=False),
        known=[blob_tag(hashlib.sha256(content).digest())],
    )
    client = w.client()
    client.put(htod(1, content))
    client.put(htod(2, content))
    client.put(sync(3))
    client.wait(3)
    assert w.server.flags[:2] == [0, 0]
    assert packed(w.server)[0] == []
    client.close()


def test_no_server_is_told_to_the_program_within_the_time(world):
    w = world()
    w.server.there = False
    started = time.monotonic()
    with pytest.raises(CudaError, match=r"SYSTEM_NOT_READY.*no offload server answered"):
        w.client()
    assert time.monotonic() - started < 2.0
    assert w.next_report().error.startswith("no offload server")
    assert w.server.closed, "a server that answers too late must free the session"


def test_a_refusing_server_is_quoted_to_the_program(world):
    w = world()
    w.server.accept = False
    with pytest.raises(CudaError, match="refused the session: this server is full"):
        w.client()


def test_a_silent_server_is_given_up_and_waiting_calls_return_device_unavailable(world):
    w = world()
    client = w.client()
    client.put(sync(1))
    client.wait(1)
    w.server.deaf = True
    client.put(sync(2))
    started = time.monotonic()
    with pytest.raises(CudaError) as caught:
        client.wait(2)
    assert caught.value.result == CUresult.DEVICE_UNAVAILABLE
    assert 0.5 < time.monotonic() - started < 3.0
    snapshot = w.host.sessions[0].snapshot()
    assert snapshot.phase == "lost"
    assert "silent for 1 s" in snapshot.error
    started = time.monotonic()
    for index in range(3, 300):
        with contextlib.suppress(CudaError):
            client.put(htod(index, b"x" * 200_000), timeout_s=2.0)
    assert time.monotonic() - started < 2.0, "a program without a server must never hang"
    client.close()
    assert w.next_report().phase == "lost"


def test_a_quiet_program_keeps_its_session_because_both_ends_show_life(world):
    w = world(dataclasses.replace(CONFIG, server_timeout_s=1.5))
    client = w.client()
    time.sleep(3.2)
    client.put(sync(1))
    client.wait(1)
    assert w.server.opened
    client.close()


def test_a_server_that_closed_the_session_ends_it_at_once(world):
    w = world(dataclasses.replace(CONFIG, server_timeout_s=60.0))
    client = w.client()
    w.server.deaf = True
    client.put(sync(1))
    w.server.hang_up(client.session)
    with pytest.raises(CudaError, match="DEVICE_UNAVAILABLE"):
        client.wait(1)
    assert "closed the session" in w.host.sessions[0].snapshot().error
    client.close()


def test_a_program_that_ends_has_its_session_closed_and_reported(world):
    w = world()
    client = w.client()
    session = client.session
    client.put(htod(1, b"last words"))
    client.count(0, 11)
    client.count(4, 3)
    client.close()
    report = w.next_report()
    assert (report.phase, report.calls_local, report.round_trips) == ("closed", 11, 3)
    assert w.server.closed == [(session, "the program ended")]
    until(lambda: w.server.calls == [("memcpy_htod", 1, b"last words")])
    assert w.host.sessions == []


def scribble_position(client):
    client.atomics.store_u64(client.address + layout.CALL_HEAD, 12345)


def scribble_size(client):
    client.put(struct.pack("<IHHQII", 4096, 10, 0, 1, 1, 0))


def scribble_operation(client):
    client.put(struct.pack("<IHHQII", 24, 999, 0, 1, 1, 0))


def scribble_blob(client):
    client.put(pack_call("blob_data", 1, payload=b"evil"))


def scribble_reply_position(client):
    client.atomics.store_u64(client.address + layout.REPLY_TAIL, 64)
    client.put(sync(1))


@pytest.mark.parametrize(
    "scribble",
    [
        scribble_position,
        scribble_size,
        scribble_operation,
        scribble_blob,
        scribble_reply_position,
    ],
)
def test_a_program_that_scribbles_over_the_ring_loses_its_session_and_no_other(world, scribble):
    w = world()
    good, bad = w.client(), w.client(pid=666)
    scribble(bad)
    bad.atomics.exchange_sleep(bad.address + layout.CALL_HEAD - 64, 1)
    os.write(bad.call_fd, (1).to_bytes(8, "little"))
    until(lambda: bad.state)
    bad.close()
    report = w.next_report()
    assert report.pid == 666
    assert report.error
    good.put(sync(1))
    good.wait(1)
    good.close()


@pytest.mark.parametrize(
    ("hello", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n" + bytes(64), "not with RRTO"),
        (pack_hello(Hello(1, "p", "", version=99)), "speaks protocol 99"),
        (pack_hello(Hello(1, "p", "", table_hash=bytes(32))), "another table of driver calls"),
        (pack_hello(Hello(1, "x" * 60_000, "")), "at most 16384"),
        (HELLO.pack(0x4F545252, 1, bytes(32), 1, 2, 0) + b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_wrong_hello_is_answered_with_the_reason_and_counted(world, hello, text):
    w = world()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(w.host.path))
        connection.sendall(hello)
        answer = b""
        while len(answer) < 17:
            answer += connection.recv(4096)
    assert struct.unpack_from("<I", answer, 4)[0] == CUresult.SYSTEM_NOT_READY
    assert text in answer[16:].decode()
    assert w.host.refused[0] == 1
    assert text in w.host.refused[1]


def test_an_inactive_recorder_says_so_instead_of_letting_the_program_wait(world):
    w = world()
    w.host.deactivate()
    with pytest.raises(CudaError, match=r"is not active.*lifecycle"):
        w.client()


def test_more_programs_than_allowed_are_refused_with_the_parameter_to_raise(world):
    w = world(max_sessions=1)
    first = w.client()
    with pytest.raises(CudaError, match="max_sessions"):
        w.client()
    first.close()


def test_stopping_the_recorder_wakes_waiting_programs_with_an_error(world):
    w = world(dataclasses.replace(CONFIG, server_timeout_s=60.0))
    client = w.client()
    w.server.deaf = True
    client.put(sync(1))
    threading.Timer(0.2, w.host.stop_sessions, ["stopped by test"]).start()
    with pytest.raises(CudaError, match="DEVICE_UNAVAILABLE"):
        client.wait(1)
    assert w.next_report().error == "stopped by test"
    client.close()


def test_results_that_no_ring_can_carry_end_the_session_with_a_named_error(world):
    w = world(dataclasses.replace(CONFIG, reply_ring_bytes=4096))
    w.server.answer = lambda call: b"x" * 5000
    client = w.client()
    client.put(sync(1))
    with pytest.raises(CudaError):
        client.wait(1)
    client.close()
    assert "cannot pass a reply ring" in w.next_report().error


def test_a_sticky_error_reaches_the_program_and_the_status(world):
    w = world()
    client = w.client()
    client.put(sync(1))
    client.wait(1)
    sender = w.server.links[client.session][1]
    sender.push(pack_result(5, 700, b"launch 5 of kernel k: illegal address", 1))
    client.put(sync(6))
    result = client.wait(5)
    assert (result.status, result.sticky) == (700, True)
    assert "kernel k" in w.host.sessions[0].snapshot().error
    client.close()


def descriptors():
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def forged(client, server, **changes):
    """A message of results as the server would send it next, changed."""
    receiver, sender = server.links[client.session]
    fields = {
        "session": client.session, "sequence": sender.newest + 1, "batches_ack": receiver.ack,
        "executed_call": 0, "missing": (), "flags": 0, "data": pack_result(2, 0, b"forged"),
    }  # fmt: skip
    return ResultsMessage(**fields | changes)


@pytest.mark.parametrize(
    "changes",
    [{"batches_ack": 1 << 40}, {"sequence": 1 << 40}, {"batches_ack": 99, "missing": (1, 99)},
     {"flags": FLAG_ACK_ONLY, "sequence": 1 << 40}],
    ids=["ack", "sequence", "missing", "probe"],
)  # fmt: skip
def test_a_forged_message_that_cannot_be_right_takes_no_real_ones_place(world, changes):
    w = world(dataclasses.replace(CONFIG, server_timeout_s=5.0))
    w.server.answer = lambda call: b"real"
    client = w.client()
    client.put(sync(1))
    client.wait(1)
    before = w.host.sessions[0].snapshot().messages_refused
    w.host.on_results(forged(client, w.server, **changes))
    assert w.host.sessions[0].snapshot().messages_refused == before + 1
    client.put(sync(2))
    assert bytes(client.wait(2).payload) == b"real"
    client.close()


def test_a_damaged_message_that_took_a_real_ones_place_is_an_error_in_the_stated_time(world):
    w = world()
    client = w.client()
    client.put(sync(1))
    client.wait(1)
    # The answer to call 2 has this number, and is taken for one that came already.
    w.host.on_results(forged(client, w.server, data=pack_result(77, 0, b"")))
    client.put(sync(2))
    with pytest.raises(CudaError) as caught:
        client.wait(2)
    assert caught.value.result == CUresult.DEVICE_UNAVAILABLE
    assert "call 2 has waited for 1 s" in w.host.sessions[0].snapshot().error
    client.close()


def test_calls_that_are_acknowledged_and_never_came_are_an_error_in_the_stated_time(world):
    w = world()
    client = w.client()
    client.put(sync(1))
    client.wait(1)
    lose, w.server.loss = w.server.loss, 1.0
    client.put(sync(2))
    until(lambda: any(m.sequence == 2 and len(m.data) for m in w.server.messages))
    w.host.on_results(forged(client, w.server, flags=FLAG_ACK_ONLY, sequence=1, batches_ack=2))
    w.server.loss = lose
    with pytest.raises(CudaError, match="DEVICE_UNAVAILABLE"):
        client.wait(2)
    assert "call 2 has waited" in w.host.sessions[0].snapshot().error
    client.close()


def test_an_outage_that_is_shorter_than_the_timeout_loses_nothing(world):
    w = world(dataclasses.replace(CONFIG, server_timeout_s=2.0))
    client = w.client()
    client.put(sync(1))
    client.wait(1)
    w.server.shy = True
    for index in (2, 3):
        w.server.deaf = True
        client.put(sync(index))
        threading.Timer(1.6, setattr, [w.server, "deaf", False]).start()
        client.wait(index)
    assert w.host.sessions[0].snapshot().error == ""
    client.close()


def test_a_content_is_sent_once_however_often_it_is_asked_for(world):
    content = bytes(range(256)) * 200
    digest = hashlib.sha256(content).digest()
    w = world(known=[blob_tag(digest)])
    w.server.blobs[digest] = content
    client = w.client()
    w.server.deaf = True
    client.put(htod(1, content))
    until(lambda: any(len(m.data) for m in w.server.messages))
    wanted = pack_result(1, 500, flags=RESULT_BLOB_WANTED)
    w.host.on_results(forged(client, w.server, sequence=1, data=wanted * 1000))
    until(lambda: client.state)
    assert "refers to none" in w.host.sessions[0].snapshot().error
    assert sum(len(m.data) for m in w.server.messages) < 4 * len(content)
    client.close()


def test_sixty_sessions_leave_no_descriptor_and_what_they_used_is_given_back(world, monkeypatch):
    given = []
    monkeypatch.setattr("rrto_ros.robot.host.give_back", lambda: given.append(1))
    w = world()

    def run():
        client = w.client()
        client.put(sync(1))
        client.wait(1)
        client.close()
        w.next_report()
        until(lambda: not w.host.sessions)

    run()
    until(lambda: given)
    before = descriptors()
    for _ in range(60):
        run()
    until(lambda: len(given) == 61)
    until(lambda: descriptors() <= before)
