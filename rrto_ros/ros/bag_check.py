"""Whether a recording has every message: owns the gaps in what was seen of each session.

Nothing but the numbers of messages is looked at, so that it keeps up with any recording.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_AHEAD = 1 << 16
"""Numbers of messages kept that are ahead of a gap; a stream with more has lost too much."""


@dataclass
class StreamCheck:
    """The messages seen of one direction of one session.

    Attributes:
        name: What is counted, for `fault`.
        next: Every data message below this number was seen; they start at 1.
        newest: Number of the newest data message that is known to exist.
    """

    name: str
    next: int = 1
    newest: int = 0
    _ahead: set[int] = field(default_factory=set)
    _overrun: bool = False

    def seen(self, sequence: int) -> None:
        """A data message was recorded; a repetition counts once."""
        self.exists(sequence)
        if sequence > self.next:
            if len(self._ahead) < MAX_AHEAD:
                self._ahead.add(sequence)
            else:
                self._overrun = True
            return
        if sequence == self.next:
            self.next += 1
            while self.next in self._ahead:
                self._ahead.remove(self.next)
                self.next += 1

    def exists(self, sequence: int) -> None:
        """Somebody spoke of a data message of this number: it was acknowledged, say."""
        self.newest = max(self.newest, sequence)

    @property
    def fault(self) -> str:
        """What is missing; empty if nothing is."""
        if self.next > self.newest:
            return ""
        lost = self.newest - self.next + 1 - len(self._ahead)
        about = "at least " if self._overrun else ""
        return f"{self.name}: message {self.next} is missing ({about}{lost} of {self.newest})"


@dataclass
class SessionCheck:
    """Both directions of one session, and whether its opening and its end were seen."""

    program: str = ""
    opened: bool = False
    closed: bool = False
    calls: StreamCheck = field(default_factory=lambda: StreamCheck("calls"))
    results: StreamCheck = field(default_factory=lambda: StreamCheck("results"))

    @property
    def faults(self) -> list[str]:
        """Why the recording of this session is not complete; empty if it is."""
        found = [stream.fault for stream in (self.calls, self.results) if stream.fault]
        return found if self.opened else [*found, "its opening was not recorded"]
