"""What an inference costs over a robot's link: each mode and a direct server in one table.

    python bench/link_table.py                       # root; NanoDet-416, small CNN, deep network
    python bench/link_table.py --networks cnn deep --rounds 10 --json out.json
    python bench/link_table.py --smoke               # the small CNN only, in a minute
    python bench/link_table.py --networks cnn --loss 0.02 --outage-s 2

Robot and edge are two network namespaces, joined by an emulated link (default: 4 ms round trip, 80
Mbit/s). *direct* is a server written for the purpose: it gets the input by a topic, runs the same
program itself on the same device in one process, and answers by a topic. All four run at the same
time and take turns, a few inferences each, so that what else the machine does meets all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import over_link
from common import HERE, machine
from link_models import NETWORKS, Network
from link_report import Cost, judge, show
from over_link import apart_environment
from stack import Stack, measuring_domain

from rrto_ros.bringup.environment import interposed_environment
from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.evaluation.link_emulator import LinkedMachines, joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings
from rrto_ros.evaluation.netns import Namespace
from rrto_ros.evaluation.talker import Talker, started

MODES = ("rpc", "batched", "replay")
WARM_UP = {"rpc": 4, "batched": 6, "replay": 10, "direct": 6}
RECORDER = "recorder_replayer"
OUTAGE_AFTER_S = 0.3
SILENCE_S = 5.0
"""The parameter server_timeout_s of the nodes."""
PROGRAM = {"DEV": "CUDA:PTX", "JIT": "2"}


class Way:
    """One way to run the inferences, and what they cost so far.

    Args:
        name: A mode, or direct.
        talker: The robot's program.
        stack: Its nodes, None for direct.
    """

    def __init__(self, name: str, talker: Talker, stack: Stack | None) -> None:
        self.name, self.stack = name, stack
        self._talker = talker
        self._next = 0
        self._outputs: list[str] = []
        self.cost = Cost(name)

    def outputs(self, first: int) -> list[str]:
        return self._outputs[first:]

    def run(self, count: int, machines: LinkedMachines, *, measured: bool = True) -> None:
        """A block of inferences; the first one's latency, after a pause, is left out."""
        before = machines.link.statistics()
        recorder = self.stack.cpu_s(RECORDER) if self.stack else 0.0
        found = self._talker.ask(f"{self._next} {count}")
        recorder = self.stack.cpu_s(RECORDER) - recorder if self.stack else 0.0
        after = machines.link.statistics()
        self._next += count
        self._outputs += found["digests"]
        if not measured:
            return
        cost = self.cost
        cost.inferences += count
        cost.latencies_ms += [1e3 * s for s in found["latency_s"][1:]]
        cost.program_ms += 1e3 * found["cpu_s"]
        cost.recorder_ms += 1e3 * recorder
        cost.wire_up += after["up"]["bytes"] - before["up"]["bytes"]
        cost.wire_down += after["down"]["bytes"] - before["down"]["bytes"]
        cost.output_bytes = found["output_bytes"]
        if self.stack is None:
            cost.messages_up += found["messages"]
            cost.messages_down += found["messages"]
            cost.bytes_up += found["sent"]
            cost.bytes_down += found["received"]
            cost.compute_ms += [1e3 * s for s in found["compute_s"][1:]]
            cost.device_ms += 1e3 * found["device_s"]

    def count(self, session: dict[str, Any], sign: int) -> None:
        """Add (or take off) what recorder and server counted of the program's session."""
        cost = self.cost
        cost.messages_up += sign * session["messages_sent"]
        cost.messages_down += sign * session["messages_received"]
        cost.resent_up += sign * session["messages_resent"]
        cost.resent_down += sign * session["results_resent"]
        cost.bytes_up += sign * session["bytes_sent"]
        cost.bytes_down += sign * session["bytes_received"]
        cost.round_trips += sign * session["round_trips"]
        cost.calls += sign * (session["calls_async"] + session["calls_sync"])
        if sign > 0:
            cost.hit_rate, cost.divergences = session["hit_rate"], session["divergences"]


@contextmanager
def outage(machines: LinkedMachines, settings: LinkSettings, outage_s: float) -> Iterator[None]:
    """The link is down for `outage_s`, soon after the block has begun."""

    def lose() -> None:
        lost = replace(settings, loss=1.0)
        machines.link.set(lost, lost)
        back.start()

    if not outage_s:
        yield
        return
    back = threading.Timer(outage_s, machines.link.set, [settings, settings])
    down = threading.Timer(OUTAGE_AFTER_S, lose)
    down.start()
    try:
        yield
    finally:
        down.join()
        back.join()


class Measurement:
    """All ways of one network, side by side."""

    def __init__(self, name: str, machines: LinkedMachines, stack: ExitStack) -> None:
        self.network: Network = NETWORKS[name]
        self._name = name
        self._machines = machines
        self._stack = stack
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rrto-link-")))
        self.ways = [self._direct(), *(self._mode(mode) for mode in reversed(MODES))]
        robots = [way.stack.robot for way in self.ways if way.stack]
        command = [sys.executable, str(HERE / "link_counts.py"), str(measuring_domain()), *robots]
        self._counts = self._start(machines.robot, command, apart_environment(), "counts")

    def run(
        self, rounds: int, count: int, disturb: Callable[[], AbstractContextManager[None]]
    ) -> list[Cost]:
        """All rounds.

        Args:
            rounds: Turns of each way.
            count: Inferences of a turn.
            disturb: Makes what the link goes through while a mode has its turn.
        """
        for way in self.ways:
            way.run(WARM_UP[way.name], self._machines, measured=False)
        firsts = {way.name: len(way.outputs(0)) for way in self.ways}
        self._count(-1)
        for _ in range(rounds):
            for way in self.ways:
                with nullcontext() if way.stack is None else disturb():
                    way.run(2 if way.name == "rpc" else count, self._machines)
        self._count(1)
        self._compare()
        assert all(len(way.outputs(0)) > firsts[way.name] for way in self.ways)
        return [way.cost for way in self.ways]

    def _compare(self) -> None:
        """Every way has made the same results, bit for bit."""
        wanted = self.ways[0].outputs(0)
        for way in self.ways[1:]:
            for number, (a, b) in enumerate(zip(wanted, way.outputs(0), strict=False)):
                if a != b:
                    raise UnavailableError(
                        f"{self.network.title}: the output of inference {number} in {way.name} is "
                        "not that of direct"
                    )

    def _count(self, sign: int) -> None:
        found = self._counts.ask("")
        for way in self.ways:
            if way.stack is None:
                continue
            sessions = found[way.stack.robot]
            if len(sessions) != 1:
                raise UnavailableError(f"{way.name}: {len(sessions)} sessions, 1 is expected")
            way.count(sessions[0], sign)

    def _mode(self, mode: str) -> Way:
        nodes = Stack("cpu", mode, machines=self._machines, name=f"{mode}{os.getpid()}")
        self._stack.callback(nodes.close)
        command = [sys.executable, str(HERE / "link_robot.py"), self._name]
        whole, env = nodes.command(command, **PROGRAM)
        return Way(mode, self._talk(whole, env, f"program in mode {mode}"), nodes)

    def _direct(self) -> Way:
        robot = f"direct{os.getpid()}"
        env = {**interposed_environment(apart_environment(), robot), **PROGRAM}
        env["RRTO_SOCKET"] = str(self._folder / "direct.sock")
        command = [sys.executable, str(HERE / "link_direct.py"), self._name, robot]
        self._start(self._machines.edge, command, env, "direct server")
        command = [sys.executable, str(HERE / "link_robot.py"), self._name, "--direct", robot]
        client = self._start(self._machines.robot, command, apart_environment(), "direct client")
        return Way("direct", client, None)

    def _start(
        self, side: Namespace, command: Sequence[str], env: dict[str, str], what: str
    ) -> Talker:
        return self._talk(side.command(command), env, what)

    def _talk(self, command: Sequence[str], env: dict[str, str], what: str) -> Talker:
        errors = self._folder / f"{what.replace(' ', '_')}.log"
        return started(self._stack, command, env, what, errors)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=8, help="turns of each way (%(default)s)")
    parser.add_argument("--count", type=int, default=6, help="inferences a turn (%(default)s)")
    over_link.add_arguments(parser)
    parser.add_argument(
        "--loss", type=float, default=0.0, help="share of packets lost (%(default)s)"
    )
    parser.add_argument(
        "--outage-s", type=float, default=0.0,
        help="the link is down so long, in the middle of each turn of a mode (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--smoke", action="store_true", help="the small CNN, two short rounds")
    options = parser.parse_args()
    if options.rounds < 1 or options.count < 2:
        parser.error("at least 1 round of 2 inferences")
    networks, rounds, count = options.networks, options.rounds, options.count
    if options.smoke:
        networks, rounds, count = ["cnn"], 2, 3
    if options.outage_s >= SILENCE_S:
        parser.error(
            f"an outage of {SILENCE_S:g} s ends the session; at most, say, {SILENCE_S - 2:g}"
        )
    settings = over_link.settings(options, options.loss)
    body: dict[str, Any] = {
        "on": machine(), "smoke": options.smoke, "rtt_ms": options.rtt_ms,
        "rate_mbit": options.rate_mbit, "loss": options.loss, "outage_s": options.outage_s,
        "networks": {},
    }  # fmt: skip
    print(
        f"link: {options.rtt_ms:g} ms round trip, {options.rate_mbit:g} Mbit/s, "
        f"loss {options.loss:g}, outages of {options.outage_s:g} s; "
        f"{os.cpu_count()} cores for robot, edge and link; device: cpu"
    )
    code = 0
    for name in networks:
        try:
            with joined_by_link(settings) as machines, ExitStack() as stack:
                costs = Measurement(name, machines, stack).run(
                    rounds, count, lambda: outage(machines, settings, options.outage_s)
                )
        except RrtoError as error:
            print(f"link_table: {error}", file=sys.stderr)
            code = 2
            continue
        passing = 8 * (NETWORKS[name].input_bytes + costs[0].output_bytes)
        exchange_ms = options.rtt_ms + passing / (1000 * options.rate_mbit)
        verdicts = judge(NETWORKS[name], costs, exchange_ms)
        show(NETWORKS[name], costs, verdicts)
        body["networks"][name] = {
            "input_bytes": NETWORKS[name].input_bytes,
            "ways": [cost.summary() for cost in costs],
            "targets": [verdict.__dict__ for verdict in verdicts],
        }
        if options.json:
            options.json.write_text(json.dumps(body, indent=1) + "\n")
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    print(f"load {busy:.1f} on {cores} cores; {statistics.fmean(os.getloadavg()):.1f} on average")
    return code


if __name__ == "__main__":
    sys.exit(main())
