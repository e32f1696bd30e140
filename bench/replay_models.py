"""Whole models in mode replay, beside plain execution: equal bits, and how soon, for how much.

    python bench/replay_models.py                         # NanoDet, 200 inferences
    python bench/replay_models.py --models FOLDER         # every .onnx file of a folder
    python bench/replay_models.py --count 20 --no-jit     # every inference scheduled anew

A model runs four times with the same changing inputs, on the cpu device: *plain*, with the device
in the program's process; in mode `batched`; in mode `replay`, where the plans are learnt; and
again, a *second start* with the plans of the first. Every output of every inference must have the
same bits, and a replayed inference one exchange. The outputs are read one after the other; with
`--run-ahead auto` tinygrad launches a kernel before each of these reads, with `reads` it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import HERE, machine
from stack import Stack, measuring_domain, stack

from rrto_ros.bringup.environment import interposed_environment, node_environment
from rrto_ros.errors import RrtoError, UnavailableError
from rrto_ros.evaluation.talker import Talker, started

NANODET = HERE.parent / "rrto_ros" / "data" / "nanodet_416_fp16.onnx"
PROGRAM = {"DEV": "CUDA:PTX"}
WAYS = ("plain", "batched", "replay", "second start")
LEARNT_BY = 3
"""Inferences before the first that has to be replayed."""


class Runs:
    """Runs of one model.

    Args:
        model: The ONNX file.
        count: Inferences of a run.
        jit: Whether the program captures the network once.
        run_ahead: Parameter of the recorder.
    """

    def __init__(self, model: Path, count: int, *, jit: bool, run_ahead: str) -> None:
        self._command = [sys.executable, str(HERE / "replay_program.py"), str(model)]
        self._command += [] if jit else ["--no-jit"]
        self._command += [] if run_ahead == "auto" else ["--contiguous"]
        self._count = count
        self._run_ahead = run_ahead
        self._base = {**os.environ, **node_environment(), **PROGRAM}
        self._base["ROS_DOMAIN_ID"] = str(measuring_domain())
        self._base["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

    def all(self) -> dict[str, dict[str, Any]]:
        """Each way -> what the program and the recorder said of it."""
        found = {"plain": self._plain()}
        for mode, ways in (("batched", WAYS[1:2]), ("replay", WAYS[2:])):
            recorder = {"run_ahead": self._run_ahead}
            with stack("cpu", mode, parameters={"recorder_replayer": recorder}) as nodes:
                for way in ways:
                    found[way] = self._offloaded(nodes)
        return found

    def _plain(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="rrto-bench-") as folder:
            env = interposed_environment(self._base, "plain")
            env["RRTO_SOCKET"] = f"{folder}/plain.sock"
            return self._run([*self._command, "--plain"], env, None)

    def _offloaded(self, nodes: Stack) -> dict[str, Any]:
        command, env = nodes.command(self._command, **PROGRAM)
        return self._run(command, env, nodes.robot)

    def _run(
        self, command: list[str], env: Mapping[str, str], robot: str | None
    ) -> dict[str, Any]:
        with ExitStack() as ends:
            program = self._talk(ends, command, env, "the program")
            said: dict[str, Any] = program.ask(str(self._count))
            if robot is not None:
                asks = [sys.executable, str(HERE / "link_counts.py"), str(measuring_domain())]
                counts = self._talk(ends, [*asks, robot], self._base, "counts")
                (said["session"],) = counts.ask("")[robot]
            return said

    def _talk(
        self, ends: ExitStack, command: list[str], env: Mapping[str, str], what: str
    ) -> Talker:
        folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="rrto-bench-"))
        return started(ends, command, env, what, Path(folder) / "errors")


def judged(found: Mapping[str, dict[str, Any]], count: int) -> list[str]:
    """What is not as it must be."""
    wrong = []
    for way in WAYS[1:]:
        pairs = zip(found["plain"]["digests"], found[way]["digests"], strict=True)
        differ = [number for number, (a, b) in enumerate(pairs) if a != b]
        if differ:
            wrong.append(f"{way}: {len(differ)} inferences differ, the first is {differ[0]}")
    for way, allowed in (("replay", LEARNT_BY), ("second start", 0)):
        session = found[way]["session"]
        if session["inferences"] < count - allowed:
            wrong.append(f"{way}: {session['inferences']} of {count} inferences were replayed")
        if session["inference_round_trips"] != 1:
            wrong.append(f"{way}: {session['inference_round_trips']:g} exchanges per inference")
    return wrong


def show(found: Mapping[str, dict[str, Any]], count: int) -> None:
    """Print a line for each way."""
    for way in WAYS:
        said = found[way]
        text = f"{way:12}  {1e3 * statistics.median(said['seconds'][LEARNT_BY:]):9.1f} ms"
        session = said.get("session")
        if session and way != "batched":
            text += (
                f"  replayed {session['inferences']} of {count}"
                f"  {session['inference_round_trips']:g} exchanges"
                f"  {session['inference_bytes_sent']:,.0f} bytes up"
                f"  {session['inference_bytes_received']:,.0f} down"
                f"  {session['sequence_calls']} calls"
            )
        print(text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, help="a folder of .onnx files; default: NanoDet")
    parser.add_argument("--count", type=int, default=200, help="inferences a run (%(default)s)")
    parser.add_argument("--no-jit", action="store_true", help="without TinyJit")
    parser.add_argument("--run-ahead", choices=["off", "reads", "auto"], default="reads")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    options = parser.parse_args()
    if options.count < 2 * LEARNT_BY:
        parser.error(f"--count {options.count}: want {2 * LEARNT_BY} or more")
    models = sorted(options.models.glob("*.onnx")) if options.models else [NANODET]
    if not models:
        parser.error(f"no .onnx file in {options.models}")
    body: dict[str, Any] = {"on": machine(), "count": options.count, "models": {}}
    code = 0
    for model in models:
        print(f"{model.stem}, {options.count} inferences", flush=True)
        try:
            found = Runs(
                model, options.count, jit=not options.no_jit, run_ahead=options.run_ahead
            ).all()
        except UnavailableError as error:
            print(f"replay_models: {error}", file=sys.stderr)
            code = 2
            continue
        show(found, options.count)
        wrong = judged(found, options.count)
        print("\n".join(wrong) or "all outputs have the same bits", flush=True)
        code = max(code, int(bool(wrong)))
        body["models"][model.stem] = found
        if options.json:
            options.json.write_text(json.dumps(body, indent=1) + "\n")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RrtoError as failure:
        sys.exit(f"replay_models: {failure}")
