"""Where the bodies of functions lie in a PTX text: one pass over its characters, without tokens.

So a large text is divided in a fraction of the time that reading it takes, and its bodies can be
read when they are wanted. What no PTX text has is found here all the same: braces that do not
close, characters that no token is made of.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rrto_ros.errors import PtxError

_ORDINARY = r"\w\s$%()\[\],:@!|<>+\-=*&~?^"
# One class of characters each, which is what the engine of `re` is fast at.
_OUTSIDE = re.compile(f"[^{_ORDINARY}]", re.ASCII)
_INSIDE = re.compile(f"[^{_ORDINARY}.;]", re.ASCII)
_GAP = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|/', re.DOTALL)
"""A comment, a string, or the operator that begins like a comment."""
_FUNCTION = re.compile(r"\.(?:entry|func)(?![\w$])", re.ASCII)
_STATIC = tuple(
    re.compile(rf"\.{space}(?![\w$.:])(?<![\w$%]\.{space})", re.ASCII)
    for space in ("global", "const")
)
"""A declaration, unlike the part of an opcode."""


class Body(NamedTuple):
    """A function's body.

    Attributes:
        start: Of its opening brace.
        end: Behind its closing brace.
        line: Of its opening brace, 1-based.
        static: Whether it declares variables of the module.
    """

    start: int
    end: int
    line: int
    static: bool


def find_bodies(text: str) -> list[Body]:
    """The bodies of all functions in a text, in its order.

    Raises:
        PtxError: Braces do not fit together, or a character is none of PTX's (its line is named).
    """
    found: list[Body] = []
    position = depth = begin = counted = 0
    line = 1
    function = False
    while (hit := (_INSIDE if depth else _OUTSIDE).search(text, position)) is not None:
        at, what = hit.start(), hit.group()
        position = at + 1
        if what == "{":
            begin = begin if depth else at
            depth += 1
        elif what == "}":
            if not depth:
                raise PtxError(f"line {_line(text, at)}: unexpected '}}' at module level")
            depth -= 1
            if not depth and function:
                line, counted = line + text.count("\n", counted, begin), begin
                static = any(one.search(text, begin, position) for one in _STATIC)
                found.append(Body(begin, position, line, static))
            function = function and depth > 0
        elif what == ";":
            function = False
        elif what == ".":
            function = function or _FUNCTION.match(text, at) is not None
        else:
            gap = _GAP.match(text, at)
            if gap is None:
                raise PtxError(f"line {_line(text, at)}: unexpected character {what!r}")
            position = gap.end()
    if depth:
        raise PtxError("the PTX text ends in the middle of a statement")
    return found


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
