"""Call logs out of a bag of the call topics, without ROS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.robot.record.log import CallLog
from rrto_ros.wire.literal import LiteralReader

if TYPE_CHECKING:
    from rrto_ros.ros.bag_file import RecordedSession


def logs_of_bag(path: str | os.PathLike[str]) -> list[CallLog]:
    """The call log of every session in a bag.

    Raises:
        ConfigError: It is not a bag that can be read.
        ProtocolError: A message is missing, damaged, or sealed without its key.
    """
    # Only here: a log in a file of its own needs no reader of bags.
    from rrto_ros.ros.bag_file import read_bag

    try:
        sessions = read_bag(Path(path))
    except ConfigError as error:
        raise ConfigError(f"{path} is neither a call log nor a bag: {error}") from error
    return [log for session in sessions if len(log := log_of(session))]


def log_of(session: RecordedSession) -> CallLog:
    """The call log of a session of a bag.

    Raises:
        ProtocolError: A message is missing, damaged, or sealed without its key.
    """
    if session.unread:
        raise ProtocolError(f"session {session.session[:8]}: {session.unread}")
    log = CallLog(
        max_calls=1 << 26,
        memory_limit_bytes=4 << 30,
        session={"session": session.session, "program": session.program},
    )
    reader = LiteralReader()
    for batch in session.batches:
        log.extend(b"".join(reader.read(batch)))
    return log
