"""Messages between a session host and its worker: what is sent is read, anything else refused."""

import json
import socket
from dataclasses import astuple
from pathlib import Path

import pytest

from rrto_ros.api.info import DeviceInfo
from rrto_ros.devices.registry import DeviceSettings
from rrto_ros.errors import ProtocolError
from rrto_ros.execution.frames import MessageReader, send
from rrto_ros.execution.messages import (
    HEADER,
    KINDS,
    MAX_BODY_BYTES,
    MAX_WORDS_BYTES,
    Batch,
    Close,
    Failed,
    Hello,
    Malformed,
    Open,
    Ready,
    Results,
    Statistics,
    decode,
)

INFO = DeviceInfo(
    "null", "a device", bytes(range(16)), (8, 9), 13000, 1 << 20, 1 << 44, 1 << 30, {16: 80}
)
MESSAGES = [
    Open("cpu", DeviceSettings(1 << 20)),
    Open(
        "gpu",
        DeviceSettings(1, 2, (9, 0), 3, Path("/cache"), 4, 5.5, memcheck=True, check_calls=True),
        kernels=True,
        blobs=True,
    ),
    Batch(b"12345678"),
    Close(),
    Hello(),
    Hello("seccomp; lacking: größe"),
    Ready(INFO),
    Failed("no device: größer"),
    Results(b"", 0, 0, 0),
    Results(b"records!", 1 << 40, 2, 3),
    Malformed("call #3"),
    Statistics({"calls": 1, "busy_s": 0.5, "last_error": "x"}, {"launches": 2}, {}),
]


@pytest.fixture
def ends():
    pair = socket.socketpair()
    for end in pair:
        end.settimeout(10)
    yield pair
    for end in pair:
        end.close()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_what_is_sent_is_read(ends, message):
    send(ends[0], message)
    assert MessageReader(ends[1]).read() == message


def test_every_kind_is_tried_here():
    assert {type(m) for m in MESSAGES} == set(KINDS)


def test_messages_that_arrive_in_one_piece_are_told_apart(ends):
    for message in MESSAGES:
        send(ends[0], message)
    ends[0].close()
    reader = MessageReader(ends[1])
    for message in MESSAGES:
        assert reader.read() == message
    assert reader.read() is None


def test_detached_records_stay_what_they_are(ends):
    reader = MessageReader(ends[1])
    send(ends[0], Batch(b"kept"))
    kept = reader.read()
    reader.detach()
    send(ends[0], Batch(b"next"))
    assert reader.read() == Batch(b"next")
    assert kept == Batch(b"kept")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (len(KINDS), b""),
        (KINDS.index(Close), b"more"),
        (KINDS.index(Results), bytes(23)),
        (KINDS.index(Ready), b"short"),
        (KINDS.index(Open), b"{}"),
        (KINDS.index(Open), b"no json"),
        (KINDS.index(Statistics), b'{"unknown": {}}'),
        # of a worker that a kernel took over
        (KINDS.index(Statistics), b'{"device": 1}'),
        (KINDS.index(Statistics), b"[" * 100_000),
        (KINDS.index(Statistics), b'{"device": {"n": ' + b"9" * 10_000 + b"}}"),
        (KINDS.index(Statistics), b"{}".ljust(MAX_WORDS_BYTES + 1)),
        (KINDS.index(Failed), b"x" * (MAX_WORDS_BYTES + 1)),
    ],
)
def test_what_nobody_sends_is_refused(kind, body):
    with pytest.raises(ProtocolError, match=f"frame {kind} of {len(body)} bytes"):
        decode(kind, memoryview(body))


def test_texts_of_a_worker_end_no_line_and_are_cut():
    hostile = b"x\n[FATAL] lost\x1b[2J" + b"y" * 10_000
    for kind in (Failed, Malformed, Hello):
        message = decode(KINDS.index(kind), memoryview(hostile))
        (text,) = astuple(message)
        assert text.startswith("x\\n[FATAL] lost\\x1b[2J")
        assert text.isprintable()
        assert len(text) < 5000
    body = json.dumps({"device": {"a\nb": "c\x1bd", "n": 1.5, "odd": None}}).encode()
    found = decode(KINDS.index(Statistics), memoryview(body))
    assert found.device == {"a\\nb": "c\\x1bd", "n": 1.5, "odd": "None"}


def test_a_body_beyond_the_bound_is_refused_before_there_is_room_for_it(ends):
    ends[0].send(HEADER.pack(KINDS.index(Batch), 0, MAX_BODY_BYTES + 1))
    with pytest.raises(ProtocolError, match=f"{MAX_BODY_BYTES + 1} bytes"):
        MessageReader(ends[1]).read()
