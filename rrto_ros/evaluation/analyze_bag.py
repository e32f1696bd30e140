"""Call logs out of a bag of the call topics, without ROS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.robot.record.log import CallLog
from rrto_ros.wire.literal import LiteralReader

TYPE = "rrto_msgs/msg/CallBatch"
DEFINITION = """uint8 MORE=1
uint8 ACK_ONLY=2
uint8 PROBE=4
uint8[16] session
uint64 sequence
uint64 results_ack
uint8 flags
uint8[] data
"""
MORE, NO_DATA = 1, 2 | 4


class _Session:
    """One session's messages put in order, batches put together."""

    def __init__(self, name: str, topic: str) -> None:
        self.log = CallLog(
            max_calls=1 << 26,
            memory_limit_bytes=4 << 30,
            session={"session": name, "topic": topic},
        )
        self._next = 1
        self._ahead: dict[int, tuple[int, bytes]] = {}
        self._batch = bytearray()
        self._reader = LiteralReader()

    def add(self, sequence: int, flags: int, data: bytes) -> None:
        if sequence < self._next or (flags & NO_DATA and not data):
            return
        self._ahead[sequence] = (flags, data)
        while self._next in self._ahead:
            flags, data = self._ahead.pop(self._next)
            self._next += 1
            self._batch += data
            if not flags & MORE:
                self.log.extend(b"".join(self._reader.read(self._batch)))
                self._batch.clear()

    def close(self, topic: str) -> None:
        if self._ahead:
            raise ProtocolError(
                f"{topic}: message {self._next} of a session is missing from the bag; record the "
                "session from its beginning"
            )


def logs_of_bag(path: str | os.PathLike[str]) -> list[CallLog]:
    """The call log of every session in a bag.

    Raises:
        ConfigError: It is not a bag that can be read.
        ProtocolError: A message is missing or damaged.
    """
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(DEFINITION, TYPE))
    sessions: dict[tuple[str, bytes], _Session] = {}
    try:
        with AnyReader([Path(path)], default_typestore=store) as reader:
            wanted = [c for c in reader.connections if c.msgtype == TYPE]
            for connection, _, raw in reader.messages(connections=wanted):
                m: Any = reader.deserialize(raw, connection.msgtype)
                key = (connection.topic, bytes(m.session))
                if key not in sessions:
                    sessions[key] = _Session(key[1].hex(), connection.topic)
                sessions[key].add(int(m.sequence), int(m.flags), bytes(m.data))
    except (AnyReaderError, OSError) as error:
        raise ConfigError(f"{path} is neither a call log nor a bag: {error}") from error
    for (topic, _), session in sessions.items():
        session.close(topic)
    return [s.log for s in sessions.values() if len(s.log)]
