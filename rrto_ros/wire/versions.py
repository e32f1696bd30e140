"""What is said where robot and server are of different versions: owns that text, on both sides."""

from __future__ import annotations

import rrto_ros

_DIFFER = "versions of rrto_ros differ: "


def versions_differ(what: str) -> str:
    """Why a server refuses a session of another version; the robot's is not in its request.

    Args:
        what: What differs.
    """
    return f"{_DIFFER}{what}; this server is {rrto_ros.__version__}, install one version on both"


def with_own_version(reason: str) -> str:
    """A server's reason as the robot tells it: with the robot's version where versions differ."""
    if not reason.startswith(_DIFFER):
        return reason
    return f"{reason} (this robot is {rrto_ros.__version__})"
