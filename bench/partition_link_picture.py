"""The pictures of bench/partition_link.py, from what it wrote with --json.

python bench/partition_link_picture.py FOUND.json OUT.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {"local": "#9aa5b1", "replay": "#d8b365", "fixed": "#c9b7d8", "partition": "#1f6fb5"}
LINK = "#e9eef3"


def sweep(rows: list[dict[str, Any]], axes: Any) -> None:
    """Bars: each way's median over each link, for one network on one robot."""
    ways = ["local", "replay", "best fixed cut", "partition"]
    for k, way in enumerate(ways):
        heights = []
        for row in rows:
            cuts = [ms for name, ms in row["ms"].items() if name.startswith("fixed")]
            heights.append(min(cuts) if way == "best fixed cut" else row["ms"][way])
        at = np.arange(len(rows)) + (k - 1.5) * 0.2
        colour = COLOURS["fixed" if "fixed" in way else way]
        axes.bar(at, heights, 0.19, label=way, color=colour)
    predicted = [row["predicted_ms"] for row in rows]
    axes.plot(np.arange(len(rows)) + 0.3, predicted, "k_", markersize=11, label="predicted")
    labels = [f"{row['rate_mbit']:g} Mbit/s\n{row['trip_ms']:g} ms" for row in rows]
    axes.set_xticks(np.arange(len(rows)), labels)
    _log(axes)
    axes.set_ylabel("ms per inference, median")
    axes.set_title(f"{rows[0]['network']}, robot {rows[0]['slower']} times slower", fontsize=10)
    axes.grid(alpha=0.25, axis="y", which="both")
    axes.legend(fontsize=8)


def steps(modes: list[dict[str, Any]], axes: Any) -> None:
    """Points: each inference over the time at which it ended, for one network on one robot."""
    for one in modes:
        begins = np.array([sample[0] for sample in one["samples"]])
        ms = np.array([sample[1] for sample in one["samples"]])
        axes.plot(
            begins + ms / 1e3, ms, ".-", markersize=3, linewidth=0.7, label=one["mode"],
            color=COLOURS[one["mode"]],
        )  # fmt: skip
    longest = max(modes, key=lambda one: one["samples"][-1][0])
    before, start = None, 0.0
    changes = [(s[0], s[2]) for s in longest["samples"]]
    for at, rate in [*changes, (changes[-1][0], None)]:
        if rate == before:
            continue
        if before is not None:
            gone = before == 0
            axes.axvspan(start, at, color="#f3d6d0" if gone else LINK, alpha=0.4 if gone else 0.0)
            said = "link gone" if gone else f"{before:g} Mbit/s"
            axes.text((start + at) / 2, 0.97, said, transform=axes.get_xaxis_transform(),
                      ha="center", va="top", fontsize=9)  # fmt: skip
            axes.axvline(at, color="#777777", linewidth=0.6)
        before, start = rate, at
    _log(axes)
    axes.set_xlabel("seconds")
    axes.set_ylabel("ms of an inference")
    first = modes[0]
    axes.set_title(f"{first['network']}, robot {first['slower']} times slower", fontsize=10)
    axes.grid(alpha=0.25, which="both", axis="y")
    axes.legend(fontsize=8, loc="center right")


def _log(axes: Any) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    # Beyond two decades the numbers between their ends would be over each other.
    axes.yaxis.set_minor_formatter("{x:g}" if high < 100 * low else "")
    axes.tick_params(labelsize=8, which="both")


def picture(body: dict[str, Any], file: Path) -> None:
    """One row for each network and robot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for kind in ("rows", "steps"):
        for one in body[kind]:
            groups.setdefault((kind, one["network"], one["slower"]), []).append(one)
    figure, axes = plt.subplots(len(groups), 1, figsize=(9, 3.9 * len(groups)), squeeze=False)
    for (axis,), ((kind, *_), found) in zip(axes, groups.items(), strict=True):
        (sweep if kind == "rows" else steps)(found, axis)
    figure.suptitle(
        "Measured; emulated link, the robot's device is a slowed cpu device", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    picture(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
