"""bench/partition.py: from profiles of operators to the tables of docs/evaluation/partition.md."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROFILE = {
    # 10 kB in; after the first operator 1 kB, after the second 20 kB; 100 bytes out.
    "op": ["_start", "shrink", "grow", "end", "_end"],
    "src": [[], [0], [1], [2], [3]],
    "dst": [[1], [2], [3], [4], []],
    "bytes": [10_000, 1_000, 20_000, 100, 0],
    "robot_ms": [0.0, 1.0, 10.0, 10.0, 0.0],
    "server_ms": [0.0, 0.1, 1.0, 1.0, 0.0],
}


@pytest.fixture(scope="module")
def bench():
    for name, said in (("scipy", "SciPy"), ("yaml", "PyYAML")):
        pytest.importorskip(name, reason=f"no {said} in this Python")
    sys.path.insert(0, str(ROOT / "bench"))
    yield importlib.import_module("partition")
    sys.path.remove(str(ROOT / "bench"))


@pytest.fixture
def profiles(tmp_path):
    file = tmp_path / "profiles.json"
    odd = {**PROFILE, "server_ms": [0.0]}
    file.write_text(json.dumps({"small": PROFILE, "odd": odd}))
    return file


def test_a_cut_is_found_where_it_pays_and_a_prefix_is_as_good(bench, profiles):
    (model,) = bench.models(profiles, [])
    # 1 kB/ms: everything there takes 10 + 2.1 + 0.1 ms and two hand-overs of 0.5 ms, the cut
    # 1 + 1 + 2 + 0.1, and the same hand-overs.
    one = bench.answer(model, 8, 0.001, True)
    assert [one.best, one.edge, one.local] == pytest.approx([0.0051, 0.0132, 0.021])
    assert one.prefix == one.heuristic == pytest.approx(one.best)
    assert one.kept == pytest.approx(1 / 21)
    assert one.gain == pytest.approx(1 - 5.1 / 13.2)


def test_input_of_one_byte_per_element_is_a_quarter(bench, profiles):
    (model,) = bench.models(profiles, ["small"])
    assert [one.up_bytes for one in model.measured.data] == [2_500, 1_000, 20_000, 25]


def test_the_tables_are_printed_and_say_that_they_are_simulated(
    bench, profiles, tmp_path, monkeypatch, capsys
):
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"walk": [[5.0, 1], [5.0, 0], [5.0, 20]]}))
    arguments = ["partition.py", "--profiles", str(profiles), "--trace", str(trace)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--energy", "mcop_phone"])
    assert bench.main() == 0
    out, errors = capsys.readouterr()
    assert out.startswith("Simulated from profiles")
    assert "odd: the graphs of robot and server differ" in errors
    assert "| small | 1 | 10 |" in out
    assert "| walk | small |" in out
    assert "## For the least energy of mcop_phone" in out


def test_files_that_cannot_be_used_are_named(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["partition.py", "--profiles", str(tmp_path / "none.json")])
    assert bench.main() == 1
    assert "none.json: FileNotFoundError" in capsys.readouterr().err
