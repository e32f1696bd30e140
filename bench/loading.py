"""What a program with much machine code costs to start over a robot's link, first and again.

    python bench/loading.py                      # root; 100 MB of images, 20 kernels used
    python bench/loading.py --images 500 --used 100 --json out.json
    python bench/loading.py --smoke              # 4 MB

The images are made up: fatbins with machine code for five architectures, as a framework's wheel
has them, whose "instructions" shrink about as real ones do. The device is `null`, which computes
nothing. Robot and edge are two network namespaces, joined by an emulated link (default: 4 ms round
trip, 80 Mbit/s). Bytes are those on the link, headers and acknowledgements included.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import over_link
from common import HERE, machine
from over_link import LinkedPair

sys.path.insert(0, str(HERE.parent / "test"))

from support.fatbins import Kernel, fatbin
from support.fatbins import machine as code_for

from rrto_ros.errors import RrtoError
from rrto_ros.evaluation.link_emulator import LinkedMachines, joined_by_link
from rrto_ros.zstd import codec

ARCHITECTURES = (75, 80, 86, 90, 100)
KERNELS = 8
WORDS = 1000
"""Different 16-byte instructions: with so many it shrinks about as real machine code does."""
WAYS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "lazy": ({}, {}),
    "eager": ({"CUDA_MODULE_LOADING": "EAGER"}, {}),
    "eager, nothing named or packed": (
        {"CUDA_MODULE_LOADING": "EAGER"}, {"blob_references": False}
    ),
}  # fmt: skip


def instructions(size: int, seed: int) -> bytes:
    """Made-up machine code: a random row of `WORDS` instructions."""
    pick = random.Random(seed)
    return b"".join(pick.choices(_VOCABULARY, k=size // 16))


_VOCABULARY = [
    random.Random(7).randbytes(16 * WORDS)[i : i + 16] for i in range(0, 16 * WORDS, 16)
]


def make_images(folder: Path, count: int, image_bytes: int) -> dict[str, float]:
    """Write the images; returns what they are, in bytes."""
    kernels = [Kernel(f"k{i}", ((0, 8),)) for i in range(KERNELS)]
    each = image_bytes // len(ARCHITECTURES) // KERNELS
    whole = needed = packed = 0
    for number in range(count):
        entries = [
            code_for(a, kernels, filler=each, seed=1000 * number + a, code=instructions)
            for a in ARCHITECTURES
        ]
        image = fatbin(*entries)
        (folder / f"{number:04}.fatbin").write_bytes(image)
        whole += len(image)
        needed += len(entries[2])
        packed += len(codec().compress(entries[2], 1))
    return {"whole": whole, "needed": needed, "ratio": packed / needed}


class Starts(LinkedPair):
    """Starts of the program on one pair of nodes."""

    def __init__(
        self, machines: LinkedMachines, ends: ExitStack, parameters: Mapping[str, Any]
    ) -> None:
        super().__init__(machines, ends, "loading", parameters={"recorder_replayer": parameters})

    def start(self, images: Path, used: list[int], variables: Mapping[str, str]) -> dict[str, Any]:
        """One start; what it took and sent until its first result."""
        command = [sys.executable, str(HERE / "loading_program.py"), str(images), *map(str, used)]
        whole, env = self.nodes.command(command, **variables)
        before = self.link()
        recorder = self.nodes.cpu_s("recorder_replayer")
        with ExitStack() as ends, (self.folder / "program.log").open("w") as errors:
            program = subprocess.Popen(
                whole, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True,
            )  # fmt: skip
            ends.callback(program.wait)
            ends.callback(program.kill)
            assert program.stdout is not None
            assert program.stdin is not None
            line = program.stdout.readline()
            if not line.startswith("{"):
                program.wait()
                said = (self.folder / "program.log").read_text()[-600:]
                raise RrtoError(f"the program ended: {said}\n{self.nodes.log()}")
            after = self.link()
            recorder = self.nodes.cpu_s("recorder_replayer") - recorder
            session = self.session()
            program.stdin.write("\n")
            program.stdin.close()
            program.wait(60)
        return {
            **json.loads(line),
            **{f"link_{way}": after[way] - before[way] for way in after},
            "sent": session["bytes_sent"],
            "messages": session["messages_sent"],
            "round_trips": session["round_trips"],
            "recorder_s": recorder,
        }


def show(way: str, number: int, row: Mapping[str, Any]) -> None:
    print(
        f"| {way}, start {number} | {row['link_up'] / 1e6:.2f} MB | {row['sent'] / 1e6:.2f} MB | "
        f"{row['messages']} | {row['round_trips']} | {row['first_result_s']:.2f} s | "
        f"{row['recorder_s']:.2f} s |", flush=True
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100, help="how many (%(default)s)")
    parser.add_argument("--image-bytes", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--used", type=int, default=20, help="of the images (%(default)s)")
    parser.add_argument("--starts", type=int, default=2, help="of each way (%(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--smoke", action="store_true", help="4 MB, one way")
    over_link.add_arguments(parser)
    options = parser.parse_args()
    if options.smoke:
        options.images, options.used, options.ways = 4, 2, ["lazy"]
    settings = over_link.settings(options)
    body: dict[str, Any] = {"on": machine(), "rtt_ms": options.rtt_ms,
                            "rate_mbit": options.rate_mbit, "ways": {}}  # fmt: skip
    try:
        with ExitStack() as outer:
            folder = outer.enter_context(tempfile.TemporaryDirectory(prefix="rrto-images-"))
            body["images"] = made = make_images(Path(folder), options.images, options.image_bytes)
            used = sorted(random.Random(3).sample(range(options.images), options.used))
            print(
                f"{options.images} images, {made['whole'] / 1e6:.1f} MB; for this device "
                f"{made['needed'] / 1e6:.1f} MB, packed {made['ratio']:.0%}; {options.used} used\n"
            )
            print("| | on the link | sent | messages | round trips | first result | recorder |")
            print("|---|---|---|---|---|---|---|")
            for way in options.ways:
                variables, parameters = WAYS[way]
                with ExitStack() as ends:
                    machines = ends.enter_context(joined_by_link(settings))
                    starts = Starts(machines, ends, parameters)
                    rows = body["ways"][way] = []
                    for number in range(options.starts):
                        rows.append(starts.start(Path(folder), used, variables))
                        show(way, number + 1, rows[-1])
    except RrtoError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(body, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
