"""Package description, read by pip and by colcon (ament_python)."""

from pathlib import Path
from xml.etree import ElementTree as ET

from setuptools import find_packages, setup

PACKAGE = "rrto_ros"
MANIFEST = Path(__file__).resolve().parent / "package.xml"

setup(
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
        (f"share/{PACKAGE}/config", sorted(map(str, Path("config").glob("*.yaml")))),
    ],
    install_requires=[
        "numpy",
        "pyyaml",
        "llvmlite",
        "lz4",
        'backports.zstd; python_version < "3.14"',
        "typer",
        "rich",
        "rosbags",
        "platformdirs",
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
