"""The part `clients` of the proof: programs of others on the GPU itself and offloaded.

Each client of `PROGRAMS` that an environment has runs one of the examples twice natively, then in
each mode, and its program of test/clients natively and in mode `replay`. What is bit for bit the
same natively each time must be the same offloaded; where a client does not repeat its own bits,
its own comparison with the CPU decides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clients as table
from common import HERE
from stack import Running

from rrto_ros.errors import RrtoError

ROOT = HERE.parent
MODES = ("rpc", "batched", "replay")
ABSENT = 77
LIMIT_S = 1200.0
GPU_SETTINGS = {
    "jax": {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"},
    "cupy": {table.CONSENT: "1"},
    "warp": {table.CONSENT: "1"},
}
"""Client -> what it needs on the device `gpu`, offloaded or not. The kernels of CuPy and Warp run
on an NVIDIA GPU here."""
PROGRAMS: Mapping[str, Sequence[str]] = {
    "torch": ("segmentation_torch.py", "segmentation_torch.py --graph",
              "segmentation_torch.py --compile"),
    "onnxruntime": ("detector_onnxruntime.py",),
    "tensorflow": ("classifier_keras.py",),
    "jax": ("mppi_jax.py",),
    "cupy": ("ground_cupy.py",),
    "warp": ("physics_warp.py", "physics_warp.py --graph"),
    "triton": ("rectify_triton.py",),
}  # fmt: skip
"""Client, as in bench/clients.py -> examples, with their options."""

Note = Callable[[str, str, bool | None], None]
"""Adds a row: what, value, whether it is good."""
Nodes = Callable[[str], AbstractContextManager[Running]]
"""Starts a pair in a mode."""


@dataclass
class Program:
    """One program of one client in one environment.

    Attributes:
        client: Name, as in bench/clients.py.
        python: Of the environment.
        command: The whole command line.
        title: For the table.
        own: What it printed natively, the first time.
        repeats: Whether it printed the same results natively the second time.
        compared: Whether results are compared case by case (test/clients).
        steady: Of these, the cases that printed the same results natively the second time.
        offloaded: Mode -> what it printed.
    """

    client: str
    python: Path
    command: list[str]
    title: str
    compared: bool = False
    steady: frozenset[str] = frozenset()
    own: dict[str, Any] = field(default_factory=dict)
    repeats: bool = False
    offloaded: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """Environment variables that it needs."""
        return dict(GPU_SETTINGS.get(self.client, {}))

    @property
    def foreign(self) -> bool:
        """Whether its environment is not the proof's."""
        return str(self.python) != sys.executable

    def results(self, told: Mapping[str, Any]) -> Any:
        """What must be the same, of what it printed."""
        return told.get("digests") if self.compared else told.get("sha256")


def programs(pythons: Sequence[Path], smoke: bool) -> list[Program]:
    """All that is tried, in every environment."""
    frames = "5" if smoke else "200"
    out = []
    for python in pythons or [Path(sys.executable)]:
        for client, examples in PROGRAMS.items():
            where = f" ({python.parent.parent.name})" if len(pythons) > 1 else ""
            for example in examples:
                script, *options = example.split()
                count = [] if script.startswith("mppi") else ["--frames", frames]
                command = [str(python), str(ROOT / "examples" / script), *options, "--json"]
                out.append(Program(client, python, [*command, *count], example + where))
            cases = ROOT / "test" / "clients" / f"run_{client}.py"
            if cases.is_file():
                out.append(
                    Program(client, python, [str(python), str(cases)], cases.name + where, True)
                )
    return out


def natively(program: Program) -> tuple[int, dict[str, Any], str]:
    """Run it on the GPU itself: exit code, what it printed as JSON, what it said last."""
    try:
        done = subprocess.run(
            program.command, env={**os.environ, **program.settings}, capture_output=True,
            text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, {}, f"still ran after {LIMIT_S:g} s"
    said = (done.stderr or done.stdout).strip().splitlines()
    return done.returncode, last_json(done.stdout), said[-1][:200] if said else ""


def last_json(text: str) -> dict[str, Any]:
    """The last line that is a JSON object; {} if none is."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        return dict(json.loads(lines[-1])) if lines else {}
    except ValueError:
        return {}


def look(program: Program, note: Note, cuda_runtime: bool) -> bool:
    """Run it natively, twice; whether it is to be offloaded."""
    if table.CLIENTS[program.client].runtime and not cuda_runtime:
        note(program.title, "left out: uses the CUDA runtime library (--cuda-runtime)", None)
        return False
    code, program.own, said = natively(program)
    if code == ABSENT:
        note(program.title, f"not installed: {said.removeprefix('skipped: ')}", None)
        return False
    # On the GPU itself, too, results may differ from the CPU's: bits are compared all the same.
    usable = program.own.get("ran") if program.compared else program.results(program.own)
    if not usable:
        note(program.title, f"left out: natively it ended with {code}: {said}", None)
        return False
    again = natively(program)[1]
    program.repeats = bool(again) and program.results(again) == program.results(program.own)
    if program.compared:
        own, other = program.own.get("digests", {}), again.get("digests", {})
        program.steady = frozenset(name for name in own if own[name] == other.get(name))
        ran, failed = program.own["ran"], program.own["failed"]
        text = (
            f"{len(ran)} cases right, {len(failed)} not; {len(program.steady)} repeat their bits"
        )
        note(f"{program.title} natively", text, None)
    else:
        bits = "the same bits twice" if program.repeats else "other bits the second time"
        away = "" if program.own["good"] else f", {program.own['worst']:.1e} from the CPU's"
        note(f"{program.title} natively", f"{program.own['median_ms']:.3f} ms, {bits}{away}", None)
    return True


def compare(program: Program, mode: str, told: Mapping[str, Any], note: Note) -> None:
    """Rows of one offloaded run."""
    what = f"{program.title} {mode}"
    if program.compared:
        compare_cases(program, what, told, note)
        return
    time = f"{told['median_ms']:.3f} ms"
    if program.repeats:
        same = told["sha256"] == program.own["sha256"]
        note(what, f"{time}, {'the same bits' if same else 'OTHER BITS'} as natively", same)
    else:
        good = bool(told["good"]) if program.own["good"] else None
        note(what, f"{time}, within {told['worst']:.1e} of the CPU's", good)


def compare_cases(program: Program, what: str, told: Mapping[str, Any], note: Note) -> None:
    """Rows of the cases of test/clients: none less is right, and bits that repeat are the same."""
    lost = sorted(set(program.own["ran"]) - set(told.get("ran", [])))
    own, got = program.own.get("digests", {}), told.get("digests", {})
    other = sorted(name for name in program.steady if name in got and own[name] != got[name])
    why = "; ".join(f"{name}: {told['failed'].get(name, 'did not run')}" for name in lost)
    bits = f"{len(program.steady & set(got)) - len(other)} with the same bits as natively"
    bits += f", OTHER BITS in {', '.join(other)}" if other else ""
    text = f"{len(told.get('ran', []))} cases right, {bits}{'; ' + why if why else ''}"
    note(what, text, not lost and not other)


def run(
    pythons: Sequence[Path],
    nodes_in: Nodes,
    note: Note,
    found: dict[str, Any],
    *,
    smoke: bool,
    cuda_runtime: bool,
) -> None:
    """The whole part.

    Args:
        pythons: Environments to look into; none for this one.
        nodes_in: Starts recorder and server in a mode.
        note: Takes the rows, as they come.
        found: Takes the details, as they come.
        smoke: Whether a few pictures are enough.
        cuda_runtime: Whether the CUDA runtime library's check is answered.
    """
    there = [one for one in programs(pythons, smoke) if look(one, note, cuda_runtime)]
    variables = {"RRTO_CUDA_RUNTIME": "1"} if cuda_runtime else {}
    for mode in MODES:
        chosen = [one for one in there if mode == MODES[-1] or not one.compared]
        if not chosen:
            continue
        with nodes_in(mode) as nodes:
            for program in chosen:
                offload(program, mode, nodes, variables, note)
                found[program.title] = {"native": program.own, "repeats": program.repeats,
                                        **program.offloaded}  # fmt: skip


def offload(
    program: Program, mode: str, nodes: Running, variables: Mapping[str, str], note: Note
) -> None:
    """Run one program over a pair of nodes, and note what came of it."""
    try:
        lines = nodes.run(
            program.command, LIMIT_S, foreign=program.foreign, allowed=(0, 1),
            **variables, **program.settings,
        )  # fmt: skip
    except RrtoError as error:
        note(f"{program.title} {mode}", str(error).splitlines()[0][:200], False)
        return
    if not lines or program.results(lines[-1]) is None:
        note(f"{program.title} {mode}", "ended without a result", False)
        return
    program.offloaded[mode] = lines[-1]
    compare(program, mode, lines[-1], note)
