"""From what was measured to what is minimised: owns the objectives, and what a placement takes.

The model adds up: one side works at a time, and what crosses delays what comes after it. So it
gives the latency and energy of an inference by itself, not the throughput of several at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rrto_ros.api.choices import OBJECTIVES
from rrto_ros.errors import ConfigError
from rrto_ros.schedule.power import Power
from rrto_ros.schedule.problem import Placement, Problem, Tensor


@dataclass(frozen=True, slots=True)
class Link:
    """What joins robot and edge.

    Attributes:
        up_bytes_per_s: From robot to edge; more than 0.
        down_bytes_per_s: From edge to robot; more than 0.
        round_trip_s: Without load, 0 or more.

    Raises:
        ConfigError: A figure is out of its range.
    """

    up_bytes_per_s: float
    down_bytes_per_s: float
    round_trip_s: float

    def __post_init__(self) -> None:
        for name in ("up_bytes_per_s", "down_bytes_per_s"):
            if not getattr(self, name) > 0 or not math.isfinite(getattr(self, name)):
                raise ConfigError(
                    f"{name} {getattr(self, name)}: want bytes per second, more than 0; where the "
                    "link is down, choose all_local"
                )
        if not self.round_trip_s >= 0 or not math.isfinite(self.round_trip_s):
            raise ConfigError(
                f"round_trip_s {self.round_trip_s}: want seconds, 0 or more; measure the link"
            )


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes that one call hands to others.

    Attributes:
        producer: The call that writes them.
        readers: The calls that read them.
        up_bytes: What crosses if they go from robot to edge; 0 for what the edge has.
        down_bytes: What crosses if they go from edge to robot.
    """

    producer: int
    readers: tuple[int, ...]
    up_bytes: float
    down_bytes: float


@dataclass(frozen=True, slots=True)
class Modelled:
    """What an inference takes by the model.

    Attributes:
        latency_s: From its first call to its last one.
        energy_j: Of the robot; not a number if its power is unknown.
        up_bytes: From robot to edge.
        down_bytes: From edge to robot.
        changes: Changes of side, each half a round trip.
    """

    latency_s: float
    energy_j: float
    up_bytes: float
    down_bytes: float
    changes: int


@dataclass(frozen=True)
class Measured:
    """An inference's calls in their order, as they were measured.

    Attributes:
        local_s: Of each call, at the robot.
        edge_s: Of each call, at the edge.
        data: What calls hand to each other.
        at_robot: Calls that can only run at the robot.
        at_edge: Calls that can only run at the edge.
    """

    local_s: tuple[float, ...]
    edge_s: tuple[float, ...]
    data: tuple[Data, ...] = ()
    at_robot: frozenset[int] = frozenset()
    at_edge: frozenset[int] = frozenset()

    def problem(
        self,
        link: Link,
        objective: str = "latency",
        power: Power | None = None,
        omega: float = 0.5,
    ) -> Problem:
        """What is to be minimised.

        `latency`: seconds. `energy`: the robot's joules; a change of side costs half a round trip
        of sending. `weighted`: omega times the latency as part of all calls' time at the robot,
        and 1 - omega times the energy as part of theirs. These are MCOP's three models (arXiv
        1510.07986), where a change of side costs nothing.

        Args:
            link: Between robot and edge.
            objective: One of `OBJECTIVES`.
            power: Of the robot; `latency` needs none.
            omega: For `weighted`, from 0 to 1.

        Raises:
            ConfigError: There is no such objective, it needs a power, omega is out of its range,
                nothing takes time at the robot (`weighted`), or as `Problem` says.
        """
        here, there, crossing = self._weights(objective, power, omega)
        up, down = crossing / link.up_bytes_per_s, crossing / link.down_bytes_per_s
        return Problem(
            tuple(seconds * here for seconds in self.local_s),
            tuple(seconds * there for seconds in self.edge_s),
            tuple(
                Tensor(one.producer, one.readers, one.up_bytes * up, one.down_bytes * down)
                for one in self.data
            ),
            self.at_robot,
            self.at_edge,
            crossing * link.round_trip_s / 2,
        )

    def modelled(self, placement: Placement, link: Link, power: Power | None = None) -> Modelled:
        """What an inference takes.

        Args:
            placement: Of its calls.
            link: Between robot and edge.
            power: Of the robot; None if it is unknown.

        Raises:
            ConfigError: As `Problem` and its `cost` say.
        """
        # A byte costs 1 here, so the parts are seconds for calls and bytes for what crosses.
        parts = self.problem(Link(1.0, 1.0, 0.0)).parts(placement)
        crossing = (
            parts.up / link.up_bytes_per_s
            + parts.down / link.down_bytes_per_s
            + parts.changes * link.round_trip_s / 2
        )
        energy = math.nan
        if power is not None:
            energy = parts.local * power.compute_w + parts.edge * power.idle_w
            energy += crossing * power.transfer_w
        latency = parts.local + parts.edge + crossing
        return Modelled(latency, energy, parts.up, parts.down, parts.changes)

    def _weights(
        self, objective: str, power: Power | None, omega: float
    ) -> tuple[float, float, float]:
        """What a second costs: of computing at the robot, at the edge, and of crossing."""
        if objective not in OBJECTIVES:
            raise ConfigError(
                f"objective {objective!r}: want one of {', '.join(OBJECTIVES)}; choose one"
            )
        if objective == "latency":
            return 1.0, 1.0, 1.0
        if power is None:
            raise ConfigError(
                f"objective {objective!r} without the robot's power: want compute_w, idle_w and "
                "transfer_w; name a profile of config/power_profiles.yaml"
            )
        if objective == "energy":
            return power.compute_w, power.idle_w, power.transfer_w
        if not 0 <= omega <= 1:
            raise ConfigError(f"omega {omega}: want 0 (energy) to 1 (latency); choose between")
        whole = math.fsum(self.local_s)
        if not whole > 0:
            raise ConfigError(
                f"all calls together take {whole} s at the robot: want more than 0 for the "
                "objective 'weighted'; choose 'latency' or 'energy'"
            )
        energy = (1 - omega) / (whole * power.compute_w)
        return (
            omega / whole + energy * power.compute_w,
            omega / whole + energy * power.idle_w,
            omega / whole + energy * power.transfer_w,
        )
