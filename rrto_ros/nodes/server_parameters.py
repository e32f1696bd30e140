"""The parameters of `offload_server`: owns their names, defaults, ranges and what they mean.

All are read-only: a session keeps what it was opened with, so a change means a new server.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from rrto_ros.devices.registry import (
    AUTO,
    DEFAULT_CACHE_BYTES,
    DEFAULT_LAUNCH_TIMEOUT_S,
    DEVICE_NAMES,
    DeviceSettings,
    resolve,
)
from rrto_ros.edge.host import HostLimits
from rrto_ros.edge.table import ServerSettings
from rrto_ros.errors import ConfigError
from rrto_ros.wire.blob_store import DEFAULT_LIMIT_BYTES
from rrto_ros.wire.link import MAX_MESSAGE_BYTES

_TIB = 1 << 40


def _declare(
    node: Node, name: str, default: Any, text: str, low: float | None = None, high: float = 0.0
) -> Any:
    descriptor = ParameterDescriptor(description=text, read_only=True)
    if low is not None and isinstance(default, int):
        span = IntegerRange(from_value=int(low), to_value=int(high), step=0)
        descriptor.integer_range = [span]
    elif low is not None:
        reach = FloatingPointRange(from_value=low, to_value=high, step=0.0)
        descriptor.floating_point_range = [reach]
    return node.declare_parameter(name, default, descriptor).value


def parse_capability(text: str) -> tuple[int, int] | None:
    """``"8.9"`` as (8, 9); None for the empty text.

    Raises:
        ConfigError: It is no compute capability.
    """
    if not text:
        return None
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal() and 3 <= int(major) <= 99 and len(minor) == 1):
        raise ConfigError(f"compute_capability {text!r} is not like '8.9'")
    return int(major), int(minor)


def declare_robot(node: Node) -> str:
    """Declare the parameter `robot` and return it."""
    return str(
        _declare(
            node, "robot", os.environ.get("RRTO_ROBOT") or "robot",
            "Robot name: the server listens on /<robot>/rrto/*.",
        )
    )  # fmt: skip


def declare_settings(node: Node) -> ServerSettings:
    """Declare every other parameter and return what they say.

    Raises:
        ConfigError: A value cannot be used.
        rclpy.exceptions.ParameterException: A value has the wrong type or is out of range.
    """
    device = str(
        _declare(
            node, "device", "cpu",
            "What executes the kernels: gpu (an NVIDIA GPU), cpu (real results on the host's "
            "cores), auto (the GPU if there is one, else cpu) or null (no results, for transport "
            "measurements).",
        )
    )  # fmt: skip
    if device not in (AUTO, *DEVICE_NAMES):
        raise ConfigError(
            f"parameter device: {device!r} is none of {', '.join((AUTO, *DEVICE_NAMES))}"
        )
    device, why = resolve(device)
    if why:
        node.get_logger().info(f"device auto is {device}: {why}")
    limit = _declare(
        node, "limit_bytes", 2 << 30, "Device memory that one session may allocate, in bytes.",
        1 << 20, _TIB,
    )  # fmt: skip
    sessions = _declare(
        node, "max_sessions", 8, "Sessions that may be open at once; others are refused.", 1, 256
    )
    spares = _declare(
        node, "spare_workers", 1,
        "Worker processes that are started ahead, so that a session opens at once.", 0, 16,
    )  # fmt: skip
    timeout = _declare(
        node, "session_timeout_s", 10.0,
        "A session is closed and freed when nothing came from its recorder for so many seconds.",
        0.5, 3600.0,
    )  # fmt: skip
    message = _declare(
        node, "max_message_bytes", MAX_MESSAGE_BYTES,
        "Largest message of calls or results, in bytes of data; larger batches are cut.",
        4096, 64 << 20,
    )  # fmt: skip
    capability = parse_capability(
        str(
            _declare(
                node, "compute_capability", "",
                "Compute capability that the cpu and null devices report, like '8.9'; empty for "
                "the device's own.",
            )
        )
    )  # fmt: skip
    threads = _declare(
        node, "threads", 0, "Threads of the cpu device per session; 0 for one per core.", 0, 1024
    )
    kernel_bytes = _declare(
        node, "kernel_cache_bytes", DEFAULT_CACHE_BYTES,
        "Size limit of the cpu device's cache of compiled kernels on disk; 0 keeps none.",
        0, _TIB,
    )  # fmt: skip
    kernel_directory = str(
        _declare(
            node, "kernel_cache_directory", "",
            "Where compiled kernels are kept; empty for the user's cache directory.",
        )
    )  # fmt: skip
    launch_timeout = _declare(
        node, "launch_timeout_s", DEFAULT_LAUNCH_TIMEOUT_S,
        "A kernel that runs longer on the cpu device is ended with CUDA_ERROR_LAUNCH_TIMEOUT, in "
        "seconds; on the gpu device it is a wait for the GPU. 0 ends none.",
        0.0, 86400.0,
    )  # fmt: skip
    memcheck = _declare(
        node, "memcheck", False,
        "Look up every memory access of a kernel on the cpu device, many times slower: a stray "
        "one is CUDA_ERROR_ILLEGAL_ADDRESS in any case, and so named by kernel, thread, address "
        "and nearest allocation.",
    )  # fmt: skip
    blob_bytes = _declare(
        node, "blob_cache_bytes", DEFAULT_LIMIT_BYTES,
        "Size limit of the uploads kept on disk (weights, modules); 0 keeps none.", 0, _TIB,
    )  # fmt: skip
    blob_directory = str(
        _declare(
            node, "blob_directory", "",
            "Where uploads are kept; empty for the user's cache directory.",
        )
    )  # fmt: skip
    announce = _declare(
        node, "announce_blobs", True,
        "Tell a session that opens the SHA-256 of the uploads that are kept, so that it need not "
        "send them. Who knows a SHA-256 can have the content: set false where robots that share "
        "this server must not read each other's uploads.",
    )  # fmt: skip
    return ServerSettings(
        device=device,
        device_settings=DeviceSettings(
            limit_bytes=limit,
            compute_capability=capability,
            threads=threads,
            cache_directory=Path(kernel_directory) if kernel_directory else None,
            cache_bytes=kernel_bytes,
            launch_timeout_s=launch_timeout,
            memcheck=memcheck,
        ),
        max_sessions=sessions,
        blob_directory=Path(blob_directory) if blob_directory else None,
        blob_bytes=blob_bytes,
        announce_blobs=announce,
        limits=HostLimits(max_message_bytes=message, timeout_s=timeout),
        spare_workers=spares,
    )
