"""What recording and searching cost: per call while recording, and a log of a million calls.

python bench/search.py            # the figures (half a minute)
python bench/search.py --smoke    # the same code on little data, for tests
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

from rrto_ros.robot.record import CallLog, dump, load
from rrto_ros.robot.search import ALGORITHMS, make_search

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
from support.synthetic import Model, Program, repeat_records


def steady(kernels: int) -> list[bytes]:
    """Records of one inference in steady state."""
    program = Program()
    model = Model(program, "net", 1, kernels=kernels)
    model.infer()
    return program.records()[program.truth["net"][0][0] :]


def looped(kernels: int, calls: int) -> list[bytes]:
    """Records of a steady loop, numbered on."""
    out = (steady(kernels) * (calls // (kernels + 2) + 1))[:calls]
    return [r[:8] + struct.pack("<Q", i) + r[16:] for i, r in enumerate(out, 1)]


def varied(calls: int, seed: int = 1) -> list[bytes]:
    """Records of a program with noise, three models in random order and varying arguments."""
    rng = random.Random(seed)
    program = Program()
    models = [Model(program, n, i + 1, kernels=30 + 40 * i) for i, n in enumerate("abc")]
    for model in models:
        model.warm_up(rng)
        model.autotune(rng)
    while len(program.calls) < calls:
        rng.choice(models).infer(rng.getrandbits(40))
    return program.records()


def batches(data: list[bytes], per_batch: int) -> list[bytes]:
    return [b"".join(data[i : i + per_batch]) for i in range(0, len(data), per_batch)]


def while_recording(records: list[bytes], algorithm: str, per_batch: int) -> dict[str, float]:
    """CPU microseconds per call of logging and of searching, in batches of `per_batch` calls.

    CPU time of the thread, so that other programs on the machine do not count.
    """
    parts = batches(records, per_batch)
    log = CallLog()
    start = time.thread_time()
    for part in parts:
        log.extend(part)
    logging = time.thread_time() - start
    log = CallLog()
    search = make_search(algorithm, log)
    start = time.thread_time()
    for part in parts:
        log.extend(part)
        if search.update():
            search.found()
    total = time.thread_time() - start
    n = len(records)
    return {
        "log_us_per_call": 1e6 * logging / n,
        "search_us_per_call": 1e6 * (total - logging) / n,
        "total_us_per_call": 1e6 * total / n,
        "found": len(search.found()),
    }


def offline(calls: int, kernels: int, folder: Path) -> dict[str, float]:
    """Seconds to load a dumped log of `calls` calls and to search it."""
    log = CallLog(max_calls=calls + 16)
    records = steady(kernels)
    block = 100_000 // len(records) * len(records)
    for first in range(1, calls + 1, block):
        log.extend(repeat_records(records, min(block, calls + 1 - first), first))
    path = folder / "log"
    size = dump(log, path)
    t0 = time.perf_counter()
    loaded = load(path)
    t1 = time.perf_counter()
    search = make_search("operator_sequence", loaded)
    search.update()
    found = search.found()
    t2 = time.perf_counter()
    return {
        "calls": len(loaded),
        "file_bytes": size,
        "load_s": t1 - t0,
        "search_s": t2 - t1,
        "found": len(found),
        "found_length": len(found[0]) if found else 0,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="little data; checks, no figures")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(arguments)
    calls = 4_000 if args.smoke else 100_000
    report: dict[str, dict[str, float]] = {}
    programs = {
        "loop of 102 calls": looped(100, calls),
        "loop of 3 calls": looped(1, calls),
        "3 models, noise, varying": varied(calls // 4),
    }
    for name, records in programs.items():
        for algorithm in ALGORITHMS:
            for per_batch in (1, 100):
                runs = [
                    while_recording(records, algorithm, per_batch)
                    for _ in range(1 if args.smoke else 5)
                ]
                middle = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
                report[f"{name}, {algorithm}, batches of {per_batch}"] = middle
    with tempfile.TemporaryDirectory() as folder:
        total = 20_000 if args.smoke else 1_000_000
        for kernels in (1, 450, 19_998):
            if args.smoke and kernels > 1000:
                continue
            report[f"offline, loop of {kernels + 2} calls"] = offline(total, kernels, Path(folder))
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        for name, row in report.items():
            print(name)
            print("   " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
