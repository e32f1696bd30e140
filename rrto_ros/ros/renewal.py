"""When a participant that does not meet its other end is made anew: owns that patience.

Discovery of a participant can stand still for good (see `bringup.meeting`), and what it shares can
be lost. Both ends watch for it: the robot's moves first, since a new one there disturbs nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

MOST = 512
"""The patience doubles with each attempt, since the old participants stay (see
`context.abandon`), to so many times the first."""


class Abandonable(Protocol):
    """A participant that can be left without being destroyed."""

    def abandon(self) -> None: ...


_Made = TypeVar("_Made", bound=Abandonable)


class Renewal:
    """Judges one participant.

    Args:
        first_s: How long the other end may be seen but not reached, at first.
        clock: In seconds.

    Attributes:
        next_s: The patience of now, in seconds.
        renewed: How often the participant was made anew.
    """

    def __init__(self, first_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_s = first_s
        self._clock = clock
        self._since: float | None = None
        self.next_s = first_s
        self.renewed = 0

    def due(self, apart: bool, met: bool = False) -> float:
        """Look again and again.

        Args:
            apart: Whether the other end is seen but not reached.
            met: Whether it is reached.

        Returns:
            The seconds waited, if it is time to make the participant anew; else 0.
        """
        if met:
            self.next_s = self._first_s
        if not apart:
            self._since = None
            return 0.0
        now = self._clock()
        if self._since is None:
            self._since = now
        waited_s = self.next_s
        if now - self._since < waited_s:
            return 0.0
        self._since = now
        self.next_s = min(2 * waited_s, MOST * self._first_s)
        return waited_s

    def renew(
        self,
        make: Callable[[], _Made],
        swap: Callable[[_Made], _Made],
        log: Callable[[str], None],
    ) -> None:
        """Make a participant and abandon the one whose place it takes.

        Args:
            make: Makes it.
            swap: Puts it in its place; gives the one that was there.
            log: Takes a line where it cannot be made.
        """
        try:
            made = make()
        except Exception as error:  # the middleware's own; no port or no memory is left
            log(f"that failed ({error}); next try in {self.next_s:g} s")
            return
        old = swap(made)
        self.renewed += 1
        old.abandon()
        self.began()

    def began(self) -> None:
        """A new participant begins now; it has its time."""
        self._since = self._clock()
