"""The arguments of bench/gpu_proof.sh and bench/gpu_proof.py; nothing but a Python is needed.

Run by itself it exits with 2 if they are wrong, so that this is said before minutes of set-up.
"""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "tests": "conformance cases and GPU tests, with pytest",
    "programs": "the examples on `gpu` (each compares with NumPy itself), and the demo on `gpu`\n"
    "          and `cpu`: the same objects, scores within 0.02, boxes within 3 pixels",
    "network": "1,000 inferences replayed on `gpu`: within 1e-5 of NumPy, the GPU's memory as\n"
    "          before",
    "native": "NanoDet by tinygrad, with its own CUDA graph on the GPU and replayed on loopback;\n"
    "          target: at most 5 % above native plus one loopback exchange",
    "calls": "one driver call in modes rpc, batched and replay on loopback",
    "device": "mapping, launches, graphs, checkpoints, in one process",
}
"""Name -> what it tries, in this order."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """smoke: bool, out: Path (absolute), only: names of parts, or None for all."""
    lines = [f"{name:<10}{text}" for name, text in PARTS.items()]
    parser = argparse.ArgumentParser(
        prog="gpu_proof",
        description="Everything that the device `gpu` claims, tried on this machine's GPU:\n"
        "one JSON, one table. About half an hour.\n\n" + "\n".join(lines),
        epilog="exit code: 0 all well, 1 something failed (the table says what), 2 set-up or "
        "arguments,\n3 no GPU, 130 stopped by Ctrl-C (what was found until then is written)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--smoke", action="store_true", help="few iterations, the same path")
    parser.add_argument("--out", type=Path, help="folder; default: out/gpu_proof of the sources")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="these parts only")
    options = parser.parse_args(arguments)
    options.out = (options.out or ROOT / "out" / "gpu_proof").resolve()
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is no folder")
    return options


if __name__ == "__main__":
    parse()
