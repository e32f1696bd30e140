"""What mode `partition` takes over a link, beside local, replay and fixed cuts; measured.

    python bench/partition_link.py                       # root; the sweep, about an hour
    python bench/partition_link.py --networks narrow --slower 10 --rates 20 --trips 4
    python bench/partition_link.py --steps 80 2 20 0 80  # a link that changes; 0: gone

Robot and edge are two network namespaces, joined by an emulated link. The edge's device is this
machine's (device `cpu`); the robot's is the same made slower (`slow/slow_device.py`). An unchanged
program infers in turn in mode `local`, in mode `replay`, in mode `partition`, and in mode
`partition` with a cut that is fixed: everything at the edge, the best single cut by the model, and
the one in the middle of the robot's work. All outputs are compared bit for bit; exits with 1 if
one differs.

With `--steps` the link changes every `--step-s` seconds, and the modes go through that one after
the other, with `fallback: local`; each inference is told with its time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import HERE, machine
from link_models import NETWORKS
from slow_recorder import CUT, TOLD
from stack import Stack

from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.evaluation.link_emulator import LinkedMachines, joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings
from rrto_ros.evaluation.talker import Talker, started

PROGRAM = {"DEV": "CUDA:PTX", "JIT": "2"}
WAYS = ("local", "replay", "partition")
FIXED = "fixed"
WARM = 12
UNDERSTOOD_S = 300.0
SETTLE_S = 8.0
"""How long a link that changed is followed before it counts: it is probed every 5 s, and a
placement rests for 2 s."""
GONE = 0.0


class Way:
    """A mode, its nodes and its program.

    Args:
        ends: What is started ends with it.
        name: One of `WAYS`, or `FIXED`.
        network: One of `link_models.NETWORKS`.
        slower: How much slower the robot's device is.
        machines: The two ends of the link.
        parameters: Of the recorder, besides.
    """

    def __init__(
        self,
        ends: ExitStack,
        name: str,
        network: str,
        slower: int,
        machines: LinkedMachines,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="rrto-part-")))
        script = [str(HERE / "slow_recorder.py"), str(slower), str(self._folder)]
        self.nodes = Stack(
            "cpu", "partition" if name == FIXED else name, machines=machines,
            name=f"{name}{os.getpid()}", parameters={"recorder_replayer": parameters or {}},
            recorder_script=script,
        )  # fmt: skip
        ends.callback(self.nodes.close)
        command = [sys.executable, str(HERE / "link_robot.py"), network]
        whole, env = self.nodes.command(command, **PROGRAM)
        errors = self._folder / "program.log"
        self._talker: Talker = started(ends, whole, env, f"program in mode {name}", errors)
        self._next = 0
        self.outputs: dict[int, str] = {}

    def run(self, count: int) -> list[float]:
        """So many inferences; seconds of each."""
        found = self._talker.ask(f"{self._next} {count}")
        self.outputs |= dict(enumerate(found["digests"], self._next))
        self._next += count
        return list(found["latency_s"])

    def settle(self, seconds: float) -> None:
        """Infer for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.run(2)

    def cut(self, first_at_edge: int | None) -> None:
        """Fix the cut."""
        (self._folder / CUT).write_text(str(first_at_edge))

    def told(self) -> dict[str, Any]:
        """What the recorder says of its last choice; empty as long as there was none."""
        file = self._folder / TOLD
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def warm(self) -> None:
        """Until plans are found, and placed where the mode places them."""
        if self.name == FIXED:
            self.cut(0)
        self.run(WARM)
        end = time.monotonic() + UNDERSTOOD_S
        while self.name in ("partition", FIXED) and not self.told():
            if time.monotonic() > end:
                raise UnavailableError(f"no placement in mode partition:\n{self.nodes.log()}")
            self.run(2)


def compared(ways: Sequence[Way]) -> int:
    """How many outputs of the same input were not equal."""
    wanted = {number: out for way in ways for number, out in way.outputs.items()}
    return sum(wanted[n] != out for way in ways for n, out in way.outputs.items())


class Measurement:
    """One network on one robot, all ways side by side.

    Args:
        ends: What is started ends with it.
        network: Its name.
        slower: How much slower the robot is.
        machines: The two ends of the link.
        count: Inferences of a turn.
        rounds: Turns.
    """

    def __init__(
        self,
        ends: ExitStack,
        network: str,
        slower: int,
        machines: LinkedMachines,
        count: int,
        rounds: int,
    ) -> None:
        self._machines, self._count, self._rounds = machines, count, rounds
        self.ways = [Way(ends, name, network, slower, machines) for name in (*WAYS, FIXED)]
        for way in self.ways:
            way.warm()

    def at(self, rate_mbit: float, trip_ms: float) -> dict[str, Any]:
        """All ways over one link."""
        settings = LinkSettings(delay_ms=trip_ms / 2, rate_mbit=rate_mbit)
        self._machines.link.set(settings, settings)
        fixed = self.ways[-1]
        fixed.cut(0)
        for way in self.ways[:-1]:
            way.settle(SETTLE_S if way.name == "partition" else 0.5)
        fixed.settle(SETTLE_S)
        cuts = self._cuts(fixed.told()["cuts_s"])
        taken: dict[str, list[float]] = {way.name: [] for way in self.ways[:-1]}
        taken |= {f"{FIXED} {cut}": [] for cut in cuts}
        predicted: list[float] = []
        for _ in range(self._rounds):
            for way in self.ways[:-1]:
                # The first of a block comes after a pause.
                taken[way.name] += way.run(self._count + 1)[1:]
                if way.name == "partition":
                    predicted.append(way.told()["predicted_s"])
            for cut in cuts:
                fixed.cut(cut)
                fixed.run(2)
                taken[f"{FIXED} {cut}"] += fixed.run(self._count + 1)[1:]
        told = self.ways[WAYS.index("partition")].told()
        return {
            "rate_mbit": rate_mbit,
            "trip_ms": trip_ms,
            "ms": {name: 1e3 * statistics.median(all_s) for name, all_s in taken.items()},
            "samples_ms": {name: [1e3 * s for s in all_s] for name, all_s in taken.items()},
            "predicted_ms": 1e3 * statistics.median(predicted),
            "told": told,
        }

    @staticmethod
    def _cuts(costs: dict[str, float]) -> list[int]:
        """All at the edge, the best single cut by the model, and the one in the middle."""
        order = sorted(int(cut) for cut in costs)
        between = order[1:-1]
        if not between:
            return [0]
        best = min(between, key=lambda cut: costs[str(cut)])
        return sorted({0, best, between[len(between) // 2]})


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what is asked of it: partition against the best of the others, and the model."""
    others = {name: ms for name, ms in row["ms"].items() if name != "partition"}
    best = min(others, key=others.__getitem__)
    ours = row["ms"]["partition"]
    return {
        **row,
        "best": best,
        "over_best": ours / others[best] - 1,
        "prediction_off": row["predicted_ms"] / ours - 1,
    }


def show(row: dict[str, Any]) -> None:
    """One line of the table, as Markdown."""
    ms, told = row["ms"], row["told"]
    fixed = " ".join(f"{v:.1f}" for name, v in ms.items() if name.startswith(FIXED))
    print(
        f"| {row['network']} | {row['slower']} | {row['rate_mbit']:g} | {row['trip_ms']:g} | "
        f"{ms['local']:.1f} | {ms['replay']:.1f} | {fixed} | {ms['partition']:.1f} | "
        f"{told['at_edge']} of {told['calls']} | {100 * row['over_best']:+.0f} % ({row['best']}) "
        f"| {row['predicted_ms']:.1f} ({100 * row['prediction_off']:+.0f} %) |",
        flush=True,
    )


def sweep(options: argparse.Namespace, body: dict[str, Any]) -> int:
    """All networks, robots and links; how many outputs differed."""
    print(
        "| network | robot slower | Mbit/s | trip ms | local | replay | fixed cuts | partition | "
        "calls at the edge | over the best other | predicted |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    wrong = 0
    for network in options.networks:
        for slower in options.slower:
            link = LinkSettings(delay_ms=options.trips[0] / 2, rate_mbit=80.0)
            with joined_by_link(link) as machines, ExitStack() as ends:
                found = Measurement(ends, network, slower, machines, options.count, options.rounds)
                for trip_ms in options.trips:
                    for rate in options.rates:
                        row = {"network": network, "slower": slower, **found.at(rate, trip_ms)}
                        row = judged(row)
                        body["rows"].append(row)
                        show(row)
                        write(options.json, body)
                wrong += compared(found.ways)
    return wrong


def steps(options: argparse.Namespace, body: dict[str, Any]) -> int:
    """A link that changes, for each mode; how many outputs differed."""
    wrong = 0
    for network in options.networks:
        for slower in options.slower:
            ways = []
            for name in WAYS:
                first = _link(options.steps[0], options.trips[0])
                with joined_by_link(first) as machines, ExitStack() as ends:
                    parameters = {"fallback": "local", "outage_timeout_s": 120.0}
                    way = Way(ends, name, network, slower, machines, parameters)
                    way.warm()
                    samples = _stepped(way, machines, options)
                ways.append(way)
                took = [ms for _, ms, *_ in samples]
                body["steps"].append(
                    {"network": network, "slower": slower, "mode": name, "samples": samples}
                )
                print(
                    f"{network}, robot {slower} times slower, {name}: {len(took)} inferences, "
                    f"median {statistics.median(took):.1f} ms, longest {max(took):.0f} ms",
                    flush=True,
                )
                write(options.json, body)
            wrong += compared(ways)
    return wrong


def _link(rate_mbit: float, trip_ms: float) -> LinkSettings:
    if rate_mbit == GONE:
        return LinkSettings(delay_ms=trip_ms / 2, rate_mbit=1.0, loss=1.0)
    return LinkSettings(delay_ms=trip_ms / 2, rate_mbit=rate_mbit)


def _stepped(
    way: Way, machines: LinkedMachines, options: argparse.Namespace
) -> list[tuple[float, float, float, int, int]]:
    """(begin in s, ms, Mbit/s, calls at the edge, log lines so far) of each inference."""
    out = []
    began = time.monotonic()
    for number, rate in enumerate(options.steps):
        link = _link(rate, options.trips[0])
        machines.link.set(link, link)
        while (now := time.monotonic() - began) < (number + 1) * options.step_s:
            (taken,) = way.run(1)
            at_edge = int(way.told().get("at_edge", -1))
            lines = len(way.nodes.lines("recorder_replayer"))
            out.append((now, 1e3 * taken, rate, at_edge, lines))
    for line in way.nodes.lines("recorder_replayer"):
        print(f"  {line}", file=sys.stderr)
    return out


def write(file: Path | None, body: dict[str, Any]) -> None:
    """What was found so far."""
    if file is not None:
        file.write_text(json.dumps(body, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["nanodet", "narrow"])
    parser.add_argument("--slower", nargs="+", type=int, default=[3, 10], help="%(default)s")
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[5, 20, 80, 300], help="Mbit/s, %(default)s"
    )
    parser.add_argument("--trips", nargs="+", type=float, default=[4], help="ms, %(default)s")
    parser.add_argument("--count", type=int, default=4, help="inferences a turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (%(default)s)")
    parser.add_argument("--steps", nargs="+", type=float, help="Mbit/s of a link that changes")
    parser.add_argument("--step-s", type=float, default=20.0, help="%(default)s")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    options = parser.parse_args()
    if options.count < 1 or options.rounds < 1 or min(options.slower) < 1:
        parser.error("--count, --rounds and --slower: at least 1")
    if min(options.rates) <= 0:
        parser.error("--rates: more than 0; a link that is gone is for --steps")
    body: dict[str, Any] = {"on": machine(), "count": options.count, "rounds": options.rounds,
                            "rows": [], "steps": []}  # fmt: skip
    wrong = (steps if options.steps else sweep)(options, body)
    if wrong:
        print(f"{wrong} outputs differ between the modes")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RrtoError as failure:
        sys.exit(f"partition_link: {failure}")
