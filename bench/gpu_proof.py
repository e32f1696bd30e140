"""Everything that the device `gpu` claims, tried on this machine's GPU: one JSON, one table.

    python bench/gpu_proof.py [--smoke] [--out FOLDER] [--only PART ...]

bench/gpu_proof.sh sets up what this needs; gpu_proof_arguments.py has the arguments and the parts,
gpu_proof_clients.py the part `clients`.
Each part runs in processes of its own and has a time limit; one that fails is noted and the others
go on. The JSON is written after each part. Exit code 0 if all is well, 1 if not, 3 without a GPU,
130 if it was stopped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import gpu_proof_arguments
import gpu_proof_clients
from common import HERE, compiled, driver_calls, machine, temporary
from stack import Running, stack

from rrto_ros.devices.gpu.driver import Driver, check_available, load
from rrto_ros.devices.gpu.properties import device_uuid
from rrto_ros.devices.gpu.telemetry import Nvml
from rrto_ros.errors import RrtoError, UnavailableError

ROOT = HERE.parent
NANODET = ROOT / "rrto_ros" / "data" / "nanodet_416_fp16.onnx"
PROGRAMS = ROOT / "test" / "support" / "programs"
NO_GPU, STOPPED = 3, 130
SKIPPED = 77
NEEDS_ROS = "needs ROS"
"""The value of rows whose subject is ROS, where there is none."""
CANNOT = ("no virtual memory management", "needs compute capability")
"""The only reasons for which a test on the GPU may be left out: a GPU that cannot do it."""
SCORE_TOLERANCE, BOX_TOLERANCE = 0.02, 3.0
NATIVE_FACTOR = 1.05
LEAK_BYTES = 64 << 20
SHOWN = 100
"""Characters of a value in the table."""
EXAMPLES: dict[str, list[str]] = {
    "vector_add_cuda_bindings.py": [],
    "saxpy_cuda_core.py": [],
    "matmul_numba.py": [],
    "matmul_tinygrad.py": [],
    "cnn_tinygrad.py": [],
    "cnn_tinygrad.py --jit": [],
}


@dataclass
class Proof:
    """What was found.

    Attributes:
        smoke: Whether only a few iterations are wanted.
        out: Folder for files.
        local: Whether there is no ROS between recorder and server.
        pythons: Environments to look into for clients; none for this one.
        cuda_runtime: Whether the CUDA runtime library's check is answered.
        rows: (part, what, value, verdict) of the table; verdict "" is neither good nor bad.
        found: Details by part.
    """

    smoke: bool
    out: Path
    local: bool = False
    pythons: Sequence[Path] = ()
    cuda_runtime: bool = False
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    def note(self, part: str, what: str, value: str, good: bool | None = None) -> None:
        """Add a row."""
        verdict = "" if good is None else "ok" if good else "FAILED"
        self.rows.append((part, what, value, verdict))
        print(f"  {part}: {what}: {value} {verdict}", flush=True)

    def nodes(self, mode: str) -> AbstractContextManager[Running]:
        """Recorder and server with device `gpu`, while the block lasts."""
        return stack("gpu", mode, local=self.local)

    @property
    def link(self) -> str:
        """What is between recorder and server."""
        return "socket" if self.local else "loopback"

    @property
    def failed(self) -> bool:
        """Whether any row is bad."""
        return any(verdict == "FAILED" for *_, verdict in self.rows)


def tests(proof: Proof) -> None:
    """Conformance and GPU tests."""
    report = proof.out / "tests.xml"
    report.unlink(missing_ok=True)
    logic = sorted(map(str, ROOT.glob("test/unit/test_gpu_*.py")))
    chosen = ["test/conformance", "test/gpu", *logic]
    if proof.smoke:
        chosen = ["-m", "gpu", "test/gpu", "test/conformance/test_cases.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    with (proof.out / "tests.txt").open("w") as log:
        code = _run_group([*command, f"--junitxml={report}"], log, 3600.0)
    if not report.is_file():
        raise UnavailableError(f"pytest ended with {code}; see {proof.out / 'tests.txt'}")
    (suite,) = ET.parse(report).getroot().iter("testsuite")
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors",
                                                           "skipped")}  # fmt: skip
    on_gpu = [
        case
        for case in suite.iter("testcase")
        if "[gpu" in case.get("name", "") or "test.gpu" in case.get("classname", "")
    ]
    skips = [
        (case.get("name", ""), skip.get("message", ""))
        for case in on_gpu
        if (skip := case.find("skipped")) is not None
    ]
    failures = [
        f"{case.get('classname', '')}::{case.get('name', '')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    proof.found["tests"] = {**counts, "on_gpu": len(on_gpu), "on_gpu_skipped": skips,
                            "failed": failures}  # fmt: skip
    wrong = counts["failures"] + counts["errors"]
    excused = all(any(reason in why for reason in CANNOT) for _, why in skips)
    proof.note("tests", "on the GPU", f"{len(on_gpu)}, {len(skips)} skipped",
               bool(on_gpu) and excused)  # fmt: skip
    proof.note("tests", "of all", f"{counts['tests']}, {wrong} failed", wrong == 0)


def _run_group(command: list[str], log: IO[str], timeout_s: float) -> int:
    """Run a command with all that it starts; however it ends, nothing of it is left.

    Raises:
        subprocess.TimeoutExpired: It took longer.
    """
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return child.wait(timeout_s)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _without_tinygrad(proof: Proof, part: str, *others: str) -> bool:
    """Note that a part is left out because tinygrad, or another package, is not installed."""
    missing = [name for name in ("tinygrad", *others) if importlib.util.find_spec(name) is None]
    if not missing:
        return False
    proof.note(part, "left out", f"needs {' and '.join(missing)} (for Python 3.11 and later)")
    return True


def programs(proof: Proof) -> None:
    """Examples and demo."""
    with proof.nodes("replay") as nodes:
        for name in EXAMPLES:
            script, *options = name.split()
            command = [sys.executable, str(ROOT / "examples" / script), *options]
            try:
                nodes.run(command, 300.0, DEV="CUDA:PTX")
            except RrtoError as error:
                text = str(error)
                if f"ended with {SKIPPED}:" in text or "ModuleNotFoundError" in text:
                    proof.note("programs", name, "not installed")
                else:
                    proof.note("programs", name, text.splitlines()[0][:200], good=False)
                continue
            proof.note("programs", name, "equals NumPy", good=True)
    if proof.local:
        proof.note("programs", "demo on gpu and cpu", NEEDS_ROS)
        return
    if _without_tinygrad(proof, "programs"):
        return
    seen = {device: _demo(proof, device) for device in ("cpu", "gpu")}
    proof.found["demo"] = seen
    objects = [[found["class"] for found in seen[d]] for d in ("cpu", "gpu")]
    pairs = list(zip(seen["cpu"], seen["gpu"], strict=False))
    score = max((abs(a["score"] - b["score"]) for a, b in pairs), default=0.0)
    edges = [edge for a, b in pairs for edge in zip(a["box"], b["box"], strict=True)]
    box = max((abs(p - q) for p, q in edges), default=0.0)
    good = (
        bool(objects[0])
        and objects[0] == objects[1]
        and (score <= SCORE_TOLERANCE and box <= BOX_TOLERANCE)
    )
    text = f"{', '.join(objects[1]) or 'nothing'}; scores {score:.4f}, boxes {box:.2f} px apart"
    proof.note("programs", "demo on gpu and cpu", text, good)


def _demo(proof: Proof, device: str) -> list[dict[str, Any]]:
    """Detections of the demo's first picture."""
    folder = proof.out / f"demo_{device}"
    command = [sys.executable, "-m", "rrto_ros.cli.main", "demo", "--robot", f"proof{os.getpid()}",
               "--device", device, "--mode", "replay", "--frames", "3" if proof.smoke else "10",
               "--output", str(folder)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    lines = folder / "detections.jsonl"
    if done.returncode or not lines.is_file():
        said = (done.stderr or done.stdout).strip()[-500:]
        raise UnavailableError(f"the demo on {device} ended with {done.returncode}: {said}")
    return list(json.loads(lines.read_text().splitlines()[0])["detections"])


def network(proof: Proof) -> None:
    """Many inferences: right, and nothing left behind."""
    if _without_tinygrad(proof, "network"):
        return
    count = 30 if proof.smoke else 1000
    before = _used_bytes()
    with proof.nodes("replay") as nodes:
        command = [sys.executable, str(PROGRAMS / "cnn_loop.py"), str(count)]
        done = nodes.run(command, 1200.0, DEV="CUDA:PTX")[-1]
        with ThreadPoolExecutor(2) as pool:
            two = list(pool.map(lambda _: nodes.run(command, 1200.0, DEV="CUDA:PTX")[-1], "ab"))
    end, after = time.monotonic() + 20.0, _used_bytes()
    while before is not None and after is not None and after - before >= LEAK_BYTES:
        if time.monotonic() > end:
            break
        time.sleep(0.2)  # the driver says nothing when it has freed a process's memory
        after = _used_bytes()
    proof.found["network"] = {"inferences": count, **done, "used_before": before,
                              "used_after": after}  # fmt: skip
    proof.note("network", f"{count} inferences", f"at most {done['worst']:.1e} from NumPy",
               done["worst"] <= 1e-5)  # fmt: skip
    same = {found["digest"] for found in (done, *two)}
    proof.note("network", "two programs at once", f"{len(same)} digest of all three runs",
               len(same) == 1)  # fmt: skip
    if before is not None and after is not None:
        left = after - before
        proof.note("network", "GPU memory left in use", f"{left / 2**20:.1f} MiB",
                   left < LEAK_BYTES)  # fmt: skip


def _used_bytes() -> int | None:
    """Memory in use on the whole GPU that the device takes, by NVML; None if it does not say."""
    driver = Driver(load())
    nvml = Nvml(device_uuid(driver, driver.call("cuDeviceGet", 0)))
    used = nvml.counts().get("gpu_memory_used_bytes")
    nvml.close()
    return None if used is None else int(used)


def native(proof: Proof) -> None:
    """The same program on the GPU itself and replayed."""
    if _without_tinygrad(proof, "native", "onnxruntime"):
        return
    frames = 5 if proof.smoke else 200
    command = [sys.executable, str(HERE / "onnx_model.py"), str(NANODET), "--frames", str(frames)]
    done = subprocess.run(command, env={**os.environ, "DEV": "CUDA:PTX"}, capture_output=True,
                          text=True, timeout=1200, check=False)  # fmt: skip
    if done.returncode:
        raise UnavailableError(f"natively: {done.stderr.strip()[-500:]}")
    own = json.loads(done.stdout.splitlines()[-1])
    with proof.nodes("replay") as nodes:
        replayed = nodes.run(command, 1200.0, DEV="CUDA:PTX")[-1]
    with temporary() as folder, proof.nodes("batched") as nodes:
        rows = driver_calls(nodes, compiled(folder), "round_trip", 20 if proof.smoke else 2000)
    exchange = rows["cuMemcpyDtoH of 4 bytes"]["median_ns"] / 1e6
    allowed = NATIVE_FACTOR * own["frame_ms"] + exchange
    proof.found["native"] = {"native": own, "replayed": replayed, "exchange_ms": exchange,
                             "allowed_ms": allowed}  # fmt: skip
    for name, found in (("natively", own), ("replayed", replayed)):
        right = found["worst"] < 1e-3
        proof.note("native", f"NanoDet {name}", f"{found['frame_ms']:.3f} ms", right)
    proof.note("native", f"one {proof.link} exchange", f"{exchange:.3f} ms")
    proof.note("native", "replayed, at most", f"{allowed:.3f} ms",
               None if proof.smoke else replayed["frame_ms"] <= allowed)  # fmt: skip


def calls(proof: Proof) -> None:
    """One driver call on loopback, or over the socket."""
    repeats = 20 if proof.smoke else 2000
    if proof.local:
        proof.note("calls", "over DDS", NEEDS_ROS)
    proof.found["calls"] = {}
    for mode, what in (("rpc", "round_trip"), ("batched", "inference"), ("replay", "inference")):
        with temporary() as folder, proof.nodes(mode) as nodes:
            rows = driver_calls(nodes, compiled(folder), what, repeats)
        proof.found["calls"][mode] = rows
        for name, row in rows.items():
            proof.note(
                "calls", f"{mode}, {proof.link}: {name}", f"{row['median_ns'] / 1e3:.3f} us"
            )


def device(proof: Proof) -> None:
    """What the device costs by itself."""
    command = [sys.executable, str(HERE / "gpu_device.py"), *(["--smoke"] if proof.smoke else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise UnavailableError(done.stderr.strip()[-500:])
    found = json.loads(done.stdout.splitlines()[-1])
    proof.found["device"] = found
    for name, value in found["rows"].items():
        proof.note("device", name, f"{value:.1f} us")
    declined, why = found["segments_declined"], found["segment_refusal"]
    proof.note("device", "graphs that the driver refused", f"{declined} {why}".strip()[:200],
               not declined)  # fmt: skip


def clients(proof: Proof) -> None:
    """Programs of others, natively and offloaded."""
    found = proof.found["clients"] = {}
    gpu_proof_clients.run(
        proof.pythons, proof.nodes,
        lambda what, value, good: proof.note("clients", what, value, good), found,
        smoke=proof.smoke, cuda_runtime=proof.cuda_runtime,
    )  # fmt: skip


PARTS: Mapping[str, Callable[[Proof], None]] = {
    part.__name__: part for part in (tests, programs, network, native, calls, device, clients)
}
assert list(PARTS) == list(gpu_proof_arguments.PARTS)


def show(proof: Proof, name: str) -> None:
    """Print the table."""
    # Long texts are whole in the JSON.
    rows = [(part, what, " ".join(value.split())[:SHOWN], verdict)
            for part, what, value, verdict in proof.rows]  # fmt: skip
    widths = [max([len(row[i]) for row in rows], default=4) for i in range(3)]
    print(f"\ndevice gpu on {name}")
    for part, what, value, verdict in rows:
        print(f"{part:{widths[0]}}  {what:{widths[1]}}  {value:{widths[2]}}  {verdict}".rstrip())


def write(proof: Proof, name: str, ended: bool) -> Path:
    """Write what was found so far."""
    transport = "local" if proof.local else "ros"
    body = {"gpu": name, "on": machine(), "smoke": proof.smoke, "transport": transport,
            "ended": ended, "rows": proof.rows, **proof.found}  # fmt: skip
    path = proof.out / "gpu_proof.json"
    path.write_text(json.dumps(body, indent=1, default=str) + "\n")
    return path


def run_part(proof: Proof, part: str) -> None:
    """Run one part; whatever it raises is a row of the table, and in full a file."""
    print(f"{part}: {(PARTS[part].__doc__ or '').strip()}", flush=True)
    try:
        PARTS[part](proof)
    except Exception as error:
        (proof.out / f"{part}_error.txt").write_text(traceback.format_exc())
        text = f"{type(error).__name__}: {error}"
        proof.note(part, "did not end well", text[:300], good=False)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = gpu_proof_arguments.parse()
    # Started nodes and programs are ended as after Ctrl-C.
    signal.signal(signal.SIGTERM, _stop)
    try:
        name = check_available()
    except UnavailableError as error:
        print(f"gpu_proof: {error}", file=sys.stderr)
        return NO_GPU
    options.out.mkdir(parents=True, exist_ok=True)
    proof = Proof(options.smoke, options.out, options.transport == "local", options.clients,
                  options.cuda_runtime)  # fmt: skip
    stopped = False
    try:
        for part in options.only or PARTS:
            run_part(proof, part)
            write(proof, name, ended=False)
    except KeyboardInterrupt:
        stopped = True
    path = write(proof, name, ended=not stopped)
    show(proof, name)
    print(f"written: {path}{' (stopped before its end)' if stopped else ''}")
    return STOPPED if stopped else 1 if proof.failed else 0


if __name__ == "__main__":
    sys.exit(main())
