"""The table of `link_table`: what an inference costs in each way, and the targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from link_models import Network

MANY_OPERATORS = 400


@dataclass
class Cost:
    """Sums over `inferences`, and the samples of what is shown as a median.

    Attributes:
        messages_up, messages_down: On the topics of calls and results, or of direct.
        resent_up, resent_down: Of these messages, those that were sent once more by our own link.
        bytes_up, bytes_down: Of their data.
        wire_up, wire_down: On the link, with the headers of every protocol and all heartbeats.
        program_ms, recorder_ms: Processor time on the robot.
        compute_ms: Time of an inference where program and device are together (direct).
        device_ms: Time of the device in it.
        calls: Driver calls that the device sees.
    """

    name: str
    inferences: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    compute_ms: list[float] = field(default_factory=list)
    messages_up: int = 0
    messages_down: int = 0
    resent_up: int = 0
    resent_down: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    wire_up: int = 0
    wire_down: int = 0
    program_ms: float = 0.0
    recorder_ms: float = 0.0
    device_ms: float = 0.0
    round_trips: int = 0
    calls: int = 0
    output_bytes: int = 0
    hit_rate: float = 0.0
    divergences: int = 0

    @property
    def latency_ms(self) -> float:
        """Median."""
        return statistics.median(self.latencies_ms)

    @property
    def robot_ms(self) -> float:
        """Processor time on the robot per inference."""
        return (self.program_ms + self.recorder_ms) / self.inferences

    def per(self, total: float) -> float:
        """A sum, per inference."""
        return total / self.inferences

    def summary(self) -> dict[str, Any]:
        """For JSON: per inference."""
        sums = (
            "messages_up",
            "messages_down",
            "resent_up",
            "resent_down",
            "bytes_up",
            "bytes_down",
            "wire_up",
            "wire_down",
            "program_ms",
            "recorder_ms",
            "device_ms",
            "round_trips",
            "calls",
        )
        return {
            "name": self.name, "inferences": self.inferences, "latency_ms": self.latency_ms,
            "latencies_ms": self.latencies_ms, "compute_ms": self.compute_ms,
            "output_bytes": self.output_bytes, "hit_rate": self.hit_rate,
            "divergences": self.divergences, "robot_ms": self.robot_ms,
            **{name: self.per(getattr(self, name)) for name in sums},
        }  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured; at most `wanted` is wanted.

    Attributes:
        text: Of what.
        measured: The ratio.
        wanted: Its target.
        least: What no way of offloading can be below on this link; 0: not known.
    """

    text: str
    measured: float
    wanted: float
    least: float = 0.0

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.measured <= self.wanted


def compute_ms(costs: Sequence[Cost]) -> float:
    """Median time of an inference without a link: program and device in one process."""
    return statistics.median(next(cost for cost in costs if cost.name == "direct").compute_ms)


def judge(network: Network, costs: Sequence[Cost], exchange_ms: float) -> list[Verdict]:
    """The targets.

    Args:
        network: What ran.
        costs: Of all ways.
        exchange_ms: The link's own time for an input and its output, nothing else.
    """
    by = {cost.name: cost for cost in costs}
    direct, replay, batched, rpc = (by[n] for n in ("direct", "replay", "batched", "rpc"))
    compute = compute_ms(costs)
    out = [
        Verdict("latency, replay : direct", replay.latency_ms / direct.latency_ms, 1.05),
        Verdict(
            "communication, replay : rpc",
            (replay.latency_ms - compute) / (rpc.latency_ms - compute),
            0.02,
            exchange_ms / (rpc.latency_ms - compute),
        ),
        Verdict(
            "bytes from the robot, replay : input",
            replay.per(replay.bytes_up) / network.input_bytes,
            1.02,
        ),
    ]
    if replay.per(replay.calls) >= MANY_OPERATORS:
        out += [
            Verdict(
                "bytes from the robot, replay : batched",
                replay.per(replay.bytes_up) / batched.per(batched.bytes_up),
                1.0,
            ),
            Verdict("robot CPU time, replay : batched", replay.robot_ms / batched.robot_ms, 1.0),
            Verdict("latency, replay : batched", replay.latency_ms / batched.latency_ms, 1.0),
        ]
    return out


def show(network: Network, costs: Sequence[Cost], verdicts: Sequence[Verdict]) -> None:
    """Print one network's part of the table."""
    by = {cost.name: cost for cost in costs}
    compute, direct = compute_ms(costs), by["direct"]
    calls = by["batched"].per(by["batched"].calls)
    print(
        f"\n{network.title}: {calls:.0f} driver calls, input {network.input_bytes:,} bytes, "
        f"output {direct.output_bytes:,}; without a link {compute:.2f} ms, of it device "
        f"{direct.per(direct.device_ms):.2f} ms"
    )
    print(
        f"{'per inference':14}{'messages':>12}{'trips':>7}{'bytes up':>11}{'down':>9}"
        f"{'on link up':>12}{'down':>9}{'robot CPU':>11}{'(program+recorder)':>19}"
        f"{'latency':>10}{'10 %':>9}{'90 %':>9}{'communication':>15}"
    )
    for name in ("rpc", "batched", "replay", "direct"):
        cost = by[name]
        times = sorted(cost.latencies_ms)
        low, high = times[len(times) // 10], times[(len(times) * 9) // 10]
        messages = f"{cost.per(cost.messages_up):.1f}+{cost.per(cost.messages_down):.1f}"
        parts = f"({cost.per(cost.program_ms):.2f}+{cost.per(cost.recorder_ms):.2f})"
        trips = f"{cost.per(cost.round_trips):.1f}" if name != "direct" else "1.0"
        print(
            f"{name:14}{messages:>12}{trips:>7}{cost.per(cost.bytes_up):>11,.0f}"
            f"{cost.per(cost.bytes_down):>9,.0f}{cost.per(cost.wire_up):>12,.0f}"
            f"{cost.per(cost.wire_down):>9,.0f}{cost.robot_ms:>8.2f} ms{parts:>19}"
            f"{cost.latency_ms:>7.2f} ms{low:>9.2f}{high:>9.2f}"
            f"{cost.latency_ms - compute:>12.2f} ms"
        )
    resent = ", ".join(
        f"{name} {by[name].resent_up}+{by[name].resent_down}"
        for name in ("rpc", "batched", "replay")
    )
    print(f"  sent once more by our own link, up+down, in all: {resent}")
    for verdict in verdicts:
        least = f" (the link alone: {verdict.least:.4f})" if verdict.least else ""
        print(
            f"  {verdict.text:40} {verdict.measured:7.4f}  target at most {verdict.wanted:g}: "
            f"{'met' if verdict.met else 'missed'}{least}"
        )
