"""Runs the CUDA programs of others under `rrto run` and writes what happened to docs/clients.md.

    python bench/clients.py --work /tmp/clients                  # all that are known
    python bench/clients.py --work /tmp/clients triton jax       # some
    python bench/clients.py --work /tmp/clients --keep          # environments stay

Each client gets a virtual environment of its own in the folder of --work, with packages from the
registry that pip is set up for (gigabytes), and is run by its program of test/clients, which
compares what it computes. Rows of clients that were not asked for stay as they are.
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

PROGRAMS = ROOT / "test" / "clients"
PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- table (made by `make clients`) -->", "<!-- end -->"
COLUMNS = (
    "client", "version", "device", "right", "compared with", "not right", "calls", "unsupported",
    "exchanges per inference",
)  # fmt: skip
LIMIT_S = 900
MOST_NAMED, MOST_CASES = 4, 12


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
    """

    packages: Sequence[str]
    program: str
    runtime: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    arguments: Sequence[str] = ()


_SETTINGS = {one.name: dict(one.cpu) for one in catalogue.CLIENTS}
"""What `rrto doctor` says is to be set for the device `cpu`."""

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
        arguments=("elementwise", "reductions"),
    ),
    "warp": Client(("warp-lang",), "run_warp.py", runtime=True),
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
    report = work / f"{name}.json"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "HOME": str(work / f"{name}-home")}
    Path(environment["HOME"]).mkdir(exist_ok=True)
    environment.update(client.environment)
    command = [sys.executable, "-m", "rrto_ros.cli.main", "run", "--robot", f"client_{name}"]
    command += ["--device", device, "--mode", "replay", "--report", str(report)]
    command += ["--cuda-runtime"] if client.runtime else []
    command += ["--", str(python), str(PROGRAMS / client.program), *client.arguments]
    print(f"[{name}] {' '.join(command)}", flush=True)
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=False,
            timeout=LIMIT_S, cwd=ROOT,
        )  # fmt: skip
        code, lines = done.returncode, done.stdout.splitlines()
    except subprocess.TimeoutExpired as late:
        code, lines = 124, (late.stdout or b"").decode().splitlines()
    told = next((json.loads(one) for one in reversed(lines) if one.startswith("{")), {})
    counted = json.loads(report.read_text()) if report.is_file() else {}
    return row(name, device, code, told, counted)


def row(
    name: str, device: str, code: int, told: Mapping[str, Any], counted: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: Of the client, if its program did not come to tell it.
        device: It ran on.
        code: Exit code of `rrto run`.
        told: The program's JSON line.
        counted: The report of `rrto run`.
    """
    totals = counted.get("totals", {})
    sessions = counted.get("sessions", [])
    calls = sum(totals.get(kind, 0) for kind in ("calls_local", "calls_async", "calls_sync"))
    replayed = max(sessions, key=lambda one: one["inferences"], default=None)
    exchanges = replayed["inference_round_trips"] if replayed and replayed["inferences"] else None
    failed = [f"{case}: {why}" for case, why in told.get("failed", {}).items()]
    if not told:
        failed = [f"ended with {code} before it had a result"]
    refused = [f"{call} {count:,}" for call, count in totals.get("unsupported", {}).items()]
    more = len(refused) - MOST_NAMED
    refused = refused[:MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])
    values = (
        told.get("client", name), told.get("version", "?"), device,
        _cases(told.get("ran", [])), told.get("compared", "-"),
        "<br>".join(failed) or "none", f"{calls:,}", "<br>".join(refused) or "none",
        "-" if exchanges is None else f"{exchanges:.3g}",
    )  # fmt: skip
    return dict(zip(COLUMNS, map(_cell, values), strict=True))


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
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu", "null"))
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    parser.add_argument("--no-page", action="store_true", help="leave docs/clients.md as it is")
    asked = parser.parse_args()
    unknown = set(asked.clients) - CLIENTS.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: want some of {', '.join(CLIENTS)}")
    asked.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in asked.clients or CLIENTS:
        rows.append(run(asked.work.resolve(), name, CLIENTS[name], asked.device))
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
