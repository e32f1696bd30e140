"""What compressing a camera's frames saves: bytes on a robot's link, and time of an inference.

    python bench/compression.py                                # root; 80 and 1,000 Mbit/s
    python bench/compression.py --video /usr/share/doc/opencv-doc/examples/data/vtest.avi

Each frame of the demo's camera (or of a video), 416 x 416, is uploaded as bytes, and as normalised
floats in planes and interleaved; four bytes are read after each. `upload_compression` is `off` and
`auto` by turns, with a pair of nodes for each. The device is `null`, which computes nothing. Robot
and edge are two network namespaces, joined by an emulated link (4 ms round trip). Bytes are those
on the link, headers and acknowledgements included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import HERE, machine
from over_link import LinkedPair

from rrto_ros.errors import RrtoError
from rrto_ros.evaluation.link_emulator import LinkedMachines, joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings

KINDS = ("uint8", "planes", "interleaved")
SETTINGS = ("off", "auto")
WARM_UP = 20
Numbers = dict[str, float]


class Robot(LinkedPair):
    """A pair of nodes with one setting."""

    def __init__(self, machines: LinkedMachines, ends: ExitStack, setting: str) -> None:
        parameters = {"recorder_replayer": {"upload_compression": setting}}
        super().__init__(machines, ends, f"compress{setting}", "replay", parameters)

    def frames(self, kind: str, video: Path | None, count: int) -> Numbers:
        """Medians of so many frames, after some that are not counted."""
        words = [sys.executable, str(HERE / "compression_program.py"), kind]
        whole, env = self.nodes.command([*words, *([str(video)] if video is not None else [])])
        with ExitStack() as ends:
            program = self.talk(whole, env, "program", ends)
            program.ask(str(WARM_UP))
            before, recorder = self.link(), self.nodes.cpu_s("recorder_replayer")
            told = program.ask(str(count))
            used, there = self.nodes.cpu_s("recorder_replayer") - recorder, self.link()
            assert program.process.stdin is not None
            program.process.stdin.close()
            program.process.wait(60)
        return {
            "ms": 1e3 * statistics.median(told["seconds"]),
            "bytes": (there["up"] - before["up"]) / count,
            "recorder_ms": 1e3 * used / count,
        }


def middle(turns: list[Numbers]) -> Numbers:
    """The median of each number."""
    return {name: statistics.median(one[name] for one in turns) for name in turns[0]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--video", type=Path, help="frames of this one, not of the demo's camera")
    parser.add_argument("--frames", type=int, default=60, help="of each turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each setting (%(default)s)")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[80.0, 1000.0], help="Mbit/s (80 and 1,000)"
    )
    parser.add_argument("--rtt-ms", type=float, default=4.0, help="of the link (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    body: dict[str, Any] = {"on": machine(), "rtt_ms": options.rtt_ms, "rows": []}
    try:
        print("| link | frames | kB off | kB auto | part | ms off | ms auto | ratio | "
              "recorder off | auto |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
        for rate in options.rates:
            link = LinkSettings(delay_ms=options.rtt_ms / 2, rate_mbit=rate, loss=0.0)
            for kind in KINDS:
                found: dict[str, list[Numbers]] = {setting: [] for setting in SETTINGS}
                for turn in range(options.turns):
                    for setting in SETTINGS[:: -1 if turn % 2 else 1]:
                        with ExitStack() as ends:
                            machines = ends.enter_context(joined_by_link(link))
                            robot = Robot(machines, ends, setting)
                            one = robot.frames(kind, options.video, options.frames)
                        found[setting].append(one)
                off, auto = (middle(found[setting]) for setting in SETTINGS)
                body["rows"].append({"rate_mbit": rate, "kind": kind, **found})
                print(
                    f"| {rate:g} Mbit/s | {kind} | {off['bytes'] / 1e3:.1f} | "
                    f"{auto['bytes'] / 1e3:.1f} | {auto['bytes'] / off['bytes']:.2f} | "
                    f"{off['ms']:.1f} | {auto['ms']:.1f} | {auto['ms'] / off['ms']:.2f} | "
                    f"{off['recorder_ms']:.1f} ms | {auto['recorder_ms']:.1f} ms |",
                    flush=True,
                )
    except RrtoError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
