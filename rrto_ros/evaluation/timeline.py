"""Pictures of an analysis: the calls of a session in order, coloured by sequence.

The PNG shows the whole log and the part where the first sequence begins. The HTML file shows the
same and can be zoomed and pointed at; it needs nothing but itself.
"""

from __future__ import annotations

import html
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrto_ros.errors import ConfigError, UnavailableError
from rrto_ros.evaluation.analyze import NOISE, Analysis
from rrto_ros.evaluation.timeline_page import PAGE

COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#e08020", "#7050c0"),
    *("#00887a", "#b05030"),
)
NOISE_COLOUR = "#bbbbbb"
COLUMNS = 2000
MAX_RUNS = 100_000
MAX_MARKS = 200
"""With more occurrences than this in a panel, their beginnings are not marked."""


def colour(label: int) -> str:
    """The colour of a sequence."""
    return NOISE_COLOUR if label == NOISE else COLOURS[label % len(COLOURS)]


def columns(
    analysis: Analysis, start: int, end: int, width: int = COLUMNS
) -> tuple[npt.NDArray[np.int32], list[int]]:
    """The log's calls [start, end) as an image, a row per thread.

    A column has the label that is most frequent in it, -2 where the thread makes no call.

    Returns:
        (image of labels, the rows' threads)
    """
    threads = np.frombuffer(analysis.log.threads, np.uint32)[start:end]
    labels = analysis.labels[start:end]
    rows = np.unique(threads).tolist()
    width = max(1, min(width, end - start))
    column = np.arange(end - start) * width // max(1, end - start)
    image = np.full((len(rows), width), -2, np.int32)
    for r, thread in enumerate(rows):
        own = threads == thread
        values = np.unique(labels[own])
        counts = np.stack([np.bincount(column[own & (labels == v)], None, width) for v in values])
        image[r] = np.where(counts.any(axis=0), values[counts.argmax(axis=0)], -2)
    return image, rows


def legend(analysis: Analysis) -> list[tuple[int, str]]:
    """(label, text) of what is in the picture."""
    out = [
        (n, f"sequence {n}: {len(f.sequence)} calls, {len(f.starts)} times")
        for n, f in enumerate(analysis.found)
    ]
    noise = int(np.count_nonzero(analysis.labels == NOISE))
    return [*out, (NOISE, f"noise: {noise} calls")]


def write_png(analysis: Analysis, path: str | os.PathLike[str]) -> None:
    """Write the picture.

    Raises:
        UnavailableError: matplotlib is not installed.
        ConfigError: The file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import to_rgb
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise UnavailableError(
            "a picture needs matplotlib: pip install matplotlib, or ask for the HTML file"
        ) from error
    log = analysis.log
    total = len(log)
    panels = [("all calls", 0, total)]
    if analysis.found:
        first = min(analysis.found, key=lambda f: f.starts[0])
        begin = first.starts[0] - analysis.log.base
        reach = 3 * len(first.sequence)
        lo, hi = max(0, begin - reach), min(total, begin + reach)
        if hi - lo < total:
            panels.append(("where the first sequence begins", lo, hi))
    figure = Figure(figsize=(12, 1.6 + 1.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (title, lo, hi) in zip(axes, panels, strict=True):
        image, rows = columns(analysis, lo, hi)
        pixels = np.ones((*image.shape, 3))
        for label in np.unique(image).tolist():
            if label > -2:
                pixels[image == label] = to_rgb(colour(label))
        left, right = (log.index_of(log.base + p) for p in (lo, max(lo, hi - 1)))
        axis.imshow(
            pixels,
            aspect="auto",
            interpolation="nearest",
            extent=(left - 0.5, right + 0.5, len(rows) - 0.5, -0.5),
        )
        begins = [p for f in analysis.found for p in f.starts if lo <= p - log.base < hi]
        if len(begins) <= MAX_MARKS:
            for position in begins:
                axis.axvline(log.index_of(position) - 0.5, color="white", linewidth=0.8)
        axis.set_yticks(range(len(rows)), [f"thread {t}" for t in rows])
        axis.set_title(title, loc="left", fontsize=10)
    axes[-1].set_xlabel("driver call (number in its session)")
    figure.legend(
        handles=[Patch(color=colour(n), label=text) for n, text in legend(analysis)[:12]],
        loc="outside lower left",
        ncols=3,
        fontsize=9,
        frameon=False,
    )
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        raise ConfigError(f"picture {path} cannot be written: {error}") from error


def runs(analysis: Analysis) -> list[tuple[int, int, int, int, int]]:
    """What the HTML file draws: (row, first place, calls, label, occurrences).

    Occurrences that follow each other are one run where there would be too many.
    """
    threads = np.frombuffer(analysis.log.threads, np.uint32)
    labels, items = analysis.labels, analysis.items
    if not len(labels):
        return []
    rows = np.searchsorted(np.unique(threads), threads)
    change = (np.diff(labels) != 0) | (np.diff(rows) != 0)
    begins_anew = (items[1:] == 0) & (items[:-1] != 0)
    fine = np.flatnonzero(change | begins_anew) + 1
    edges = fine if len(fine) < MAX_RUNS else np.flatnonzero(change) + 1
    bounds = np.concatenate(([0], edges, [len(labels)]))
    started = np.concatenate(([0], np.cumsum(items == 0)))
    return [
        (int(rows[a]), a, b - a, int(labels[a]), int(started[b] - started[a]))
        for a, b in pairwise(bounds.tolist())
    ][:MAX_RUNS]


def write_html(analysis: Analysis, path: str | os.PathLike[str]) -> None:
    """Write the interactive picture.

    Raises:
        ConfigError: The file cannot be written.
    """
    log = analysis.log
    numbers, dense = np.unique(np.frombuffer(log.exact, np.int32), return_inverse=True)
    names = [log.templates[n].op.name for n in numbers.tolist()]
    ops = sorted(set(names))
    noise = analysis.labels == NOISE
    # The calls of a sequence are named once; those of the noise one by one, as far as they fit.
    shown = np.flatnonzero(noise)[:20_000]
    data = {
        "first": log.index_of(log.base),
        "calls": len(log),
        "threads": np.unique(np.frombuffer(log.threads, np.uint32)).tolist(),
        "runs": runs(analysis),
        "ops": ops,
        "sequences": [[ops.index(i.op.name) for i in f.sequence.items] for f in analysis.found],
        "noise": {int(p): ops.index(names[dense[p]]) for p in shown},
        "legend": [[colour(n), text, n] for n, text in legend(analysis)],
    }
    title = ", ".join(log.session.values()) or "driver calls"
    page = PAGE.replace("{{title}}", html.escape(title))
    # "</" would end the script element inside a JSON string.
    page = page.replace("{{data}}", json.dumps(data, separators=(",", ":")).replace("</", "<\\/"))
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"picture {path} cannot be written: {error}") from error
