"""What the parameters of `offload_server` mean for its sessions."""

from __future__ import annotations

from pathlib import Path

from rclpy.node import Node

from rrto_ros.api.parameters import SERVER
from rrto_ros.devices.registry import DeviceSettings, resolve
from rrto_ros.edge.fairness import PeerLimits
from rrto_ros.edge.host import HostLimits
from rrto_ros.edge.table import ServerSettings
from rrto_ros.ros.parameters import declare


def declare_robot(node: Node) -> str:
    """Declare the parameter `robot` and return it."""
    return str(declare(node, [SERVER["robot"]])["robot"])


def declare_settings(node: Node) -> tuple[ServerSettings, str]:
    """Declare every other parameter.

    Returns:
        What they say, and the parameter `authentication`.

    Raises:
        ConfigError: A value cannot be used.
    """
    v = declare(node, [p for p in SERVER.values() if p.name != "robot"])
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
    return settings, str(v["authentication"])
