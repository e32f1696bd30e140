"""The picture of bench/partition.py: latency over the link's rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from partition_profiles import MBIT, Model

WORTH = 0.01
"""A cut that saves less than this part is not shown as one."""
LEAST, MOST = 1, 1000
"""Mbit/s."""


def picture(some: list[Model], file: Path) -> None:
    """Latency over the link's rate, for each model and two round trips."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    trips = (5, 50)
    figure, axes = plt.subplots(
        len(trips), len(some), figsize=(3.1 * len(some), 5.6), sharex=True, squeeze=False
    )
    mbits = np.geomspace(LEAST, MOST, 241)
    styles = {"local": ("all local", "#9aa5b1"), "edge": ("all edge", "#d8b365")}
    for row, trip in zip(axes, trips, strict=True):
        for axis, model in zip(row, some, strict=True):
            lines, table = model.lines(trip / 1e3), model.table(trip / 1e3)
            simple = np.full(len(mbits), np.inf)
            for way, (label, colour) in styles.items():
                costs = np.array([1e3 * lines[way][0].cost(m * MBIT) for m in mbits])
                axis.plot(mbits, costs, color=colour, label=label, linewidth=2.5)
                simple = np.minimum(simple, costs)
            best = np.array([1e3 * table.best(m * MBIT).cost(m * MBIT) for m in mbits])
            axis.plot(mbits, best, color="#1f6fb5", label="best placement", linewidth=1.2)
            worth = best < simple * (1 - WORTH)
            low, high = 0.7 * best.min(), 1.6 * simple.max()
            axis.fill_between(mbits, low, high, where=worth, color="#1f6fb5", alpha=0.12,
                              label="a cut saves 1 % or more")  # fmt: skip
            axis.set(xscale="log", yscale="log", ylim=(low, high))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
            axis.tick_params(labelsize=7, which="both")
            axis.set_title(f"{model.name}, {trip} ms", fontsize=10)
            axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("link, Mbit/s")
    for row in axes:
        row[0].set_ylabel("ms per inference")
    axes[0][-1].legend(fontsize=7)
    figure.suptitle(
        "Simulated from operators' times on a Jetson Xavier NX and a server", fontsize=11
    )
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)
