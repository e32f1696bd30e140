"""What was found: calls that a CUDA driver's documentation forbids, by rule, with their number."""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum

PREFIX = "rrto check: "
"""Each line that a program or a log gets begins with it."""
MOST_LINES = 50
"""So many findings are told one by one; the rest is counted."""
_TEXT_BYTES = 400


class Rule(Enum):
    """What a call may break; the value is its name in statistics."""

    HANDLE = "handles"
    """A handle is used that is not live, or made a second time."""
    MEMORY = "memory"
    """A range lies in no live memory, or only partly, or may not be written."""
    FREE = "frees"
    """Memory is given back that is not there, or is still in use."""
    LAUNCH = "launches"
    """A launch has a size that its kernel or the device does not allow."""
    ARGUMENTS = "arguments"
    """A launch's arguments have another size than its kernel wants."""
    POINTER = "pointers"
    """An argument points into the arena, where no memory is."""
    ORDER = "order"
    """Streams use memory in no order that stream-ordered allocation allows."""
    EVENT = "events"
    """An event is waited for or timed that was not recorded, or has no time."""
    LEFT = "left"
    """What only lives within the server's side of a call was not given back at the end."""
    REFUSED = "refused"
    """The device refused a call in which nothing else was found."""


class Findings:
    """Those of one session."""

    def __init__(self) -> None:
        self.calls = 0
        self.counts: Counter[str] = Counter()
        self.first = ""
        self._index: int | None = None
        self._name = ""
        self._lines: deque[str] = deque()
        self._told = 0
        self._in_call = 0

    @property
    def total(self) -> int:
        """How many."""
        return sum(self.counts.values())

    @property
    def in_call(self) -> int:
        """Those of the call that runs."""
        return self._in_call

    def number(self, index: int) -> None:
        """The session's number of the call that comes next."""
        self._index = index

    def begin(self, name: str) -> None:
        """A call begins."""
        self.calls += 1
        self._name = name
        self._in_call = 0

    def add(self, rule: Rule, text: str) -> None:
        """Something was found in the call that runs."""
        self._in_call += 1
        self.counts[rule.value] += 1
        number = self.calls if self._index is None else self._index
        line = f"call #{number} {self._name}: {text}"[:_TEXT_BYTES]
        self.first = self.first or line
        self._told += 1
        if self._told <= MOST_LINES:
            self._lines.append(line)
        elif self._told == MOST_LINES + 1:
            self._lines.append("more are counted, and not told one by one")

    def take(self) -> bytes:
        """The lines since the last time, for people."""
        lines, self._lines = self._lines, deque()
        return "".join(f"{PREFIX}{line}\n" for line in lines).encode()
