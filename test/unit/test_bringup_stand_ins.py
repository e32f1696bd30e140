"""What programs of a device that executes PTX are given in place of NVIDIA's tools."""

import os
import shlex
import subprocess
import sys

import pytest

from rrto_ros.bringup import stand_ins
from rrto_ros.bringup.stand_ins import TOOL_VARIABLES, assembler, with_stand_ins
from rrto_ros.shim.build import STAND_INS

LIBRARIES = ("libnvJitLink.so.12", "libnvJitLink.so.13", "librrto_nvrtc.so")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of the stand-ins; nothing is built."""
    monkeypatch.setattr(stand_ins, "ensure_built", lambda: tmp_path / "shim")
    (tmp_path / "shim" / "standins").mkdir(parents=True)
    return tmp_path / "shim" / "standins"


def test_stand_ins_are_for_a_device_that_executes_ptx_alone(folder):
    assert tuple(STAND_INS) == LIBRARIES
    ours = [str(folder / name) for name in LIBRARIES]
    tool = str(folder / "bin" / "ptxas")
    base = {"LD_PRELOAD": "/a.so /b.so", "PATH": "/usr/bin:/bin", "OTHER": "1"}
    assert with_stand_ins(base, "cpu") == {
        "LD_PRELOAD": ":".join(["/a.so", "/b.so", *ours]),
        "OTHER": "1",
        "PATH": f"{folder}/bin:/usr/bin:/bin",
        "TRITON_PTXAS_PATH": tool,
        "TRITON_PTXAS_BLACKWELL_PATH": tool,
    }
    once = with_stand_ins({}, "cpu")
    assert with_stand_ins(once, "cpu") == once
    assert once["LD_PRELOAD"] == ":".join(ours)
    for device in ("gpu", "null", ""):
        assert with_stand_ins(base, device) == base
    off = {**base, "RRTO_STAND_INS": "0"}
    assert with_stand_ins(off, "cpu") == off


@pytest.mark.parametrize("name", TOOL_VARIABLES)
def test_the_users_own_assembler_is_left(folder, name):
    found = with_stand_ins({name: "/opt/ptxas"}, "cpu")
    assert found[name] == "/opt/ptxas"
    (other,) = {*TOOL_VARIABLES} - {name}
    assert found[other] == str(folder / "bin" / "ptxas")


def test_the_assembler_runs_without_the_environments_python_and_is_made_anew_if_stale(folder):
    tool = assembler(folder)
    environment = {"PATH": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}

    def version():
        return subprocess.run(
            [tool, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=environment,
        ).stdout

    assert "rrto_ros" in version()
    assert "site" not in tool.read_text().replace("site-packages", "")
    right = tool.read_text()
    tool.write_text("#!/bin/sh\nexec /of/another/python\n")
    assert assembler(folder) == tool
    assert tool.read_text() == right
    tool.chmod(0o644)
    assert os.access(assembler(folder), os.X_OK)
    assert [path.name for path in tool.parent.iterdir()] == ["ptxas"]


def test_where_the_package_cannot_be_written_the_users_cache_has_the_assembler(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "package").write_text("no folder can be made in a file")
    tool = assembler(tmp_path / "package")
    assert (tmp_path / "cache") in tool.parents
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "package"))
    assert assembler(tmp_path / "package") is None
    monkeypatch.setattr(stand_ins, "ensure_built", lambda: tmp_path / "package")
    assert set(with_stand_ins({"PATH": "/bin"}, "cpu")) == {"PATH", "LD_PRELOAD"}


def test_a_shell_can_take_the_variables_over(tmp_path):
    environment = {**os.environ, "RRTO_MARK": "it's"}
    command = f'eval "$({shlex.quote(sys.executable)} -m rrto_ros.bringup.stand_ins)" && env'
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=environment,
    )
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    wanted = with_stand_ins(environment, "cpu")
    for name in ("PATH", "LD_PRELOAD", *TOOL_VARIABLES):
        assert found[name] == wanted[name]
