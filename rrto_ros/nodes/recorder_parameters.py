"""What the parameters of `recorder_replayer` mean for its sessions."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.node import Node

from rrto_ros.api.parameters import RECORDER, check_values
from rrto_ros.bringup.processes import config_folder
from rrto_ros.errors import ConfigError
from rrto_ros.robot.places.place import Place
from rrto_ros.robot.places.servers import Servers, choice_of
from rrto_ros.robot.replay.replayer import ReplayOptions
from rrto_ros.robot.status import SessionConfig
from rrto_ros.ros.context import APART
from rrto_ros.schedule.power import Power, power_profile, power_profiles
from rrto_ros.session_keys import disclose
from rrto_ros.wire.credentials import of_robot
from rrto_ros.wire.port import topic

if TYPE_CHECKING:
    from rrto_ros.robot.partition.planner import Aim


def session_config(
    node: Node,
    servers: Servers,
    changed: dict[str, Any] | None = None,
    place: Place | None = None,
) -> SessionConfig:
    """What the parameters say.

    Args:
        node: With declared parameters.
        servers: Those that are heard of.
        changed: Values that are to replace the present ones.
        place: The robot's own, for `fallback`.

    Raises:
        ConfigError: A value cannot be used.
    """
    v = {name: node.get_parameter(name).value for name in RECORDER} | (changed or {})
    topic(v["robot"], "status")
    check_values(RECORDER, {name: value for name, value in v.items() if name in RECORDER})
    ring, directory = v["ring_mib"] << 20, v["plan_cache_directory"]
    same = (
        "robot", "mode", "device", "batch_bytes", "max_message_bytes", "window",
        "blob_references", "blob_min_bytes", "upload_compression", "transfer_precision",
        "server_timeout_s",
        "connect_timeout_s",
        "limit_bytes", "plan_cache_bytes", "cuda_runtime", "resume", "resume_bytes",
        "outage_timeout_s", "standby", "fallback", "fallback_device",
    )  # fmt: skip
    if v["standby"] and v["resume"] == "off":
        raise ConfigError(
            "standby is 1 and resume is 'off': what stands by is what a session is resumed with; "
            "set resume to exact, or standby to 0"
        )
    if v["fallback"] == "local":
        _check_fallback(v)
    return SessionConfig(
        **{name: v[name] for name in same},
        linger_s=v["linger_us"] / 1e6,
        apart=os.environ.get(APART) == "1",
        fallback_after_s=v["fallback_after_ms"] / 1e3,
        place=place,
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
        choice=choice_of(v["servers"], servers),
        credentials=None if v["authentication"] == "off" else of_robot,
    )


def power_of(node: Node, changed: dict[str, Any] | None = None) -> Power | None:
    """What the robot draws, for placements of mode partition; None if nobody said.

    Args:
        node: With declared parameters.
        changed: Values that are to replace the present ones.

    Raises:
        ConfigError: There is no such power profile, or the objective needs one.
    """
    names = ("partition_objective", "power_profile")
    v = {name: node.get_parameter(name).value for name in names} | (changed or {})
    objective, profile = v["partition_objective"], v["power_profile"]
    file = config_folder() / "power_profiles.yaml"
    if not profile and objective != "latency":
        raise ConfigError(
            f"partition_objective is {objective!r} and power_profile is empty: want one of "
            f"{', '.join(power_profiles(file))}"
        )
    return power_profile(file, profile) if profile else None


def aim_of(node: Node) -> Aim:
    """What placements of mode partition are chosen for.

    Raises:
        ConfigError: As `power_of`.
    """
    # Only here: the planner brings what a recorder need not have to start.
    from rrto_ros.robot.partition.planner import Aim

    algorithm = str(node.get_parameter("partition_algorithm").value)
    objective = str(node.get_parameter("partition_objective").value)
    precision = str(node.get_parameter("transfer_precision").value)
    budget = float(node.get_parameter("accuracy_budget").value)
    return Aim(algorithm, objective, power_of(node), precision, budget)


def _check_fallback(v: dict[str, Any]) -> None:
    """What `fallback: local` rests upon.

    Raises:
        ConfigError: Another parameter contradicts it.
    """
    if v["resume"] == "off":
        raise ConfigError(
            "fallback is 'local' and resume is 'off': a session goes on on the robot by being "
            "resumed there; set resume to exact, or fallback to none"
        )
    if v["fallback_after_ms"] >= 1000 * v["outage_timeout_s"]:
        raise ConfigError(
            f"fallback_after_ms is {v['fallback_after_ms']} and outage_timeout_s is "
            f"{v['outage_timeout_s']:g}: a session would be lost before it falls back; want less "
            f"than {1000 * v['outage_timeout_s']:g} ms"
        )
    device, own = v["device"], v["fallback_device"]
    if device and own and device != own:
        raise ConfigError(
            f"fallback_device is {own!r} and device is {device!r}: results would be others; leave "
            "fallback_device empty"
        )
