"""The environment of interposed programs."""

import sys
from pathlib import Path

import pytest

from rrto_ros.bringup import environment
from rrto_ros.bringup.environment import find_program, interposed_environment, library_path
from rrto_ros.errors import ConfigError

GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"


@pytest.fixture
def shim(tmp_path, monkeypatch):
    folder = tmp_path / "shim"
    folder.mkdir()
    (folder / "libcuda.so.1").write_bytes(b"")
    monkeypatch.setattr(environment, "ensure_built", lambda: folder)
    return folder


def test_the_shim_is_first_and_another_libcuda_is_out(shim, tmp_path):
    driver, other = tmp_path / "driver", tmp_path / "other"
    for folder in (driver, other):
        folder.mkdir()
    (driver / "libcuda.so.1").write_bytes(b"")
    assert library_path(shim, f"{driver}:{other}::{shim}") == f"{shim}:{other}"
    assert library_path(shim, "") == str(shim)


def test_the_program_gets_robot_and_label_and_the_rest_unchanged(shim):
    base = {"PATH": "/bin", "RRTO_ROBOT": "other", "LD_LIBRARY_PATH": "/opt/lib"}
    found = interposed_environment(base, "r2", "a label")
    assert found == {
        "PATH": "/bin",
        "RRTO_ROBOT": "r2",
        "RRTO_LABEL": "a label",
        "LD_LIBRARY_PATH": f"{shim}:/opt/lib",
    }
    assert base["RRTO_ROBOT"] == "other"


def test_a_foreign_program_does_not_inherit_this_pythons_ros(shim):
    own = str(Path(sys.prefix) / "lib")
    base = {GUARD: "1", "LD_LIBRARY_PATH": f"{own}:/opt/lib"}
    assert interposed_environment(base, "r", foreign=True) == {
        "RRTO_ROBOT": "r",
        "LD_LIBRARY_PATH": f"{shim}:/opt/lib",
    }
    kept = interposed_environment(base, "r")
    assert kept[GUARD] == "1"
    assert own in kept["LD_LIBRARY_PATH"]


def test_a_build_without_libcuda_is_refused(shim):
    (shim / "libcuda.so.1").unlink()
    with pytest.raises(ConfigError, match=r"rrto_ros\.shim\.build"):
        interposed_environment({}, "r")


def test_a_missing_program_is_named():
    with pytest.raises(ConfigError, match="no-such-program-at-all"):
        find_program("no-such-program-at-all", {"PATH": "/bin"})
