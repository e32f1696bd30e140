"""The table of docs/clients.md: rows from what programs told, and rows that stay."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "test" / "clients"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_clients", ROOT / "bench" / "clients.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def session(**fields):
    return {"inferences": 0, "inference_round_trips": 0.0, **fields}


def test_a_row_says_what_ran_and_what_did_not(bench):
    told = {"client": "Triton", "version": "3.9", "compared": "NumPy", "ran": ["softmax", "add"],
            "failed": {"matmul": "RuntimeError: a | b"}}  # fmt: skip
    totals = {"calls_local": 1000, "calls_async": 200, "calls_sync": 34,
              "unsupported": {f"cuCall{i}": i for i in range(9, 3, -1)}}  # fmt: skip
    counted = {"totals": totals, "sessions": [session(), session(inferences=9,
               inference_round_trips=1.0)]}  # fmt: skip
    row = bench.row("triton", "cpu", 1, told, counted)
    assert row["right"] == "softmax, add"
    assert row["not right"] == r"matmul: RuntimeError: a \| b"
    assert (row["calls"], row["exchanges per inference"]) == ("1,234", "1")
    assert row["unsupported"] == "cuCall9 9<br>cuCall8 8<br>cuCall7 7<br>cuCall6 6<br>and 2 more"


def test_a_row_of_checked_calls_says_how_many_and_what_was_found(bench):
    told = {"client": "PyTorch", "ran": ["inference"], "compared": "shapes alone"}
    right = "1234 calls, 0 findings; left at the end: 3 events"
    row = bench.row("torch", "null", 0, told, {}, [right])
    assert row["not right"] == "none"
    assert row["compared with"] == "shapes alone; 1,234 calls with the driver's documentation"
    found = "call #7 mem_free: 0x10 is no allocation: no memory is there"
    row = bench.row("torch", "null", 0, told, {}, [found, found, "9 calls, 1 findings (frees 1)"])
    assert row["not right"] == found
    row = bench.row("torch", "null", 0, told, {}, ["9 calls, 1 findings (frees 1); left"])
    assert row["not right"] == "1 findings (frees 1); left"


def test_calls_that_nobody_said_were_checked_are_not_right(bench):
    row = bench.row("torch", "null", 0, {"ran": ["inference"]}, {}, [])
    assert row["not right"] == "the device did not say that it checked the calls"


def test_of_many_cases_a_row_names_the_first(bench):
    row = bench.row("cupy", "cpu", 0, {"ran": [f"case{i}" for i in range(40)]}, {})
    assert row["right"].startswith("40 cases: case0, case1, ")
    assert row["right"].endswith("case11 and 28 more")


def test_a_program_that_told_nothing_is_no_success(bench):
    row = bench.row("jax", "cpu", 134, {}, {})
    assert row["not right"] == "ended with 134 before it had a result"
    assert (row["right"], row["exchanges per inference"]) == ("none", "-")


def test_rows_are_read_back_as_they_were_written(bench):
    page = f"before\n{bench.BEGIN}\n{bench.END}\nafter | all |\n"
    rows = [bench.row(name, "cpu", 1, {"failed": {"a": "x | y"}, "ran": ["b"]}, {})
            for name in ("one", "two")]  # fmt: skip
    written = bench.with_rows(page, rows)
    assert bench.read_rows(written) == rows
    assert bench.with_rows(written, bench.read_rows(written)) == written
    assert written.startswith("before\n")
    assert written.endswith("after | all |\n")


def test_the_page_has_a_place_for_the_table_and_each_client_a_program(bench):
    rows = bench.read_rows(bench.PAGE.read_text())
    assert all(len(row) == len(bench.COLUMNS) for row in rows)
    for client in bench.CLIENTS.values():
        assert (PROGRAMS / client.program).is_file()


def agreed(case, tolerance="1e-5"):
    """Runs one case of a made-up client; (exit code, its JSON)."""
    text = (
        "import sys, numpy as np; from agree import Cases; c = Cases('a', '1', 'NumPy'); "
        f"c.check('case', lambda: {case}, {tolerance}); sys.exit(c.end())"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], env={"PYTHONPATH": str(PROGRAMS)}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        ("([1.0, 2.0], [1.0, 2.1])", "1e-5"),
        ("([1.0, np.nan], [1.0, 2.0])", "1e-5"),
        ("([1.0], [1.0, 1.0])", "1e-5"),
        ("([1.0 + 1e-12], [1.0])", "0"),
        ("1 / 0", "1e-5"),
    ],
)
def test_what_differs_fails(case, tolerance):
    code, told = agreed(case, tolerance)
    assert (code, told["ran"], list(told["failed"])) == (1, [], ["case"])


def test_what_agrees_does_not_fail():
    code, told = agreed("([1.0, 2.0], [1.0, 2.0 + 1e-6])")
    (digest,) = told.pop("digests").values()
    assert (code, told) == (
        0, {"client": "a", "version": "1", "compared": "NumPy", "ran": ["case"], "failed": {}},
    )  # fmt: skip
    assert agreed("([1], [1])", "0")[0] == 0
    assert agreed("([1.0, 2.0], [9.0, 2.0])")[1]["digests"] == {"case": digest}
    assert agreed("([1.0, 2.1], [1.0, 2.0])")[1]["digests"] != {"case": digest}
