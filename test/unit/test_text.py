"""Names and messages of others on a terminal and in a log."""

import pytest

from rrto_ros.text import printable

HOSTILE = {
    "a line of its own": ("perception\n[FATAL] the server: all is lost", "\\n[FATAL]"),
    "the cursor": ("x\x1b[2J\x1b[1;1H", "\\x1b[2J"),
    "the title": ("x\x1b]0;owned\x07", "\\x07"),
    "one byte controls": ("x\x9b31m\x85\x7f\r", "\\x9b31m\\x85\\x7f\\r"),
    "the order of writing": ("x\u202egnp.exe", "\\u202e"),
    "line separators": ("x\u2028y\u2029z", "\\u2028"),
    "what is no text": ("x\udc80", "\\udc80"),
    "nothing": ("x\0", "\\x00"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_moves_a_cursor_or_ends_a_line_is_written_out(name):
    text, expected = HOSTILE[name]
    shown = printable(text)
    assert expected in shown
    assert shown.isprintable()
    assert len(shown.splitlines()) == 1
    shown.encode()


@pytest.mark.parametrize("text", ["", "python3 infer.py --größe 3", "日本語 \\n literal"])
def test_what_people_write_stays(text):
    assert printable(text) == text


def test_a_text_is_cut_where_that_is_asked_for():
    assert printable("x" * 100, 10) == "x" * 10 + "..."
    assert printable("x" * 10, 10) == "x" * 10
