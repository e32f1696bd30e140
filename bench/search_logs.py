"""Records the driver calls of real programs as log files, for `search_parts`.

    python bench/search_logs.py FOLDER                     # examples, and programs of the tests
    python bench/search_logs.py FOLDER --models M --cases C --only nanodet

The programs run one after the other in mode `batched`, on the cpu device, with recorder and device
in one process beside each, without ROS. --models is a folder of .onnx files, --cases one of
programs NN_name.py (a folder `plans` in it may have a random program). A log that is there already
is not recorded again; what a program uploaded is not in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))
from support.device_server import robot_and_server  # noqa: E402

from rrto_ros.bringup.environment import interposed_environment  # noqa: E402
from rrto_ros.bringup.stand_ins import with_stand_ins  # noqa: E402
from rrto_ros.robot.record import CallLog, dump  # noqa: E402
from rrto_ros.robot.status import SessionConfig  # noqa: E402
from rrto_ros.shim.build import ensure_built  # noqa: E402

PROGRAMS = ROOT / "test" / "support" / "programs"
EXAMPLES = ROOT / "examples"
BENCH = ROOT / "bench"
TINYGRAD = "DEV=CUDA:PTX"
LIMIT_S = 1200
SEEDS = 12


@dataclass(frozen=True)
class Recorded:
    """A program to record.

    Attributes:
        name: Of the log.
        words: Script and arguments; NAME=VALUE before it is put into its environment.
        said: Its standard input.
    """

    name: str
    words: tuple[str, ...]
    said: str = ""


def own() -> list[Recorded]:
    """The programs of this repository: name, folder, words, standard input."""
    found = [
        ("cascade", EXAMPLES, "cascade_cuda_bindings.py --pictures 200"),
        ("cnn", EXAMPLES, "cnn_tinygrad.py --inferences 20"),
        ("cnn jit", EXAMPLES, "cnn_tinygrad.py --inferences 20 --jit"),
        ("deep", EXAMPLES, "deep_tinygrad.py --inferences 8 --depth 60"),
        ("deep jit", EXAMPLES, "deep_tinygrad.py --inferences 8 --depth 60 --jit"),
        ("matmul", EXAMPLES, "matmul_tinygrad.py --rounds 20"),
        ("matmul jit", EXAMPLES, "matmul_tinygrad.py --rounds 20 --jit"),
        ("matmul numba", EXAMPLES, "matmul_numba.py --rounds 20"),
        ("saxpy core", EXAMPLES, "saxpy_cuda_core.py --repeats 20"),
        ("vector add", EXAMPLES, "vector_add_cuda_bindings.py"),
        ("adaptive network", PROGRAMS, "adaptive_network.py"),
        ("infer", PROGRAMS, "infer.py 20"),
        ("wander", PROGRAMS, "wander.py 60"),
        ("wander cascade", PROGRAMS, "wander.py 60 --cascade"),
        ("numba kernels", PROGRAMS, "numba_kernels.py"),
        ("nvrtc kernels", PROGRAMS, "nvrtc_kernels.py"),
        ("nvrtc cubin", PROGRAMS, "nvrtc_kernels.py cubin"),
        ("core cubin", PROGRAMS, "cuda_core_cubin.py"),
        ("printing", PROGRAMS, "printing_program.py"),
        ("flow queued", PROGRAMS, "flow.py queued 8 0"),
        ("flow both", PROGRAMS, "flow.py both 8 0"),
        ("tinygrad operations", PROGRAMS, "tinygrad_operations.py"),
        *((f"strangers {n}", PROGRAMS, f"strangers.py --seed {n}") for n in range(1, SEEDS + 1)),
        *((f"host memory {n}", PROGRAMS, f"host_memory.py --seed {n}") for n in range(1, 5)),
    ]
    out = [
        Recorded(name, (TINYGRAD, str(folder / words.split()[0]), *words.split()[1:]))
        for name, folder, words in found
    ]
    flow = str(BENCH / "flow_program.py")
    sizes = (str(4 << 20), "0")
    out += [Recorded(f"flow {what}", (flow, what, *sizes), "\n") for what in ("copy", "many")]
    return out


def of_models(folder: Path, count: int = 8) -> list[Recorded]:
    """Every model in four forms: captured or not, outputs made as they are read or not."""
    out = []
    for path in sorted(folder.glob("*.onnx")):
        for options in ((), ("--contiguous",), ("--no-jit",), ("--no-jit", "--contiguous")):
            words = (TINYGRAD, str(BENCH / "replay_program.py"), str(path), *options)
            out.append(Recorded(" ".join((path.stem, *options)), words, f"{count}\n"))
    return out


def of_cases(folder: Path) -> list[Recorded]:
    """The field cases that are one program, made small where they have a size."""
    small = {
        "25_backpressure": ("4",),
        "27_big_download": ("16",),
        "17_many_small_idle": ("5000",),
    }
    out = [
        Recorded(path.stem, (str(path), *small.get(path.stem, ())))
        for path in sorted(folder.glob("[0-9][0-9]_*.py"))
    ]
    for path, words in ((folder / "loop21.py", ("3",)), (folder / "trivial_sleep.py", ())):
        if path.exists():
            out.append(Recorded(path.stem, (str(path), *words)))
    random_program = folder / "plans" / "randprog.py"
    if random_program.exists():
        out += [
            Recorded(f"random {seed}", (str(random_program), str(seed), "40"))
            for seed in range(1, SEEDS + 1)
        ]
    return out


class Into:
    """What a `DeviceServer` gives its records to."""

    def __init__(self, log: CallLog) -> None:
        self.log = log

    def append(self, record: bytes) -> None:
        self.log.extend(record)


def record(program: Recorded, target: Path) -> str:
    """Run a program, and dump its calls; says what came of it."""
    log = CallLog(session={"program": program.name})
    environment = dict(os.environ, RRTO_CHECKOUT=str(ROOT))
    words = list(program.words)
    while "=" in words[0] and not words[0].endswith(".py"):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    ensure_built()
    with tempfile.TemporaryDirectory(prefix="rrto-", dir="/tmp") as folder:
        patient = SessionConfig(mode="batched", server_timeout_s=120.0, connect_timeout_s=60.0)
        with robot_and_server(Path(folder), patient) as (_, server, given):
            server.records = Into(log)
            environment = interposed_environment(environment, "bench")
            environment = with_stand_ins(environment, "cpu")
            environment |= {
                "RRTO_SOCKET": given["RRTO_SOCKET"],
                "RRTO_CONNECT_TIMEOUT_MS": "60000",
            }
            done = subprocess.run(
                [sys.executable, *words], env=environment, input=program.said, cwd=folder,
                capture_output=True, text=True, check=False, timeout=LIMIT_S,
            )  # fmt: skip
    if len(log):
        dump(log, target)
    tail = (done.stderr or done.stdout).strip().splitlines()[-1:] if done.returncode else []
    return f"{len(log)} calls, status {done.returncode} {' '.join(tail)[:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--only", default="", help="programs with these letters in their names")
    parser.add_argument(
        "--alone", action="store_true", help="in this process, the one of this name"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    programs = own()
    programs += of_models(options.models.resolve()) if options.models else []
    programs += of_cases(options.cases.resolve()) if options.cases else []
    for program in programs:
        target = options.folder / f"{program.name.replace(' ', '_')}.log"
        if options.alone:
            if program.name == options.only:
                print(record(program, target), flush=True)
        elif options.only in program.name and not target.exists():
            # A program that breaks its device breaks the process that this is in.
            again = [
                sys.executable,
                __file__,
                str(options.folder),
                "--alone",
                "--only",
                program.name,
            ]
            again += ["--models", str(options.models)] if options.models else []
            again += ["--cases", str(options.cases)] if options.cases else []
            done = subprocess.run(again, capture_output=True, text=True, check=False)
            said = done.stdout.strip() or done.stderr.strip()[-300:] or f"status {done.returncode}"
            print(f"{program.name}: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
