"""Set-up says what is missing, and what to do about it, before it changes anything."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bootstrap.py"
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


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


def filled(folder, **changed):
    """A folder as `--download` fills it, with a wheel of each size in MiB that is given."""
    says = {"python": OWN, "machine": "x86_64", "ros": False, "groups": ["gpu"], **changed}
    folder.mkdir()
    (folder / "wheels.json").write_text(json.dumps(says))
    return folder


def wheel(folder, name, mib=0.0):
    with (folder / f"{name}-1-py3-none-any.whl").open("wb") as file:
        file.truncate(int(mib * 2**20))


def test_wheels_are_laid_into_folders_of_a_size(bootstrap, tmp_path, capsys):
    sizes = {"a": 5, "b": 30, "c": 20, "d": 39, "e": 70}
    for name, mib in sizes.items():
        wheel(tmp_path, name, mib)
    bootstrap.split(tmp_path, 40)
    found = [sorted(p.name[0] for p in part.iterdir()) for part in sorted(tmp_path.iterdir())]
    assert sorted(name for part in found for name in part) == list("abcde")
    for part in found:
        assert sum(sizes[name] for name in part) <= 40 or part == ["e"]
    assert len(found) == 4
    assert "e-1-py3-none-any.whl alone has 70 MiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "said"), [("3.12", None), ("3.10", "cannot choose"), ("4.0", "want one of")]
)
def test_wheels_can_be_those_of_another_python_that_is_near(
    bootstrap, monkeypatch, tmp_path, capsys, wanted, said
):
    commands = []
    monkeypatch.setattr(bootstrap.Environment, "create", lambda _: None)
    monkeypatch.setattr(bootstrap.Environment, "version", lambda _: "3.11")
    monkeypatch.setattr(bootstrap, "run", lambda arguments, _: commands.append(arguments))
    folder = tmp_path / "wheels"
    given = ["--download", str(folder), "--for-python", wanted, "--no-ros", "gpu"]
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", *given])
    if said is not None:
        with pytest.raises(SystemExit):
            bootstrap.main()
        assert said in capsys.readouterr().err
        assert commands == []
        return
    assert bootstrap.main() == 0
    assert len(commands) == 2  # the locked ones, and bindings for older drivers
    for command in commands:
        assert command[command.index("--python-version") + 1] == wanted
        assert command[command.index("--only-binary") + 1] == ":all:"
    says = json.loads((folder / "wheels.json").read_text())
    assert (says["python"], says["ros"], says["groups"]) == (wanted, False, ["gpu"])


def test_pip_sees_every_folder_of_wheels_and_no_registry(bootstrap, tmp_path):
    for name in ("1", "2", "empty"):
        (tmp_path / name).mkdir()
    for name in ("1", "2"):
        wheel(tmp_path / name, "a")
    assert bootstrap.wheels_of(tmp_path) == (
        "--no-index", f"--find-links={tmp_path / '1'}", f"--find-links={tmp_path / '2'}",
    )  # fmt: skip


def test_what_says_where_wheels_are_does_not_make_a_step_stale(bootstrap, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(bootstrap, "run", lambda arguments, _: commands.append(arguments))
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    (tmp_path / "requirements.txt").write_text("a\n")
    (tmp_path / "venv").mkdir()
    for source in (("--no-index", "--find-links=here"), ()):
        environment = bootstrap.Environment(tmp_path / "venv", source)
        environment.step("runtime", ["requirements.txt"], "it", ["install"])
    (command,) = commands
    assert command[3:6] == ["install", "--no-index", "--find-links=here"]


@pytest.mark.parametrize(
    ("changed", "options", "named"),
    [
        ({"machine": "riscv64"}, ["--no-ros"], "for riscv64, this is x86_64"),
        ({}, [], "filled without ROS"),
        ({}, ["--no-ros", "demo"], "no wheels of demo, only of: gpu"),
        ({"python": "3.2"}, ["--no-ros"], "are for Python 3.2"),
    ],
)
def test_a_folder_of_wheels_that_does_not_fit_is_refused_by_what_does_not(
    bootstrap, monkeypatch, tmp_path, capsys, changed, options, named
):
    folder = filled(tmp_path / "wheels", **changed)
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap.Environment, "create", lambda _: None)
    monkeypatch.setattr(bootstrap.Environment, "version", lambda _: OWN)
    monkeypatch.setattr(bootstrap, "run", lambda *_: pytest.fail("a step was made"))
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--offline", str(folder), *options])
    with pytest.raises(SystemExit) as stop:
        bootstrap.main()
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


def test_a_folder_that_nobody_filled_is_refused(tmp_path):
    code, err = run(tmp_path, "--offline", tmp_path, tools=("g++", "make"))
    assert code == 2
    assert "bootstrap.py --download" in err


def test_without_ros_a_c_compiler_is_enough(bootstrap, monkeypatch, capsys):
    there = {"gcc"}
    monkeypatch.setattr(bootstrap.shutil, "which", lambda tool: tool if tool in there else None)
    bootstrap.check_machine(ros=False)
    there.clear()
    with pytest.raises(SystemExit):
        bootstrap.check_machine(ros=False)
    assert "apt-get install gcc" in capsys.readouterr().err


def test_from_a_folder_all_of_its_groups_are_installed(bootstrap, monkeypatch, tmp_path):
    folder = filled(tmp_path / "wheels", groups=["gpu", "models"])
    wheel(folder, "a")
    commands = []
    (tmp_path / "venv").mkdir()
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap.Environment, "create", lambda _: None)
    monkeypatch.setattr(bootstrap.Environment, "version", lambda _: OWN)
    monkeypatch.setattr(bootstrap, "run", lambda arguments, _: commands.append(arguments))
    given = ["--no-ros", "--offline", str(folder), "--venv", str(tmp_path / "venv")]
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", *given])
    assert bootstrap.main() == 0
    files = [command[command.index("-r") + 1] for command in commands if "-r" in command]
    assert files == ["requirements-local.txt", "requirements-gpu.txt", "requirements-models.txt"]
    assert all("--no-index" in command for command in commands)
    assert not any("./rrto_msgs" in command for command in commands)


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
