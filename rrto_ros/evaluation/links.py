"""The links that an evaluation runs over: owns their names, a user's file, and playing them.

A link is a list of steps that is played from some place on, and from its begin again when it is
over. Nothing here needs root; `link_emulator` does.
"""

from __future__ import annotations

import csv
import hashlib
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rrto_ros.errors import ConfigError
from rrto_ros.evaluation.link_queue import LinkSettings
from rrto_ros.evaluation.link_traces import MODELS, Step

LOOPBACK = "loopback"
DEFAULT_RTT_MS = 4.0
"""Of a file that has no column for it."""
_CONSTANT = re.compile(r"(\d+(?:\.\d+)?)mbit-(\d+(?:\.\d+)?)ms(?:-(\d+(?:\.\d+)?)%)?")
_COLUMNS = "seconds, Mbit/s[, rtt_ms[, loss]]"
MAX_FILE_STEPS = 1_000_000


@dataclass(frozen=True)
class Link:
    """What lies between robot and edge.

    Attributes:
        name: As the user gave it.
        origin: Where its figures are from, in a sentence.
        steps: In the order of time, the first at 0; none for the loopback.
        total_s: When it begins again.
    """

    name: str
    origin: str
    steps: tuple[Step, ...] = ()
    total_s: float = 0.0

    @property
    def emulated(self) -> bool:
        """Whether it needs the emulator."""
        return bool(self.steps)

    @property
    def digest(self) -> str:
        """Of all steps: two links of one name that differ are two."""
        return hashlib.sha256(repr((self.steps, self.total_s)).encode()).hexdigest()[:16]

    def at(self, seconds: float) -> tuple[Step, float]:
        """The step at a time, and for how much longer it lasts."""
        place = seconds % self.total_s
        number = bisect_right(self.steps, place, key=lambda step: step.at_s) - 1
        ends = self.steps[number + 1].at_s if number + 1 < len(self.steps) else self.total_s
        return self.steps[number], ends - place


def settings(step: Step) -> LinkSettings:
    """Both directions of a link during a step; a rate of 0 is a link that is gone."""
    if step.rate_mbit == 0:
        return LinkSettings(delay_ms=step.rtt_ms / 2, rate_mbit=1.0, loss=1.0)
    return LinkSettings(delay_ms=step.rtt_ms / 2, rate_mbit=step.rate_mbit, loss=step.loss)


def named(text: str, seed: int = 0) -> Link:
    """The link that a user means.

    Args:
        text: A name, a rate and a round trip as in `80mbit-4ms` or `80mbit-4ms-1%`, or a file.
        seed: Of links that are generated.

    Raises:
        ConfigError: It is none of these, or the file cannot be used.
    """
    if text == LOOPBACK:
        return Link(text, "this machine's own loopback: no link is emulated")
    if found := _CONSTANT.fullmatch(text):
        rate, rtt, loss = (float(part or 0) for part in found.groups())
        step = Step(0.0, rate, rtt, loss / 100)
        if rate == 0:
            raise ConfigError(f"link {text!r} has no rate; want more than 0 Mbit/s")
        settings(step)
        return Link(text, "constant", (step,), 3600.0)
    if text in MODELS:
        model = MODELS[text]
        origin = f"{model.origin} (--seed {seed})" if model.seeded else model.origin
        return Link(text, origin, tuple(model.steps(seed)), model.total_s)
    if text.endswith(".csv") or Path(text).is_file():
        return from_file(Path(text))
    raise ConfigError(
        f"link {text!r} is none of {', '.join((LOOPBACK, *MODELS))}, no constant one as "
        f"80mbit-4ms or 80mbit-4ms-1%, and no file of that name ({_COLUMNS})"
    )


def from_file(path: Path) -> Link:
    """A link that a user measured: a line for each time from which something else holds.

    Raises:
        ConfigError: A line cannot be used; the text names it, the value and what is wanted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the link {path}: {error}; want {_COLUMNS}") from error
    steps: list[Step] = []
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if not steps and number == 1 and not _is_number(cells[0]):
            continue  # a header
        step = _step(cells, f"{path}, line {number}")
        if steps and step.at_s <= steps[-1].at_s:
            raise ConfigError(
                f"{path}, line {number}: time {step.at_s:g} s is not after {steps[-1].at_s:g} s; "
                "want lines in the order of time"
            )
        steps.append(step)
        if len(steps) > MAX_FILE_STEPS:
            raise ConfigError(f"{path}: more than {MAX_FILE_STEPS} lines; want fewer")
    if not steps:
        raise ConfigError(f"{path}: no line with figures; want {_COLUMNS}")
    first = steps[0].at_s
    shifted = tuple(Step(s.at_s - first, s.rate_mbit, s.rtt_ms, s.loss) for s in steps)
    last = shifted[-1].at_s - shifted[-2].at_s if len(shifted) > 1 else 1.0
    if all(step.rate_mbit == 0 for step in shifted):
        raise ConfigError(f"{path}: the rate is 0 in every line; want one that is not")
    origin = f"the user's file {path.name}, {len(steps)} steps"
    return Link(str(path), origin, shifted, shifted[-1].at_s + last)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _step(cells: list[str], where: str) -> Step:
    """A line of a file."""
    if not 2 <= len(cells) <= 4:
        raise ConfigError(f"{where}: {len(cells)} columns; want {_COLUMNS}")
    wanted = (
        ("seconds", 0.0, 1e7), ("Mbit/s", 0.0, 1e5), ("rtt_ms", 0.0, 1e5), ("loss", 0.0, 1.0),
    )  # fmt: skip
    values = [0.0, 0.0, DEFAULT_RTT_MS, 0.0]
    for place, (cell, (name, low, high)) in enumerate(zip(cells, wanted, strict=False)):
        if not _is_number(cell) or not low <= float(cell) <= high:
            raise ConfigError(f"{where}: {name} is {cell!r}, want a number {low:g} to {high:g}")
        values[place] = float(cell)
    return Step(*values)


@contextmanager
def played(link: Link, begin_s: float, change: Callable[[LinkSettings], object]) -> Iterator[None]:
    """Play a link while the block lasts.

    Args:
        link: One that is emulated; nothing happens for others.
        begin_s: From which place of it on.
        change: Takes the link from now on; called by a thread of its own after the first time.

    Raises:
        Exception: What `change` raised meanwhile, at the end of the block.
    """
    if not link.emulated:
        yield
        return
    over = threading.Event()
    wrong: list[Exception] = []
    start = time.monotonic()
    change(settings(link.at(begin_s)[0]))

    def play() -> None:
        try:
            while True:
                _, left_s = link.at(begin_s + time.monotonic() - start)
                # Just after the step's end, so that the next one is found there.
                if over.wait(left_s + 1e-4):
                    return
                change(settings(link.at(begin_s + time.monotonic() - start)[0]))
        except Exception as error:
            wrong.append(error)

    thread = threading.Thread(target=play, name="link", daemon=True)
    if len(link.steps) > 1:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
    if wrong:
        raise wrong[0]
