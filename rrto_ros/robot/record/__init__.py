"""The call log of a session: compact, bounded, dumpable; which call depends on which."""

from __future__ import annotations

from rrto_ros.robot.record.dependencies import Dependencies
from rrto_ros.robot.record.log import CallLog
from rrto_ros.robot.record.log_file import dump, load

__all__ = ["CallLog", "Dependencies", "dump", "load"]
