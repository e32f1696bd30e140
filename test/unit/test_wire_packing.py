"""Messages are packed where that pays, and unpacked within their bound."""

import random
from types import SimpleNamespace

import pytest

from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.wire import packing
from rrto_ros.wire.link import MessageSender
from rrto_ros.wire.packing import Packer, unpacked

MIB = 1 << 20
TEXT = b"".join(b"%d instructions of a kernel " % i for i in range(40_000))[:MIB]
NOISE = random.Random(1).randbytes(MIB)
SLOW, FAST = 10e6, 1e12


@pytest.mark.parametrize("size", [packing.LEAST_BYTES, 50_000, 70_001, MIB])
def test_a_packed_message_is_what_it_was(size):
    packer = Packer()
    out = packer.pack(memoryview(TEXT)[:size], 0)
    assert out is not None
    assert unpacked(out, MIB) == TEXT[:size]
    assert packer.saved_bytes == size - len(out)
    # Its bytes are counted once, so what is saved is too.
    assert packer.pack(memoryview(TEXT)[:size], 0, again=True) == out
    assert packer.saved_bytes == size - len(out)


def test_what_does_not_shrink_is_found_by_a_sample():
    packer = Packer()
    asked = []
    real = packer._codec
    packer._codec = SimpleNamespace(
        compress=lambda data, level: asked.append(len(data)) or real.compress(data, level)
    )
    assert packer.pack(NOISE, SLOW) is None
    assert asked == [2 * packing.SAMPLE_BYTES]
    assert packer.pack(TEXT[: packing.LEAST_BYTES - 1], SLOW) is None
    # A sample may be wrong: what came of it counts.
    assert (
        packer.pack(NOISE[: MIB // 2] + TEXT[:20_000] + NOISE[: MIB // 4] + TEXT[:20_000], 0)
        is None
    )
    assert packer.statistics()["messages"] == 0


def test_a_link_that_is_faster_than_packing_gets_messages_as_they_are():
    packer = Packer()
    assert packer.pack(TEXT, SLOW) is not None
    assert packer.pack(TEXT, FAST) is None
    assert packer.pack(TEXT, 0) is not None


def test_what_is_damaged_or_holds_too_much_is_refused():
    out = Packer().pack(TEXT, 0)
    for wrong, most in ((out[:-1], MIB), (b"nothing", MIB), (out, MIB - 1), (b"", MIB)):
        with pytest.raises(ProtocolError, match="a packed message of"):
            unpacked(wrong, most)


def test_without_a_codec_nothing_is_packed(monkeypatch):
    def none():
        raise UnavailableError("none")

    monkeypatch.setattr(packing, "codec", none)
    assert Packer().pack(TEXT, 0) is None


def test_a_link_says_what_it_takes():
    sender = MessageSender(max_message_bytes=MIB)
    assert sender.bytes_per_s == 0
    sender.push(b"short")
    sender.due(0.0)
    sender.acknowledged(1, (), 1e-6)
    assert sender.bytes_per_s == 0
    sender.push(bytes(2 * MIB))
    sender.due(1.0)
    sender.acknowledged(2, (), 1.1)
    sender.acknowledged(3, (), 1.2)
    assert sender.bytes_per_s == pytest.approx(10 * MIB, rel=1e-4)
    for second in range(4, 80):
        sender.push(bytes(MIB))
        sender.due(float(second))
        sender.acknowledged(sender.newest, (), second + 1.0)
    # Without short messages it is not known how much of the time is not the bytes'.
    assert MIB / 8 < sender.bytes_per_s < 2.2 * MIB


def carried(sender, at, sizes, *, rate, trip_s=0.01):
    """Messages that are coded to these sizes leave one after the other over a link."""
    for size in sizes:
        sender.push(bytes(MIB))
        (message,) = sender.due(at)
        at += 0.05  # coding
        sender.left(message.sequence, size, at)
        at += size / rate + trip_s
        sender.acknowledged(message.sequence, (), at)
    return at


def test_the_link_is_measured_by_what_it_carries_and_not_by_what_was_coded():
    sender = MessageSender(max_message_bytes=MIB)
    sender.push(b"short")
    (message,) = sender.due(0.0)
    sender.acknowledged(message.sequence, (), 0.01)
    at = carried(sender, 1.0, [MIB] * 3, rate=10e6)
    assert sender.bytes_per_s == pytest.approx(10e6, rel=0.01)
    at = carried(sender, at, [MIB // 8] * 5, rate=10e6)
    assert sender.bytes_per_s == pytest.approx(10e6, rel=0.01)
    carried(sender, at, [MIB // 8] * 100, rate=2e6)
    assert sender.bytes_per_s == pytest.approx(2e6, rel=0.01)


def test_what_an_empty_message_takes_is_not_the_bytes_time():
    sender = MessageSender(max_message_bytes=MIB)
    sender.push(b"short")
    sender.due(0.0)
    sender.acknowledged(1, (), 0.05)
    carried(sender, 1.0, [MIB] * 3, rate=100e6, trip_s=0.05)
    # At most half of the time is taken off: how short a message could be was maybe never seen.
    assert sender.bytes_per_s == pytest.approx(MIB / (0.5 * (0.05 + MIB / 100e6)), rel=0.01)
