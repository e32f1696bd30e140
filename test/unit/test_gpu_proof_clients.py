"""The part `clients` of the proof on a GPU: what it makes of what programs print; needs no GPU."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.bench import BENCH, forget


class Told:
    """Nodes of a mode, for the part `clients`: programs print what their mode makes of it."""

    def __init__(self, mode, off=()):
        self.mode, self.off, self.ran = mode, off, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, command, timeout_s, *, foreign, allowed, **environment):
        self.ran.append((command, environment))
        env = {**os.environ, "OFF": str(int(self.mode in self.off)), **environment}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]


PROGRAM = """
import json, os, sys
name, off = sys.argv[1], os.environ.get("OFF") == "1"
if name == "absent":
    sys.exit(print("skipped: No module named 'torch'; pip install torch", file=sys.stderr) or 77)
if name == "broken":
    sys.exit("no CUDA device")
if name == "cases":
    digests = {"add": "8" if off else "7", "mul": "5", "drift": os.urandom(4).hex()}
    told = {"ran": ["add"], "failed": {"mul": "differs"}, "digests": digests}
    print(json.dumps(told)); sys.exit(1)
if name == "lost":
    told = {"ran": [] if off else ["add"], "failed": {"add": "gone"} if off else {}, "digests": {}}
    print(json.dumps(told)); sys.exit(off)
bits = os.urandom(4).hex() if name == "unsteady" else "b" if off else "a"
good = not off and name != "coarse"
print(json.dumps({"median_ms": 1.5, "sha256": bits, "worst": 1e-3, "good": good}))
sys.exit(not good)
"""


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """Runs the part `clients` for one program of `PROGRAM`; (rows, details)."""
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("gpu_proof_clients")
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(name, off=(), client="torch", cuda_runtime=True):
        python = Path(sys.executable)
        command = [sys.executable, str(tmp_path / "program.py"), name]
        compared = name in ("cases", "lost")
        program = module.Program(client, python, command, name, compared)
        monkeypatch.setattr(module, "programs", lambda *_: [program])
        rows, found = [], {}
        module.run(
            [], lambda mode: Told(mode, off), lambda *row: rows.append(row), found,
            smoke=True, cuda_runtime=cuda_runtime,
        )  # fmt: skip
        return rows, found

    yield run
    forget()


class TestClients:
    def test_the_same_bits_in_every_mode_are_good(self, tried):
        rows, found = tried("steady")
        assert [(what, good) for what, _, good in rows] == [
            ("steady natively", None), ("steady rpc", True), ("steady batched", True),
            ("steady replay", True),
        ]  # fmt: skip
        assert "1.500 ms, the same bits" in rows[1][1]
        assert found["steady"]["repeats"]
        assert found["steady"]["replay"]["median_ms"] == 1.5

    def test_other_bits_in_one_mode_fail_there(self, tried):
        rows, _ = tried("steady", off=["batched"])
        assert [good for *_, good in rows] == [None, True, False, True]
        assert "OTHER BITS" in rows[2][1]

    def test_bits_that_are_far_from_the_cpus_natively_are_compared_all_the_same(self, tried):
        rows, _ = tried("coarse", off=["rpc"])
        assert "1.0e-03 from the CPU's" in rows[0][1]
        assert [good for *_, good in rows] == [None, False, True, True]

    def test_where_a_client_does_not_repeat_its_bits_its_own_comparison_decides(self, tried):
        rows, _ = tried("unsteady", off=["replay"])
        assert "other bits the second time" in rows[0][1]
        assert [good for *_, good in rows] == [None, True, True, False]

    def test_cases_that_are_not_right_natively_are_compared_with_their_own_bits(self, tried):
        rows, _ = tried("cases")
        assert [row[2] for row in rows] == [None, True]
        assert rows[0][1].endswith("2 repeat their bits")
        assert "2 with the same bits as natively" in rows[1][1]
        rows, _ = tried("cases", off=["replay"])
        assert rows[-1][2] is False
        assert "OTHER BITS in add" in rows[-1][1]

    def test_a_case_that_is_right_natively_only_is_named(self, tried):
        rows, _ = tried("lost", off=["replay"])
        assert rows[-1][2] is False
        assert "add: gone" in rows[-1][1]

    @pytest.mark.parametrize(
        ("name", "said"),
        [("absent", "not installed: No module named 'torch'"), ("broken", "no CUDA device")],
    )
    def test_what_does_not_run_natively_is_left_out_and_said(self, tried, name, said):
        rows, found = tried(name)
        assert [row[2] for row in rows] == [None]
        assert said in rows[0][1]
        assert not found

    def test_the_cuda_runtimes_check_is_answered_only_if_asked_for(self, tried):
        rows, _ = tried("steady", cuda_runtime=False)
        assert [row[2] for row in rows] == [None]
        assert "--cuda-runtime" in rows[0][1]
        rows, _ = tried("steady", client="triton", cuda_runtime=False)
        assert [row[2] for row in rows] == [None, True, True, True]

    def test_every_client_has_examples_that_are_there(self, monkeypatch):
        monkeypatch.syspath_prepend(str(BENCH))
        module = importlib.import_module("gpu_proof_clients")
        found = module.programs([Path("/one/bin/python"), Path("/two/bin/python")], smoke=True)
        for program in found:
            assert Path(program.command[1]).is_file(), program.title
        assert {program.client for program in found} == set(module.PROGRAMS)
        assert set(importlib.import_module("clients").CLIENTS) <= set(module.PROGRAMS)
        assert len({program.title for program in found}) == len(found)
        forget()
