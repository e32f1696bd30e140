"""How many bits an element has that crosses a cut: owns what each did to outputs, and the choice.

Nothing is assumed of a width that was not tried: outputs do not get better with every bit. In
samples, inferences whose program gets exact results, the calls are executed again with each width
that is to be known, and the outputs compared. A width is used once enough samples had an error of
half the budget at most; the one in use is looked at again and again, more and more seldom while
all is well. When it exceeds that half, it and all that are smaller are given up for good, and
transfers are exact until larger ones have passed anew. COACH's unknowns (its rule from
separability to bits, its updates) are not imitated; this guard is a design of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rrto_ros.wire.format import Buffer
from rrto_ros.wire.quantised import KINDS, WIDTHS

EXACT = 0
"""Instead of a width."""
SPENT = 0.5
"""Part of the budget that a sample's error may take."""
LEAST_SAMPLES = 8
"""Of a width before it is used."""
SOONEST, SELDOMEST = 4, 256
"""Inferences from one sample to the next."""
AT_ONCE = 2
"""Widths that are tried in one sample: the program's next inference waits for them."""
SHARE = 0.1
"""Part of the time for computing that may be spent on transfers without asking for fewer bits."""
_ORDER = (8, 16, 4, 12, 6, 10)
"""The one that will do most often first."""
assert sorted(_ORDER) == sorted(WIDTHS)


def relative_error(got: Buffer, exact: Buffer, kind: str) -> float:
    """How far an output is off.

    Args:
        got: As it came with coarse transfers.
        exact: As it came without.
        kind: Type of its elements (`quantised.KINDS`), or empty.

    Returns:
        Of floats the mean of |got - exact| by the mean of |exact|; infinite where that is not
        finite, or one has something that is not finite where the other has not the same. Of
        anything else the part of its bytes that differ.
    """
    if bytes(got) == bytes(exact):
        return 0.0
    if len(got) != len(exact):
        return float("inf")
    if kind not in KINDS or len(exact) % KINDS[kind].itemsize:
        ours, theirs = np.frombuffer(got, np.uint8), np.frombuffer(exact, np.uint8)
        return float((ours != theirs).mean())
    a, b = (np.frombuffer(data, KINDS[kind]).astype(np.float64) for data in (got, exact))
    finite = np.isfinite(b)
    if not (np.isfinite(a) == finite).all() or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return float("inf")
    off, size = float(np.abs(a[finite] - b[finite]).sum()), float(np.abs(b[finite]).sum())
    if not off:
        return 0.0
    return off / size if size else float("inf")


@dataclass(frozen=True, slots=True)
class Crossing:
    """What crosses in an inference, as far as it may be coarse.

    Attributes:
        bytes: As they are.
        elements: How many these are.
        busy_s: What its calls take where they run, without transfers.
        pack_s: What packing and unpacking all of it takes.
    """

    bytes: int = 0
    elements: int = 0
    busy_s: float = 0.0
    pack_s: float = 0.0

    def seconds(self, bits: int, bytes_per_s: float) -> float:
        """What it takes to bring it."""
        if bits == EXACT:
            return self.bytes / bytes_per_s
        return self.elements * bits / 8 / bytes_per_s + self.pack_s


@dataclass(slots=True)
class _Width:
    """What is known of a width: samples, the worst error, and whether it is given up."""

    samples: int = 0
    worst: float = 0.0
    gone: bool = False


class Precision:
    """Of one inference under one placement. Not thread-safe.

    Args:
        budget: Error that no output may exceed.

    Attributes:
        crossing: What crosses, once a sample has shown it.
        bits: In use.
        samples: Inferences that were compared.
        worst: The worst error of a width that was in use when it was seen.
        raised: How often a width that was in use was given up.
    """

    def __init__(self, budget: float) -> None:
        self.crossing: Crossing | None = None
        self.bits = EXACT
        self.samples = 0
        self.worst = 0.0
        self.raised = 0
        self._most = SPENT * budget
        self._widths = {bits: _Width() for bits in _ORDER}
        self._every = self._left = SOONEST

    def choose(self, bytes_per_s: float) -> int:
        """The width of the inference that begins now.

        The largest that leaves transfers a small part of the time, or the smallest there is.

        Args:
            bytes_per_s: Of the link; 0: not known.
        """
        self.bits = EXACT
        crossing = self.crossing
        if crossing is None or not self._slow(crossing, bytes_per_s):
            return EXACT
        most = SHARE * crossing.busy_s
        exact_s = crossing.seconds(EXACT, bytes_per_s)
        good = [
            bits
            for bits in sorted(self._widths)
            if self._good(bits) and crossing.seconds(bits, bytes_per_s) < exact_s
        ]
        if good:
            quick = [bits for bits in good if crossing.seconds(bits, bytes_per_s) <= most]
            self.bits = quick[-1] if quick else good[0]
        return self.bits

    def due(self, bytes_per_s: float) -> tuple[int, ...]:
        """Widths that are tried in the inference that begins now; most often none.

        It is executed exactly if there are some.
        """
        if self.crossing is not None and not self._slow(self.crossing, bytes_per_s):
            return ()
        self._left -= 1
        wanted = self._wanted()
        if self._left > 0 or not wanted:
            return ()
        self._left = self._every
        return wanted

    def seen(self, errors: Sequence[tuple[int, float]]) -> None:
        """A sample's widths, and the worst error of an output with each."""
        self.samples += 1
        fine = True
        for bits, error in errors:
            width = self._widths[bits]
            width.samples += 1
            width.worst = max(width.worst, error)
            if bits == self.bits:
                self.worst = max(self.worst, error)
            if error <= self._most:
                continue
            fine = False
            width.gone = True
            if bits == self.bits:
                self.raised += 1
                for other, one in self._widths.items():
                    one.gone = one.gone or other <= bits
                    # Those that passed did so with other inputs than come now.
                    one.samples = 0
        if self.bits != EXACT and self._widths[self.bits].gone:
            self.bits = EXACT
        settled = self.bits != EXACT and not self._unknown()
        self._every = min(2 * self._every, SELDOMEST) if fine and settled else SOONEST
        self._left = self._every

    def measured(self) -> dict[int, tuple[int, float]]:
        """Samples and worst error of each width that was tried."""
        return {
            bits: (one.samples, one.worst)
            for bits, one in sorted(self._widths.items())
            if one.samples
        }

    def _slow(self, crossing: Crossing, bytes_per_s: float) -> bool:
        """Whether transfers take so long that fewer bits are asked for."""
        if not crossing.bytes or bytes_per_s <= 0:
            return False
        return crossing.seconds(EXACT, bytes_per_s) > SHARE * crossing.busy_s

    def _good(self, bits: int) -> bool:
        one = self._widths[bits]
        return not one.gone and one.samples >= LEAST_SAMPLES and one.worst <= self._most

    def _unknown(self) -> list[int]:
        """Widths of which it is not known whether they will do, that would save something."""
        crossing = self.crossing
        return [
            bits
            for bits in _ORDER
            if not self._widths[bits].gone
            and self._widths[bits].samples < LEAST_SAMPLES
            and (crossing is None or crossing.elements * bits < 8 * crossing.bytes)
        ]

    def _wanted(self) -> tuple[int, ...]:
        """The width in use, and those of which more is to be known."""
        own = [self.bits] if self.bits != EXACT else []
        return tuple([*own, *self._unknown()][:AT_ONCE])
