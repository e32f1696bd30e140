"""Calls that the server executed before the program made them: owns which, and until when.

After a reference the server may execute the plan's next calls and push the results of those that
read. The next record of the session decides what they are: the calls of a reference that goes on
where that one ended, or nothing. Then what they overwrote is put back (`Undo`), before anything
else is executed.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from rrto_ros.execution.undo import Undo
from rrto_ros.wire.format import FLAG_AHEAD, FLAG_REPLY
from rrto_ros.wire.plan import Reference

P = TypeVar("P")


class ServerAhead(Generic[P]):
    """Where a session's last reference ended, and what was executed beyond. Not thread-safe.

    Args:
        undo: Has the copies of what was overwritten.

    Attributes:
        plan: The plan of that reference, as its owner has it; None where nothing is ahead.
        position: The plan's next call.
        index: Number that this call will have in the session.
        done: Calls from there on that were executed.
        wanted: Calls from there on that may be executed.
        worth_us: What a saved exchange is worth; 0: only calls that read.
        outcomes: (plan, first call, whether the program went on) of each time that calls which
            write were executed; for whoever chooses.
    """

    def __init__(self, undo: Undo) -> None:
        self.undo = undo
        self.plan: P | None = None
        self.position = 0
        self.index = 0
        self.done = 0
        self.wanted = 0
        self.worth_us = 0
        self.outcomes: list[tuple[P, int, bool]] = []
        self._began: int | None = None
        self._thread = 0
        self._executed = 0
        self._used = 0
        self._dropped = 0
        self._repeated = 0

    def drop(self) -> None:
        """The session goes on in another way.

        Raises:
            CudaError: Memory could not be restored.
        """
        self._dropped += self.done
        self._ended(went_on=False)
        self.plan, self.done, self.wanted = None, 0, 0
        self.undo.restore()

    def follow(self, plan: P, ref: Reference) -> int:
        """A reference comes.

        Returns:
            How many of its first calls were executed already.

        Raises:
            CudaError: Memory could not be restored.
        """
        same = self.plan is plan and self.position == ref.first and self.index == ref.index
        if not same or self._thread != ref.thread or self._must_repeat(ref):
            self.drop()
        used = min(self.done, ref.count)
        self._used += used
        self.done -= used
        self.plan, self.wanted, self.worth_us = plan, max(ref.ahead, self.done), ref.worth_us
        self.position, self.index = ref.first + ref.count, ref.index + ref.count
        self._thread = ref.thread
        self.undo.confirm(self.index)
        if not self.done:
            self._ended(went_on=True)
        return used

    def began(self, position: int) -> None:
        """Calls that write are executed from here on."""
        if self._began is None:
            self._began = position

    def executed(self) -> None:
        """The next call was executed, and its result pushed if it has one."""
        self.done += 1
        self._executed += 1

    def back(self, count: int) -> None:
        """The last calls were undone, and may be made yet."""
        self.done -= count

    def stop(self) -> None:
        """No more calls are executed for now."""
        self.wanted = self.done

    def again(self) -> None:
        """A call's result was pushed and has to be sent all the same."""
        self._repeated += 1

    def statistics(self) -> dict[str, int]:
        """Calls executed ahead, and how many of them the program then made or did not."""
        return {
            "ahead_calls": self._executed,
            "ahead_used": self._used,
            "ahead_dropped": self._dropped,
            "ahead_repeated": self._repeated,
        }

    def _must_repeat(self, ref: Reference) -> bool:
        """Whether a result is wanted again that a call ahead of it may have changed since."""
        if not self.undo.pending:
            return False
        return any(
            k < self.done and bits & (FLAG_REPLY | FLAG_AHEAD) == FLAG_REPLY
            for k, bits in ref.flags.items()
        )

    def _ended(self, *, went_on: bool) -> None:
        if self._began is not None and self.plan is not None:
            self.outcomes.append((self.plan, self._began, went_on))
        self._began = None
