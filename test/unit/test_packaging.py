"""What the packages say of themselves, and what an installation holds."""

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which a wheel of this source tree was unpacked, as an installer does."""
    pytest.importorskip("setuptools", reason="no setuptools in this Python")
    folder = tmp_path_factory.mktemp("wheel")
    tree = source_tree(folder / "tree", manifest_version(ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index",
         "--disable-pip-version-check", "-w", folder, tree],
        capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    shutil.rmtree(tree)
    return folder / "site", wheel


def test_a_wheel_is_for_any_python_on_this_kind_of_machine(installed):
    _, wheel = installed
    assert wheel.name.startswith(f"rrto_ros-{manifest_version(ROOT)}-py3-none-linux_")
    assert wheel.name.endswith(f"_{os.uname().machine}.whl")


BUILD = "(lambda b: b.ensure_built())(__import__('rrto_ros.shim.build').shim.build)"


def test_an_installed_package_needs_no_compiler_and_writes_nothing(installed, tmp_path):
    site, _ = installed
    before = sorted(p for p in site.rglob("*") if "__pycache__" not in p.parts)
    done = imported(site, BUILD, HOME=str(tmp_path))
    assert done.stdout.strip() == str(site / "rrto_ros" / "shim" / "lib"), done.stderr
    assert sorted(p for p in site.rglob("*") if "__pycache__" not in p.parts) == before
    assert list(tmp_path.iterdir()) == []
    names = {p.name for p in (site / "rrto_ros" / "shim" / "lib").rglob("*.so*")}
    assert {
        "libcuda.so",
        "libcuda.so.1",
        "librrto_recorder.so",
        "librrto_nvrtc.so",
        "libnvidia-ml.so.1",
    } <= names


def test_installed_libraries_of_other_sources_are_not_used(installed, tmp_path):
    shutil.copytree(installed[0], tmp_path / "site")
    changed = tmp_path / "site" / "rrto_ros" / "shim" / "core" / "ring.c"
    changed.write_text(changed.read_text() + "\n/* another */\n")
    done = imported(tmp_path / "site", BUILD, HOME=str(tmp_path / "home"))
    assert "no C compiler found" in done.stderr
    assert "apt-get install gcc" in done.stderr


def test_both_names_of_the_library_are_one_library(installed):
    lib = installed[0] / "rrto_ros" / "shim" / "lib"
    look = (
        "import ctypes, sys\n"
        "at = [ctypes.cast(ctypes.CDLL(name).cuInit, ctypes.c_void_p).value\n"
        "      for name in sys.argv[1:]]\n"
        "assert at[0] == at[1], at\n"
    )
    for names in (("libcuda.so.1", "libcuda.so"), ("libcuda.so", "libcuda.so.1")):
        subprocess.run([sys.executable, "-c", look, *names], timeout=60, check=True,
                       env={**os.environ, "LD_LIBRARY_PATH": str(lib)})  # fmt: skip
        # By its path, as programs do that search themselves.
        subprocess.run([sys.executable, "-c", look, *(str(lib / name) for name in names)],
                       timeout=60, check=True)  # fmt: skip


def test_without_a_compiler_a_build_ends_and_says_what_to_install(tmp_path):
    pytest.importorskip("setuptools", reason="no setuptools in this Python")
    tree = source_tree(tmp_path / "tree", "7.8.9")
    done = subprocess.run(
        [sys.executable, "setup.py", "build"], cwd=tree, env={"PATH": "", "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode
    assert "rrto_ros is not built: no C compiler found" in done.stderr


def test_an_installation_as_colcon_makes_it_has_the_libraries(tmp_path):
    pytest.importorskip("setuptools", reason="no setuptools in this Python")
    tree = source_tree(tmp_path / "tree", "7.8.9")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "egg_info", "build", "--build-base",
         tmp_path / "build", "install", "--prefix", tmp_path / "prefix", "--record",
         tmp_path / "record", "--single-version-externally-managed"],
        cwd=tree, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (library,) = (tmp_path / "prefix").rglob("libcuda.so.1")
    assert str(library) in (tmp_path / "record").read_text()
    assert ctypes.CDLL(str(library)).cuDriverGetVersion is not None
    assert imported(library.parents[3]).stdout.split() == ["7.8.9"]
