"""Broken and random PTX: refused or compiled, run to an end, never a crash or a hang.

RRTO_FUZZ_CASES and RRTO_FUZZ_SEED ask for more or other cases than the few thousand of every run.
"""

import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from support.ptx_mutations import cases

from rrto_ros.devices.cpu.codegen.kernel import generate
from rrto_ros.devices.cpu.jit import host_target
from rrto_ros.devices.cpu.program import prepare
from rrto_ros.errors import PtxError

CASES = int(os.environ.get("RRTO_FUZZ_CASES", "3000"))
SEED = int(os.environ.get("RRTO_FUZZ_SEED", "1"))
ROOT = Path(__file__).resolve().parents[1]
LISTINGS = sorted((ROOT / "conformance" / "cases").glob("*.ptx"))
SLOWEST_S = 5.0


def compiled(text):
    """How many LLVM modules came of a text; each must be valid."""
    count = 0
    for kernel in prepare(text).kernels:
        for block, lanes in (((1, 1, 1), 1), ((64, 2, 1), 16)):
            for memcheck in (False, True) if lanes == 1 else (False,):
                try:
                    made = generate(kernel, block, lanes, memcheck=memcheck)
                except PtxError:
                    continue
                llvm.parse_assembly(made.text).verify()
                # Without a look at every access a pointer comes from no number (containment.py).
                assert memcheck or "inttoptr" not in made.text
                count += 1
    return count


@pytest.mark.timeout(600 if CASES > 5000 else 120)
def test_any_text_is_refused_or_becomes_valid_code():
    host_target()
    ends = collections.Counter()
    for number, text in cases([p.read_text() for p in LISTINGS], SEED, CASES):
        started = time.perf_counter()
        try:
            ends["valid"] += bool(compiled(text))
        except PtxError:
            ends["refused"] += 1
        except Exception as error:
            raise AssertionError(f"case {number}: {error!r}\n{text}") from error
        assert time.perf_counter() - started < SLOWEST_S, number
    # Neither a generator that makes only nonsense nor a reader that accepts everything.
    assert min(ends["valid"], ends["refused"]) > CASES // 20


@pytest.mark.timeout(600 if CASES > 5000 else 120)
def test_running_broken_kernels_always_comes_to_an_end():
    count = max(40, CASES // 50)
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "support" / "programs" / "run_mutations.py",
            str(SEED),
            str(count),
            *map(str, LISTINGS),
        ],
        capture_output=True,
        text=True,
        timeout=60 + count,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-2000:])
    ends = collections.Counter(end for _, end, _ in lines)
    assert len(lines) == count
    assert set(ends) <= {
        "done",
        "no kernel",
        "ILLEGAL_ADDRESS",
        "LAUNCH_TIMEOUT",
        "INVALID_VALUE",
        "INVALID_PTX",
        "LAUNCH_FAILED",
    }
    assert ends["done"] > count // 4
