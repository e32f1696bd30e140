"""The rooms of the package and who may import whom (ARCHITECTURE.md, "Rooms and their order")."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "rrto_ros"
ROWS = (
    {"nodes", "cli", "evaluation", "bringup", "demo"},
    {"robot", "edge"},
    {"schedule", "execution", "ros", "clients"},
    {"wire", "shim", "devices"},
    {"api"},
)
RANK = {room: len(ROWS) - row for row, rooms in enumerate(ROWS) for room in rooms}
APART = {
    ("robot", "edge"), ("edge", "robot"), ("execution", "ros"), ("ros", "execution"),
    ("schedule", "execution"), ("schedule", "ros"), ("schedule", "clients"),
}  # fmt: skip
"""Rooms of one row that must not know each other: other machines, other processes."""
ROS = {
    "rclpy", "rrto_msgs", "sensor_msgs", "std_msgs", "std_srvs", "geometry_msgs",
    "diagnostic_msgs", "lifecycle_msgs", "rcl_interfaces", "builtin_interfaces",
}  # fmt: skip
ROS_ROOMS = {"nodes", "demo", "ros"}


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


def rooms(path, source):
    """Room of a file of the package (None: the root), and of what it imports of the package."""
    parts = Path(path).with_suffix("").parts
    room = parts[0] if len(parts) > 1 else None
    for name in imports(source, ".".join(["rrto_ros", *parts])):
        top, *rest = name.split(".")
        if top == "rrto_ros" and rest and rest[0] in RANK:
            yield room, rest[0], name


def violations(path, source):
    """What a file of the package (path inside `rrto_ros`) imports against the rules."""
    parts = Path(path).with_suffix("").parts
    out = []
    for room, target, name in rooms(path, source):
        if room is None and target != "api":
            out.append(f"{path}: a module of the package's root imports {name}")
        elif room is not None and RANK[target] > RANK[room]:
            out.append(f"{path}: {room} imports {name}, which is above it")
        elif (room, target) in APART:
            out.append(f"{path}: {room} imports {name}, which must not know each other")
    room = parts[0] if len(parts) > 1 else None
    for name in imports(source, ".".join(["rrto_ros", *parts])):
        top = name.split(".")[0]
        if top in ROS and room not in ROS_ROOMS:
            out.append(f"{path}: {name} outside nodes/, demo/ and ros/")
        if top == "cuda" and parts[:2] != ("devices", "gpu"):
            out.append(f"{path}: {name} outside devices/gpu/")
        if top == "llvmlite" and parts[:2] != ("devices", "cpu"):
            out.append(f"{path}: {name} outside devices/cpu/")
        if top == "scipy" and room != "schedule":
            out.append(f"{path}: {name} outside schedule/")
        if top == "ray" and room != "edge":
            out.append(f"{path}: {name} outside edge/")
    return out


def circles(arrows):
    """Pairs of rooms that import each other, directly or by way of others of their row."""
    reach = {room: {b for a, b in arrows if a == room and a != b} for room, _ in arrows}
    for _ in reach:
        for room, to in reach.items():
            reach[room] = to.union(*(reach.get(other, set()) for other in to))
    both = ((a, b) for a in reach for b in reach[a] if a in reach.get(b, ()))
    return sorted({tuple(sorted(pair)) for pair in both})


def package():
    """(path, source) of every file."""
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    return [(f.relative_to(PACKAGE), f.read_text("utf-8")) for f in files]


def test_every_room_has_a_place_in_the_order():
    found = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert found - {"data", "__pycache__"} <= set(RANK)


def test_imports_go_one_way_and_outside_packages_stay_in_their_rooms():
    found = [line for path, source in package() for line in violations(path, source)]
    assert not found, "\n".join(found)


def test_no_rooms_of_a_row_import_each_other_in_a_circle():
    arrows = {
        (room, target) for path, source in package() for room, target, _ in rooms(path, source)
        if room is not None and RANK[room] == RANK[target]
    }  # fmt: skip
    assert not circles(arrows)


def test_a_circle_is_found():
    assert circles({("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("d", "d")}) == [
        ("a", "a"), ("a", "b"), ("a", "c"), ("b", "b"), ("b", "c"), ("c", "c"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wire/codec.py", "from rrto_ros.robot import session"),
        ("api/ops.py", "from rrto_ros.shim.build import ensure_built"),
        ("devices/null.py", "def f():\n    import rrto_ros.edge.host"),
        ("execution/worker.py", "from rrto_ros import nodes"),
        ("execution/worker.py", "from ..robot import session"),
        ("execution/worker.py", "from rrto_ros.ros import context"),
        ("robot/session.py", "from rrto_ros.edge.host import SessionHost"),
        ("edge/host.py", "import rrto_ros.robot.status"),
        ("errors.py", "import rrto_ros.wire.link"),
        ("wire/link.py", "import rclpy"),
        ("robot/host.py", "import rclpy"),
        ("cli/main.py", "from rrto_msgs.msg import Status"),
        ("devices/cpu/jit.py", "from cuda.bindings import driver"),
        ("robot/ring.py", "import llvmlite.binding"),
        ("schedule/placement.py", "import ray"),
        ("schedule/placement.py", "from rrto_ros.execution import worker"),
        ("edge/host.py", "from scipy.sparse import csr_matrix"),
    ],
)
def test_a_forbidden_import_is_found(path, source):
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nodes/offload_server.py", "import rclpy\nfrom rrto_ros.ros import server_port"),
        ("ros/server_port.py", "from rclpy.node import Node"),
        ("demo/camera.py", "from sensor_msgs.msg import Image"),
        ("devices/gpu/device.py", "from cuda.bindings import driver"),
        ("devices/cpu/jit.py", "import llvmlite.binding"),
        ("robot/search/miner.py", "from rrto_ros.robot.record import log"),
        ("edge/table.py", "from rrto_ros.execution.messages import Open"),
    ],
)
def test_an_allowed_import_is_not_found(path, source):
    assert violations(path, source) == []
