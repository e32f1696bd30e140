"""Profiles on the wire: what is told comes as it was, and what is damaged is refused."""

import math
import random
import struct

import pytest

from rrto_ros.api.ops import Kind
from rrto_ros.errors import ProtocolError
from rrto_ros.robot.incoming import Incoming
from rrto_ros.wire import profiles
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.format import RESULT_PROFILE, RESULT_STATE
from rrto_ros.wire.literal import LiteralReader
from rrto_ros.wire.profiles import (
    MAX_CALLS,
    MAX_NAME_BYTES,
    MAX_RANGES,
    MAX_RECORD_BYTES,
    ProfiledCall,
    ProfileReader,
    pack_profile,
)
from rrto_ros.wire.result_codec import iter_results, pack_result
from rrto_ros.zstd import codec, unpack

NUMBER = 7
HEAD = struct.Struct("<IHHIIIIIQd")


def record(payload, number=NUMBER, status=0, flags=RESULT_PROFILE):
    (result,) = iter_results(pack_result(number, status, payload, flags))
    return result


def read(payloads):
    reader = ProfileReader(NUMBER)
    for payload in payloads:
        reader.take(record(payload))
        assert not reader.done
    reader.take(record(b""))
    assert reader.done
    assert not reader.error
    return reader.calls


def spans(rnd, most=6):
    cuts = sorted(rnd.sample(range(1 << 48), 2 * rnd.randint(0, most)))
    return tuple(zip(cuts[::2], cuts[1::2], strict=True))


def some(rnd, call):
    return ProfiledCall(
        call, rnd.choice(list(Kind)), rnd.choice(("", "k", "größer", "memcpy_htod", "x" * 4000)),
        rnd.choice((None, spans(rnd))), rnd.choice((None, spans(rnd))), spans(rnd),
        rnd.randrange(1 << 40), rnd.random() < 0.5, rnd.randrange(99), rnd.random(),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_what_is_told_comes_as_it_was(seed):
    rnd = random.Random(seed)
    places = sorted(rnd.choices(range(MAX_CALLS), k=rnd.choice((0, 1, 30, 900))))
    calls = [some(rnd, call) for call in places]
    assert read(pack_profile(calls)) == calls


def test_a_large_profile_goes_in_several_records():
    wide = tuple((n * 16, n * 16 + 8) for n in range(MAX_RANGES))
    calls = [ProfiledCall(k, Kind.WORK, "k", wide, wide, wide) for k in range(3)]
    payloads = pack_profile(calls)
    assert len(payloads) == 3
    assert all(len(unpack(p, MAX_RECORD_BYTES)) < MAX_RECORD_BYTES for p in payloads)
    assert read(payloads) == calls


def test_what_is_too_much_is_told_as_not_known():
    wide = tuple((n * 16, n * 16 + 8) for n in range(MAX_RANGES + 1))
    beyond = ((1 << 63, 1 << 64),)
    (got,) = read(pack_profile([ProfiledCall(0, Kind.WORK, "ü" * 3000, wide, beyond, wide)]))
    assert (got.reads, got.writes, got.covers) == (None, None, ())
    assert got.name == "ü" * (MAX_NAME_BYTES // 2)


def test_ranges_are_put_in_order():
    spans = ((40, 50), (10, 20), (20, 30), (45, 60), (7, 7))
    (got,) = read(pack_profile([ProfiledCall(0, Kind.WORK, "k", spans, (), ())]))
    assert got.reads == ((10, 30), (40, 60))


def test_a_profile_that_is_too_large_is_not_packed(monkeypatch):
    monkeypatch.setattr(profiles, "MAX_PIECES", 3)
    calls = [ProfiledCall(k, Kind.WORK, "k") for k in range(4)]
    assert len(read(pack_profile(calls[:3]))) == 3
    with pytest.raises(ValueError, match="more than 3 pieces"):
        pack_profile(calls)


def piece(call=0, kind=0, flags=0, times=1, name=b"k", counts=(1, 1, 0), uploaded=0, seconds=0.5,
          addresses=(16, 32, 48, 64), name_bytes=None):  # fmt: skip
    size = len(name) if name_bytes is None else name_bytes
    head = HEAD.pack(call, kind, flags, times, size, *counts, uploaded, seconds)
    return head + name + struct.pack(f"<{len(addresses)}Q", *addresses)


def packed(data):
    return codec().compress(data, 1)


DAMAGED = {
    "no frame": b"\x00" * 40,
    "half a frame": packed(piece())[:-3],
    "nothing in it": packed(b""),
    "too much in it": packed(bytes(MAX_RECORD_BYTES + 1)),
    "a call beyond": packed(piece(call=MAX_CALLS)),
    "a kind that is none": packed(piece(kind=max(Kind) + 1)),
    "flags that are none": packed(piece(flags=8)),
    "ranges that are not known": packed(piece(flags=1)),
    "written ones, too": packed(piece(flags=2)),
    "too many ranges": packed(piece(counts=(MAX_RANGES + 1, 0, 0), addresses=range(1, 32771))),
    "less ranges than said": packed(piece(counts=(1, 1, 1))),
    "more ranges than said": packed(piece(counts=(1, 0, 0))),
    "a name beyond": packed(piece(name_bytes=40)),
    "a long name": packed(piece(name=b"x" * (MAX_NAME_BYTES + 1))),
    "no UTF-8": packed(piece(name=b"\xff\xfe")),
    "an empty range": packed(piece(addresses=(16, 16, 48, 64))),
    "a range backwards": packed(piece(addresses=(32, 16, 48, 64))),
    "ranges that meet": packed(piece(counts=(2, 0, 0), addresses=(16, 32, 32, 64))),
    "ranges out of order": packed(piece(counts=(2, 0, 0), addresses=(48, 64, 16, 32))),
    "less than no time": packed(piece(seconds=-1.0)),
    "for ever": packed(piece(seconds=math.inf)),
    "no number": packed(piece(seconds=math.nan)),
    "calls out of order": packed(piece(call=3) + piece(call=2)),
    "half a piece": packed(piece() + piece()[:20]),
}


def test_the_pieces_that_are_damaged_below_are_good_otherwise():
    assert read([packed(piece() + piece())]) == [
        ProfiledCall(0, Kind.WORK, "k", ((16, 32),), ((48, 64),), (), 0, False, 1, 0.5)
    ] * 2  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_refused(name):
    with pytest.raises(ProtocolError):
        ProfileReader(NUMBER).take(record(DAMAGED[name]))


@pytest.mark.parametrize("seed", range(40))
def test_what_is_damaged_anywhere_is_refused_or_well_formed(seed):
    rnd = random.Random(seed)
    data = bytearray(unpack(pack_profile(some(rnd, k) for k in range(9))[0], MAX_RECORD_BYTES))
    for _ in range(50):
        bad = bytearray(data)
        for _ in range(rnd.randint(1, 4)):
            bad[rnd.randrange(len(bad))] = rnd.randrange(256)
        reader = ProfileReader(NUMBER)
        try:
            reader.take(record(packed(bytes(bad[: rnd.randint(1, len(bad))]))))
        except ProtocolError:
            continue
        again = ProfileReader(NUMBER)
        for payload in pack_profile(reader.calls):
            again.take(record(payload))
        assert again.calls == reader.calls


def test_calls_are_in_order_over_all_records():
    reader = ProfileReader(NUMBER)
    reader.take(record(packed(piece(call=5))))
    with pytest.raises(ProtocolError, match="call 4 after call 5"):
        reader.take(record(packed(piece(call=4))))


def test_there_is_an_end_to_what_is_read(monkeypatch):
    monkeypatch.setattr(profiles, "MAX_PIECES", 3)
    reader = ProfileReader(NUMBER)
    with pytest.raises(ProtocolError, match="more than 3 pieces"):
        reader.take(record(packed(piece() * 4)))
    monkeypatch.setattr(profiles, "MAX_PROFILE_BYTES", 1000)
    with pytest.raises(ProtocolError, match="at most 1000"):
        ProfileReader(NUMBER).take(record(packed(piece() * 20)))


@pytest.mark.parametrize(
    "bad",
    [
        record(packed(piece()), number=NUMBER + 1),
        record(packed(piece()), flags=RESULT_STATE),
        record(packed(piece()), flags=RESULT_PROFILE | RESULT_STATE),
    ],
)
def test_a_record_of_something_else_is_refused(bad):
    with pytest.raises(ProtocolError, match=f"profile {NUMBER} was expected"):
        ProfileReader(NUMBER).take(bad)


def test_nothing_comes_after_the_end():
    reader = ProfileReader(NUMBER)
    reader.take(record(b""))
    with pytest.raises(ProtocolError, match="nothing was expected"):
        reader.take(record(b""))


def test_a_failure_says_why_and_leaves_nothing():
    reader = ProfileReader(NUMBER)
    reader.take(record(packed(piece())))
    reader.take(record("größer".encode(), status=801))
    assert (reader.done, reader.error, reader.calls) == (True, "größer", [])


def test_a_robot_refuses_what_it_did_not_ask_for():
    incoming = Incoming(None, None, None)
    for payload in (b"", packed(piece())):
        with pytest.raises(ProtocolError, match=f"profile {NUMBER}, which nobody asked for"):
            incoming.deliver(pack_result(NUMBER, 0, payload, RESULT_PROFILE), 0.0)


def test_a_question_is_no_call_of_the_program():
    call = pack_call("ctx_synchronize", 3, context=0)
    asks = pack_call("profile", 0, number=1, first=3, calls=1)
    assert [bytes(one) for one in LiteralReader().read(asks + call + asks)] == [call]
