"""Splits PTX text into tokens. One regular expression, linear time, bounded input."""

from __future__ import annotations

import re
from typing import NamedTuple

from rrto_ros.errors import PtxError

MAX_TEXT_BYTES = 64 << 20
MAX_TOKENS = 6 << 20
"""Of a text, or of what is read of it at once; a token takes about 100 bytes."""


class Token(NamedTuple):
    """One token: its kind ("dot", "id", "num", "str" or "op"), its text and its line."""

    kind: str
    text: str
    line: int


class Row(Token):
    """A long row of plain numbers in braces, read as one token whose text is its opening brace.

    Attributes:
        content: What is between the braces.
    """

    content: str


def _row(content: str, line: int) -> Row:
    row = Row("row", "{", line)
    row.content = content
    return row


_TOKEN = re.compile(
    r"""
    (?P<skip>[ \t\r\f\v]+|//[^\n]*)
  | (?P<nl>\n)
  | (?P<block>/\*.*?\*/)
  | (?P<num>0[fF][0-9a-fA-F]{8}(?![0-9a-fA-F])|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?
      |0[bB][01]+U?|\d+\.\d*(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+)?U?)
  | (?P<id>[A-Za-z_$%][\w$]*)
  | (?P<dot>\.[\w$]+(?:::[\w$]+)*)
  | (?P<str>"(?:[^"\\\n]|\\.)*")
  | (?P<op><<|>>|[{}()\[\],;:@!|<>+\-=*&~?/^])
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ROW = re.compile(r"\{([\s0-9A-Fa-fxXU,\-]{256,})\}", re.ASCII)
"""One class of characters, which is what the engine of `re` is fast at."""
_BEFORE_ROW = frozenset("={,")


def tokenize(
    text: str, start: int = 0, end: int | None = None, line: int = 1, *, rows: bool = True
) -> list[Token]:
    """Tokens of a PTX text, comments removed.

    Args:
        text: The text.
        start: Of the part that is read.
        end: Of it; None is the text's.
        line: That the part begins in.
        rows: Whether long rows of initial values are read as one token each.

    Raises:
        PtxError: A character that no token starts with, or a text that is too long.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise PtxError(f"PTX text of {len(text)} bytes, at most {MAX_TEXT_BYTES} are read")
    tokens: list[Token] = []
    append = tokens.append
    position, end = start, len(text) if end is None else end
    match = _TOKEN.match
    while position < end:
        found = match(text, position, end)
        if found is None:
            raise PtxError(f"line {line}: unexpected character {text[position]!r}")
        kind = found.lastgroup
        position = found.end()
        if kind == "skip":
            continue
        if kind == "nl":
            line += 1
        elif kind == "block":
            line += found.group().count("\n")
        elif (
            kind == "op"
            and rows
            and text[position - 1] == "{"
            and tokens
            and tokens[-1].text in _BEFORE_ROW
            and (row := _ROW.match(text, position - 1, end)) is not None
        ):
            append(_row(row[1], line))
            line += row[1].count("\n")
            position = row.end()
        else:
            append(Token(kind or "", found.group(), line))
            if len(tokens) > MAX_TOKENS:
                raise PtxError(
                    f"line {line}: PTX text of more than {MAX_TOKENS} words and signs; divide it "
                    "into several modules, or declare large tables without nested braces"
                )
    return tokens
