"""The real emulator: two namespaces, TUN devices and a forwarding process. Needs root."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rrto_ros.errors import UnavailableError
from rrto_ros.evaluation import link_emulator, netns
from rrto_ros.evaluation.link_emulator import joined_by_link
from rrto_ros.evaluation.link_queue import LinkSettings
from rrto_ros.evaluation.netns import EDGE_ADDRESS, joined_by_veth

PROBE = str(Path(__file__).resolve().parents[1] / "support" / "programs" / "net_probe.py")


def _needs_namespaces():
    try:
        with netns.two_namespaces():
            pass
    except UnavailableError as error:
        pytest.skip(str(error))


def _needs_link():
    try:
        with joined_by_link(LinkSettings()):
            pass
    except UnavailableError as error:
        pytest.skip(str(error))


def _measure(machines, count=100, megabytes=0.0):
    server = machines.edge.popen(
        [sys.executable, PROBE, "serve", EDGE_ADDRESS], stdout=subprocess.PIPE
    )
    assert server.stdout.readline() == "ready\n"
    done = machines.robot.run(
        [sys.executable, PROBE, "probe", EDGE_ADDRESS, str(count), str(megabytes)], check=True
    )
    server.kill()
    server.wait()
    server.stdout.close()
    return json.loads(done.stdout)


@pytest.mark.root
def test_a_cable_joins_two_namespaces_with_their_own_names_and_shared_memory():
    _needs_namespaces()
    with joined_by_veth() as machines:
        assert machines.robot.run(["hostname"]).stdout == "robot\n"
        assert machines.edge.run(["ls", "/dev/shm"]).stdout == ""
        assert _measure(machines)["lost"] == 0


@pytest.mark.root
def test_leaving_the_namespaces_ends_every_program_inside():
    _needs_namespaces()
    with joined_by_veth() as machines:
        program = machines.edge.popen(["sleep", "600"])
        holder = machines.edge.pid
    assert program.poll() is not None
    assert not Path(f"/proc/{holder}").exists()


@pytest.mark.root
def test_an_error_inside_the_block_leaves_nothing_behind():
    _needs_namespaces()
    holders: list[int] = []

    def fail_inside() -> None:
        with joined_by_veth() as machines:
            holders.extend((machines.robot.pid, machines.edge.pid))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert holders
    assert not any(Path(f"/proc/{pid}").exists() for pid in holders)
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    assert f"rr{holders[0]}" not in links.stdout


@pytest.mark.root
def test_round_trips_take_twice_the_delay():
    _needs_link()
    with joined_by_link(LinkSettings(delay_ms=5, rate_mbit=100)) as machines:
        measured = _measure(machines)
    assert measured["lost"] == 0
    assert 10.0 <= measured["median_ms"] < 12.0, measured


@pytest.mark.root
def test_bulk_transfer_gets_the_rate_that_was_set():
    _needs_link()
    with joined_by_link(LinkSettings(delay_ms=1, rate_mbit=20)) as machines:
        measured = _measure(machines, 10, 4.0)
        counted = machines.link.statistics()
    assert 16 < measured["mbit"] < 20.5, measured
    assert counted["up"]["bytes"] > 4e6


@pytest.mark.root
def test_loss_outage_and_recovery_while_the_link_is_up():
    _needs_link()
    with joined_by_link(LinkSettings(loss=0.2), LinkSettings(), seed=5) as machines:
        assert 5 <= _measure(machines, 60)["lost"] <= 22
        machines.link.set(up=LinkSettings(loss=1.0))
        assert _measure(machines, 3)["lost"] == 3
        machines.link.set(up=LinkSettings())
        assert _measure(machines, 20)["lost"] == 0


@pytest.mark.root
def test_the_command_line_runs_a_program_on_each_side_and_passes_the_status_on():
    _needs_link()
    done = subprocess.run(
        [sys.executable, "-m", "rrto_ros.evaluation.link_emulator", "--delay-ms", "1",
         "--edge", f"{sys.executable} {PROBE} serve 0.0.0.0",
         "--robot", "sh -c 'hostname; exit 7'"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    # The two ends share the output; whose line comes first is theirs to race for.
    assert (done.returncode, "robot" in done.stdout.splitlines()) == (7, True), done
    assert "worst_late_ms" in json.loads(done.stderr.splitlines()[-1])


def test_without_root_the_error_says_so(monkeypatch):
    monkeypatch.setattr(netns.os, "geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match="need root"), netns.two_namespaces():
        pass


def test_without_tun_the_error_names_the_device(monkeypatch, tmp_path):
    monkeypatch.setattr(link_emulator, "_TUN", tmp_path / "tun")
    with pytest.raises(UnavailableError, match="tun: No such file"):
        link_emulator.open_tun("x")
