"""In how many bits a tensor crosses: owns the sizes, and the search for the narrowest width.

Values are quantised uniformly (minimum and step of each block, then whole numbers), as in COACH
(Gao et al., INFOCOM 2025, arXiv 2501.12388), which finds a layer's width by bisection. That
assumes that whoever passes with few bits passes with more. Measured accuracy does not rise
strictly with the width, so a bisection may return a width below which, or above which, one fails.
`narrowest` looks at all widths from above and stops at the first that fails; `bisected` is the
published way, to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rrto_ros.errors import ConfigError

EXACT = 32
"""Bits of an element that crosses as it is."""
WIDTHS = (2, 3, 4, 5, 6, 8, 16)
"""Bits of an element that is quantised, ascending."""
BLOCK, HEADER = 4096, 8
"""Elements of a block, and bytes that each block has before them: its minimum and step."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How fast elements are quantised and made whole again.

    Attributes:
        robot_bytes_per_s: Bytes before packing, at the robot, either way; infinite: for nothing.
        edge_bytes_per_s: The same, at the edge.

    Raises:
        ConfigError: A figure is not more than 0.
    """

    robot_bytes_per_s: float = math.inf
    edge_bytes_per_s: float = math.inf

    def __post_init__(self) -> None:
        for name in ("robot_bytes_per_s", "edge_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name} {getattr(self, name)}: want bytes per second of packing, more than "
                    "0; measure it, or leave packing out"
                )

    @property
    def free(self) -> bool:
        """Whether it takes no time."""
        return math.isinf(self.robot_bytes_per_s) and math.isinf(self.edge_bytes_per_s)


def packed_bytes(size: float, bits: int) -> float:
    """What crosses for a float32 tensor.

    Args:
        size: Its bytes, of 4 per element.
        bits: Of an element, 1 to `EXACT`.

    Raises:
        ConfigError: There is no such width.
    """
    if not 1 <= bits <= EXACT:
        raise ConfigError(f"{bits} bits of an element: want 1 to {EXACT}; {EXACT} is exact")
    if bits == EXACT or not size:
        return size
    # Never more than what it is: a tensor of a few elements is sent as it is.
    elements = size / 4
    return min(size, math.ceil(elements * bits / 8) + HEADER * math.ceil(elements / BLOCK))


def narrowest(passes: Callable[[int], bool], widths: Sequence[int] = WIDTHS) -> int:
    """The smallest width such that it and all larger ones pass; `EXACT` if the largest fails.

    Args:
        passes: Whether accuracy is kept with a width; asked from the largest one downwards, each
            at most once.
        widths: That there are, ascending.
    """
    found = EXACT
    for bits in reversed(widths):
        if not passes(bits):
            break
        found = bits
    return found


def bisected(passes: Callable[[int], bool], widths: Sequence[int] = WIDTHS) -> int:
    """A width that passes, found by bisection as COACH does; `EXACT` if it meets none.

    It is `narrowest` where what passes with few bits passes with more. Otherwise it may be
    wider, or narrower than one that fails.

    Args:
        passes: Whether accuracy is kept with a width; asked about log2(len(widths) + 1) times.
        widths: That there are, ascending.
    """
    low, high = 0, len(widths)
    while low < high:
        middle = (low + high) // 2
        if passes(widths[middle]):
            high = middle
        else:
            low = middle + 1
    return widths[low] if low < len(widths) else EXACT
