"""What is told again after an outage is told once: results, and the text that kernels print."""

from rrto_ros.robot.state.journal import Journal
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
