"""Which messages leave in fewer bytes, and how: owns that choice, for each kind of message.

Messages of one length, and one place in their batch, are taken for one kind: a part of the input
of an inference, say, which comes again and again with other content. How it is coded best
(`coding.py`) is tried with the first one, and again when it gets worse. It is coded as long as
that pays: the link would take much longer for the bytes that it saves.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rrto_ros.errors import UnavailableError
from rrto_ros.wire.coding import (
    LEVEL,
    MOST_PITCH,
    Bytes,
    Filter,
    filtered,
    shuffled,
    with_palette,
)
from rrto_ros.wire.format import Buffer
from rrto_ros.wire.palette import Palette
from rrto_ros.zstd import codec

LEAST_BYTES = 8 << 10
"""Shorter messages stay as they are."""
LEAST_S = 0.003
"""As do those that the link takes less time for: looking at them would take longer."""
SAMPLE_BYTES = 128 << 10
"""Lines of a picture are found if four of them are in it."""
WORTH = 0.92
"""What does not get shorter than this part of itself is not worth it."""
COSTS = 5
"""What is saved must be worth more than so many times what coding takes: decoding takes about as
long, and what is taken for the link's time is in part the processors'."""
MOST_KINDS = 64
TRIED_AGAIN, TRIED_RARELY = 32, 4096
"""After so many messages the choice is made anew if nothing made the last one shorter; then after
twice as many, and so on. What was shorter is chosen anew when it gets worse."""
LOOKED_AT_AGAIN = 128
"""Of messages that are left as they are, every so many is coded to see whether it would pay."""
_DISTANCES = (1, 2, 3, 4, 6, 8)
_NEAREST_LINE = 32
_LINES = 4
_FITS = 0.6
"""So much of a message must be in tables, or it has none."""

Code = Callable[[Buffer], bytes | None]


@dataclass
class _Kind:
    """Messages of one length and place.

    Attributes:
        code: How they are coded; None: nothing makes them shorter.
        name: Of that.
        part: What is left of their bytes.
        seconds: What coding takes; 0 before it was measured.
        count: Messages since the choice.
        anew: After so many it is made anew; 0: not for that.
    """

    code: Code | None = None
    name: str = ""
    part: float = 1.0
    seconds: float = 0.0
    count: int = 0
    anew: int = 0


class Compressor:
    """Codes one stream of messages where that pays. One thread."""

    def __init__(self) -> None:
        try:
            codec()
            self._on = True
        except UnavailableError:
            self._on = False
        self._kinds: OrderedDict[tuple[int, int], _Kind] = OrderedDict()
        self.saved_bytes = 0
        """What did not have to be sent."""
        self._place = self._newest = self._coded = self._left = self._choices = 0
        self._seconds = 0.0

    def pack(
        self, data: Buffer, link_bytes_per_s: float, sequence: int, more: bool = False
    ) -> bytes | None:
        """The coded message; None to send it as it is.

        Args:
            data: Of the message.
            link_bytes_per_s: What the link has been seen to take; 0 while that is unknown.
            sequence: Its number: of one that was sent before nothing is saved once more.
            more: Whether its batch goes on in the next one.
        """
        size, place = len(data), self._place
        self._place = place + 1 if more else 0
        if not self._on or size < LEAST_BYTES or not link_bytes_per_s:
            return None
        link_s = size / link_bytes_per_s
        if link_s < LEAST_S:
            return None
        began = time.perf_counter()
        kind = self._kind(data, place)
        kind.count += 1
        out = None
        looks = kind.count % LOOKED_AT_AGAIN == 1
        if kind.code is not None and (looks or self._pays(kind, link_s)):
            before = time.perf_counter()
            out = kind.code(data)
            took = time.perf_counter() - before
            part = 1.0 if out is None else len(out) / size
            kind.seconds += (took - kind.seconds) / 4 if kind.seconds else took
            if part > 1.25 * kind.part + 0.05:
                # Other content than it was chosen for: the next one is looked at.
                kind.anew = kind.count
            kind.part += (part - kind.part) / 4
            if part > WORTH:
                out = None
        self._seconds += time.perf_counter() - began
        if out is None:
            self._left += 1
            return None
        self._coded += 1
        if sequence > self._newest:
            self._newest = sequence
            self.saved_bytes += size - len(out)
        return out

    def statistics(self) -> dict[str, int | float | str]:
        """Messages coded and left as they were, bytes saved, seconds that it took, and how."""
        ways = sorted({kind.name for kind in self._kinds.values() if kind.name})
        return {
            "messages": self._coded,
            "declined": self._left,
            "choices": self._choices,
            "saved_bytes": self.saved_bytes,
            "seconds": self._seconds,
            "ways": ", ".join(ways),
        }

    def _pays(self, kind: _Kind, link_s: float) -> bool:
        return (1.0 - kind.part) * link_s > COSTS * kind.seconds

    def _kind(self, data: Buffer, place: int) -> _Kind:
        kind = self._kinds.pop((len(data), place), None)
        if kind is None or (kind.anew and kind.count >= kind.anew):
            last, kind = kind, self._chosen(data)
            self._choices += 1
            if kind.code is None:
                again = last.anew if last is not None and last.code is None else 0
                kind.anew = min(2 * again, TRIED_RARELY) if again else TRIED_AGAIN
        self._kinds[len(data), place] = kind
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return kind

    def _chosen(self, data: Buffer) -> _Kind:
        """What makes the message shortest."""
        best: tuple[float, str, Code | None] = (WORTH * len(data), "", None)
        for name, code in self._ways(data):
            out = code(data)
            if out is not None and len(out) < best[0]:
                best = len(out), name, code
        return _Kind(best[2], best[1], best[0] / len(data))

    def _ways(self, data: Buffer) -> list[tuple[str, Code]]:
        size = min(len(data), SAMPLE_BYTES) & ~3
        start = (len(data) - size) // 2 & ~3
        picture = best_filter(np.frombuffer(memoryview(data)[start : start + size], np.uint8))
        ways: list[tuple[str, Code]] = [
            ("plain", lambda data: bytes(codec().compress(data, LEVEL))),
            ("filtered", lambda data: filtered(data, picture)),
            ("shuffled", shuffled),
        ]
        for lanes in (1, 3, 4):
            palette = Palette(lanes)
            tables, fits = palette.tables(data)
            if fits >= _FITS:
                places = best_filter(tables.places[: SAMPLE_BYTES // 4], lanes)
                ways.append((f"palette of {lanes}", _by(palette, places)))
        return ways


def _by(palette: Palette, how: Filter) -> Code:
    def code(data: Buffer) -> bytes | None:
        tables, fits = palette.tables(data)
        return with_palette(data, tables, how) if fits >= _FITS else None

    return code


def best_filter(data: Bytes, *distances: int) -> Filter:
    """The filter after which the bytes of a piece are most alike, by their entropy.

    Args:
        data: The piece.
        distances: To be tried; all that are usual if none is given.
    """
    tried = [(_entropy(data), Filter())]
    for distance in distances or _DISTANCES:
        how = Filter(distance)
        tried.append((_entropy(how.apply(data)), how))
    bits, best = min(tried, key=lambda one: one[0])
    for pitch in _line_lengths(best.apply(data)):
        for how in (Filter(best.distance, pitch), Filter(0, pitch)):
            now = _entropy(how.apply(data))
            if now < 0.98 * bits:
                bits, best = now, how
    return best


def _line_lengths(differences: Bytes) -> list[int]:
    """Distances at which differences come again: peaks of their autocorrelation (by FFT)."""
    size = len(differences)
    most = min(size // _LINES, MOST_PITCH)
    if most <= _NEAREST_LINE:
        return []
    values = differences.view(np.int8).astype(np.float32)
    values -= values.mean()
    spectrum = np.fft.rfft(values, 2 * size)
    alike = np.fft.irfft(np.abs(spectrum) ** 2)[:most]
    alike[:_NEAREST_LINE] = -np.inf
    return [int(lag) for lag in np.argsort(alike)[: -_LINES - 1 : -1]]


def _entropy(data: Bytes) -> float:
    """Bits per byte, each for itself."""
    share = np.bincount(data, minlength=256) / max(len(data), 1)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())
