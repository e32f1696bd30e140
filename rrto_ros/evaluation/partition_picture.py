"""The picture of `rrto analyze --partition`: an inference as a chain, and its cuts by rate."""

from __future__ import annotations

import os
from itertools import accumulate
from pathlib import Path

from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.evaluation.partition import Partitions

ROBOT, EDGE, PINNED = "#d8b365", "#1f6fb5", "#bbbbbb"


def write_png(found: Partitions, path: str | os.PathLike[str]) -> None:
    """Draw the bytes that cross at every point, and where calls run at each rate.

    Calls are as wide as they are long. Above, the bytes that a cut before each call brings across;
    below, a row for each rate of the link.

    Raises:
        UnavailableError: matplotlib is not installed.
        ConfigError: The file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError(
            f"a picture needs matplotlib, which cannot be imported ({error}): pip install "
            "matplotlib"
        ) from error
    times = [1e3 * seconds for seconds in found.measured.edge_s]
    edges = [0.0, *accumulate(times)]
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    crossing = [bytes_ / 1e6 for bytes_ in found.live_bytes]
    above.step(edges, crossing, where="post", color="#222222", linewidth=1.2)
    above.fill_between(edges, crossing, step="post", color="#222222", alpha=0.08)
    above.set_ylabel("bytes across a cut, MB")
    above.set_ylim(bottom=0)
    above.set_title(
        f"{len(times)} calls and nodes, {edges[-1]:.0f} ms here; robot "
        f"{found.situation.slower:g} times slower (modelled)",
        fontsize=10,
    )
    for row, choice in enumerate(found.choices):
        colours = [
            PINNED if n in found.measured.at_robot else EDGE if away else ROBOT
            for n, away in enumerate(choice.placement)
        ]
        below.barh([row] * len(times), times, left=edges[:-1], height=0.8, color=colours)
        below.text(
            edges[-1], row, f" {1e3 * choice.best.latency_s:.0f} ms", va="center", fontsize=8
        )
    below.set_yticks(range(len(found.choices)), [f"{c.rate_mbit:g}" for c in found.choices])
    below.set_ylabel("link, Mbit/s")
    below.set_xlabel("time of the calls here, ms")
    handles = [below.barh([0], [0], color=c) for c in (ROBOT, EDGE)]
    below.legend(handles, ["at the robot", "at the edge"], loc="lower left", fontsize=8)
    try:
        figure.savefig(Path(path), dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(f"picture {path} cannot be written: {error}") from error
