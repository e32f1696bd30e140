"""What the packages say of themselves, and what an installation holds."""

import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import rrto_ros

ROOT = Path(__file__).resolve().parents[2]


def manifest_version(folder):
    """The version in a package.xml."""
    return ET.parse(folder / "package.xml").getroot().findtext("version")


def imported(folder, expression="rrto_ros.__version__", **given):
    """What a Python that has `folder` before all else prints of an expression."""
    return subprocess.run(
        [sys.executable, "-c", f"import rrto_ros; print({expression})"], cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "", **given}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def source_tree(folder, version):
    """As much of a source tree as the package's version and description need."""
    shutil.copytree(ROOT / "rrto_ros", folder / "rrto_ros",
                    ignore=shutil.ignore_patterns("__pycache__", "lib"))  # fmt: skip
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "package.xml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("launch", "config", "resource"):
        shutil.copytree(ROOT / name, folder / name)
    path = folder / "package.xml"
    was = manifest_version(folder)
    path.write_text(path.read_text().replace(f"<version>{was}<", f"<version>{version}<"))
    return folder


def metadata_of(folder, version):
    """What an installer leaves beside a package."""
    made = folder / f"rrto_ros-{version}.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: rrto_ros\nVersion: {version}\n")


def test_both_packages_and_the_module_have_one_version():
    wanted = manifest_version(ROOT)
    assert manifest_version(ROOT / "rrto_msgs") == wanted
    assert rrto_ros.__version__ == wanted


def test_a_source_tree_that_is_not_installed_knows_its_version(tmp_path):
    done = imported(source_tree(tmp_path, "7.8.9"))
    assert done.stdout.split() == ["7.8.9"], done.stderr


def test_the_package_without_its_tree_has_the_version_of_its_metadata(tmp_path):
    shutil.copytree(ROOT / "rrto_ros", tmp_path / "rrto_ros")
    metadata_of(tmp_path, "4.5.6")
    done = imported(tmp_path)
    assert done.stdout.split() == ["4.5.6"], done.stderr


def test_a_manifest_of_another_package_is_not_taken_for_ours(tmp_path):
    metadata_of(source_tree(tmp_path, "7.8.9"), "4.5.6")
    path = tmp_path / "package.xml"
    path.write_text(path.read_text().replace("<name>rrto_ros<", "<name>another<"))
    assert imported(tmp_path).stdout.split() == ["4.5.6"]


def test_an_attribute_that_is_none_is_refused():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = rrto_ros.no_such_thing


def test_setup_takes_the_version_from_package_xml(tmp_path):
    pytest.importorskip("setuptools", reason="no setuptools in this Python")
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=source_tree(tmp_path, "7.8.9"),
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split()[-1] == "7.8.9"


def test_rrto_msgs_takes_the_version_from_its_package_xml(tmp_path):
    pytest.importorskip("scikit_build_core", reason="no scikit-build-core in this Python")
    for name in ("pyproject.toml", "package.xml"):
        text = (ROOT / "rrto_msgs" / name).read_text()
        was = manifest_version(ROOT / "rrto_msgs")
        (tmp_path / name).write_text(text.replace(f"<version>{was}<", "<version>7.8.9<"))
    done = subprocess.run(
        [sys.executable, "-c",
         "from scikit_build_core.build import prepare_metadata_for_build_wheel as p; p('out')"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "out").glob("*.dist-info")
    assert "\nVersion: 7.8.9\n" in (made / "METADATA").read_text()
