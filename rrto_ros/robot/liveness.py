"""Whether a session's server is still of use: owns the silence and standstill that are allowed.

A server is lost when nothing is heard of it for the stated time. It is lost, too, when it answers,
executes nothing, and a program's call waits all the same: then a message was taken for another (a
forged or damaged one), and what the program waits for will never come. Sans-IO, as `wire.link`.

    live.woke(now, planned)             # time in which this process stood still does not count
    live.heard(now, busy, position)     # from the server
    reason = live.lost(now, call, settled)
"""

from __future__ import annotations

ALIVE_PERIOD_S = 1.0
"""How often the recorder says something at least."""
PROBE_PERIOD_S = 0.25
"""How often it asks a server of which it has not heard for `ALIVE_PERIOD_S`: the first message
that passes again is answered, and the answer names what is missing."""
STOOD_STILL_S = 0.5
"""Who wakes so much later than planned was stopped, or had no processor."""
UNSETTLED = 4
"""While messages are on their way, which a slow link takes long for, a standstill may last so many
times longer."""

Position = tuple[int, int, int]
"""Messages that the server has, its newest executed call, messages that the robot has."""


class Liveness:
    """One session's judgement of its server.

    Args:
        limit_s: Silence, or standstill, after which the server is lost.
        now: Monotonic seconds.
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s
        self.heard_at = now
        """When the server was heard last; time in which this process stood still left out."""
        self._moved = now
        self._position: Position = (0, 0, 0)
        self._waits = 0
        self._stood_still_s = 0.0

    def heard(self, now: float, busy: bool, position: Position) -> None:
        """A message of the server came.

        Args:
            now: When.
            busy: It executes, or waits for room here.
            position: How far both are.
        """
        self.heard_at = now
        if busy or position != self._position:
            self._position = position
            self._moved = now

    def woke(self, now: float, planned: float) -> None:
        """The session looks at the time, which it wanted to do at `planned` at the latest.

        What the server said while this process stood still is still in a queue.
        """
        late = now - planned
        if planned and late > STOOD_STILL_S:
            self.heard_at = min(self.heard_at + late, now)
            self._moved = min(self._moved + late, now)
            self._stood_still_s += late

    def probe_at(self, spoke: float) -> float:
        """When to ask for a sign of life, if nothing is said before.

        Args:
            spoke: When the robot said something last.
        """
        asks = max(self.heard_at + ALIVE_PERIOD_S, spoke + PROBE_PERIOD_S)
        return min(spoke + ALIVE_PERIOD_S, asks)

    def doubts(self, now: float, call: int, silence_s: float = 0.0) -> bool:
        """Whether `lost` is to be asked, which wants to know more; its arguments."""
        if now >= self.heard_at + (silence_s or self._limit_s):
            return True
        if call != self._waits:
            self._waits = call
            self._moved = now
        return call != 0 and now >= self._moved + self._limit_s

    def lost(self, now: float, call: int, settled: bool, silence_s: float = 0.0) -> str:
        """Why the server is lost; empty if it is not.

        Args:
            now: Monotonic seconds.
            call: One for which the program waits, 0 for none.
            settled: Everything that was sent has arrived, and what is announced is here.
            silence_s: Silence that is too long, if another than `limit_s`.
        """
        if not self.doubts(now, call, silence_s):
            return ""
        silence_s = silence_s or self._limit_s
        if now >= self.heard_at + silence_s:
            return f"the offload server was silent for {silence_s:g} s"
        limit_s = self._limit_s * (1 if settled else UNSETTLED)
        if now < self._moved + limit_s:
            return ""
        return (
            f"the offload server answers and is idle, but call {call} has waited for "
            f"{limit_s:g} s: a message of this session was lost or forged"
        )

    def deadline(self) -> float:
        """When to ask `lost` again at the latest."""
        return self.heard_at + self._limit_s

    def statistics(self) -> dict[str, float]:
        """Seconds in which this process stood still, as far as they were noticed."""
        return {"stood_still_s": round(self._stood_still_s, 3)}
