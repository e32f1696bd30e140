"""The picture of the README: time per inference over a robot's link, from docs/evaluation/link.md.

    python bench/link_picture.py                # writes docs/link.svg
    python bench/link_picture.py --check        # exit code 1 if it is not what link.md says

Every figure is read from the tables of link.md; none stands here.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLE = DOCS / "evaluation" / "link.md"
PICTURE = DOCS / "link.svg"
WAYS = ("rpc", "batched", "replay", "direct")
COLOURS = {"rpc": "#9aa5b1", "batched": "#7ab0df", "replay": "#1f6fb5", "direct": "#d8b365"}
LATENCY = "latency, ms (10 to 90 %)"

PANEL, BAR, STEP, TOP, LEFT = 280, 18, 26, 84, 62
FULL = 128
"""Length of the longest bar of a panel."""


class TableError(Exception):
    """link.md has not the table that the picture shows."""


@dataclass(frozen=True)
class Panel:
    """One network.

    Attributes:
        title: Its heading.
        calls: Driver calls of an inference.
        latency_ms: Of each way, median.
    """

    title: str
    calls: str
    latency_ms: dict[str, float]


def panels(text: str) -> list[Panel]:
    """What link.md says of each network.

    Raises:
        TableError: A network lacks a way, or there is none.
    """
    out = []
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
        title = section.splitlines()[0].strip()
        rows = [
            [cell.strip(" `*") for cell in line.strip("|").split("|")]
            for line in section.splitlines()
            if line.startswith("|")
        ]
        heads = [row for row in rows if LATENCY in row]
        calls = re.search(r"^([\d,]+) driver calls", section, re.MULTILINE)
        if not heads or not calls:
            raise TableError(f"{title}: want a column '{LATENCY}' and 'N driver calls'")
        column = heads[0].index(LATENCY)
        found = {
            row[0]: float(row[column].split(" ")[0].replace(",", ""))
            for row in rows
            if row[0] in WAYS
        }
        lacking = [way for way in WAYS if way not in found]
        if lacking:
            raise TableError(f"{title}: no row of {', '.join(lacking)}; want one of each way")
        out.append(Panel(title, calls[1], found))
    if not out:
        raise TableError("no network: want a heading '### NAME' over each table")
    return out


def link(text: str) -> str:
    """The link's delay and rate, as link.md names them.

    Raises:
        TableError: It names none.
    """
    found = re.search(r"([\d.]+) ms round\s+trip, ([\d.]+) Mbit/s", text)
    if not found:
        raise TableError("no link: want 'N ms round trip, N Mbit/s'")
    return f"{found[1]} ms round trip, {found[2]} Mbit/s"


def milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def picture(text: str) -> str:
    """An SVG of link.md's latencies; each panel has a scale of its own."""
    shown = panels(text)
    width, height = PANEL * len(shown) + 20, TOP + STEP * len(WAYS) + 44
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" '
            'font-size="13" fill="#222222">'
        ),
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        (
            f'<text x="20" y="26" font-size="16" font-weight="bold">'
            f"Time per inference over a link with {escape(link(text))}</text>"
        ),
    ]
    for number, panel in enumerate(shown):
        x = 20 + PANEL * number
        out.append(
            f'<text x="{x}" y="{TOP - 26}" font-weight="bold">{escape(panel.title)}</text>'
            f'<text x="{x}" y="{TOP - 9}" fill="#666666">{panel.calls} driver calls</text>'
        )
        longest = max(panel.latency_ms.values())
        for place, way in enumerate(WAYS):
            value = panel.latency_ms[way]
            y, length = TOP + STEP * place, max(FULL * value / longest, 1.0)
            weight = ' font-weight="bold"' if way == "replay" else ""
            out.append(
                f'<text x="{x + LEFT - 8}" y="{y + 14}" text-anchor="end"{weight}>{way}</text>'
                f'<rect x="{x + LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" '
                f'fill="{COLOURS[way]}"/>'
                f'<text x="{x + LEFT + length + 6:.1f}" y="{y + 14}"{weight}>'
                f"{milliseconds(value)}</text>"
            )
    out += [
        (
            f'<text x="20" y="{height - 16}" fill="#666666" font-size="12">'
            "Median, device cpu (no GPU); each network has its own scale. direct: a server "
            "written for this one program.</text>"
        ),
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    try:
        drawn = picture(TABLE.read_text())
    except TableError as error:
        print(f"{TABLE}: {error}", file=sys.stderr)
        return 2
    if not options.check:
        PICTURE.write_text(drawn)
    elif not PICTURE.is_file() or PICTURE.read_text() != drawn:
        print(f"{PICTURE} is not what {TABLE} says: run bench/link_picture.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
