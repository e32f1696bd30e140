"""Runs the CUDA programs of others under `rrto run` and writes what happened to docs/clients.md.

    python bench/clients.py --work /tmp/clients                  # all that are known
    python bench/clients.py --work /tmp/clients triton jax       # some
    python bench/clients.py --work /tmp/clients --keep          # environments stay

Each client gets a virtual environment of its own in the folder of --work, with packages from the
registry that pip is set up for (gigabytes), and is run by its program of test/clients, which
compares what it computes. Clients whose kernels are machine code run on the device `null`, which
has no results: there every call is checked before the device takes it (parameter `check_calls`).
Rows of clients that were not asked for stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rrto_ros.clients import catalogue  # noqa: E402
from rrto_ros.devices.checking.findings import PREFIX  # noqa: E402

PROGRAMS = ROOT / "test" / "clients"
PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- table (made by `make clients`) -->", "<!-- end -->"
COLUMNS = (
    "client", "version", "device", "right", "compared with", "not right", "calls", "unsupported",
    "exchanges per inference",
)  # fmt: skip
LIMIT_S = 900
CONSENT = "RRTO_NVIDIA_COMPILERS"
"""As in test/clients/agree.py."""
MOST_NAMED, MOST_CASES = 4, 12
CHECKING = "/**/offload_server:\n  ros__parameters:\n    check_calls: true\n"
_CHECK = re.compile(re.escape(PREFIX) + r"(.*)")
_CHECKED = re.compile(r"(\d+) calls, (\d+) findings(.*)")


@dataclass(frozen=True)
class Client:
    """How a client is installed and run.

    Attributes:
        packages: For pip.
        program: Of test/clients.
        runtime: Whether it needs the CUDA runtime's switch.
        environment: Variables that it needs.
        arguments: Of the program.
        without: Packages that must go again, though others ask for them.
        device: That it runs on where none is asked for.
    """

    packages: Sequence[str]
    program: str
    runtime: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    arguments: Sequence[str] = ()
    device: str = "cpu"


_SETTINGS = {one.name: dict(one.cpu) for one in catalogue.CLIENTS}
"""What `rrto doctor` says is to be set for the device `cpu`."""

_CUDA_13 = ("cublas", "cudnn-cu13", "cufft", "curand", "cuda-runtime", "cuda-nvrtc")
"""What ONNX Runtime's CUDA provider is linked with."""

# CuPy and Warp want RRTO_NVIDIA_COMPILERS=1 (docs/clients.md).
CLIENTS = {
    "jax": Client(
        ("jax[cuda13]",), "run_jax.py", True, _SETTINGS["JAX"], without=("nvidia-cuda-nvcc",)
    ),
    "triton": Client(("triton", "cuda-bindings", "numpy", "setuptools"), "run_triton.py"),
    "cupy": Client(
        ("cupy-cuda13x", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime"),
        "run_cupy.py",
        runtime=True,
        environment={"CUPY_ACCELERATORS": ""},
    ),
    "tensorflow": Client(
        ("tensorflow[and-cuda]",),
        "run_tensorflow.py",
        True,
        _SETTINGS["TensorFlow"],
        # Not the convolution, in which cuDNN ends the process.
        arguments=(
            "elementwise",
            "reductions",
            "more reductions",
            "gather",
            "transpose",
            "shapes",
            "ranges",
            "choices",
            "softmax",
            "cumulative sums",
            "segments",
            "top k",
            "batch normalisation",
            "gradient of a loss",
            "matmul",
            "Keras MLP",
            "matmul by XLA",
            "Keras MLP by XLA",
        ),
    ),
    "warp": Client(("warp-lang",), "run_warp.py", runtime=True),
    "torch": Client(("torch", "numpy", "setuptools"), "run_torch.py", True, device="null"),
    "onnxruntime": Client(
        ("onnxruntime-gpu", *(f"nvidia-{one}" for one in _CUDA_13)),
        "run_onnxruntime.py",
        True,
        device="null",
    ),
}


def python_of(work: Path, name: str, client: Client) -> Path:
    """The interpreter of a client's environment, which is made if need be."""
    folder = work / name
    python = folder / "bin" / "python"
    stamp = folder / "packages.json"
    wanted = json.dumps([*client.packages, "-", *client.without])
    if not (stamp.is_file() and stamp.read_text() == wanted):
        print(f"[{name}] installing {' '.join(client.packages)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [python, "-m", "pip", "install", "-q", "--no-cache-dir", *client.packages]
        subprocess.run(command, check=True)
        if client.without:
            command = [python, "-m", "pip", "uninstall", "-q", "-y", *client.without]
            subprocess.run(command, check=True)
        stamp.write_text(wanted)
    return python


def run(work: Path, name: str, client: Client, device: str) -> dict[str, Any]:
    """One row: what a client's program and the report of its calls say."""
    python = python_of(work, name, client)
    report, errors = work / f"{name}.json", work / f"{name}.log"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "HOME": str(work / f"{name}-home")}
    Path(environment["HOME"]).mkdir(exist_ok=True)
    environment.update(client.environment)
    command = [sys.executable, "-m", "rrto_ros.cli.main", "run", "--robot", f"client_{name}"]
    command += ["--device", device, "--mode", "replay", "--report", str(report)]
    command += ["--cuda-runtime"] if client.runtime else []
    if device == "null":
        (work / "checking.yaml").write_text(CHECKING)
        command += ["--params-file", str(work / "checking.yaml"), "--log-level", "info"]
    command += ["--", str(python), str(PROGRAMS / client.program), *client.arguments]
    print(f"[{name}] {' '.join(command)} 2> {errors}", flush=True)
    with errors.open("wb") as written:
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=written, check=False,
                timeout=LIMIT_S, cwd=ROOT,
            )  # fmt: skip
            code, out = done.returncode, done.stdout
        except subprocess.TimeoutExpired as late:
            code, out = 124, late.stdout or b""
    lines = out.decode(errors="replace").splitlines()
    told = next((json.loads(one) for one in reversed(lines) if one.startswith("{")), {})
    counted = json.loads(report.read_text()) if report.is_file() else {}
    checks = _CHECK.findall(errors.read_text(errors="replace")) if device == "null" else None
    return row(name, device, code, told, counted, checks)


def row(
    name: str,
    device: str,
    code: int,
    told: Mapping[str, Any],
    counted: Mapping[str, Any],
    checks: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: Of the client, if its program did not come to tell it.
        device: It ran on.
        code: Exit code of `rrto run`.
        told: The program's JSON line.
        counted: The report of `rrto run`.
        checks: What the checking device said, None where calls were not checked.
    """
    totals = counted.get("totals", {})
    sessions = counted.get("sessions", [])
    calls = sum(totals.get(kind, 0) for kind in ("calls_local", "calls_async", "calls_sync"))
    replayed = max(sessions, key=lambda one: one["inferences"], default=None)
    exchanges = replayed["inference_round_trips"] if replayed and replayed["inferences"] else None
    failed = [f"{case}: {why}" for case, why in told.get("failed", {}).items()]
    if not told:
        failed = [f"ended with {code} before it had a result"]
    compared = told.get("compared", "-")
    if checks is not None:
        checked, wrong = _checked(checks)
        failed += wrong
        compared += f"; {checked:,} calls with the driver's documentation"
    refused = [f"{call} {count:,}" for call, count in totals.get("unsupported", {}).items()]
    more = len(refused) - MOST_NAMED
    refused = refused[:MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])
    values = (
        told.get("client", name), told.get("version", "?"), device,
        _cases(told.get("ran", [])), compared,
        "<br>".join(failed) or "none", f"{calls:,}", "<br>".join(refused) or "none",
        "-" if exchanges is None else f"{exchanges:.3g}",
    )  # fmt: skip
    return dict(zip(COLUMNS, map(_cell, values), strict=True))


def _checked(lines: Sequence[str]) -> tuple[int, list[str]]:
    """How many calls were checked, and what was found, from what the device said."""
    ends = [found for line in lines if (found := _CHECKED.match(line))]
    if not ends:
        return 0, ["the device did not say that it checked the calls"]
    wrong = list(dict.fromkeys(line for line in lines if line.startswith("call #")))
    if not wrong and any(int(end[2]) for end in ends):
        wrong = [f"{end[2]} findings{end[3]}" for end in ends]
    return sum(int(end[1]) for end in ends), wrong[:MOST_NAMED]


def _cases(names: Sequence[str]) -> str:
    if len(names) <= MOST_CASES:
        return ", ".join(names) or "none"
    first = ", ".join(names[:MOST_CASES])
    return f"{len(names)} cases: {first} and {len(names) - MOST_CASES} more"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def read_rows(page: str) -> list[dict[str, str]]:
    """The rows that a page has."""
    begin, end = _bounds(page)
    lines = [one for one in page[begin:end].splitlines() if one.startswith("| ")][1:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", one)[1:-1]] for one in lines]
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells if len(row) == len(COLUMNS)]


def with_rows(page: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The page with other rows."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row[name] for name in COLUMNS) + " |" for row in rows]
    begin, end = _bounds(page)
    return page[:begin] + "\n" + "\n".join(lines) + "\n" + page[end:]


def _bounds(page: str) -> tuple[int, int]:
    """Where the table begins and ends in a page."""
    begin = page.index(BEGIN) + len(BEGIN)
    return begin, page.index(END, begin)


def main() -> int:
    """Run what is asked for; 1 if anything computed wrongly or did not run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clients", nargs="*", help=f"of {', '.join(CLIENTS)}; default: all")
    parser.add_argument("--work", type=Path, required=True, help="folder for environments")
    parser.add_argument("--device", choices=("cpu", "gpu", "null"), help="default: each its own")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    parser.add_argument("--no-page", action="store_true", help="leave docs/clients.md as it is")
    asked = parser.parse_args()
    unknown = set(asked.clients) - CLIENTS.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: want some of {', '.join(CLIENTS)}")
    asked.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in asked.clients or CLIENTS:
        device = asked.device or CLIENTS[name].device
        rows.append(run(asked.work.resolve(), name, CLIENTS[name], device))
        print(json.dumps(rows[-1], indent=2), flush=True)
        if not asked.keep:
            shutil.rmtree(asked.work / name, ignore_errors=True)
    if not asked.no_page:
        page = PAGE.read_text()
        key = {(row["client"], row["device"]): row for row in (*read_rows(page), *rows)}
        PAGE.write_text(with_rows(page, list(key.values())))
    return int(any(row["not right"] != "none" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
