"""A position in a token list, with the small questions that the parser asks."""

from __future__ import annotations

from rrto_ros.devices.cpu.ptx.lexer import Row, Token
from rrto_ros.errors import PtxError

_END = Token("end", "", 0)


class Cursor:
    """Reads tokens in order; running out of them is a PtxError."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._index = 0

    @property
    def done(self) -> bool:
        return self._index >= len(self._tokens)

    def peek(self, ahead: int = 0) -> Token:
        """The token `ahead` places on, without taking it."""
        index = self._index + ahead
        if index < len(self._tokens):
            return self._tokens[index]
        if ahead:
            return _END
        raise PtxError("the PTX text ends in the middle of a statement")

    def next(self) -> Token:
        """Takes one token."""
        token = self.peek()
        self._index += 1
        return token

    def accept(self, text: str) -> bool:
        """Takes the next token if it is `text`."""
        if self.peek().text == text:
            self._index += 1
            return True
        return False

    def row(self) -> Row | None:
        """Takes the next token if it is a long row of numbers."""
        token = self.peek()
        if not isinstance(token, Row):
            return None
        self._index += 1
        return token

    def expect(self, text: str) -> None:
        """Takes `text`, or fails."""
        token = self.peek()
        if token.text != text:
            raise self.error(f"expected {text!r}, got {token.text!r}")
        self._index += 1

    def identifier(self) -> str:
        """Takes a name."""
        token = self.next()
        if token.kind != "id":
            raise self.error(f"expected a name, got {token.text!r}")
        return token.text

    def integer(self) -> int:
        """Takes an unsigned integer."""
        token = self.next()
        if token.kind != "num":
            raise self.error(f"expected a number, got {token.text!r}")
        try:
            return int(token.text.rstrip("U"), 0)
        except ValueError:
            try:
                return int(token.text.rstrip("U"), 8)
            except ValueError:
                raise self.error(f"expected an integer, got {token.text!r}") from None

    def skip_past(self, text: str) -> None:
        """Drops tokens up to and including `text`."""
        while self.next().text != text:
            pass

    def skip_line(self) -> None:
        """Drops the rest of the current source line (directives without a semicolon)."""
        line = self.peek().line
        while not self.done and self.peek().line == line:
            self._index += 1

    def error(self, detail: str) -> PtxError:
        """A PtxError naming the line of the last token taken."""
        index = max(0, min(self._index, len(self._tokens)) - 1)
        line = self._tokens[index].line if self._tokens else 0
        return PtxError(f"line {line}: {detail}")
