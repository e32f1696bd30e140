"""Cutting a stream of calls into rounds and segments, in constant time per call.

A *segment* ends after a run of sync points. A *round* starts where the program brings data again
after such a run, provided that something was computed since the last cut; calls that prepare work
(allocations, fills, event records, graph arguments) directly before the data belong to the new
round. A round is what a program does with one input; it has one or more
segments.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Items

from rrto_ros.api.ops import Kind

_WORK, _OPEN, _INPUT, _SYNC = int(Kind.WORK), int(Kind.OPEN), int(Kind.INPUT), int(Kind.SYNC)
_SETUP, _POLL = int(Kind.SETUP), int(Kind.POLL)
_OBSERVES, _PREPARES = (_SYNC, _POLL), (_OPEN, _SETUP)

RUNNING, SYNCED, PENDING = 0, 1, 2
"""In the middle of work; after a sync point; after it, with calls whose place is undecided."""


Cut = tuple[int, bool]
"""A boundary: lane offset of the first call after it, and whether a round begins there."""


class Lane:
    """One stream of calls (a session's, or one thread's) and where it is cut.

    Offsets count the lane's calls and never change; `base` is that of the oldest kept one.

    Attributes:
        exact, skeletons, kinds, positions: The kept calls; positions are those in the log.
        round_start: Where the unfinished round begins.
        state: RUNNING, SYNCED or PENDING.
    """

    def __init__(self, thread: int | None, keep_calls: int) -> None:
        self.thread = thread
        self.exact = array("i")
        self.skeletons = array("i")
        self.kinds = bytearray()
        self.positions = array("q")
        self.base = 0
        self.round_start = 0
        self.state = RUNNING
        self._keep_calls = keep_calls
        self._run_end = 0
        self._lead = -1
        self._worked = False

    @property
    def end(self) -> int:
        return self.base + len(self.exact)

    def exact_bytes(self, start: int, end: int) -> bytes:
        return self.exact[start - self.base : end - self.base].tobytes()

    def skeleton_bytes(self, start: int, end: int) -> bytes:
        return self.skeletons[start - self.base : end - self.base].tobytes()

    def kind_bytes(self, start: int, end: int) -> bytearray:
        return self.kinds[start - self.base : end - self.base]

    def position(self, offset: int) -> int:
        return self.positions[offset - self.base]

    def extend(
        self, exact: array[int], skeletons: array[int], kinds: bytearray, positions: Items[int]
    ) -> list[Cut]:
        """Append calls; returns the cuts that they decide, ascending.

        A query that repeats the call before it is left out: how often a program polls depends on
        timing only.
        """
        at = self.end
        if _POLL in kinds:
            exact, skeletons, kinds, positions = self._without_polls(
                exact, skeletons, kinds, positions
            )
        self.exact.extend(exact)
        self.skeletons.extend(skeletons)
        self.kinds.extend(kinds)
        self.positions.extend(positions)
        return self._scan(kinds, at)

    def _without_polls(
        self, exact: array[int], skeletons: array[int], kinds: bytearray, positions: Items[int]
    ) -> tuple[array[int], array[int], bytearray, list[int]]:
        last = self.exact[-1] if self.exact else -1
        keep: list[int] = []
        for i, (number, kind) in enumerate(zip(exact, kinds, strict=True)):
            if kind != _POLL or number != last:
                keep.append(i)
            last = number
        return (
            array("i", [exact[i] for i in keep]),
            array("i", [skeletons[i] for i in keep]),
            bytearray(kinds[i] for i in keep),
            [positions[i] for i in keep],
        )

    def _scan(self, kinds: bytearray, at: int) -> list[Cut]:
        cuts: list[Cut] = []
        state, worked, lead = self.state, self._worked, self._lead
        i = at - 1
        for kind in kinds:
            i += 1
            if state == RUNNING:
                if kind == _WORK:
                    worked = True
                elif kind in _OBSERVES:
                    state = SYNCED
            elif state == SYNCED:
                if kind in _OBSERVES:
                    continue
                if kind == _INPUT:
                    if worked:
                        cuts.append((i, True))
                        self.round_start = i
                        worked = False
                    state = RUNNING
                else:
                    state = PENDING
                    self._run_end = i
                    lead = i if kind in _PREPARES else -1
                    worked = worked or kind == _WORK
            elif kind in _PREPARES:
                if lead < 0:
                    lead = i
            elif kind == _INPUT:
                if worked:
                    start = lead if lead >= 0 else i
                    cuts.append((start, True))
                    self.round_start = start
                    worked = False
                state = RUNNING
            elif kind in _OBSERVES:
                cuts.append((self._run_end, False))
                state = SYNCED
            else:
                lead = -1
                worked = worked or kind == _WORK
        self.state, self._worked, self._lead = state, worked, lead
        return cuts

    def abandon(self, at: int) -> None:
        """Give the unfinished round up; the next begins at `at`."""
        self.round_start = at
        self._worked = False
        self.state = RUNNING

    def trim(self) -> None:
        """Forget calls that lie too far back, never those of the unfinished round."""
        spare = len(self.exact) - self._keep_calls
        if spare < self._keep_calls:
            return
        drop = min(spare, self.round_start - self.base)
        if drop > 0:
            del self.exact[:drop], self.skeletons[:drop], self.kinds[:drop], self.positions[:drop]
            self.base += drop
