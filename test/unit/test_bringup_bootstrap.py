"""Set-up says what is missing, and what to do about it, before it changes anything."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bootstrap.py"


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tmp_path, *arguments, tools=()):
    """Run it where only these tools are on the PATH; (exit code, stderr)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in tools:
        (folder / tool).symlink_to("/bin/true")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--venv", tmp_path / "venv", *arguments],
        env={"PATH": str(folder), "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("tools", "named"), [((), "apt-get install g++ make"), (("g++",), "apt-get install make")]
)
def test_missing_tools_are_named_with_the_command_that_installs_them(tmp_path, tools, named):
    code, err = run(tmp_path, tools=tools)
    assert code == 2
    assert named in err
    assert not (tmp_path / "venv").exists()


def test_an_unknown_group_is_named(tmp_path):
    code, err = run(tmp_path, "dmeo", tools=("g++", "make"))
    assert code == 2
    assert "'dmeo'" in err
    assert "demo, test, clients" in err


def test_a_python_without_ros_wheels_is_refused(bootstrap, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(bootstrap.platform, "python_version", lambda: "3.9.1")
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit) as stop:
        bootstrap.choose_python()
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "3.9.1" in err
    assert "3.10 to 3.13" in err


def test_another_machine_is_refused_with_the_way_that_works_there(bootstrap, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "aarch64")
    with pytest.raises(SystemExit):
        bootstrap.check_machine()
    err = capsys.readouterr().err
    assert "aarch64" in err
    assert "colcon build" in err


def test_a_python_without_venv_is_told_the_package(bootstrap, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit):
        bootstrap.Environment(tmp_path / "venv").create()
    assert "apt-get install python3-venv" in capsys.readouterr().err


def test_a_step_is_done_again_only_if_what_it_depends_on_changed(bootstrap, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(bootstrap, "run", lambda arguments, what: calls.append(what))
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    (tmp_path / "requirements.txt").write_text("a\n")
    folder = tmp_path / "venv"
    folder.mkdir()
    environment = bootstrap.Environment(folder)
    for text in ("a\n", "a\n", "b\n", "b\n"):
        (tmp_path / "requirements.txt").write_text(text)
        environment.step("runtime", ["requirements.txt"], text, ["install"])
    assert calls == ["a\n", "b\n"]


def test_every_requirement_is_pinned():
    root = SCRIPT.parents[1]

    def names(path):
        lines = [line.split(";")[0].strip() for line in path.read_text().splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        return {re.split(r"[=\[]", line)[0].lower().replace("_", "-") for line in found}

    pinned = names(root / "requirements-lock.txt")
    for path in root.glob("requirements*.txt"):
        assert names(path) <= pinned, path.name


def test_a_python_that_is_named_on_the_path_but_does_not_start_is_passed_over(
    tmp_path, monkeypatch
):
    spec = importlib.util.spec_from_file_location("pythons", SCRIPT.with_name("pythons.py"))
    pythons = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pythons)
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    path, kept = tmp_path / "bin", tmp_path / "versions" / f"{own}.99" / "bin"
    for folder in (path, kept):
        folder.mkdir(parents=True)
    broken = path / f"python{own}"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(path), prepend=os.pathsep)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert pythons.found(own) is None
    (kept / f"python{own}").symlink_to(sys.executable)
    assert pythons.found(own) is not None
    assert pythons.found("3.99") is None
