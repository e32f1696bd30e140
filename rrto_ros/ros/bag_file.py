"""Bags of driver calls on disk: owns the message types, writing, and reading back by session."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
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
from rrto_ros.wire.port import (
    FLAG_ACK_ONLY,
    FLAG_MORE,
    FLAG_PACKED,
    CallsMessage,
    ResultsMessage,
    topic,
)
from rrto_ros.wire.result_codec import iter_results
from rrto_ros.wire.seal import EdgeSeal, RobotSeal, SessionKeys

NAMES = ("sessions", "call_batches", "call_results", "session_keys")
_TYPES = ("SessionEvent", "CallBatch", "CallResult", "SessionKeys")
KEYS = "session_keys"
KEYS_SUFFIX = ".keys"
"""Beside a sealed bag: a file with a line for each session, its id and its keys, hexadecimal."""
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
        sealed: Keep the sessions' keys out of the bag, in a file beside it.

    Raises:
        ConfigError: The folder exists or cannot be made.
    """

    def __init__(self, folder: Path, robot: str, *, sealed: bool = False) -> None:
        store = self._store = typestore()
        self._apart = keys_file(folder) if sealed else None
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

    def write_keys(self, session: bytes, keys: bytes, time_ns: int) -> None:
        """Keep what opens a session's messages.

        Raises:
            OSError: The file beside the bag cannot be written.
        """
        if self._apart is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            with os.fdopen(os.open(self._apart, flags, 0o600), "w") as file:
                file.write(f"{session.hex()} {keys.hex()}\n")
            return
        kind = "rrto_msgs/msg/SessionKeys"
        message = self._store.types[kind](
            session=np.frombuffer(session, np.uint8), keys=np.frombuffer(keys, np.uint8)
        )
        self.write(KEYS, time_ns, bytes(self._store.serialize_cdr(message, kind)))

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
        foreign: Messages passed by that neither end of the session sealed.
        unread: Why calls are missing from `batches`; empty if none are.
        faults: Why it is not complete, that included; empty if it is.
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
    foreign: int = 0
    unread: str = ""
    faults: list[str] = field(default_factory=list)


class _Streams:
    """Puts one session's two streams of messages in order again."""

    def __init__(self, session: RecordedSession, keys: bytes | None) -> None:
        self.session = session
        self._calls_seal: EdgeSeal | None = None
        self._results_seal: RobotSeal | None = None
        if keys is not None:
            both = SessionKeys.unpack(keys)
            self._calls_seal, self._results_seal = EdgeSeal(both), RobotSeal(both)
        self._sealed = 0
        self._foreign = 0
        limit = {"max_message_bytes": _MAX_MESSAGE_BYTES}
        self._calls = MessageReceiver(**limit)
        self._results = MessageReceiver(**limit)
        self._parts: list[bytes] = []

    def take(self, message: Any, *, calls: bool) -> None:
        self.session.messages += 1
        if message.flags & FLAG_ACK_ONLY:
            return
        data = self._opened(message, calls=calls)
        if data is None:
            return
        receiver = self._calls if calls else self._results
        more = bool(message.flags & FLAG_MORE)
        size = len(data)
        if message.flags & FLAG_PACKED:
            data = unpacked(data, _MAX_MESSAGE_BYTES)
        whole = receiver.receive(int(message.sequence), more, data, 0.0)
        if calls:
            self.session.bytes_sent += size
            self.session.batches += [bytes(batch) for batch in whole]
        else:
            self.session.bytes_received += size
            self._parts += [bytes(batch) for batch in whole]

    def _opened(self, message: Any, *, calls: bool) -> bytes | None:
        """The message's data; None if it is sealed and not to be opened."""
        data: bytes = message.data.tobytes()
        # Bags of before have no such field.
        number = int(getattr(message, "seal", 0))
        if not number and self._calls_seal is None:
            return data
        session, sequence, flags = message.session.tobytes(), int(message.sequence), message.flags
        if self._calls_seal is None or self._results_seal is None:
            self._sealed += 1
            return None
        try:
            if calls:
                sent = CallsMessage(
                    session, sequence, int(message.results_ack), int(flags), data, number
                )
                return bytes(self._calls_seal.calls(sent, _MAX_MESSAGE_BYTES).data)
            came = ResultsMessage(
                session, sequence, int(message.batches_ack), int(message.executed_call),
                tuple(int(one) for one in message.missing), int(flags), data, number,
            )  # fmt: skip
            return bytes(self._results_seal.results(came, _MAX_MESSAGE_BYTES).data)
        except ProtocolError:
            # Neither end took it either.
            self._foreign += 1
            return None

    def finish(self) -> None:
        session = self.session
        session.foreign = self._foreign
        if self._sealed:
            session.faults.append(
                f"its {self._sealed} messages are sealed and their keys are not in the bag; "
                "record on the robot, as the user of recorder_replayer, without --sealed"
            )
            session.unread = session.faults[-1]
        session.results = b"".join(self._parts)
        for name, receiver in (("calls", self._calls), ("results", self._results)):
            missing = receiver.missing()
            if missing:
                fault = f"{name}: message {missing[0]} is missing"
                if self._foreign:
                    fault += f" ({self._foreign} messages were changed, or are a stranger's)"
                session.faults.append(fault)
                if name == "calls":
                    session.unread = f"{fault} from the bag; record the session from its beginning"
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


def keys_file(folder: Path) -> Path:
    """Where the keys of a sealed bag are, if somebody has them."""
    folder = folder.absolute()
    return folder.with_name(folder.name + KEYS_SUFFIX)


def _keys_apart(folder: Path) -> dict[str, bytes]:
    """Session -> keys, from the file beside a bag.

    Raises:
        ConfigError: A line of it is none of a session's.
    """
    path = keys_file(folder)
    try:
        lines = path.read_text().splitlines()
        return {session: bytes.fromhex(keys) for session, keys in map(str.split, lines)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} has not the keys of a bag: {error}; remove it") from error


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


def _messages(reader: AnyReader, names: Sequence[str]) -> Iterator[tuple[Any, bytes]]:
    """Connection and bytes of the messages of some topics, by the last part of their names."""
    chosen = [c for c in reader.connections if c.topic.rpartition("/")[2] in names]
    # Without connections the reader gives the messages of all.
    if chosen:
        for connection, _, data in reader.messages(connections=chosen):
            yield connection, data


def _read_bag(folder: Path) -> list[RecordedSession]:
    found: dict[str, _Streams] = {}
    keys = _keys_apart(folder)

    def streams(session: str) -> _Streams:
        if session not in found:
            found[session] = _Streams(RecordedSession(session), keys.get(session))
        return found[session]

    try:
        reader = AnyReader([folder], default_typestore=typestore())
        reader.open()
    except (AnyReaderError, OSError) as error:
        raise ConfigError(
            f"{folder} is no bag that can be read: {error}. If its recording was killed, `rrto "
            f"bag repair {folder}` saves what is in it"
        ) from error
    with contextlib.closing(reader):
        for connection, data in _messages(reader, (KEYS,)):
            message: Any = reader.deserialize(data, connection.msgtype)
            keys[message.session.tobytes().hex()] = message.keys.tobytes()
        for connection, data in _messages(reader, NAMES[:3]):
            message = reader.deserialize(data, connection.msgtype)
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
