"""Sealed messages: what a stranger can do with them, and what the link may do with them."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrto_ros.errors import ProtocolError
from rrto_ros.wire import seal
from rrto_ros.wire.port import CallsMessage, ResultsMessage
from rrto_ros.wire.seal import EdgeSeal, Opener, RobotSeal, Sealer, SessionKeys

SESSION = b"s" * 16
MOST = 1 << 20
SECRET = b"what the camera saw, 32 bytes ok"


def keys(cipher=seal.AES_256_GCM, number=0):
    parts = (bytes([number + part]) * 32 for part in (1, 2, 3))
    return SessionKeys(*parts, cipher=cipher)


@pytest.fixture(params=sorted(seal.CIPHERS), ids=["aes", "chacha"])
def ends(request):
    made = keys(request.param)
    return RobotSeal(made), EdgeSeal(made)


def calls(sequence=1, data=SECRET, flags=0):
    return CallsMessage(SESSION, sequence, 7, flags, data)


def results(sequence=1, data=SECRET, missing=(3, 5)):
    return ResultsMessage(SESSION, sequence, 7, 40, missing, 1, data)


def test_what_one_end_seals_the_other_opens_and_nobody_reads(ends):
    robot, edge = ends
    for message in (calls(), calls(2, b"", 2), calls(3, memoryview(bytes(MOST)))):
        sealed = robot.calls(message)
        assert SECRET not in sealed.data
        assert edge.calls(sealed, MOST) == dataclasses.replace(message, data=bytes(message.data))
    for message in (results(), results(2, b"", ())):
        sealed = edge.results(message)
        assert SECRET not in sealed.data
        assert robot.results(sealed, MOST) == message


def test_a_flipped_bit_anywhere_is_refused_and_the_session_goes_on(ends):
    robot, edge = ends
    sealed = robot.calls(calls())
    for bit in range(8 * len(sealed.data)):
        data = bytearray(sealed.data)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError, match="forged"):
            edge.calls(dataclasses.replace(sealed, data=bytes(data)), MOST)
    assert edge.calls(sealed, MOST).data == SECRET
    assert edge.statistics()["refused_forged"] == 8 * len(sealed.data)


@pytest.mark.parametrize(
    "changed",
    [{"session": b"t" * 16}, {"sequence": 2}, {"results_ack": 8}, {"flags": 2}, {"seal": 2}],
    ids=lambda one: next(iter(one)),
)
def test_what_a_header_of_calls_says_cannot_be_changed(ends, changed):
    robot, edge = ends
    sealed = robot.calls(calls())
    with pytest.raises(ProtocolError, match="forged"):
        edge.calls(dataclasses.replace(sealed, **changed), MOST)
    assert edge.calls(sealed, MOST).data == SECRET


@pytest.mark.parametrize(
    "changed",
    [
        {"session": b"t" * 16}, {"sequence": 2}, {"batches_ack": 8}, {"executed_call": 41},
        {"missing": (3, 6)}, {"missing": ()}, {"flags": 17}, {"seal": 2},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_header_of_results_says_cannot_be_changed(ends, changed):
    robot, edge = ends
    sealed = edge.results(results())
    with pytest.raises(ProtocolError, match="forged"):
        robot.results(dataclasses.replace(sealed, **changed), MOST)
    assert robot.results(sealed, MOST).data == SECRET


def test_a_message_is_opened_once_and_one_that_is_sent_again_is_another(ends):
    robot, edge = ends
    first, again = robot.calls(calls()), robot.calls(calls())
    assert first.data != again.data
    assert edge.calls(first, MOST) == edge.calls(again, MOST)
    for replayed in (first, again):
        with pytest.raises(ProtocolError, match="replayed"):
            edge.calls(replayed, MOST)


def test_an_unsealed_message_is_refused(ends):
    robot, edge = ends
    with pytest.raises(ProtocolError, match="unsealed"):
        edge.calls(calls(), MOST)
    with pytest.raises(ProtocolError, match="unsealed"):
        robot.results(results(), MOST)


def test_a_message_is_not_taken_for_one_of_the_other_direction():
    """Also where both directions have one key."""
    same = SessionKeys(b"k" * 32, b"k" * 32, b"c" * 32, seal.AES_256_GCM)
    robot, edge = RobotSeal(same), EdgeSeal(same)
    sent = robot.calls(calls())
    back = ResultsMessage(SESSION, 1, 7, 0, (), 0, sent.data, sent.seal)
    with pytest.raises(ProtocolError, match="forged"):
        robot.results(back, MOST)
    assert edge.calls(sent, MOST).data == SECRET


def test_another_sessions_keys_open_nothing(ends):
    robot, _ = ends
    stranger = EdgeSeal(keys(robot.keys.cipher, number=7))
    with pytest.raises(ProtocolError, match="forged"):
        stranger.calls(robot.calls(calls()), MOST)


def test_what_comes_too_late_is_refused_and_what_is_new_is_not(ends):
    robot, edge = ends
    late = robot.calls(calls())
    for sequence in range(2, seal.WINDOW + 2):
        last = robot.calls(calls(sequence))
    edge.calls(last, MOST)
    with pytest.raises(ProtocolError, match="late"):
        edge.calls(late, MOST)
    assert edge.calls(robot.calls(calls()), MOST).data == SECRET


def test_a_message_that_is_too_long_is_refused_before_it_is_opened(ends):
    robot, edge = ends
    with pytest.raises(ProtocolError, match="size"):
        edge.calls(robot.calls(calls(data=bytes(65))), 64)
    with pytest.raises(ProtocolError, match="size"):
        edge.calls(dataclasses.replace(calls(data=b"short"), seal=9), 64)
    assert edge.calls(robot.calls(calls(data=bytes(64))), 64).data == bytes(64)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), rekey=st.integers(10, 60))
def test_lost_swapped_doubled_and_changed_messages_leave_each_once(seed, rekey):
    """Over several keys: each is derived from the one before and forgotten."""
    dice = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal, "REKEY_MESSAGES", rekey)
        sealer, opener = Sealer(b"k" * 32, 1), Opener(b"k" * 32, 1)
        came, wanted, under_way = [], [], []
        for number in range(200):
            text = str(number).encode()
            got, data = sealer.seal(text, b"head")
            if dice.random() < 0.1:
                continue
            wanted.append(text)
            under_way += [(got, data)] * dice.choice((1, 1, 2))
            if dice.random() < 0.2:
                under_way.append((got + dice.choice((-1, 1, 60 * rekey, 1 << 60)), data))
            # No further out of order than one key and half of the next.
            if len(under_way) > rekey // 2 + 1:
                dice.shuffle(under_way)
                for one in under_way:
                    try:
                        came.append(opener.open(*one, b"head", MOST))
                    except ProtocolError:
                        continue
                under_way = []
        for one in under_way:
            try:
                came.append(opener.open(*one, b"head", MOST))
            except ProtocolError:
                continue
        assert sorted(came) == sorted(wanted)
        assert sealer.statistics()["rekeyed"] == 200 // rekey
        assert len(opener._keys) <= seal.MOST_KEYS + 2


def test_a_forged_number_far_ahead_makes_no_keys(monkeypatch):
    monkeypatch.setattr(seal, "REKEY_MESSAGES", 8)
    derived = []
    original = seal._next_key
    monkeypatch.setattr(seal, "_next_key", lambda key: derived.append(1) or original(key))
    opener = Opener(b"k" * 32, 1)
    for number in (8 * (seal.MOST_KEYS + 1), 1 << 40, (1 << 64) - 1):
        with pytest.raises(ProtocolError, match="far"):
            opener.open(number, bytes(40), b"", MOST)
    assert not derived
    for number in range(1, 8 * (seal.MOST_KEYS + 1)):
        with pytest.raises(ProtocolError, match="forged"):
            opener.open(number, bytes(40), b"", MOST)
    assert len(derived) == seal.MOST_KEYS


def test_a_session_outlives_a_time_in_which_all_is_lost(monkeypatch):
    monkeypatch.setattr(seal, "REKEY_MESSAGES", 8)
    sealer, opener = Sealer(b"k" * 32, 1), Opener(b"k" * 32, 1)
    for _ in range(8 * seal.MOST_KEYS):
        number, data = sealer.seal(b"x", b"")
    assert opener.open(number, data, b"", MOST) == b"x"
    assert len(opener._keys) == 2


def test_keys_are_packed_for_bags_and_never_shown():
    made = keys()
    assert SessionKeys.unpack(made.pack()) == made
    assert "0101" not in repr(made).lower()
    assert made.calls.hex() not in repr(made)
    for bad in (b"", made.pack()[:-1], b"\x09" + made.pack()[1:]):
        with pytest.raises(ProtocolError, match="keys"):
            SessionKeys.unpack(bad)
