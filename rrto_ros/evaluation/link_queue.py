"""One direction of an emulated link: owns when each packet arrives, or that it is lost.

Pure: time comes in as nanoseconds of any monotonic clock. A packet waits until the serialised
link is free, takes its bytes' time on it, then travels for the delay and the jitter, and never
overtakes its predecessor. It is dropped at the queue limit, or at random.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from rrto_ros.errors import ConfigError

MAX_FLYING_BYTES = 256 << 20
"""Bound of what is under way: rate x delay at 10 Gbit/s and 200 ms."""


@dataclass(frozen=True)
class LinkSettings:
    """How one direction of a link behaves.

    Attributes:
        delay_ms: One-way travel time.
        jitter_ms: The travel time varies evenly by up to this much, both ways.
        loss: Probability that a packet is lost, 0 to 1.
        rate_mbit: Bit rate in 10^6 bit/s; 0 is unlimited.
        queue_bytes: What may wait for the link; more is dropped. Only with a rate.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    rate_mbit: float = 0.0
    queue_bytes: int = 1_500_000

    def __post_init__(self) -> None:
        if not (0 <= self.delay_ms <= 60_000 and 0 <= self.jitter_ms <= 60_000):
            raise ConfigError(
                f"delay_ms {self.delay_ms} and jitter_ms {self.jitter_ms} must be 0 to 60000"
            )
        if not 0 <= self.loss <= 1:
            raise ConfigError(f"loss {self.loss} is a probability, 0 to 1")
        if not 0 <= self.rate_mbit <= 100_000:
            raise ConfigError(f"rate_mbit {self.rate_mbit} must be 0 (unlimited) to 100000")
        if self.queue_bytes < 1500:
            raise ConfigError(f"queue_bytes {self.queue_bytes} must hold one packet, 1500 bytes")


class LinkQueue:
    """The packets that are under way in one direction.

    Args:
        settings: May be replaced at any time by `settings`.
        seed: Of the random numbers for loss and jitter.
    """

    def __init__(self, settings: LinkSettings, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._flying: deque[tuple[int, bytes]] = deque()
        self._flying_bytes = 0
        self._free_ns = 0
        self._last_ns = 0
        self._packets = 0
        self._bytes = 0
        self._delivered = 0
        self._lost = 0
        self._overflowed = 0
        self._most_flying = 0
        self.settings = settings

    @property
    def settings(self) -> LinkSettings:
        """How the link behaves for packets from now on; those under way are not changed."""
        return self._settings

    @settings.setter
    def settings(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._delay_ns = settings.delay_ms * 1e6
        self._jitter_ns = settings.jitter_ms * 1e6
        self._ns_per_byte = 8e3 / settings.rate_mbit if settings.rate_mbit else 0.0

    def offer(self, packet: bytes, now_ns: int) -> bool:
        """Put a packet on the link; returns whether it will arrive."""
        size = len(packet)
        self._packets += 1
        self._bytes += size
        settings = self._settings
        start = max(now_ns, self._free_ns)
        per_byte = self._ns_per_byte
        waiting = (start - now_ns) / per_byte if per_byte else 0.0
        if waiting + size > settings.queue_bytes or self._flying_bytes > MAX_FLYING_BYTES:
            self._overflowed += 1
            return False
        self._free_ns = sent = start + int(size * per_byte)
        # A packet that gets lost took its time on the link all the same.
        if settings.loss and self._random.random() < settings.loss:
            self._lost += 1
            return False
        travel = self._delay_ns
        if self._jitter_ns:
            travel += self._random.uniform(-self._jitter_ns, self._jitter_ns)
        due = sent + int(travel)
        if due < self._last_ns:
            due = self._last_ns
        self._last_ns = max(now_ns, due)
        self._flying.append((due, packet))
        self._flying_bytes += size
        if len(self._flying) > self._most_flying:
            self._most_flying = len(self._flying)
        return True

    def due(self, now_ns: int) -> list[bytes]:
        """Take the packets that have arrived by now, in order."""
        out = []
        flying = self._flying
        while flying and flying[0][0] <= now_ns:
            packet = flying.popleft()[1]
            self._flying_bytes -= len(packet)
            out.append(packet)
        self._delivered += len(out)
        return out

    def next_due_ns(self) -> int | None:
        """When the next packet arrives, None if none is under way."""
        return self._flying[0][0] if self._flying else None

    def statistics(self) -> dict[str, int]:
        """Packets and bytes offered, and what became of the packets."""
        return {
            "packets": self._packets,
            "bytes": self._bytes,
            "delivered": self._delivered,
            "lost": self._lost,
            "overflowed": self._overflowed,
            "under_way": len(self._flying),
            "most_under_way": self._most_flying,
        }
