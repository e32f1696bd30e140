"""Several inferences under way at once: owns the stages, and what a stream of them takes.

Robot, link up, edge and link down are four stages; each works at one inference at a time, and all
of them at once at different ones. COACH (Gao et al., INFOCOM 2025, arXiv 2501.12388) has three
and calls the time in which a stage waits its *bubble*; its formulas are not known to us. Those
here are ours:

- busy time of a stage: all that one inference needs of it. The slowest bounds the throughput.
- `in_flight` inferences are under way: each of so many streams (sessions, threads, cameras) waits
  for its result before it gives its next input. A program that waits has one in flight, and then
  nothing overlaps. So period = max(slowest stage, latency alone / in_flight, period of inputs).
- bubble of a stage = period - its busy time.

Departures: half a round trip delays an inference and does not keep the link from the next one; the
way back is a stage of its own. Each inference under way has memory of its own, so what one
leaves for the next stays within its stream and binds none of the others.

Where an inference comes to a stage more than once (it returns to the robot to compute), the
period is a lower bound: first come, first served may miss it (`fifo.py`), though some order of
the stages' work always reaches it if enough are in flight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from rrto_ros.errors import ConfigError
from rrto_ros.schedule.costs import Link, Measured
from rrto_ros.schedule.problem import Placement
from rrto_ros.schedule.widths import EXACT, Packing, packed_bytes

STAGES = ("robot", "up", "edge", "down")
ROBOT, UP, EDGE, DOWN = range(4)
FREE = Packing()


@dataclass(frozen=True, slots=True)
class Stream:
    """Inferences that come one after another.

    Attributes:
        in_flight: How many are under way at most; 1 or more.
        every_s: An input comes so often; 0: as soon as one may begin.

    Raises:
        ConfigError: A figure is out of its range.
    """

    in_flight: int = 4
    every_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.in_flight >= 1:
            raise ConfigError(f"{self.in_flight} inferences under way: want 1 or more")
        if not (self.every_s >= 0 and math.isfinite(self.every_s)):
            raise ConfigError(
                f"an input every {self.every_s} s: want a finite number, 0 (at once) or more"
            )


@dataclass(frozen=True, slots=True)
class Visit:
    """A stage's work at one inference, without a break.

    Attributes:
        stage: Its place in `STAGES`.
        busy_s: How long the stage is taken. One of 0 waits for nobody.
        delay_s: From its end to the beginning of the next visit; takes no stage.
    """

    stage: int
    busy_s: float
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Steady:
    """What one of many inferences takes, once all is settled.

    Attributes:
        period_s: From one result to the next, on average.
        latency_s: From the input to its result. If inputs come faster than results, it counts
            from when one of the streams takes the input.
        bubbles_s: In which each stage waits, per inference, as `STAGES`.
    """

    period_s: float
    latency_s: float
    bubbles_s: tuple[float, float, float, float]

    @property
    def throughput(self) -> float:
        """Inferences per second; infinite if none takes time."""
        return 1 / self.period_s if self.period_s else math.inf


@dataclass(frozen=True)
class Pipeline:
    """An inference as the stages see it.

    Attributes:
        visits: Its work, in order.
    """

    visits: tuple[Visit, ...]

    @cached_property
    def stages_s(self) -> tuple[float, float, float, float]:
        """How long one inference takes each of `STAGES`."""
        robot, up, edge, down = (
            math.fsum(one.busy_s for one in self.visits if one.stage == stage)
            for stage in range(len(STAGES))
        )
        return robot, up, edge, down

    @cached_property
    def alone_s(self) -> float:
        """Latency of an inference by itself: that of `Measured.modelled`."""
        return math.fsum(part for one in self.visits for part in (one.busy_s, one.delay_s))

    @cached_property
    def slowest(self) -> int:
        """The stage that bounds the throughput: its place in `STAGES`."""
        return self.stages_s.index(max(self.stages_s))

    @cached_property
    def once(self) -> bool:
        """Whether no stage works twice at an inference, so that `steady` is exact."""
        busy = [one.stage for one in self.visits if one.busy_s]
        return len(set(busy)) == len(busy)

    @property
    def filled_by(self) -> int:
        """How many inferences under way keep the slowest stage busy all the time."""
        most = max(self.stages_s)
        return max(1, math.ceil(self.alone_s / most * (1 - 1e-12))) if most else 1

    def steady(self, stream: Stream) -> Steady:
        """What a stream of inferences settles to; a lower bound unless `once`."""
        possible = max(*self.stages_s, self.alone_s / stream.in_flight)
        period = max(possible, stream.every_s)
        kept_up = stream.every_s >= possible
        latency = self.alone_s if kept_up else stream.in_flight * period
        robot, up, edge, down = (period - busy for busy in self.stages_s)
        return Steady(period, latency, (robot, up, edge, down))

    def makespan_s(self, count: int) -> float:
        """From the first input to the last of so many results, all inputs being there at once."""
        return self.alone_s + (count - 1) * max(self.stages_s) if count else 0.0


def pipeline(
    measured: Measured,
    placement: Placement,
    link: Link,
    widths: tuple[int, ...] = (),
    packing: Packing = FREE,
) -> Pipeline:
    """How an inference goes through the stages.

    Calls that follow each other at one side are one visit. A tensor crosses just before the first
    visit that reads it at the other side; what the inference before left, before its first reader.

    Args:
        measured: The inference.
        placement: Of its calls.
        link: Between robot and edge.
        widths: Bits of an element of each tensor of `measured.data`, `EXACT` for as it is; empty:
            all are exact.
        packing: What it takes to make elements narrower, on the side that sends and on the one
            that receives, each added to the visit that writes or reads the tensor.

    Raises:
        ConfigError: There are as many widths as not tensors, or as `Problem.parts` says.
    """
    if widths and len(widths) != len(measured.data):
        raise ConfigError(
            f"{len(widths)} widths: want one for each of {len(measured.data)} tensors, or none"
        )
    measured.problem(Link(1.0, 1.0, 0.0)).parts(placement)
    sides = np.array(placement, np.bool_)
    runs = np.concatenate([[0], np.cumsum(sides[1:] != sides[:-1])]).astype(int).tolist()
    busy = [[0.0, 0.0] for _ in range(runs[-1] + 1 if len(placement) else 0)]
    for run, group in groupby(range(len(placement)), key=lambda call: runs[call]):
        busy[run][1] = math.fsum(
            measured.edge_s[call] if placement[call] else measured.local_s[call] for call in group
        )
    rates = (link.down_bytes_per_s, link.up_bytes_per_s)
    speeds = (packing.robot_bytes_per_s, packing.edge_bytes_per_s)
    for one, bits in zip(measured.data, widths or (EXACT,) * len(measured.data), strict=True):
        here = placement[one.producer]
        there = [reader for reader in one.readers if placement[reader] is not here]
        if not there:
            continue
        reader = min((r for r in there if r > one.producer), default=min(there))
        size, into = (one.down_bytes if here else one.up_bytes), runs[reader]
        sent = packed_bytes(size, bits)
        busy[into][0] += sent / rates[not here]
        if sent < size:
            busy[runs[one.producer]][1] += size / speeds[here]
            busy[into][1] += size / speeds[not here]
    visits = []
    for run, (crossing, work) in enumerate(busy):
        away = placement[runs.index(run)]
        delay = link.round_trip_s / 2 if run else 0.0
        visits.append(Visit(UP if away else DOWN, crossing, delay))
        visits.append(Visit(EDGE if away else ROBOT, work))
    return Pipeline(tuple(one for one in visits if one.busy_s or one.delay_s))
