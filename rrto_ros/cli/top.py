"""`rrto top`: owns what the live view shows of a robot's sessions, and how it is kept current."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rrto_ros.cli.state import read_statuses
from rrto_ros.cli.summary import counts, human_bytes, named
from rrto_ros.errors import ConfigError
from rrto_ros.ros.client import RECORDER, SERVER, RobotClient
from rrto_ros.termination import Termination

SHORTEST_S, LONGEST_S = 0.1, 60.0
SILENT_S = 3.0
"""A node of which nothing was heard for so long may be gone."""
WIDE = 120
"""From this width on, in characters, a session is a row of a table; below, a block."""
_PHASES = {
    "recording": "yellow",
    "searching": "yellow",
    "replaying": "green",
    "resuming": "yellow",
    "moving": "yellow",
    "lost": "red",
}
_NODES = {RECORDER: "recorder", SERVER: "server"}
Plain = dict[str, Any]


@dataclass
class Rates:
    """What a session does per second, from one look to the next.

    Attributes:
        seen: Session -> (its seconds, inferences, round trips) at the last look.
    """

    seen: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    _rates: dict[str, tuple[float, float]] = field(default_factory=dict)

    def look(self, sessions: list[Plain]) -> None:
        """Take the sessions' newest counters; those that are gone are forgotten."""
        now: dict[str, tuple[float, int, int]] = {}
        rates: dict[str, tuple[float, float]] = {}
        for s in sessions:
            name = s["session"]
            now[name] = (s["duration_s"], s["inferences"], s["round_trips"])
            before = self.seen.get(name)
            if before is None:
                continue
            seconds = now[name][0] - before[0]
            if seconds > 0:
                rates[name] = (
                    (now[name][1] - before[1]) / seconds,
                    (now[name][2] - before[2]) / seconds,
                )
            elif name in self._rates:
                rates[name] = self._rates[name]  # the same status again
        self.seen, self._rates = now, rates

    def of(self, session: str) -> tuple[float, float] | None:
        """Inferences and round trips per second; None before the second look."""
        return self._rates.get(session)


def sessions_of(statuses: list[Plain]) -> list[Plain]:
    """The sessions as the recorder knows them, else as the server does."""
    status = next((s for s in statuses if s["kind"] == RECORDER), None)
    if status is None:
        status = next(iter(statuses), None)
    return list(status["sessions"]) if status is not None else []


def view(
    statuses: list[Plain], rates: Rates, ages: list[float] | None = None, width: int = WIDE
) -> Group:
    """What the terminal shows.

    Args:
        statuses: Newest status of each node.
        rates: After its look at these statuses.
        ages: Seconds since each of them came.
        width: Of the terminal, characters.
    """
    sessions = sorted(sessions_of(statuses), key=lambda s: int(s["pid"]))
    old = ages if ages is not None else [0.0] * len(statuses)
    lines = [_node(status, age) for status, age in zip(statuses, old, strict=True)]
    missing = {RECORDER, SERVER} - {status["kind"] for status in statuses}
    lines += [Text(f"{_NODES[kind]}: not seen", style="yellow") for kind in sorted(missing)]
    if not sessions:
        return Group(*lines, Text("no session is open; start a program with `rrto run`"))
    cells = [_cells(s, rates.of(s["session"])) for s in sessions]
    return Group(*lines, _wide(cells) if width >= WIDE else _narrow(cells))


def _node(status: Plain, age: float) -> Text:
    facts = [status["state"]]
    if status["kind"] == RECORDER:
        facts += [f"mode {status['mode']}", f"server {status['server_state']}"]
    else:
        facts.append(f"device {status['device']}")
    facts.append(f"{len(status['sessions'])} sessions")
    if status["messages_refused"]:
        facts.append(f"{status['messages_refused']:,} refused: {status['last_refusal']}")
    name = f" {status['server_name']}" if status["server_name"] else ""
    text = Text(f"{status['node']}{name}: {', '.join(facts)}")
    if age > SILENT_S:
        text.append(f" (silent for {age:.0f} s)", style="red")
    return text


def _wide(cells: list[dict[str, Text]]) -> Table:
    """A row per session."""
    table = Table(show_lines=True)
    for name in cells[0]:
        table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*row.values())
    return table


def _narrow(cells: list[dict[str, Text]]) -> Group:
    """A block per session."""
    blocks = []
    for row in cells:
        block = Table(show_header=False)
        block.add_column()
        block.add_column(overflow="fold")
        for name, cell in row.items():
            block.add_row(name, cell)
        blocks.append(block)
    return Group(*blocks)


def _cells(s: Plain, rate: tuple[float, float] | None) -> dict[str, Text]:
    """What is said of a session, by column."""
    phase = Text(s["phase"], style=_PHASES.get(s["phase"], ""))
    where = f"{s['device'] or '?'}" + (f" of {s['server']}" if s["server"] else "")
    phase.append(f"\n{s['mode'] or '?'} on {where}", style="default")
    if s["error"]:
        phase.append(f"\n{s['error']}", style="red")
    unsupported = "\n".join(named(counts(s["unsupported"])))
    texts = _replayed(s, rate) if s["plans"] or s["inferences"] else _plain(s, rate)
    return {
        "program": Text(f"{short(s['program'])}\npid {s['pid']}, {_seconds(s['duration_s'])}"),
        "phase": phase,
        **{name: Text(text) for name, text in texts.items()},
        "unsupported": Text(unsupported or "-"),
    }


def _replayed(s: Plain, rate: tuple[float, float] | None) -> dict[str, str]:
    """Of a session that has a sequence."""
    often = f", {rate[0]:.1f}/s" if rate else ""
    sent, received = (human_bytes(s[f"inference_bytes_{way}"]) for way in ("sent", "received"))
    trips = f"{s['inference_round_trips']:.3g} round trips"
    saved, rollbacks = s["speculation_exchanges_saved"], s["speculation_rollbacks"]
    if saved or rollbacks:
        trips += f"\n{saved:,} saved, {rollbacks:,} rollbacks"
    last, median = s["last_inference_ms"], s["median_inference_ms"]
    return {
        "sequence": f"{s['sequence_calls']:,} calls, of {s['plans']} known\n"
        f"{s['sequence_repetitions']:,} times{often}",
        "hits": f"{s['hit_rate']:.1%}\n{s['divergences']:,} divergences",
        "per inference": f"{sent} sent, {received} received\n{trips}",
        "latency": f"{last:.2f} ms last\n{median:.2f} ms median",
    }


def _plain(s: Plain, rate: tuple[float, float] | None) -> dict[str, str]:
    """Of a session without a sequence: totals, and what a wait costs."""
    often = f", {rate[1]:.1f}/s" if rate else ""
    sent, received = (human_bytes(s[f"bytes_{way}"]) for way in ("sent", "received"))
    trips = f"{s['round_trips']:,} round trips{often}"
    last, median = s["last_wait_ms"], s["median_wait_ms"]
    return {
        "sequence": "none yet" if s["mode"] == "replay" else "-",
        "hits": "-",
        "per inference": f"{sent} sent, {received} received in all\n{trips}",
        "latency": f"{last:.2f} ms last\n{median:.2f} ms median of a wait",
    }


def short(program: str) -> str:
    """A command line without the folders of its first two words."""
    words = program.split(" ")
    return " ".join([PurePath(word).name or word for word in words[:2]] + words[2:])


def _seconds(value: float) -> str:
    minutes, seconds = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Watch:
    """One look after another at a robot.

    Args:
        client: Follows the robot.
        console: Where it is shown.
    """

    def __init__(self, client: RobotClient, console: Console) -> None:
        self._client = client
        self._console = console
        self._rates = Rates()
        self._looks = 0

    def look(self) -> Group:
        """What there is to see now."""
        found = self._client.statuses_with_ages()
        statuses = [status for status, _ in found]
        self._rates.look(sessions_of(statuses))
        self._looks += 1
        return view(statuses, self._rates, [age for _, age in found], self._console.width)

    def statistics(self) -> dict[str, int]:
        """How often it looked."""
        return {"looks": self._looks}


def top(client: RobotClient, console: Console, interval_s: float, *, once: bool) -> None:
    """Show the robot's sessions until Ctrl-C, or once.

    Where the output is no terminal, views follow each other.

    Raises:
        ConfigError: The interval is out of range.
        UnavailableError: No node says anything.
    """
    if not SHORTEST_S <= interval_s <= LONGEST_S:
        raise ConfigError(
            f"the interval is {interval_s:g} s, want {SHORTEST_S:g} to {LONGEST_S:g}"
        )
    read_statuses(client)
    watch = Watch(client, console)
    with Termination() as termination:
        if once or not console.is_terminal:
            console.print(watch.look())
            while not once and termination.wait(interval_s) is None:
                console.print(Text(time.strftime("\n%H:%M:%S")), watch.look())
            return
        with Live(watch.look(), console=console, screen=True, auto_refresh=False) as live:
            while termination.wait(interval_s) is None:
                live.update(watch.look(), refresh=True)
