"""What the parameters of `recorder_replayer` mean for its sessions."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from rclpy.node import Node

from rrto_ros.api.parameters import RECORDER, check_values
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig
from rrto_ros.session_keys import disclose
from rrto_ros.wire.credentials import of_robot
from rrto_ros.wire.port import topic


def session_config(node: Node, changed: dict[str, Any] | None = None) -> SessionConfig:
    """What the parameters say.

    Args:
        node: With declared parameters.
        changed: Values that are to replace the present ones.

    Raises:
        ConfigError: A value cannot be used.
    """
    v = {name: node.get_parameter(name).value for name in RECORDER} | (changed or {})
    topic(v["robot"], "status")
    check_values(RECORDER, {name: value for name, value in v.items() if name in RECORDER})
    ring, directory = v["ring_mib"] << 20, v["plan_cache_directory"]
    same = (
        "robot", "mode", "device", "batch_bytes", "max_message_bytes", "window",
        "blob_references", "blob_min_bytes", "server_timeout_s", "connect_timeout_s",
        "limit_bytes", "plan_cache_bytes", "cuda_runtime", "resume", "resume_bytes",
        "outage_timeout_s",
    )  # fmt: skip
    return SessionConfig(
        **{name: v[name] for name in same},
        linger_s=v["linger_us"] / 1e6,
        call_ring_bytes=ring,
        reply_ring_bytes=ring,
        replay=ReplayOptions(
            v["search"],
            v["min_repetitions"],
            v["min_length"],
            v["max_length"],
            v["drop_plans_after"],
            search_memory_bytes=v["search_memory_bytes"],
            run_ahead=v["run_ahead"],
        ),
        plan_cache_directory=Path(directory) if directory else None,
        disclose=functools.partial(disclose, v["robot"], node.context.get_domain_id()),
        credentials=None if v["authentication"] == "off" else of_robot,
    )
