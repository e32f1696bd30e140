"""Messages of sessions as bytes: the same that rclpy makes and reads, and nothing else."""

import array
import random
import struct

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from rrto_msgs.msg import CallBatch, CallResult
from rrto_ros.errors import ProtocolError
from rrto_ros.ros.bag_file import typestore
from rrto_ros.ros.cdr import (
    LARGE_BYTES,
    MOST_MISSING,
    calls_bytes,
    calls_message,
    calls_out,
    results_bytes,
    results_message,
    results_out,
)
from rrto_ros.wire.port import CallsMessage, ResultsMessage

SIZES = (0, 1, 2, 3, 4, 7, 8, 4096)


def calls(rng, size):
    words = [rng.getrandbits(64) for _ in range(3)]
    return CallsMessage(
        rng.randbytes(16), words[0], words[1], rng.getrandbits(8), rng.randbytes(size), words[2]
    )


def results(rng, size, missing):
    words = [rng.getrandbits(64) for _ in range(4)]
    named = tuple(rng.getrandbits(64) for _ in range(missing))
    return ResultsMessage(
        rng.randbytes(16), words[0], words[1], words[2], named, rng.getrandbits(8),
        rng.randbytes(size), words[3],
    )  # fmt: skip


def typed(message):
    """As rclpy has it."""
    m = message
    made = CallBatch() if isinstance(m, CallsMessage) else CallResult()
    made.session = np.frombuffer(m.session, np.uint8)
    made.sequence, made.flags, made.seal = m.sequence, m.flags, m.seal
    made.data = array.array("B", bytes(m.data))
    if isinstance(m, CallsMessage):
        made.results_ack = m.results_ack
    else:
        made.batches_ack, made.executed_call = m.batches_ack, m.executed_call
        made.missing = array.array("Q", m.missing)
    return made


def some():
    rng = random.Random(7)
    for size in SIZES:
        yield calls(rng, size), calls_bytes, calls_message
        for missing in (0, 1, 2, 3, MOST_MISSING):
            yield results(rng, size, missing), results_bytes, results_message


def test_the_bytes_are_as_good_as_those_that_rclpy_makes():
    for message, pack, read in some():
        wanted = serialize_message(typed(message))
        # What is in the padding is nobody's: in it Fast CDR leaves what was there.
        assert len(pack(message)) == len(wanted)
        assert read(pack(message)) == read(wanted) == message
        kind = type(typed(message))
        assert deserialize_message(pack(message), kind) == deserialize_message(wanted, kind)


def test_what_rclpy_made_is_read():
    for message, _, read in some():
        assert read(serialize_message(typed(message))) == message


def test_large_messages_leave_as_objects_with_the_same_content():
    rng = random.Random(8)
    for message, out, read in (
        (calls(rng, LARGE_BYTES), calls_out, calls_message),
        (results(rng, LARGE_BYTES, 0), results_out, results_message),
        (results(rng, LARGE_BYTES, 3), results_out, results_message),
    ):
        made = out(message)
        assert not isinstance(made, bytes)
        assert read(serialize_message(made)) == message


def test_data_of_any_kind_of_buffer_is_sent():
    whole = b"x" * 5 + bytes(range(200)) + b"y"
    doubles = memoryview(array.array("d", whole[5:-1]))
    for data in (bytearray(whole[5:-1]), memoryview(whole)[5:-1], doubles):
        message = CallsMessage(bytes(16), 1, 0, 0, data)
        assert bytes(calls_message(calls_bytes(message)).data) == whole[5:-1]


def test_other_encodings_are_read_too():
    store = typestore()
    rng = random.Random(3)
    for message, read, kind in (
        (calls(rng, 37), calls_message, "CallBatch"),
        (results(rng, 37, 5), results_message, "CallResult"),
    ):
        made = typed(message)
        fields = {
            name: np.array(getattr(made, name)) if name in ("session", "data", "missing") else
            getattr(made, name)
            for name in made.get_fields_and_field_types()
        }  # fmt: skip
        other = store.types[f"rrto_msgs/msg/{kind}"](**fields)
        data = bytes(store.serialize_cdr(other, f"rrto_msgs/msg/{kind}", little_endian=False))
        assert data[:2] == b"\0\0"
        assert read(data) == message


def test_what_is_cut_is_refused_wherever_it_is_cut():
    for message, pack, read in some():
        data = pack(message)
        if len(data) > 700:
            continue
        for size in range(len(data)):
            with pytest.raises(ProtocolError):
                read(data[:size])
        assert read(data + bytes(3)) == message  # CDR may end with padding
        with pytest.raises(ProtocolError):
            read(data + bytes(4))


def test_counts_that_lie_are_refused_before_anything_is_made_of_them():
    rng = random.Random(5)
    data = bytearray(calls_bytes(calls(rng, 64)))
    for size in (63, 60, 65, 1 << 31, (1 << 32) - 1):
        struct.pack_into("<I", data, 48, size)
        if size == 63:  # one byte of padding
            assert len(calls_message(bytes(data)).data) == 63
            continue
        with pytest.raises(ProtocolError):
            calls_message(bytes(data))
    for count in (MOST_MISSING + 1, 1 << 31, (1 << 32) - 1):
        data = bytearray(results_bytes(results(rng, 8192, 0)))
        struct.pack_into("<I", data, 44, count)
        with pytest.raises(ProtocolError):
            results_message(bytes(data))


def test_noise_is_refused_and_raises_nothing_else():
    rng = random.Random(11)
    taken = 0
    for _ in range(20_000):
        make, pack, read = rng.choice(KINDS)
        data = bytearray(pack(make(rng)))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.getrandbits(8)
        try:
            read(bytes(data))
            taken += 1
        except ProtocolError:
            pass
    assert 0 < taken < 20_000


KINDS = (
    (lambda rng: calls(rng, rng.randrange(40)), calls_bytes, calls_message),
    (
        lambda rng: results(rng, rng.randrange(40), rng.randrange(4)),
        results_bytes,
        results_message,
    ),
)
