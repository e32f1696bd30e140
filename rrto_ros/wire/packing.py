"""Messages packed with Zstandard: owns the rule when that pays, and both directions of it.

docs/wire_format.md, "Packed messages". Packing costs the robot's processor time and saves the
link's. So a message is packed if a sample of it shrinks, and if the link has not been seen to take
data faster than packing it would save.
"""

from __future__ import annotations

import time

from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.wire.coding import MAGIC, decoded
from rrto_ros.wire.format import Buffer
from rrto_ros.zstd import codec, unpack

LEVEL = 1
LEAST_BYTES = 4 << 10
"""Shorter messages stay as they are."""
SAMPLE_BYTES = 16 << 10
"""Of each of two pieces of a message that are tried first."""
WORTH = 0.9
"""What does not get shorter than this part of itself is not packed."""
FIRST_BYTES_PER_S = 200e6
"""What packing does per second, until it was measured."""


class Packer:
    """Packs one session's messages where it pays. One thread."""

    def __init__(self) -> None:
        try:
            self._codec = codec()
        except UnavailableError:
            self._codec = None
        self._bytes_per_s = FIRST_BYTES_PER_S
        self._packed = 0
        self._saved = 0
        self._seconds = 0.0
        self._declined = 0

    def pack(self, data: Buffer, link_bytes_per_s: float, *, again: bool = False) -> bytes | None:
        """The packed message; None to send it as it is.

        Args:
            data: Of the message.
            link_bytes_per_s: What the link has been seen to take; 0 while that is unknown.
            again: It was sent before: nothing is saved of what is counted once.
        """
        size = len(data)
        if self._codec is None or size < LEAST_BYTES:
            return None
        began = time.perf_counter()
        out = self._tried(memoryview(data), link_bytes_per_s)
        took = time.perf_counter() - began
        self._seconds += took
        if out is None:
            self._declined += 1
            return None
        self._bytes_per_s += (size / max(took, 1e-6) - self._bytes_per_s) / 8
        self._packed += 1
        self._saved += 0 if again else size - len(out)
        return out

    @property
    def saved_bytes(self) -> int:
        """What did not have to be sent."""
        return self._saved

    def statistics(self) -> dict[str, int | float]:
        """Messages packed and left as they were, bytes saved, seconds that it took."""
        return {
            "messages": self._packed,
            "declined": self._declined,
            "saved_bytes": self._saved,
            "seconds": self._seconds,
        }

    def _tried(self, data: memoryview, link_bytes_per_s: float) -> bytes | None:
        size = len(data)
        if size > 4 * SAMPLE_BYTES:
            middle, end = size // 2, size - SAMPLE_BYTES
            sample = bytes(data[middle : middle + SAMPLE_BYTES]) + bytes(data[end:])
            part = len(self._codec.compress(sample, LEVEL)) / len(sample)
        else:
            part = WORTH / 2
        if part > WORTH or link_bytes_per_s > (1 - part) * self._bytes_per_s:
            return None
        out = bytes(self._codec.compress(data, LEVEL))
        return out if len(out) < WORTH * size else None


def unpacked(data: Buffer, max_bytes: int) -> bytes:
    """What a packed message holds.

    Args:
        data: As it came.
        max_bytes: A message's bound, which holds for the content.

    Raises:
        ProtocolError: It is damaged or holds more.
    """
    if bytes(data[: len(MAGIC)]) == MAGIC:
        return decoded(data, max_bytes)
    try:
        return unpack(data, max_bytes)
    except (ValueError, UnavailableError) as error:
        raise ProtocolError(f"a packed message of {len(data)} bytes: {error}") from error
