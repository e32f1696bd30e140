"""What `rrto` needs of this machine and the link: owns each check and its remedy."""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrto_ros.errors import RrtoError
from rrto_ros.runtime_files import held, runtime_folder, serves, socket_lock, socket_path

if TYPE_CHECKING:
    from rrto_ros.ros.client import RobotClient

LEAST_SHARED_BYTES = 64 << 20
"""A session's ring and the middleware's shared memory fit into it."""
SEEN_S, NAMED_S = 2.0, 8.0
"""How long a server is looked for that may be there, and one that the user says is there."""
PINGS = 5
_SHARED = Path("/dev/shm")
_DRIVER = Path("/proc/driver/nvidia/version")


class State(Enum):
    """Outcome of a check."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        state: `MISSING` is needed and not there.
        text: What was found.
        step: What the user can do about it, empty if there is nothing to do.
    """

    name: str
    state: State
    text: str
    step: str = ""


def shim() -> Check:
    """The library that programs load; it is built if need be."""
    from rrto_ros.shim.build import ensure_built

    try:
        return Check("shim", State.OK, str(ensure_built()))
    except RrtoError as error:
        return Check(
            "shim", State.MISSING, str(error), "install a C compiler: apt-get install gcc"
        )


def ros() -> list[Check]:
    """ROS 2 and the messages, and with them the middleware."""
    step = "run `make demo` once and use its environment, or source your ROS 2 and workspace"
    try:
        importlib.import_module("rclpy")
        importlib.import_module("rrto_msgs.msg")
        middleware = importlib.import_module("rclpy.utilities").get_rmw_implementation_identifier()
    except (ImportError, RuntimeError, OSError) as error:
        return [Check("ROS 2", State.MISSING, f"cannot be imported: {error}", step)]
    fast = middleware.startswith("rmw_fastrtps")
    return [
        Check("ROS 2", State.OK, os.environ.get("ROS_DISTRO") or "imported, with rrto_msgs"),
        Check(
            "middleware",
            State.OK if fast else State.NOTE,
            middleware + ("" if fast else " (only Fast DDS gets the transports for large data)"),
        ),
    ]


def shared_memory(folder: Path = _SHARED) -> Check:
    """Where the middleware's shared memory is."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        return Check("shared memory", State.MISSING, f"{folder}: {error.strerror}",
                     "mount a tmpfs there (docker: --shm-size=1g)")  # fmt: skip
    free = status.f_bavail * status.f_frsize
    text = f"{folder}, {free >> 20:,} MiB free"
    if not os.access(folder, os.W_OK):
        return Check("shared memory", State.MISSING, f"{folder} cannot be written",
                     "let this user write there (mode 1777)")  # fmt: skip
    if free < LEAST_SHARED_BYTES:
        text += f", want {LEAST_SHARED_BYTES >> 20} or more"
        return Check("shared memory", State.NOTE, text, "make it larger (docker: --shm-size=1g)")
    return Check("shared memory", State.OK, text)


def sockets() -> Check:
    """The folder in which program and recorder meet."""
    try:
        return Check("runtime folder", State.OK, str(runtime_folder()))
    except (RrtoError, OSError) as error:
        return Check("runtime folder", State.MISSING, str(error), "set XDG_RUNTIME_DIR to a "
                     "folder of your own")  # fmt: skip


def confinement() -> Check:
    """What the workers of a server that starts on this machine would give up."""
    from rrto_ros.confinement import possible

    found = possible()
    old = any(what.startswith(("Landlock", "seccomp")) for what in found.lacking)
    step = "a newer kernel, with landlock in lsm= (docs/security.md)" if old else ""
    if not found.applied:
        return Check("confinement", State.NOTE, str(found), step)
    return Check("confinement", State.OK, f"a server's workers: {found}", step)


def device(name: str) -> Check:
    """Whether a server that starts on this machine could have a device."""
    from rrto_ros.devices.registry import check_available

    try:
        check_available(name)
        return Check(f"device {name}", State.OK, "can be had on this machine")
    except RrtoError as error:
        return Check(f"device {name}", State.MISSING, str(error))


def driver(path: Path = _DRIVER) -> Check:
    """Whether there is a genuine driver here; programs get the shim in its place."""
    try:
        return Check("NVIDIA driver", State.NOTE, path.read_text().splitlines()[0].strip())
    except (OSError, IndexError):
        return Check("NVIDIA driver", State.OK, "none here; none is needed on the robot")


def link(robot: str, domain: int, wanted: bool | None) -> tuple[list[Check], str]:
    """Recorder and server of a robot as they are seen from here, and how far away.

    Args:
        robot: Robot name.
        domain: ROS domain number.
        wanted: Whether a server must be there; None if it may.

    Returns:
        (checks, kind of the server's device, empty if no server is seen).
    """
    from rrto_ros.ros.client import RECORDER, SERVER, RobotClient

    here = held(socket_lock(socket_path(robot, domain))) or serves(robot, domain)
    with RobotClient(robot, domain) as client:
        client.wait(
            lambda: client.status(RECORDER) is not None and client.status(SERVER) is not None,
            NAMED_S if here or wanted else SEEN_S,
        )
        recorder, server = client.status(RECORDER), client.status(SERVER)
        checks = [_recorder(recorder, server), _server(server, robot, domain, wanted)]
        if server is not None:
            checks.append(_way(client))
        return checks, str(server["device"]) if server else ""


def _recorder(recorder: dict[str, Any] | None, server: dict[str, Any] | None) -> Check:
    if recorder is None:
        return Check("recorder", State.NOTE, "none runs; `rrto run` starts one")
    text = f"{recorder['state']}, mode {recorder['mode']}, server {recorder['server_state']}"
    if recorder["state"] != "active":
        return Check("recorder", State.MISSING, text, f"ros2 lifecycle set {recorder['node']} "
                     "activate")  # fmt: skip
    if server is not None and recorder["server_state"] != "connected":
        return Check("recorder", State.MISSING, text, "look at its log; `RRTO_APART` must be the "
                     "same on both machines")  # fmt: skip
    return Check("recorder", State.OK, text)


def _server(server: dict[str, Any] | None, robot: str, domain: int, wanted: bool | None) -> Check:
    if server is not None:
        text = f"{server['node']}: {server['state']}, device {server['device']}, "
        return Check("server", State.OK, text + f"{len(server['sessions'])} sessions")
    text = f"none was seen for robot {robot!r} in ROS domain {domain}"
    if not wanted:
        return Check("server", State.NOTE, text + "; `rrto run` starts one here")
    return Check(
        "server",
        State.MISSING,
        text,
        f"start it on the edge: RRTO_ROBOT={robot} ROS_DOMAIN_ID={domain} rrto up --side edge; "
        "without multicast set ROS_STATIC_PEERS to the other machine's address on both",
    )


def _way(client: RobotClient) -> Check:
    """The round trip to the server's node, by a service of it; the shortest of some."""
    from rrto_ros.ros.client import SERVER

    times = []
    try:
        for _ in range(PINGS):
            start = time.monotonic()
            client.get_parameter("device", SERVER)
            times.append(time.monotonic() - start)
    except RrtoError as error:
        return Check("link", State.MISSING, str(error), "a firewall may keep DDS's ports shut")
    return Check("link", State.OK, f"a service of the server answers in {min(times) * 1e3:.1f} ms")
