"""Calls that the server executed before the program made them: owns which, and until when.

After a reference the server may execute the plan's next calls if they only read, and push their
results. The next record of the session decides what they are: the calls of a reference that goes
on where that one ended, or nothing. Nothing has to be undone, because nothing was changed.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from rrto_ros.replay.plan import Reference

P = TypeVar("P")

TOGETHER_BYTES = 64 << 10
"""Results ahead of this size in all travel with the result before them; more of them would delay
it."""


class ServerAhead(Generic[P]):
    """Where a session's last reference ended, and what was executed beyond. Not thread-safe.

    Attributes:
        plan: The plan of that reference, as its owner has it; None where nothing is ahead.
        position: The plan's next call.
        index: Number that this call will have in the session.
        done: Calls from there on whose results were pushed.
        wanted: Calls from there on that may be executed.
    """

    def __init__(self) -> None:
        self.plan: P | None = None
        self.position = 0
        self.index = 0
        self.done = 0
        self.wanted = 0
        self._thread = 0
        self._pushed = 0
        self._used = 0
        self._dropped = 0
        self._repeated = 0

    def drop(self) -> None:
        """The session goes on in another way."""
        self._dropped += self.done
        self.plan, self.done, self.wanted = None, 0, 0

    def follow(self, plan: P, ref: Reference) -> int:
        """A reference comes.

        Returns:
            How many of its first calls were executed already.
        """
        same = self.plan is plan and self.position == ref.first and self.index == ref.index
        if not same or self._thread != ref.thread:
            self.drop()
        used = min(self.done, ref.count)
        self._used += used
        self.done -= used
        self.plan, self.wanted = plan, max(ref.ahead, self.done)
        self.position, self.index = ref.first + ref.count, ref.index + ref.count
        self._thread = ref.thread
        return used

    def pushed(self) -> None:
        """The next call was executed and its result pushed."""
        self.done += 1
        self._pushed += 1

    def stop(self) -> None:
        """No more calls are executed for now."""
        self.wanted = self.done

    def again(self) -> None:
        """A call's result was pushed and has to be sent all the same."""
        self._repeated += 1

    def statistics(self) -> dict[str, int]:
        """Calls executed ahead, and how many of them the program then made or did not."""
        return {
            "ahead_calls": self._pushed,
            "ahead_used": self._used,
            "ahead_dropped": self._dropped,
            "ahead_repeated": self._repeated,
        }
