"""`rrto evaluate` with real nodes: a small program in each mode, and what is left behind."""

import json
import os
import select
import signal
import sys

import pytest

from rrto_ros.cli import main
from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation import netns
from rrto_ros.evaluation.link_emulator import require_emulation

RRTO = [sys.executable, "-m", "rrto_ros.cli.main"]
PATIENCE_S = 120


def start(rig, folder, *arguments):
    command = [*RRTO, "evaluate", "--quick", "--output", folder, *arguments]
    return rig.start("rrto evaluate", command, rig.environment())


def read(folder):
    return json.loads((folder / "results.json").read_text())


def test_the_modes_are_measured_and_compared_on_the_loopback(rig, tmp_path):
    folder = tmp_path / "found"
    modes = ("--modes", "local,rpc,replay")
    first = start(rig, folder, "--link", "loopback", *modes, "--rounds", "1")
    assert first.wait(PATIENCE_S) == 0, first.text()
    found = read(folder)
    assert found["settings"]["link"] == "loopback"
    by = {run["mode"]: run for run in found["runs"]}
    assert set(by) == {"local", "rpc", "replay"}
    for mode, run in by.items():
        assert run["failed"] == ""
        assert len(run["told_ms"]) == 40
        assert 0 < run["first_s"] < run["seconds"]
        assert run["program_cpu_s"] > 0
        assert run["recorder_memory_kb"] > 10_000
        (session,) = run["sessions"]
        assert (session["mode"], session["device"]) == (mode, "cpu")
    assert len({run["results"] for run in by.values()}) == 1
    assert by["rpc"]["sessions"][0]["round_trips"] > 300
    assert by["replay"]["sessions"][0]["inferences"] > 20
    assert "| replay |" in (folder / "report.md").read_text()
    assert "<svg" in (folder / "report.html").read_text()
    assert "is equal in all runs" in first.text()
    # The same settings go on, others are refused.
    again = start(rig, folder, "--link", "loopback", *modes, "--rounds", "1")
    assert again.wait(PATIENCE_S) == 0, again.text()
    assert "3 runs are in" in again.text()
    assert read(folder)["runs"] == found["runs"]
    other = start(rig, folder, "--link", "loopback", "--modes", "rpc")
    assert other.wait(PATIENCE_S) == 2
    assert "modes 'local rpc replay', now 'rpc'" in other.text()


def test_ctrl_c_keeps_what_is_there_and_ends_the_program(rig, tmp_path):
    folder, fifo = tmp_path / "found", tmp_path / "alive"
    os.mkfifo(fifo)
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\nalive = open(sys.argv[1], 'w')\nprint('x', file=alive, flush=True)\n"
        "time.sleep(600)\n"
    )
    alive = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        line = f"{sys.executable} {program} {fifo}"
        process = start(rig, folder, "--link", "loopback", "--program", line, "--modes", "rpc")
        assert select.select([alive], [], [], PATIENCE_S)[0], process.text()
        assert os.read(alive, 10) == b"x\n"
        process.signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130, process.text()
        assert "goes on with the rest" in process.text()
        assert os.read(alive, 10) == b""  # nobody has it open any more
        assert read(folder)["runs"] == []
    finally:
        os.close(alive)


@pytest.mark.root
def test_over_a_link_the_bytes_that_cross_it_are_counted(rig, tmp_path):
    try:
        require_emulation()
    except UnavailableError as error:
        pytest.skip(str(error))
    trace = tmp_path / "walk.csv"
    trace.write_text("0, 100, 2\n0.5, 60, 6\n1, 100, 2\n")
    folder = tmp_path / "found"
    process = start(rig, folder, "--link", trace, "--modes", "replay", "--rounds", "1")
    assert process.wait(PATIENCE_S) == 0, process.text()
    (run,) = read(folder)["runs"]
    # 40 inputs of 12 KB.
    assert run["wire_up"] > 40 * 12_000
    assert run["wire_down"] > 5_000
    assert min(run["told_ms"]) > 2
    assert "user's file walk.csv" in (folder / "report.html").read_text().replace("&#x27;", "'")


def test_a_link_that_cannot_be_emulated_says_what_works_without(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(netns.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(
        sys, "argv", ["rrto", "evaluate", "--link", "lte", "--output", str(tmp_path)]
    )
    # Not `main.main`: that may end the process that imported ROS.
    assert main._command() == 1
    said = capsys.readouterr().err
    assert "need root" in said
    assert "--link loopback" in said
