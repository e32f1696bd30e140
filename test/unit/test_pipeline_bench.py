"""bench/pipeline.py: from profiles of operators to the tables of docs/evaluation/pipeline.md."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROFILE = {
    # 10 kB in; after the first operator 1 kB, after the second 20 kB; 100 bytes out.
    "op": ["_start", "shrink", "grow", "end", "_end"],
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
    yield importlib.import_module("pipeline")
    sys.path.remove(str(ROOT / "bench"))


@pytest.fixture
def profiles(tmp_path):
    file = tmp_path / "profiles.json"
    file.write_text(json.dumps({"small": PROFILE}))
    return file


def setting(bench, profiles, byte_ends=False):
    (model,) = bench.models(profiles, ["small"] if byte_ends else [])
    return bench.Setting(model, bench.Link(1e6, 1e6, 0.001), 4, 8, byte_ends)


def test_the_best_cut_is_where_the_slowest_stage_is_fastest(bench, profiles):
    one = bench.answer(setting(bench, profiles))
    # 1 kB/ms: up 1 ms with all bits, and the edge takes 2 ms; 264 bytes with 8 bits.
    assert one.best.pipeline.stages_s == pytest.approx((1e-3, 1e-3, 2e-3, 1e-4))
    assert one.narrow.widths == (32, 8, 32, 32)
    assert one.narrow.pipeline.stages_s[1] == pytest.approx(258e-6)
    assert bench.period(one.local) == pytest.approx(21e-3)
    assert bench.period(one.edge) == pytest.approx(10e-3)
    assert bench.latency(one.edge) == pytest.approx(13.2e-3)


def test_results_and_bytes_cross_as_they_are(bench, profiles):
    for byte_ends, narrow in ((False, [0, 1, 2]), (True, [1, 2])):
        passes = setting(bench, profiles, byte_ends).task(True).passes
        assert [tensor for tensor in range(4) if passes(tensor, 8)] == narrow


def test_the_tables_are_printed_and_say_that_they_are_simulated(
    bench, profiles, monkeypatch, capsys
):
    monkeypatch.setattr(bench, "SHOWN_MBITS", (1, 10))
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "--profiles", str(profiles)])
    assert bench.main() == 0
    out = capsys.readouterr().out
    assert out.startswith("Simulated from profiles; nothing was executed or sent.")
    for said in ("Results per second", "Where COACH's figures are reached", "A camera",
                 "Bits that cost no throughput", "Placements in turn"):  # fmt: skip
        assert f"## {said}" in out, said
    for said in ("| small | 10 |", "| small | 30 | yes |"):
        assert said in out, said
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "--profiles", str(profiles / "none")])
    assert bench.main() == 1
    assert "pipeline.py: profiles" in capsys.readouterr().err
