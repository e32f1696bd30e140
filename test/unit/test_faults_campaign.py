"""The campaign of faults: a short one, and that it notices what it is there to notice."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from support import bench

sys.path.insert(0, str(bench.BENCH))

import faults_here
from faults_report import GROWTH_MIB, Before, Outcome, descendants

from rrto_ros.robot.state import journal

SEED = int(os.environ.get("RRTO_FAULTS_SEED", "1"))


@pytest.mark.timeout(300)
def test_a_short_campaign_costs_no_byte_and_leaves_nothing():
    seen = faults_here.campaign(40, 2, SEED, per_second=4.0, longest_cut_s=2.0)
    assert seen.good, (seen.table(), seen.wrong, seen.left, seen.growth)
    assert sum(seen.faults.values()) == 40
    assert seen.programs > 0
    assert "**40**" in seen.table()


@pytest.mark.timeout(300)
def test_a_campaign_notices_a_session_that_is_not_resumed_exactly(monkeypatch):
    # Every result of a session that goes on elsewhere is taken for another one.
    monkeypatch.setattr(journal, "_digest", lambda result: os.urandom(8))
    monkeypatch.setattr(faults_here, "program", lambda rng: ["tracker.py", "3000"])
    seen = None

    def only(self):
        return "server killed", lambda: self.faults["server killed"][1](self._rng)

    monkeypatch.setattr(faults_here.Campaign, "next", only)
    seen = faults_here.campaign(8, 1, SEED, per_second=0.5, longest_cut_s=1.0, servers=1)
    assert not seen.good
    assert any("gives another result" in text for text in seen.wrong), seen.wrong


def test_what_is_left_is_told(tmp_path):
    before = Before.now()
    assert before.left([tmp_path], 0.0) == []
    with (
        tempfile.TemporaryDirectory(prefix="rrto-", dir="/tmp") as made,
        socket.socket(socket.AF_UNIX) as listener,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process,
    ):
        folder = Path(made)
        listener.bind(str(folder / "s.sock"))
        (folder / ".new-half").write_text("")
        over = threading.Event()
        thread = threading.Thread(target=over.wait, name="forgotten")
        thread.start()
        told = " ".join(before.left([folder], 0.0))
        over.set()
        thread.join()
        assert process.pid in [pid for pid, _ in descendants(os.getpid())]
        for what in (f"process {process.pid}", "s.sock", ".new-half", "open files", "forgotten"):
            assert what in told
        process.communicate(b"\n")
    assert before.left([tmp_path], 10.0) == []


@pytest.mark.parametrize(
    "seen",
    [
        Outcome(wrong=["a byte"]),
        Outcome(left=["a process"]),
        Outcome(resident_mib={"a node": (50.0, 51.0 + GROWTH_MIB)}),
    ],
)
def test_each_thing_that_must_hold_counts(seen):
    assert Outcome().good
    assert not seen.good
