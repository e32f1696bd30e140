"""Record and replay of one session on the robot: records in, what to send out.

Joins the cursor (what is sent) and the learner (what is searched). `feed` is on the way of every
call; `think` is to be called when the calls have left, so that no call waits for the search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rrto_ros.api.wire import Buffer
from rrto_ros.replay.cursor import Cursor, Fed, Rewrite
from rrto_ros.replay.learner import Learner, tracks
from rrto_ros.search import SearchOptions

RECORDING = "recording"
SEARCHING = "searching"
REPLAYING = "replaying"


@dataclass(frozen=True)
class ReplayOptions:
    """Parameters of record and replay.

    Attributes:
        search: Algorithm: operator_sequence or data_dependency.
        min_repetitions: How often a sequence must have been seen before it is replayed.
        min_length: Shortest sequence, calls.
        max_length: Longest sequence, calls.
        drop_after: A plan that failed so often in a row is dropped for a while.
    """

    search: str = "operator_sequence"
    min_repetitions: int = 2
    min_length: int = 3
    max_length: int = 32768
    drop_after: int = 16


class Replayer:
    """One session's record and replay. Not thread-safe, but for `phase` and `statistics`.

    Args:
        options: Parameters.
        rewrite: What to do with uploads; None to leave them.

    Raises:
        ConfigError: A parameter cannot be used.
    """

    def __init__(self, options: ReplayOptions, rewrite: Rewrite | None = None) -> None:
        self._cursor = Cursor(rewrite, options.drop_after)
        self._learner = Learner(
            options.search,
            SearchOptions(options.min_repetitions, options.min_length, options.max_length),
        )
        self._follow = False
        self.phase = RECORDING

    @property
    def pending_bytes(self) -> int:
        """Bytes of calls that were fed and are not in a part yet."""
        return self._cursor.pending_bytes

    def feed(self, data: bytes) -> Fed:
        """Take whole records from the program; see `Cursor.feed`.

        Raises:
            ProtocolError: A record does not fit the format.
        """
        fed = self._cursor.feed(data)
        self._learner.take(data, clean=fed.clean and not self._follow, parted=fed.parted)
        if fed.clean:
            self.phase = REPLAYING
        elif self.phase == REPLAYING:
            self.phase = SEARCHING
        return fed

    def close(self) -> Buffer:
        """End the open reference; returns what to send for it, maybe nothing."""
        return self._cursor.close()

    def think(self) -> list[Buffer]:
        """Search what was fed; returns what is to be sent before what is fed next.

        Raises:
            ProtocolError: The records do not fit their operations.
        """
        plans = self._learner.think()
        if not plans:
            return []
        out: list[Buffer] = []
        self._cursor.set_apart(self._learner.apart)
        for plan in plans:
            out += self._cursor.add(plan)
            # Else the log would lose track of the memory that a replayed inference allocates.
            self._follow = self._follow or tracks(plan)
        if self._cursor.plans and self.phase == RECORDING:
            self.phase = SEARCHING
        return out

    def pause(self) -> Buffer:
        """Calls will pass by for a while (another mode); returns what to send first."""
        out = self._cursor.close()
        self._cursor.reset()
        self.phase = RECORDING
        return out

    def statistics(self) -> Mapping[str, int | float | str]:
        """Counters of cursor and learner."""
        return {**self._cursor.statistics(), **self._learner.statistics()}
