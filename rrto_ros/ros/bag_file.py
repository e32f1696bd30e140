"""Bags of driver calls on disk: owns the message types, writing, and reading back by session."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rrto_ros.api.ops import OPS
from rrto_ros.errors import ConfigError, ProtocolError, RrtoError, UnavailableError
from rrto_ros.wire.codec import iter_headers
from rrto_ros.wire.format import FLAG_BLOB_REF, FLAG_REPLY
from rrto_ros.wire.link import MAX_MESSAGE_BYTES, MessageReceiver
from rrto_ros.wire.literal import LiteralReader
from rrto_ros.wire.packing import unpacked
from rrto_ros.wire.port import FLAG_ACK_ONLY, FLAG_MORE, FLAG_PACKED, topic
from rrto_ros.wire.result_codec import iter_results

NAMES = ("sessions", "call_batches", "call_results")
_TYPES = ("SessionEvent", "CallBatch", "CallResult")
_OPENED = 1
_MAX_MESSAGE_BYTES = max(MAX_MESSAGE_BYTES, 64 << 20)
_OP_NAMES = {op.code: op.name for op in OPS}
_TIMINGS = frozenset(op.code for op in OPS if op.name == "event_elapsed_ms")


def message_folder() -> Path:
    """Where rrto_msgs' .msg files are installed.

    Raises:
        UnavailableError: Nowhere.
    """
    found = importlib.util.find_spec("rrto_msgs")
    for base in (found.submodule_search_locations or ()) if found else ():
        for parent in Path(base).parents:
            folder = parent / "share" / "rrto_msgs" / "msg"
            if (folder / "CallBatch.msg").is_file():
                return folder
    source = Path(__file__).resolve().parents[2] / "rrto_msgs" / "msg"
    if (source / "CallBatch.msg").is_file():
        return source
    raise UnavailableError(f"the .msg files of rrto_msgs are missing below {sys.prefix}/share")


def typestore() -> Any:
    """The types of rosbags, with those of the call topics."""
    store = get_typestore(Stores.LATEST)
    for name in _TYPES:
        text = (message_folder() / f"{name}.msg").read_text()
        store.register(get_types_from_msg(text, f"rrto_msgs/msg/{name}"))
    return store


class BagWriter:
    """A new bag; a context manager.

    Args:
        folder: Must not exist.
        robot: Robot name, for the topics' names.

    Raises:
        ConfigError: The folder exists or cannot be made.
    """

    def __init__(self, folder: Path, robot: str) -> None:
        store = typestore()
        try:
            self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise ConfigError(f"cannot write a bag to {folder}: {error}") from error
        self._connections = {
            name: self._writer.add_connection(
                topic(robot, name), f"rrto_msgs/msg/{kind}", typestore=store
            )
            for name, kind in zip(NAMES, _TYPES, strict=True)
        }

    def write(self, name: str, time_ns: int, data: bytes) -> None:
        """Add one serialised message of a call topic."""
        self._writer.write(self._connections[name], time_ns, data)

    def flush(self) -> None:
        """Hand all that was written to the operating system, safe from this process's end."""
        storage = self._writer.storage
        if isinstance(storage, McapWriter):
            if storage.chunk.bio.tell():
                storage.close_chunk()
            storage.bio.flush()

    def __enter__(self) -> BagWriter:  # noqa: PYI034 (Self is newer than Python 3.10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()


@dataclass
class RecordedSession:
    """One session of a bag.

    Attributes:
        session: Its id, hexadecimal.
        robot, program, pid, device, arena_base, arena_bytes: As announced when it opened.
        batches: The calls, each batch once, in order.
        results: The stream of result records.
        answered: Indices of calls that were to be answered.
        timings: Indices of calls whose answer is a measured time.
        operations: How often each operation was called.
        faults: Why it is not complete; empty if it is.
    """

    session: str
    robot: str = ""
    program: str = ""
    pid: int = 0
    device: str = ""
    arena_base: int = 0
    arena_bytes: int = 0
    batches: list[bytes] = field(default_factory=list)
    results: bytes = b""
    answered: set[int] = field(default_factory=set)
    timings: set[int] = field(default_factory=set)
    operations: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    faults: list[str] = field(default_factory=list)


class _Streams:
    """Puts one session's two streams of messages in order again."""

    def __init__(self, session: RecordedSession) -> None:
        self.session = session
        limit = {"max_message_bytes": _MAX_MESSAGE_BYTES}
        self._calls = MessageReceiver(**limit)
        self._results = MessageReceiver(**limit)
        self._parts: list[bytes] = []

    def take(self, message: Any, *, calls: bool) -> None:
        self.session.messages += 1
        if message.flags & FLAG_ACK_ONLY:
            return
        data = message.data.tobytes()
        receiver = self._calls if calls else self._results
        more = bool(message.flags & FLAG_MORE)
        size = len(data)
        if calls and message.flags & FLAG_PACKED:
            data = unpacked(data, _MAX_MESSAGE_BYTES)
        whole = receiver.receive(int(message.sequence), more, data, 0.0)
        if calls:
            self.session.bytes_sent += size
            self.session.batches += [bytes(batch) for batch in whole]
        else:
            self.session.bytes_received += len(data)
            self._parts += [bytes(batch) for batch in whole]

    def finish(self) -> None:
        session = self.session
        session.results = b"".join(self._parts)
        for name, receiver in (("calls", self._calls), ("results", self._results)):
            missing = receiver.missing()
            if missing:
                session.faults.append(f"{name}: message {missing[0]} is missing")
        if not session.device:
            session.faults.append("its opening was not recorded")
        try:
            self._look_at_calls()
            for _ in iter_results(session.results):
                pass
        except ProtocolError as error:
            session.faults.append(str(error))

    def _look_at_calls(self) -> None:
        session, references, reader = self.session, 0, LiteralReader()
        for batch in session.batches:
            for header in chain.from_iterable(map(iter_headers, reader.read(batch))):
                session.operations[_OP_NAMES.get(header.op, f"operation {header.op}")] += 1
                references += bool(header.flags & FLAG_BLOB_REF)
                if header.flags & FLAG_REPLY:
                    session.answered.add(header.index)
                if header.op in _TIMINGS:
                    session.timings.add(header.index)
        if references:
            session.faults.append(
                f"{references} uploads are only named, not contained (blob_references was on)"
            )


def read_bag(folder: Path) -> list[RecordedSession]:
    """The sessions of a bag, in the order in which they opened.

    Raises:
        ConfigError: It is no bag, is damaged, or has no driver calls.
        ProtocolError: A message in it breaks the format.
    """
    try:
        return _read_bag(folder)
    except RrtoError:
        raise
    except Exception as error:
        # Whatever the readers of YAML, MCAP, CDR and compressed chunks make of a damaged file.
        raise ConfigError(
            f"{folder} is damaged or no bag of driver calls ({type(error).__name__}: {error}); "
            "record it again"
        ) from error


def _read_bag(folder: Path) -> list[RecordedSession]:
    found: dict[str, _Streams] = {}

    def streams(session: str) -> _Streams:
        return found.setdefault(session, _Streams(RecordedSession(session)))

    try:
        reader = AnyReader([folder], default_typestore=typestore())
        reader.open()
    except (AnyReaderError, OSError) as error:
        raise ConfigError(
            f"{folder} is no bag that can be read: {error}. If its recording was killed, `rrto "
            f"bag repair {folder}` saves what is in it"
        ) from error
    with contextlib.closing(reader):
        chosen = [c for c in reader.connections if c.topic.rpartition("/")[2] in NAMES]
        for connection, _, data in reader.messages(connections=chosen):
            message: Any = reader.deserialize(data, connection.msgtype)
            name = connection.topic.rpartition("/")[2]
            one = streams(message.session.tobytes().hex())
            if name != "sessions":
                one.take(message, calls=name == "call_batches")
            elif message.event == _OPENED:
                for item in ("robot", "program", "device"):
                    setattr(one.session, item, str(getattr(message, item)))
                for item in ("pid", "arena_base", "arena_bytes"):
                    setattr(one.session, item, int(getattr(message, item)))
    if not found:
        raise ConfigError(
            f"bag {folder} has no driver calls; record one with `rrto bag record` or `rrto run "
            "--bag`"
        )
    for one in found.values():
        one.finish()
    return [one.session for one in found.values()]
