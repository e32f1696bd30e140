"""Inferences pass the stages one by one: owns the simulation that the formulas are held against.

Each stage serves whoever comes first, without a break (no preemption), and who comes at the same
time by number. Nothing is random, so a result is exact to rounding.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from rrto_ros.errors import ConfigError
from rrto_ros.schedule.pipeline import STAGES, Pipeline, Stream, Visit


@dataclass(frozen=True)
class Passed:
    """What became of inferences.

    Attributes:
        begun_s: When each was taken by its stream.
        done_s: When each had its result.
        busy_s: How long each of `STAGES` worked in all.
        in_flight: Streams that there were.
    """

    begun_s: tuple[float, ...]
    done_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    in_flight: int

    @property
    def makespan_s(self) -> float:
        """To the last result."""
        return max(self.done_s)

    @property
    def period_s(self) -> float:
        """From result to result, over the last third: whole rounds of all streams.

        Raises:
            ConfigError: There are fewer than two rounds.
        """
        done = sorted(self.done_s)
        if len(done) < 2 * self.in_flight:
            raise ConfigError(
                f"{len(done)} inferences of {self.in_flight} streams: want two of each or more, "
                "so that there is a period; simulate more"
            )
        rounds = max(1, len(done) // 3 // self.in_flight)
        count = rounds * self.in_flight
        return (done[-1] - done[-1 - count]) / count

    @property
    def latency_s(self) -> float:
        """From being taken to the result, on average over the last round of all streams."""
        took = [end - start for start, end in zip(self.begun_s, self.done_s, strict=True)]
        last = took[-self.in_flight :]
        return sum(last) / len(last)


def passed(pipeline: Pipeline | Sequence[Pipeline], stream: Stream, count: int) -> Passed:
    """Send inferences through the stages.

    Inference n is of stream n modulo `in_flight`. It is taken when its input is there, n times
    `every_s` after the first, and the stream's inference before it has its result.

    Args:
        pipeline: Of each; or several, which they take in turn, over and over, as they begin.
        stream: Of them all.
        count: How many; 1 or more.

    Raises:
        ConfigError: There are fewer, or no pipeline.
    """
    turns = [pipeline] if isinstance(pipeline, Pipeline) else list(pipeline)
    flight, every = stream.in_flight, stream.every_s
    if not turns:
        raise ConfigError("no pipeline: want one or more that inferences take in turn")
    if count < 1:
        raise ConfigError(f"{count} inferences: want 1 or more to simulate")
    free, busy = [0.0] * len(STAGES), [0.0] * len(STAGES)
    begun, done = [0.0] * count, [0.0] * count
    visits: list[tuple[Visit, ...]] = [()] * count
    order = 0
    waiting = [(n * every, n, 0) for n in range(min(flight, count))]
    heapq.heapify(waiting)
    while waiting:
        now, number, step = heapq.heappop(waiting)
        if not step:
            begun[number], visits[number] = now, turns[order % len(turns)].visits
            order += 1
        if step == len(visits[number]):
            done[number] = now
            following = number + flight
            if following < count:
                heapq.heappush(waiting, (max(now, following * every), following, 0))
            continue
        visit = visits[number][step]
        end = now
        if visit.busy_s:
            end = max(now, free[visit.stage]) + visit.busy_s
            free[visit.stage] = end
            busy[visit.stage] += visit.busy_s
        heapq.heappush(waiting, (end + visit.delay_s, number, step + 1))
    return Passed(tuple(begun), tuple(done), tuple(busy), flight)
