"""The parameters of `recorder_replayer`: owns their names, defaults, ranges and what they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from rrto_ros.api.choices import RUN_AHEAD
from rrto_ros.errors import ConfigError
from rrto_ros.robot.replay.learner import LEAST_SEARCH_MEMORY_BYTES, SEARCH_MEMORY_BYTES
from rrto_ros.robot.replay.plan_store import DEFAULT_LIMIT_BYTES
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.search import ALGORITHMS
from rrto_ros.robot.status import SessionConfig, check_mode
from rrto_ros.wire.link import MAX_MESSAGE_BYTES, RECEIVE_WINDOW
from rrto_ros.wire.plan import MAX_PLAN_CALLS
from rrto_ros.wire.port import topic

_TIB = 1 << 40
_LATER = " Holds for sessions that open from then on."
DEVICES = ("", "cpu", "gpu", "null")
SESSION_PARAMETERS = (
    "device",
    "linger_us",
    "batch_bytes",
    "max_message_bytes",
    "window",
    "blob_references",
    "blob_min_bytes",
    "server_timeout_s",
    "connect_timeout_s",
    "limit_bytes",
    "search",
    "min_repetitions",
    "min_length",
    "max_length",
    "drop_plans_after",
    "search_memory_bytes",
    "plan_cache_bytes",
    "plan_cache_directory",
    "run_ahead",
)
"""Parameters that may be changed at any time and hold for later sessions."""


def _declare(
    node: Node,
    name: str,
    default: Any,
    text: str,
    span: tuple[float, float] | None = None,
    *,
    read_only: bool = False,
) -> None:
    descriptor = ParameterDescriptor(description=text, read_only=read_only)
    if span is not None and isinstance(default, int):
        low, high = int(span[0]), int(span[1])
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
    elif span is not None:
        reach = FloatingPointRange(from_value=span[0], to_value=span[1], step=0.0)
        descriptor.floating_point_range = [reach]
    node.declare_parameter(name, default, descriptor)


def declare_parameters(node: Node) -> None:
    """Declare every parameter.

    Raises:
        rclpy.exceptions.ParameterException: A given value has the wrong type or is out of range.
    """
    _declare(
        node, "robot", os.environ.get("RRTO_ROBOT") or "robot",
        "Robot name: topics are /<robot>/rrto/*, and programs find the socket by it (RRTO_ROBOT).",
        read_only=True,
    )  # fmt: skip
    _declare(
        node, "mode", "batched",
        "How calls travel: rpc (every operator waits for its answer), batched (calls that nobody "
        "waits for travel together) or replay (batched, and a sequence of calls that was found "
        "to repeat is only named). Holds from every program's next call on.",
    )  # fmt: skip
    _declare(
        node, "device", "",
        "Device wanted on the server: cpu, gpu, null, or empty for the server's own." + _LATER,
    )  # fmt: skip
    _declare(
        node, "linger_us", 500,
        "How long calls that nobody waits for may wait for company, in microseconds." + _LATER,
        (0, 100_000),
    )  # fmt: skip
    _declare(
        node, "batch_bytes", 1 << 20, "A batch of this size leaves at once, in bytes." + _LATER,
        (4096, 64 << 20),
    )  # fmt: skip
    _declare(
        node, "max_message_bytes", MAX_MESSAGE_BYTES,
        "Largest message sent, in bytes; the server may want smaller ones." + _LATER,
        (1024, 16 << 20),
    )  # fmt: skip
    _declare(
        node, "window", 256, "Messages that may be unacknowledged." + _LATER, (1, RECEIVE_WINDOW)
    )
    _declare(
        node, "blob_references", True,
        "Name uploads that the server has instead of sending them. Turn it off for bags that are "
        "to be played into a fresh server." + _LATER,
    )  # fmt: skip
    _declare(
        node, "blob_min_bytes", 16 << 10,
        "Smaller uploads are always sent, in bytes." + _LATER, (64, 1 << 30),
    )  # fmt: skip
    _declare(
        node, "server_timeout_s", 5.0,
        "Silence after which the server is lost and calls fail, in seconds." + _LATER,
        (0.5, 600.0),
    )  # fmt: skip
    _declare(
        node, "connect_timeout_s", 10.0,
        "How long a starting program waits for a server, in seconds. Right after a node's start "
        "DDS may need some to find it. The program itself waits 12 s for the recorder "
        "(RRTO_CONNECT_TIMEOUT_MS); more here wants more there." + _LATER,
        (0.1, 600.0),
    )  # fmt: skip
    _declare(
        node, "limit_bytes", 0,
        "Device memory wanted per session, in bytes; 0 for the server's own limit." + _LATER,
        (0, _TIB),
    )  # fmt: skip
    _declare(
        node, "search", "operator_sequence",
        f"Mode replay: how repeated sequences are found: {' or '.join(ALGORITHMS)}." + _LATER,
    )  # fmt: skip
    _declare(
        node, "min_repetitions", 2,
        "Mode replay: how often a sequence must have been seen before it is replayed." + _LATER,
        (2, 1000),
    )  # fmt: skip
    _declare(
        node, "min_length", 3, "Mode replay: shortest sequence, in calls." + _LATER,
        (1, MAX_PLAN_CALLS),
    )  # fmt: skip
    _declare(
        node, "max_length", MAX_PLAN_CALLS,
        "Mode replay: longest sequence, in calls." + _LATER, (1, MAX_PLAN_CALLS),
    )  # fmt: skip
    _declare(
        node, "drop_plans_after", 16,
        "Mode replay: a sequence that the program left so often in a row is not replayed for a "
        "while." + _LATER,
        (1, 1_000_000),
    )  # fmt: skip
    _declare(
        node, "search_memory_bytes", SEARCH_MEMORY_BYTES,
        "Mode replay: what the call log and the tables of the search may hold per session; of "
        "older calls that do not fit, sequences are no longer found." + _LATER,
        (LEAST_SEARCH_MEMORY_BYTES, _TIB),
    )  # fmt: skip
    _declare(
        node, "plan_cache_bytes", DEFAULT_LIMIT_BYTES,
        "Mode replay: size limit of the sequences kept on disk, so that a program that starts "
        "again is replayed from its first inference; 0 keeps and uses none." + _LATER,
        (0, _TIB),
    )  # fmt: skip
    _declare(
        node, "plan_cache_directory", "",
        "Mode replay: where sequences are kept; empty for the user's cache directory." + _LATER,
    )  # fmt: skip
    _declare(
        node, "run_ahead", "reads",
        "Mode replay: what the server may execute before the program calls it, so that an "
        "inference which waits several times costs one round trip: off; reads (calls that only "
        "read); auto (also calls that write, which are undone if the program does something "
        "else, where that is cheaper than the round trips saved)." + _LATER,
    )  # fmt: skip
    _declare(
        node, "max_sessions", 32, "Programs served at once; others are refused.", (1, 256),
        read_only=True,
    )  # fmt: skip
    _declare(
        node, "ring_mib", 32,
        "Size of each of a program's two rings, in MiB; a power of two. Memory is used as needed.",
        (1, 1024), read_only=True,
    )  # fmt: skip
    _declare(
        node, "status_rate_hz", 5.0, "How often the status is published.", (0.1, 50.0),
        read_only=True,
    )  # fmt: skip
    _declare(
        node, "force_deactivate", False,
        "Whether `deactivate` ends open sessions; if not, it refuses while there are any.",
    )  # fmt: skip
    _declare(
        node, "autostart", False,
        "Whether the node configures and activates itself, for machines without a manager.",
        read_only=True,
    )  # fmt: skip


def session_config(node: Node, changed: dict[str, Any] | None = None) -> SessionConfig:
    """What the parameters say.

    Args:
        node: With declared parameters.
        changed: Values that are to replace the present ones.

    Raises:
        ConfigError: A value cannot be used.
    """

    def value(name: str) -> Any:
        if changed and name in changed:
            return changed[name]
        return node.get_parameter(name).value

    robot, mode, device = str(value("robot")), str(value("mode")), str(value("device"))
    topic(robot, "status")
    check_mode(mode)
    if device not in DEVICES:
        raise ConfigError(f"device {device!r} is none of cpu, gpu, null, or empty")
    ring = int(value("ring_mib"))
    if ring & (ring - 1):
        raise ConfigError(f"ring_mib {ring} is not a power of two")
    search = str(value("search"))
    if search not in ALGORITHMS:
        raise ConfigError(f"search {search!r} is none of {', '.join(ALGORITHMS)}")
    run_ahead = str(value("run_ahead"))
    if run_ahead not in RUN_AHEAD:
        raise ConfigError(f"run_ahead {run_ahead!r} is none of {', '.join(RUN_AHEAD)}")
    shortest, longest = int(value("min_length")), int(value("max_length"))
    if shortest > longest:
        raise ConfigError(f"min_length {shortest} is above max_length {longest}")
    directory = str(value("plan_cache_directory"))
    return SessionConfig(
        robot=robot,
        mode=mode,
        device=device,
        linger_s=int(value("linger_us")) / 1e6,
        batch_bytes=int(value("batch_bytes")),
        max_message_bytes=int(value("max_message_bytes")),
        window=int(value("window")),
        blob_references=bool(value("blob_references")),
        blob_min_bytes=int(value("blob_min_bytes")),
        server_timeout_s=float(value("server_timeout_s")),
        connect_timeout_s=float(value("connect_timeout_s")),
        limit_bytes=int(value("limit_bytes")),
        call_ring_bytes=ring << 20,
        reply_ring_bytes=ring << 20,
        replay=ReplayOptions(
            search,
            int(value("min_repetitions")),
            shortest,
            longest,
            int(value("drop_plans_after")),
            search_memory_bytes=int(value("search_memory_bytes")),
            run_ahead=run_ahead,
        ),
        plan_cache_bytes=int(value("plan_cache_bytes")),
        plan_cache_directory=Path(directory) if directory else None,
    )
