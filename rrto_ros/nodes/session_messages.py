"""A session's snapshot as the message that `rrto status`, reports and bags show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rrto_msgs.msg import CallCount, SessionStatus
from rrto_ros.robot.status import SessionSnapshot
from rrto_ros.ros.message_bytes import id_array

_SAME = tuple(
    f.name
    for f in dataclasses.fields(SessionSnapshot)
    if f.name not in ("session", "export_counts", "refusals", "last_refusal")
)


def session_message(
    snapshot: SessionSnapshot, exports: Sequence[str], supported: frozenset[str]
) -> SessionStatus:
    """The message.

    Args:
        snapshot: What the session did.
        exports: Names of the driver calls, in the order of the shim's counters.
        supported: Those that are not answered with CUDA_ERROR_NOT_SUPPORTED.
    """
    out = SessionStatus()
    out.session = id_array(snapshot.session)
    for name in _SAME:
        setattr(out, name, getattr(snapshot, name))
    for name, count in zip(exports, snapshot.export_counts, strict=False):
        if count:
            entry = CallCount(name=name, count=count)
            out.calls.append(entry)
            if name not in supported:
                out.unsupported.append(entry)
    for text, count in snapshot.refusals:
        out.unsupported.append(CallCount(name=text, count=count))
    return out
