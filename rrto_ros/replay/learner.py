"""From a session's calls to plans: owns its call log, its search, and what they need not see.

Calls of an inference that was replayed from end to end teach nothing new. They are held until it
is clear that nothing deviated, then dropped unseen, so that steady state costs no search.
"""

from __future__ import annotations

from collections.abc import Mapping

from rrto_ros.errors import ProtocolError
from rrto_ros.record.log import CallLog
from rrto_ros.record.templates import EFFECTS
from rrto_ros.replay.plan import Plan, plan_of
from rrto_ros.search import SearchOptions, make_search

MAX_HELD_BYTES = 8 << 20
MAX_OFFERS = 32


class Learner:
    """Log and search of one session. Not thread-safe.

    Args:
        search: Name of the algorithm.
        options: Its thresholds.

    Raises:
        ConfigError: There is no such algorithm.
    """

    def __init__(self, search: str, options: SearchOptions | None = None) -> None:
        self._log = CallLog()
        self._search = make_search(search, self._log, options)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._waiting: list[bytes] = []
        self._unseen = 0
        self._impossible = 0
        self.apart = False

    @property
    def calls(self) -> int:
        """Calls that the search has seen."""
        return self._log.end

    def take(self, data: bytes, *, clean: bool, parted: bool) -> None:
        """Take records that were sent.

        Args:
            data: Whole records.
            clean: Every call was the expected one of a plan.
            parted: After them no plan is half walked.
        """
        self._held.append(data)
        self._held_bytes += len(data)
        if not clean or self._held_bytes > MAX_HELD_BYTES:
            self._waiting += self._held
        elif not parted:
            return
        else:
            self._unseen += self._held_bytes
        self._held.clear()
        self._held_bytes = 0

    def think(self) -> list[Plan]:
        """Log and search what was taken; returns the plans that the search now offers.

        Raises:
            ProtocolError: The records do not fit their operations.
        """
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._log.extend(data)
        if not self._search.update():
            return []
        found = self._search.found()[:MAX_OFFERS]
        self.apart = any(s.thread is not None for s in found)
        plans: list[Plan] = []
        for sequence in found:
            try:
                plans.append(plan_of(sequence))
            except ProtocolError:
                self._impossible += 1
        return plans

    def statistics(self) -> Mapping[str, int | float | str]:
        """Counters of log and search; `unseen_bytes` of calls that were not searched."""
        search = {f"search_{key}": value for key, value in self._search.statistics().items()}
        log = {f"log_{key}": value for key, value in self._log.statistics().items()}
        own = {"unseen_bytes": self._unseen, "impossible_plans": self._impossible}
        return {**own, **search, **log}


def tracks(plan: Plan) -> bool:
    """Whether a plan has calls that change what the log follows (allocations, graphs)."""
    return any(EFFECTS[call.code] for call in plan.calls)
