"""When a session changes to another placement: owns how much that must save, and how often.

A link's rate wanders, and a change has a price that no cost names (segments are prepared anew on
both sides). So what is better by little, or for a moment, is let pass.
"""

from __future__ import annotations

from rrto_ros.schedule.problem import Placement
from rrto_ros.schedule.rates import Line, RateTable

GAIN = 0.1
"""A change must save more than this part of what the placement costs now."""
REST_S = 2.0
"""No change within so many seconds of the last one."""


class Chooser:
    """The placement of one session, as the link changes. One thread.

    Args:
        table: Of its inference.
        gain: As `GAIN`.
        rest_s: As `REST_S`.
    """

    def __init__(self, table: RateTable, gain: float = GAIN, rest_s: float = REST_S) -> None:
        self._table = table
        self._gain = gain
        self._rest_s = rest_s
        self._now: Line | None = None
        self._changed_at = 0.0
        self.changes = 0
        """How often the placement has changed since the first one."""

    def choose(self, up_bytes_per_s: float, now_s: float) -> Placement:
        """The placement from now on.

        Args:
            up_bytes_per_s: The rate that is expected, more than 0.
            now_s: The caller's clock, seconds; it never goes back.
        """
        best, now = self._table.best(up_bytes_per_s), self._now
        if now is None:
            self._now, self._changed_at = best, now_s
            return best.placement
        if best.placement is now.placement or now_s - self._changed_at <= self._rest_s:
            return now.placement
        # Where the placement is equal, so is the cost, and nothing changes.
        if best.cost(up_bytes_per_s) < (1 - self._gain) * now.cost(up_bytes_per_s):
            self._now, self._changed_at = best, now_s
            self.changes += 1
            return best.placement
        return now.placement

    def stale(self, round_trip_s: float) -> bool:
        """Whether the round trip has changed so much that a new table is to be made."""
        return not self._table.fits(round_trip_s)

    def renew(self, table: RateTable) -> None:
        """Go on with another table of the same calls; the placement stays until another pays.

        Raises:
            ConfigError: The table is of other calls.
        """
        if self._now is not None:
            self._now = table.line(self._now.placement)
        self._table = table
