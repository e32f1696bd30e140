"""The arguments of bench/gpu_proof.sh and bench/gpu_proof.py; nothing but a Python is needed.

Run by itself it exits with 2 if they are wrong, so that this is said before minutes of set-up, and
prints TRANSPORT:FOLDER for it, FOLDER being that of --offline.
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
    "clients": "PyTorch, ONNX Runtime, TensorFlow, JAX, CuPy, Warp, Triton where installed: the\n"
    "          same bits as natively, where that repeats its own; time per inference natively\n"
    "          and in modes rpc, batched and replay",
}
"""Name -> what it tries, in this order."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """What was asked for.

    smoke: bool, out: Path (absolute), only: names of parts, or None for all, transport: ros or
    local, offline: Path (absolute) or None, clients: Pythons (absolute), cuda_runtime: bool.
    """
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
    parser.add_argument(
        "--transport", choices=("ros", "local"), default="ros",
        help="local: without ROS and DDS, recorder and server are processes joined by a socket; "
        "what is about ROS is left out, and the table says so",
    )  # fmt: skip
    parser.add_argument(
        "--offline", type=Path, metavar="DIR",
        help="take wheels from this folder alone, which `python3 scripts/bootstrap.py --download "
        "DIR [--no-ros] demo test clients gpu` filled elsewhere",
    )  # fmt: skip
    parser.add_argument(
        "--clients", nargs="+", type=Path, metavar="PYTHON", default=[],
        help="Pythons of environments to look for PyTorch and the others; default: the proof's",
    )  # fmt: skip
    parser.add_argument(
        "--cuda-runtime", action="store_true",
        help="answer the CUDA runtime library's check of the driver (docs/cuda_runtime.md); "
        "without it clients that use that library are left out",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    options.out = (options.out or ROOT / "out" / "gpu_proof").resolve()
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is no folder")
    if options.offline is not None:
        options.offline = options.offline.resolve()
        if not options.offline.is_dir():
            parser.error(f"--offline {options.offline} is no folder")
    # Not resolved: the link is what makes a Python that of its environment.
    options.clients = [Path.cwd() / python for python in options.clients]
    for python in options.clients:
        if not python.is_file():
            parser.error(f"--clients {python} is no file, want the Python of an environment")
    return options


if __name__ == "__main__":
    asked = parse()
    print(f"{asked.transport}:{asked.offline or ''}")
