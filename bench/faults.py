"""Faults at random moments, while programs check every byte that they get.

    bench/faults.py 10000 --robots 8             # in one process: about half an hour
    bench/faults.py 1000 --world nodes           # real nodes over DDS: about three hours
    bench/faults.py 200 --robots 1 --seed 7 --json faults.json

Programs run one after the other on each of `--robots` at once; each is one of those of the tests
that compare every result with NumPy. In the world `here` all recorders and servers are in this
process, which is what makes thousands of faults an hour: messages are lost, doubled, swapped and
cut off, servers and workers are killed and frozen, sessions are moved, the disk is full, there is
no memory, the clock jumps. In the world `nodes` they are ROS nodes, on two emulated machines where
this is run as root. What must hold: every program ends with the bytes of plain execution, or with
the error that is documented for what struck it, in time; nothing is left; memory does not grow.
Exits with 1 if not. Ctrl-C ends a campaign in order: the table is of what has been.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import faults_here  # noqa: E402
import faults_nodes  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("faults", type=int, nargs="?", default=100, help="(%(default)s)")
    out.add_argument("--world", choices=("here", "nodes"), default="here", help="(%(default)s)")
    out.add_argument("--robots", type=int, default=2, help="programs at once (%(default)s)")
    out.add_argument("--seed", type=int, default=1, help="of everything chosen (%(default)s)")
    out.add_argument(
        "--longest-cut", type=float, default=10.0, metavar="S",
        help="of a network cut, in seconds; those beyond outage_timeout_s end in the documented "
        "error (%(default)s)",
    )  # fmt: skip
    out.add_argument(
        "--per-second", type=float, default=0.0, metavar="N",
        help="faults, world here (1.5 for each robot)",
    )  # fmt: skip
    out.add_argument("--servers", type=int, default=2, help="world here (%(default)s)")
    out.add_argument("--mode", default="replay", help="world nodes (%(default)s)")
    out.add_argument("--run-ahead", default="auto", help="world nodes (%(default)s)")
    out.add_argument("--json", type=Path, help="file for the figures")
    return out


def main() -> int:
    """Run the campaign and print what it saw."""
    command = parser()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also where a shell that puts us in the background has told us to take no notice.
        signal.signal(number, signal.default_int_handler)
    chosen = command.parse_args()
    if min(chosen.faults, chosen.robots, chosen.servers) < 1 or chosen.longest_cut < 0.1:
        command.error("faults, --robots and --servers are 1 or more, --longest-cut 0.1 or more")
    count, robots, seed = chosen.faults, chosen.robots, chosen.seed
    if chosen.world == "here":
        rate = chosen.per_second or 1.5 * robots
        seen = faults_here.campaign(count, robots, seed, rate, chosen.longest_cut, chosen.servers)
    else:
        seen = faults_nodes.campaign(
            count, robots, seed, chosen.mode, chosen.run_ahead, chosen.longest_cut
        )
    print(seen.table())
    for text in (*seen.left, *seen.growth):
        print(text, file=sys.stderr)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(seen.figures(), indent=1) + os.linesep)
    return 0 if seen.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
