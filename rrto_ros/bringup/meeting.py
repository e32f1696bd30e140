"""How long recorder and server may take to find each other, and which is then started anew.

DDS discovery can stand still for good in one participant. Fast DDS 3.2.3 does so where another's
writer disappears while an announcement of its own is due: the receiving thread holds the lock of
discovery and waits for the thread of the timers, which waits for that lock
(eProsima/Fast-DDS#6502, #6193). Two participants of one process did it to each other, too, while
they delivered by calling each other and so took both's locks in either order (1 of 450 starts of
`test/support/rig.py`'s pair); our profiles have that turned off. Nothing inside the process helps
then. Whoever has just started it can start it again.
"""

from __future__ import annotations

from dataclasses import dataclass

ALONE_S = 1.25
"""How long one side may be up without the other, or both without having met. On two quiet cores
they are up within 0.2 s of each other, and meet 0.2 to 0.5 s later; to start one anew takes as
long again as it took to come up, and all of it shall be over within 5 s."""
SILENT_S = 10.0
"""How long neither may be seen."""


@dataclass
class Meeting:
    """Watches one bring-up's nodes meet.

    The times grow with the longest that the first of them took to be seen, which a busy machine
    makes long, and double with each attempt.

    Args:
        started: When the processes were started, on the clock of `late`.
        alone_s: How long one may be up without having met the other, at least.
    """

    started: float
    alone_s: float = ALONE_S
    first_seen: float = 0.0
    slowest: float = 0.0
    attempts: int = 0

    def late(self, now: float, recorder: bool, server: bool) -> tuple[bool, bool]:
        """Whether to start (the recorder, the server) anew; call it again and again.

        Args:
            now: The time, in seconds.
            recorder: Whether the recorder's status was seen since it was started.
            server: Whether the server's was.
        """
        if not (recorder or server):
            self.first_seen = 0.0
            late = now - self.started > SILENT_S * 2**self.attempts
            return self._again(now, late, late)
        self.first_seen = self.first_seen or now
        # Of one that is started anew the other, which was up, is seen at once: that says nothing.
        self.slowest = max(self.slowest, self.first_seen - self.started)
        patience = max(self.alone_s, self.slowest) * 2**self.attempts
        if now - self.first_seen <= patience:
            return False, False
        # Both are up: which of them the other does not hear cannot be told from here.
        both = recorder and server
        return self._again(now, both or not recorder, both or not server)

    def _again(self, now: float, recorder: bool, server: bool) -> tuple[bool, bool]:
        if recorder or server:
            self.started, self.first_seen = now, 0.0
            self.attempts += 1
        return recorder, server
