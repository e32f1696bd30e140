"""The call log of a session: compact, bounded, dumpable; what each operator reads and writes."""

from __future__ import annotations

from rrto_ros.record.accesses import Accesses
from rrto_ros.record.dependencies import Dependencies
from rrto_ros.record.log import CallLog
from rrto_ros.record.log_file import dump, load
from rrto_ros.record.memory import Allocations
from rrto_ros.record.templates import CallTemplate, Kind

__all__ = [
    "Accesses",
    "Allocations",
    "CallLog",
    "CallTemplate",
    "Dependencies",
    "Kind",
    "dump",
    "load",
]
