"""The environment: the user's own, and what this process adds to find the nodes."""

from __future__ import annotations

import os
from functools import cache

_PEERS = "ROS_STATIC_PEERS"


@cache
def users_environment() -> dict[str, str]:
    """The environment that `rrto` was started with; programs it starts get that one."""
    return dict(os.environ)


def join_discovery() -> None:
    """Find this machine's nodes also where multicast does not work, as they find each other."""
    from rrto_ros.bringup.environment import NODE_DEFAULTS

    users_environment()
    os.environ.setdefault(_PEERS, NODE_DEFAULTS[_PEERS])
