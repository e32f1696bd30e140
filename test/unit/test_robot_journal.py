"""What is told again after an outage is told once: results, and the text that kernels print."""

import time

import pytest

from rrto_ros.errors import ProtocolError
from rrto_ros.robot.state.journal import PERIOD_S, Journal
from rrto_ros.wire.codec import pack_call
from rrto_ros.wire.format import RESULT_PRINTED
from rrto_ros.wire.result_codec import iter_results, pack_result


def printed(text):
    (result,) = iter_results(memoryview(pack_result(0, 0, text, RESULT_PRINTED)))
    return result


def gets(journal, text):
    """What the program is given of a text that the server sends."""
    known, rest = journal.repeated(printed(text))
    if not known:
        journal.answered(printed(text))
        return text
    return b"".join(bytes(one.payload) for one in iter_results(memoryview(rest))) if rest else b""


def test_a_text_that_comes_again_in_other_pieces_is_given_out_once_however_often_it_comes():
    journal = Journal(1 << 20)
    journal.answered(printed(b"one two"))
    out = b"one two"
    # Each server prints the whole text, in pieces of its own, and a little more than the last.
    for pieces in (
        (b"one two three",),
        (b"one two th", b"ree four"),
        (b"one", b" two three four five"),
    ):
        journal.begin_again()
        for piece in pieces:
            out += gets(journal, piece)
    assert out == b"one two three four five"


def answer(index, data, status=0):
    (result,) = iter_results(memoryview(pack_result(index, status, data)))
    return result


def test_a_result_that_differs_ends_what_is_exact_and_not_what_came_with_fewer_bits():
    for coarse in (False, True):
        journal = Journal(1 << 20)
        journal.coarse = coarse
        journal.sent(pack_call("memcpy_dtoh", 1, src=1, size=4, stream=0))
        journal.answered(answer(1, b"1234"))
        journal.begin_again()
        assert journal.repeated(answer(1, b"1234")) == (True, b"")
        if coarse:
            assert journal.repeated(answer(1, b"1235")) == (True, b""), "the program has its own"
        else:
            with pytest.raises(ProtocolError, match="gives another result"):
                journal.repeated(answer(1, b"1235"))
        with pytest.raises(ProtocolError, match="gives another result"):
            journal.repeated(answer(1, b"", 700))


LIMIT = 1 << 16
CALLS = 40


def goes_on(journal, first):
    """A batch of calls that leaves, and what it holds."""
    batch = b"".join(
        pack_call("mem_free", first + number, address=1, stream=0) for number in range(CALLS)
    )  # fmt: skip
    journal.sent(batch)
    return first + CALLS, len(batch)


def arrives(journal, number):
    (end,) = iter_results(memoryview(pack_result(number, 0, b"")))
    journal.piece(end)


def test_a_checkpoint_that_has_come_makes_room_though_the_program_never_rests():
    journal = Journal(LIMIT)
    call, sent, number = 1, 0, 0
    while sent < 4 * LIMIT:
        call, size = goes_on(journal, call)
        sent += size
        if journal.must_think:
            journal.think_hard()
        elif journal.wants_checkpoint(time.monotonic(), idle=False):
            journal.checkpoint(time.monotonic())
            number += 1
            arrives(journal, number)
        assert journal.whole
    assert number > 2
    assert journal.covered


def test_a_program_that_never_rests_has_a_checkpoint_later():
    journal = Journal(LIMIT)
    goes_on(journal, 1)
    now = time.monotonic()
    for rests, after_s in ((True, PERIOD_S), (False, 3 * PERIOD_S)):
        assert not journal.wants_checkpoint(now + after_s - 1, idle=rests)
        assert journal.wants_checkpoint(now + after_s + 1, idle=rests)


def test_the_next_calls_wait_for_a_checkpoint_that_is_late():
    journal = Journal(LIMIT)
    call, size = 1, 0
    while not journal.full:
        call, size = goes_on(journal, call)
        if journal.wants_checkpoint(time.monotonic(), idle=False):
            journal.checkpoint(time.monotonic())
    assert journal.statistics()["bytes"] + size < LIMIT
    arrives(journal, 1)
    assert journal.full
    while not journal.think():
        pass
    assert not journal.full
    assert journal.whole


def test_nothing_waits_for_a_checkpoint_that_fails():
    journal = Journal(LIMIT)
    call = 1
    while not journal.full:
        call, _ = goes_on(journal, call)
        if journal.wants_checkpoint(time.monotonic(), idle=False):
            journal.checkpoint(time.monotonic())
    (refusal,) = iter_results(memoryview(pack_result(1, 1, b"no room")))
    journal.piece(refusal)
    assert not journal.full
    assert not journal.overflowed
    while journal.whole:
        call, _ = goes_on(journal, call)
    assert f"more than resume_bytes, {LIMIT} bytes" in journal.overflowed
