"""The rooms of the package and who may import whom (ARCHITECTURE.md, "Rooms and their order")."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "rrto_ros"
ROWS = (
    {"nodes", "cli", "evaluation", "bringup"},
    {"transport", "schedule"},
    {"replay"},
    {"search", "record"},
    {"devices"},
    {"shim"},
    {"api"},
)
RANK = {room: len(ROWS) - row for row, rooms in enumerate(ROWS) for room in rooms}
ROS = {
    "rclpy", "rrto_msgs", "sensor_msgs", "std_msgs", "std_srvs", "geometry_msgs",
    "diagnostic_msgs", "lifecycle_msgs", "rcl_interfaces", "builtin_interfaces",
}  # fmt: skip


def imports(source, module):
    """Absolute names of everything that a source imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            # `from rrto_ros import nodes` names a room, too.
            yield from (f"{name}.{alias.name}" for alias in node.names if name == "rrto_ros")


def violations(path, source):
    """What a file of the package (path inside `rrto_ros`) imports against the rules."""
    parts = Path(path).with_suffix("").parts
    room = parts[0] if len(parts) > 1 else None
    out = []
    for name in imports(source, ".".join(["rrto_ros", *parts])):
        top, *rest = name.split(".")
        if top == "rrto_ros" and rest and rest[0] in RANK:
            target = rest[0]
            if room is None and target != "api":
                out.append(f"{path}: a module of the package's root imports {name}")
            elif room is not None and RANK[target] > RANK[room]:
                out.append(f"{path}: {room} imports {name}, which is above it")
        if top in ROS and not (
            room == "nodes" or (room == "transport" and parts[1].startswith("ros_"))
        ):
            out.append(f"{path}: {name} outside nodes/ and transport/ros_*.py")
        if top == "cuda" and parts[:2] != ("devices", "gpu"):
            out.append(f"{path}: {name} outside devices/gpu/")
        if top == "llvmlite" and parts[:2] != ("devices", "cpu"):
            out.append(f"{path}: {name} outside devices/cpu/")
    return out


def test_every_room_has_a_place_in_the_order():
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert rooms - {"data", "__pycache__"} <= set(RANK)


def test_imports_go_one_way_and_outside_packages_stay_in_their_rooms():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    found = [
        line for f in files for line in violations(f.relative_to(PACKAGE), f.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("api/codec.py", "from rrto_ros.shim.build import ensure_built"),
        ("devices/null.py", "def f():\n    import rrto_ros.transport.link"),
        ("replay/worker.py", "from rrto_ros import nodes"),
        ("replay/worker.py", "from ..transport import link"),
        ("errors.py", "import rrto_ros.transport.link"),
        ("transport/link.py", "import rclpy"),
        ("cli/main.py", "from rrto_msgs.msg import Status"),
        ("devices/cpu/jit.py", "from cuda.bindings import driver"),
        ("transport/ring.py", "import llvmlite.binding"),
    ],
)
def test_a_forbidden_import_is_found(path, source):
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nodes/offload_server.py", "import rclpy\nfrom rrto_ros.transport import ros_port"),
        ("transport/ros_port.py", "from rclpy.node import Node"),
        ("devices/gpu/device.py", "from cuda.bindings import driver"),
        ("devices/cpu/jit.py", "import llvmlite.binding"),
        ("search/miner.py", "from rrto_ros.record import log"),
    ],
)
def test_an_allowed_import_is_not_found(path, source):
    assert violations(path, source) == []
