"""The environment: the user's own, and what this process adds to talk to the nodes."""

from __future__ import annotations

import os
from functools import cache

_NAMES = ("FASTDDS_BUILTIN_TRANSPORTS", "ROS_STATIC_PEERS")


@cache
def users_environment() -> dict[str, str]:
    """The environment that `rrto` was started with; programs it starts get that one."""
    return dict(os.environ)


def join_transports() -> None:
    """Use the transports that bring-up gives the nodes; others meet them on one machine only."""
    from rrto_ros.bringup.environment import NODE_DEFAULTS

    users_environment()
    for name in _NAMES:
        os.environ.setdefault(name, NODE_DEFAULTS[name])
