"""What sealed messages cost: the sealing alone, and a replayed inference with and without it.

    python bench/sealing.py [--turns 15] [--count 10]

Inferences are measured by turns on two stacks that run side by side, one with authentication on
and one with it off: NanoDet (2 MB up), and a loop of small kernels (20 KB up and down), where a
message costs most. What is compared is the median of the turns' medians; the ratio is that of the
turns' pairs, and the processor time is that of recorder and server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import HERE, machine, temporary
from stack import Running, stack

from rrto_ros.evaluation.talker import Talker, started
from rrto_ros.wire.port import CallsMessage
from rrto_ros.wire.seal import (
    AES_256_GCM,
    CHACHA20_POLY1305,
    EdgeSeal,
    RobotSeal,
    SessionKeys,
)

SIZES = (0, 20_000, 600_000, 1 << 20)
NAMES = {AES_256_GCM: "AES-256-GCM", CHACHA20_POLY1305: "ChaCha20-Poly1305"}
NANODET = HERE.parent / "rrto_ros" / "data" / "nanodet_416_fp16.onnx"
PROGRAMS = {
    "NanoDet": [str(HERE / "replay_program.py"), str(NANODET), "--contiguous"],
    "small kernels": [str(HERE / "sealing_program.py")],
}
LEARN = 12
"""Inferences until both stacks replay."""


def alone() -> Iterator[dict[str, Any]]:
    """Sealing and opening of messages, microseconds: median and the least."""
    for cipher, name in NAMES.items():
        for size in SIZES:
            keys = SessionKeys(b"c" * 32, b"r" * 32, b"p" * 32, cipher)
            robot, edge = RobotSeal(keys), EdgeSeal(keys)
            data, sealing, opening = os.urandom(size), [], []
            for number in range(1, 401):
                message = CallsMessage(b"s" * 16, number, number, 0, data)
                began = time.perf_counter()
                sealed = robot.calls(message)
                between = time.perf_counter()
                edge.calls(sealed, size)
                ended = time.perf_counter()
                sealing.append(1e6 * (between - began))
                opening.append(1e6 * (ended - between))
            yield {
                "cipher": name, "bytes": size,
                "seal_us": statistics.median(sealing), "seal_least_us": min(sealing),
                "open_us": statistics.median(opening), "open_least_us": min(opening),
            }  # fmt: skip


def spent(nodes: Running) -> float:
    """Processor time of both nodes, seconds; workers not included."""
    return sum(nodes.cpu_s(name) for name in ("offload_server", "recorder_replayer"))


def compared(program: list[str], turns: int, count: int) -> dict[str, Any]:
    """One program's inferences on both stacks, by turns."""
    with ExitStack() as ends:
        folder = ends.enter_context(temporary())
        ask: dict[str, Callable[[int], list[float]]] = {}
        stacks = {}
        for way in ("off", "on"):
            given = {"authentication": way}
            nodes = ends.enter_context(
                stack(
                    "cpu", "replay", name=f"seal_{way}",
                    parameters={"offload_server": given, "recorder_replayer": given},
                )
            )  # fmt: skip
            command, env = nodes.command([sys.executable, *program], DEV="CUDA:PTX")
            talker = started(ends, command, env, f"program {way}", Path(folder) / way)
            stacks[way] = nodes
            ask[way] = _asking(talker)
            ask[way](LEARN)
        seconds: dict[str, list[float]] = {"off": [], "on": []}
        cpu: dict[str, list[float]] = {"off": [], "on": []}
        for turn in range(turns):
            for way in ("off", "on") if turn % 2 else ("on", "off"):
                before = spent(stacks[way])
                seconds[way].append(statistics.median(ask[way](count)))
                cpu[way].append((spent(stacks[way]) - before) / count)
    pairs = zip(seconds["off"], seconds["on"], strict=True)
    return {
        "off_ms": 1e3 * statistics.median(seconds["off"]),
        "on_ms": 1e3 * statistics.median(seconds["on"]),
        "least_off_ms": 1e3 * min(seconds["off"]),
        "least_on_ms": 1e3 * min(seconds["on"]),
        "ratio": statistics.median(on / off for off, on in pairs),
        "cpu_off_ms": 1e3 * statistics.median(cpu["off"]),
        "cpu_on_ms": 1e3 * statistics.median(cpu["on"]),
        "turns": turns, "count": count,
    }  # fmt: skip


def _asking(talker: Talker) -> Callable[[int], list[float]]:
    def ask(count: int) -> list[float]:
        found: list[float] = talker.ask(str(count))["seconds"]
        return found

    return ask


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=15, help="of each way (%(default)s)")
    parser.add_argument("--count", type=int, default=10, help="inferences a turn (%(default)s)")
    parser.add_argument("--only", choices=[*PROGRAMS, "alone"])
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    options = parser.parse_args()
    body: dict[str, Any] = {"on": machine()}
    if options.only in (None, "alone"):
        body["alone"] = list(alone())
        for row in body["alone"]:
            print(
                f"{row['cipher']:18} {row['bytes']:9,} bytes: seal {row['seal_us']:6.1f} us "
                f"(least {row['seal_least_us']:.1f}), open {row['open_us']:6.1f} us "
                f"(least {row['open_least_us']:.1f})",
                flush=True,
            )
    for name, program in PROGRAMS.items():
        if options.only in (None, name):
            body[name] = row = compared(program, options.turns, options.count)
            print(
                f"{name}: off {row['off_ms']:.2f} ms, on {row['on_ms']:.2f} ms, ratio of pairs "
                f"{row['ratio']:.3f}, least {row['least_off_ms']:.2f} and "
                f"{row['least_on_ms']:.2f} ms; processor time of both nodes "
                f"{row['cpu_off_ms']:.2f} and {row['cpu_on_ms']:.2f} ms",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
