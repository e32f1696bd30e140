"""What an unmodified PyTorch program costs over a robot's link: two starts, then inferences.

    python bench/torch_link.py --python VENV/bin/python       # root; torch is in VENV
    python bench/torch_link.py --python PYTHON --modes replay --inferences 100 --json out.json

The network is the ResNet-18 of test/clients/run_torch.py, one picture of 3 x 96 x 96 an inference.
The device is `null`, which computes nothing: what is measured is the way there and back. Robot and
edge are two network namespaces, joined by an emulated link (default: 4 ms round trip, 80 Mbit/s).
Bytes are those on the link, headers and acknowledgements included. NVIDIA's CUDA runtime library
asks whether the driver is NVIDIA's; this program has that answered (docs/cuda_runtime.md).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import over_link
from common import HERE, machine
from over_link import LinkedPair

from rrto_ros.api.choices import MODES, PARTITION
from rrto_ros.api.runtime_tables import VALIDITY_VARIABLE
from rrto_ros.errors import RrtoError
from rrto_ros.evaluation.link_emulator import LinkedMachines, joined_by_link

COUNTED = ("messages_sent", "bytes_sent", "bytes_received", "round_trips")
Numbers = dict[str, float]


class Robot(LinkedPair):
    """A pair of nodes in one mode, and starts of the program on them."""

    def __init__(self, machines: LinkedMachines, ends: ExitStack, mode: str, python: Path) -> None:
        super().__init__(machines, ends, "torch", mode)
        self._python = python

    def start(self, warm_up: int, inferences: int) -> dict[str, Numbers]:
        """One start: what its first inference took, and each of those after the warm-up."""
        command = [str(self._python), str(HERE / "torch_program.py")]
        whole, env = self.nodes.command(command, **{VALIDITY_VARIABLE: "1"})
        with ExitStack() as ends:
            program = self.talk(whole, env, "program", ends)
            before = self.link()
            recorder = self.nodes.cpu_s("recorder_replayer")
            first = program.ask("1")
            out = {"first": self._since(before, recorder, {}, first)}
            program.ask(str(warm_up))
            before, counted = self.link(), self.session()
            recorder = self.nodes.cpu_s("recorder_replayer")
            block = program.ask(str(inferences))
            out["later"] = self._since(before, recorder, counted, block)
            assert program.process.stdin is not None
            program.process.stdin.close()
            program.process.wait(60)
        return out

    def _since(
        self,
        link: Mapping[str, int],
        recorder_s: float,
        before: Mapping[str, Any],
        told: Mapping[str, Any],
    ) -> Numbers:
        """What was counted for each inference of a block, whose last result is there."""
        count = len(told["seconds"])
        used = self.nodes.cpu_s("recorder_replayer") - recorder_s
        there = self.link()
        after = self.session()
        return {
            "seconds": statistics.median(told["seconds"]),
            "program_cpu_s": told["cpu_s"] / count,
            "recorder_cpu_s": used / count,
            **{f"link_{way}": (there[way] - link[way]) / count for way in link},
            **{name: (after[name] - before.get(name, 0)) / count for name in COUNTED},
        }


def show(name: str, one: Numbers, unit: float) -> None:
    """A row of the table; bytes in `unit`."""
    print(
        f"| {name} | {one['link_up'] / unit:.2f} | {one['link_down'] / unit:.2f} | "
        f"{one['messages_sent']:.4g} | {one['round_trips']:.4g} | {1e3 * one['seconds']:.1f} ms | "
        f"{1e3 * one['recorder_cpu_s']:.2f} ms | {1e3 * one['program_cpu_s']:.2f} ms |",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with torch")
    usual = [mode for mode in MODES if mode != PARTITION]
    parser.add_argument("--modes", nargs="+", choices=MODES, default=usual)
    parser.add_argument("--warm-up", type=int, default=30, help="inferences (%(default)s)")
    parser.add_argument("--inferences", type=int, default=50, help="measured (%(default)s)")
    over_link.add_arguments(parser)
    options = parser.parse_args()
    settings = over_link.settings(options)
    body: dict[str, Any] = {"on": machine(), "rtt_ms": options.rtt_ms,
                            "rate_mbit": options.rate_mbit, "modes": {}}  # fmt: skip
    try:
        print("| | up | down | messages | round trips | time | recorder | program |")
        print("|---|---|---|---|---|---|---|---|")
        for mode in options.modes:
            with ExitStack() as ends:
                machines = ends.enter_context(joined_by_link(settings))
                robot = Robot(machines, ends, mode, options.python)
                rows = body["modes"][mode] = []
                for number in (1, 2):
                    rows.append(robot.start(options.warm_up, options.inferences))
                    show(f"{mode}, start {number}, MB", rows[-1]["first"], 1e6)
                    show(f"{mode}, start {number}, an inference, kB", rows[-1]["later"], 1e3)
    except RrtoError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(body, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
