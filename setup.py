"""Package description, read by pip and by colcon (ament_python).

A build compiles the shim (rrto_ros/shim/build.py), so that no compiler is needed where the package
runs. An editable installation does not: the source tree builds it when it is first needed.
"""

import shutil
import sys
import sysconfig
from pathlib import Path
from xml.etree import ElementTree as ET

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools older than 70.1; colcon needs no wheel
    try:
        from wheel.bdist_wheel import bdist_wheel
    except ImportError:
        bdist_wheel = None

PACKAGE = "rrto_ros"
ROOT = Path(__file__).resolve().parent
MANIFEST = ROOT / "package.xml"


class BuildWithShim(build_py):
    """Python files and data, and the shim's libraries beside them."""

    def _libraries(self) -> Path:
        return Path(self.build_lib) / PACKAGE / "shim" / "lib"

    def run(self) -> None:
        """Build all; a missing C compiler ends it with what to install."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        sys.path.insert(0, str(ROOT))
        from rrto_ros.errors import UnavailableError
        from rrto_ros.shim.build import build_stamped

        shutil.rmtree(self._libraries(), ignore_errors=True)
        try:
            build_stamped(self._libraries())
        except UnavailableError as error:
            raise SystemExit(f"{PACKAGE} is not built: {error}") from error

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Every file that `run` makes."""
        made = super().get_outputs(include_bytecode)
        return made + sorted(str(p) for p in self._libraries().rglob("*") if p.is_file())


commands = {"build_py": BuildWithShim}
if bdist_wheel is not None:

    class WheelOfOneMachine(bdist_wheel):
        """A wheel for every Python, and for processors of this kind."""

        def get_tag(self) -> tuple[str, str, str]:
            """Its name's last three parts."""
            where = self.plat_name if self.plat_name_supplied else sysconfig.get_platform()
            return "py3", "none", where.replace("-", "_").replace(".", "_")

    commands["bdist_wheel"] = WheelOfOneMachine

setup(
    cmdclass=commands,
    name=PACKAGE,
    version=ET.parse(MANIFEST).getroot().findtext("version", "").strip(),
    description="Runs the CUDA work of unmodified robot programs on an edge GPU over ROS 2.",
    license="Apache-2.0",
    maintainer="rrto_ros maintainers",
    maintainer_email="maintainers@rrto-ros.invalid",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={
        PACKAGE: ["data/*", "py.typed"],
        f"{PACKAGE}.shim": ["core/*.[ch]", "generated/*", "standins/*.c"],
        f"{PACKAGE}.api": ["_generated/*"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(map(str, Path("launch").glob("*.launch.py")))),
        (f"share/{PACKAGE}/examples", sorted(map(str, Path("examples").glob("*.py")))),
        (f"share/{PACKAGE}/config", sorted(map(str, Path("config").glob("*.*ml")))),
    ],
    install_requires=[
        "numpy",
        "scipy",
        "pyyaml",
        "llvmlite",
        "lz4",
        'backports.zstd; python_version < "3.14"',
        "typer",
        "rich",
        "rosbags",
        "platformdirs",
        "cryptography>=41",
    ],
    extras_require={
        "gpu": ["cuda-python>=12.6", "nvidia-ml-py"],
        "demo": ["tinygrad", "opencv-python-headless"],
        "test": ["pytest<9", "pytest-timeout", "hypothesis"],
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "rrto = rrto_ros.cli.main:main",
            "recorder_replayer = rrto_ros.nodes.recorder_replayer:main",
            "offload_server = rrto_ros.nodes.offload_server:main",
            "camera = rrto_ros.demo.camera:main",
            "perception = rrto_ros.demo.perception:main",
        ],
    },
)
