"""What the parameters of `offload_server` mean for its sessions."""

from __future__ import annotations

from pathlib import Path

from rclpy.node import Node

from rrto_ros.api.parameters import SERVER, host_name
from rrto_ros.devices.registry import DeviceSettings, resolve
from rrto_ros.edge.fairness import PeerLimits
from rrto_ros.edge.host import HostLimits
from rrto_ros.edge.settings import ServerSettings
from rrto_ros.ros.parameters import declare

_NAMES = ("robot", "server_name")


def declare_names(node: Node) -> tuple[str, str]:
    """Declare the parameters `robot` and `server_name` and return them."""
    v = declare(node, [SERVER[name] for name in _NAMES])
    return str(v["robot"]), str(v["server_name"] or host_name())


def declare_settings(node: Node) -> tuple[ServerSettings, str, float]:
    """Declare every other parameter.

    Returns:
        What they say, and the parameters `authentication` and `drain_timeout_s`.

    Raises:
        ConfigError: A value cannot be used.
    """
    v = declare(node, [p for p in SERVER.values() if p.name not in _NAMES])
    device, why = resolve(v["device"])
    if why:
        node.get_logger().info(f"device auto is {device}: {why}")
    major, _, minor = v["compute_capability"].partition(".")
    kernels, blobs = v["kernel_cache_directory"], v["blob_directory"]
    settings = ServerSettings(
        device=device,
        device_settings=DeviceSettings(
            limit_bytes=v["limit_bytes"],
            compute_capability=(int(major), int(minor)) if minor else None,
            threads=v["threads"],
            cache_directory=Path(kernels) if kernels else None,
            cache_bytes=v["kernel_cache_bytes"],
            launch_timeout_s=v["launch_timeout_s"],
            memcheck=v["memcheck"],
            check_calls=v["check_calls"],
        ),
        max_sessions=v["max_sessions"],
        blob_directory=Path(blobs) if blobs else None,
        blob_bytes=v["blob_cache_bytes"],
        announce_blobs=v["announce_blobs"],
        limits=HostLimits(v["max_message_bytes"], timeout_s=v["session_timeout_s"]),
        peers=PeerLimits(
            v["max_sessions_per_robot"], v["robot_messages_per_s"], v["robot_bytes_per_s"]
        ),
        spare_workers=v["spare_workers"],
        confinement=v["confinement"],
    )
    return settings, str(v["authentication"]), float(v["drain_timeout_s"])
