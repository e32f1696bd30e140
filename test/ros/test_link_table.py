"""The tables of `bench/link_table.py` and `bench/loading.py`, over an emulated link. Need root."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrto_ros.bringup.environment import node_environment
from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation import netns
from rrto_ros.evaluation.link_emulator import joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.root
def test_a_large_message_travels_once_over_a_slow_link():
    env = {**os.environ, **node_environment(), "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    env["RRTO_APART"] = "1"
    env["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 101)
    echo, repeats = [sys.executable, str(BENCH / "dds_echo.py")], 8
    try:
        joined = joined_by_link(LinkSettings(delay_ms=2, rate_mbit=80))
        machines = joined.__enter__()
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        machines.edge.popen([*echo, "serve", "once"], env=env, stdin=subprocess.PIPE)
        done = machines.robot.run([*echo, "probe", "once", str(repeats)], env=env, timeout_s=100)
        assert "600 KB up" in done.stdout, done.stderr
        sent = machines.link.statistics()["up"]["bytes"]
    finally:
        joined.__exit__(None, None, None)
    # The probe sends ten more to warm up. Headers, discovery and small messages are in it.
    assert sent < 1.35 * (repeats + 10) * 600_000


@pytest.fixture
def link():
    """Skips where no link between two machines can be made."""
    try:
        with joined_by_link(LinkSettings()):
            pass
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_smoke_run_measures_every_way_with_equal_results(link, tmp_path):
    out = tmp_path / "table.json"
    done = subprocess.run(
        [sys.executable, BENCH / "link_table.py", "--smoke", "--json", out],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (network,) = json.loads(out.read_text())["networks"].values()
    ways = {way["name"]: way for way in network["ways"]}
    assert set(ways) == {"rpc", "batched", "replay", "direct"}
    for way in ways.values():
        # The input travels in every way, and the link carries more than that.
        assert way["wire_up"] > way["bytes_up"] >= network["input_bytes"]
        assert way["latency_ms"] > 4
        assert way["robot_ms"] > 0
    assert ways["rpc"]["round_trips"] == ways["rpc"]["calls"] > 5
    assert ways["batched"]["round_trips"] < ways["rpc"]["round_trips"]
    assert ways["replay"]["bytes_up"] < ways["batched"]["bytes_up"]
    assert ways["replay"]["hit_rate"] > 0.3
    assert "small CNN" in done.stdout
    assert all(line in done.stdout for line in ("target at most 1.05", "target at most 0.02"))


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_second_start_over_a_link_sends_no_images(link, tmp_path):
    out = tmp_path / "loading.json"
    done = subprocess.run(
        [sys.executable, BENCH / "loading.py", "--smoke", "--json", out],
        capture_output=True, text=True, timeout=220, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    first, second = found["ways"]["lazy"]
    # Two of four images are used, and they travel packed.
    assert second["sent"] < 2000 < first["sent"] < found["images"]["needed"] / 3
    assert second["link_up"] < first["link_up"]


def test_without_root_the_table_says_so(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr(netns.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["link_table.py", "--smoke"])
    import link_table

    assert link_table.main() == 2
    assert "need root" in capsys.readouterr().err
