"""Pictures as SVG text that needs nothing else: cumulative distributions and bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Distinguishable for colour-blind people (Okabe and Ito)."""
WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 120, 16, 44
BAR, GAP, NAMES = 22, 12, 110
MOST_STEPS = 500
WIDE_RATIO = 20.0
"""Of the largest to the smallest value, from which on an axis is logarithmic."""


def ticks(low: float, high: float, *, wide: bool) -> list[float]:
    """Round values between two others."""
    if wide:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        found = [times * 10.0**power for power in range(first, last + 1) for times in (1, 2, 5)]
    else:
        step = 10 ** math.floor(math.log10(max((high - low) / 4, 1e-12)))
        step *= next(times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 8)
        found = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [value for value in found if low <= value <= high]


def amount(value: float) -> str:
    """A value as people read it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(label)}" fill="currentColor" font-size="12" '
        f'font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


def cumulative(series: Mapping[str, Sequence[float]], axis: str) -> str:
    """The share of all values that is at most so large, a line for each name.

    Args:
        series: Name -> values; those without values are left out.
        axis: What the values are.
    """
    lines = {name: sorted(values) for name, values in series.items() if values}
    if not lines:
        return ""
    low, high = min(v[0] for v in lines.values()), max(v[-1] for v in lines.values())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    wide = low > 0 and high / low >= WIDE_RATIO
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        if wide:
            return LEFT + across * math.log(value / low) / math.log(high / low)
        return LEFT + across * (value - low) / (high - low)

    def y(part: float) -> float:
        return TOP + down * (1 - part)

    parts = []
    for part in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0):
        parts.append(
            f'<path d="M{LEFT} {y(part):.1f}h{across}" stroke="currentColor" opacity=".2"/>'
        )
        if part != 0.95:
            parts.append(_text(LEFT - 6, y(part) + 4, f"{part:.0%}", "end"))
    for value in ticks(low, high, wide=wide):
        parts.append(
            f'<path d="M{x(value):.1f} {TOP}v{down}" stroke="currentColor" opacity=".1"/>'
        )
        parts.append(_text(x(value), HEIGHT - BOTTOM + 16, f"{value:g}"))
    parts.append(_text(LEFT + across / 2, HEIGHT - 8, axis))
    for number, (name, values) in enumerate(lines.items()):
        colour = COLOURS[list(series).index(name) % len(COLOURS)]
        path = f"M{x(values[0]):.1f} {y(0):.1f}"
        for place in range(1, len(values) + 1):
            # More steps than the picture has points would only make the page large.
            if place * MOST_STEPS // len(values) > (place - 1) * MOST_STEPS // len(values):
                path += f"H{x(values[place - 1]):.1f}V{y(place / len(values)):.1f}"
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = TOP + 14 + 18 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{at - 9}" width="12" height="10" '
                     f'fill="{colour}"/>')  # fmt: skip
        parts.append(_text(WIDTH - RIGHT + 32, at, name, "start"))
    return _svg(HEIGHT, f"cumulative distribution of {axis}: {', '.join(lines)}", parts)


def stacked(rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """A bar for each name, made of parts of which each has its colour.

    Args:
        rows: Name -> part -> value; those without parts are left out.
        unit: Of the values.
    """
    kept = {name: parts for name, parts in rows.items() if parts}
    if not kept:
        return ""
    names = list(dict.fromkeys(part for parts in kept.values() for part in parts))
    most = max(sum(parts.values()) for parts in kept.values()) or 1.0
    across = WIDTH - NAMES - 110
    out = []
    at = float(NAMES)
    for number, part in enumerate(names):
        out.append(f'<rect x="{at:.1f}" y="4" width="12" height="10" '
                   f'fill="{COLOURS[number % len(COLOURS)]}"/>')  # fmt: skip
        out.append(_text(at + 18, 13, part, "start"))
        at += 34 + 7 * len(part)
    y = 26.0
    for name, parts in kept.items():
        out.append(_text(NAMES - 8, y + BAR * 0.7, name, "end"))
        at = float(NAMES)
        for number, part in enumerate(names):
            value = parts.get(part, 0.0)
            width = across * value / most
            out.append(f'<rect x="{at:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" '
                       f'fill="{COLOURS[number % len(COLOURS)]}"><title>{escape(part)} '
                       f"{amount(value)} {escape(unit)}</title></rect>")  # fmt: skip
            at += width
        total = f"{amount(sum(parts.values()))} {unit}".strip()
        out.append(_text(at + 6, y + BAR * 0.7, total, "start"))
        y += BAR + GAP
    label = "; ".join(
        f"{name} {amount(sum(parts.values()))} {unit}" for name, parts in kept.items()
    )
    return _svg(y, label, out)
