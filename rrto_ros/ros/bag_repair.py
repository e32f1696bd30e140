"""`rrto bag repair`: makes a bag whose recording was killed readable again.

A recording that ends by force leaves an MCAP file without its end, and no metadata.yaml. What was
written is whole up to the last record, since a record is only ever appended: the file is cut
there and given an end without a summary, which rosbags reads by scanning. From that a new bag is
written, with all indexes; the old folder stays beside it.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rrto_ros.errors import ConfigError

MAGIC = b"\x89MCAP0\r\n"
"""First and last bytes of an MCAP file (mcap.dev/spec)."""
_RECORD = struct.Struct("<BQ")
"""Opcode and length of the record that follows."""
_FOOTER, _DATA_END = 0x02, 0x0F
DAMAGED = ".damaged"


@dataclass(frozen=True)
class Repaired:
    """What a repair came to.

    Attributes:
        messages: In the repaired bag; 0 if nothing had to be done.
        lost_bytes: Of the record that was being written.
        kept: Where the old files are, None if nothing had to be done.
    """

    messages: int
    lost_bytes: int
    kept: Path | None


def whole_until(path: Path) -> int:
    """Where the last whole record of an MCAP file ends that is not part of the file's end.

    Raises:
        ConfigError: It is no MCAP file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        if start != MAGIC:
            raise ConfigError(
                f"{path} is no MCAP file: it begins with {start!r}, want {MAGIC!r}. Bags of other "
                "tools: `ros2 bag reindex`"
            )
        at = len(MAGIC)
        while at + _RECORD.size <= size:
            op, length = _RECORD.unpack(file.read(_RECORD.size))
            end = at + _RECORD.size + length
            if end > size or op in (_DATA_END, _FOOTER):
                break
            at = end
            file.seek(at)
    return at


@contextmanager
def _readable(path: Path, until: int) -> Iterator[McapReader]:
    """A reader of the first `until` bytes of an MCAP file, which are given an end."""
    with path.open("r+b") as file:
        file.truncate(until)
        file.seek(until)
        file.write(_RECORD.pack(_DATA_END, 4) + bytes(4))
        file.write(_RECORD.pack(_FOOTER, 20) + bytes(20) + MAGIC)
    reader = McapReader(path)
    reader.open()
    try:
        yield reader
    finally:
        reader.close()


def _sound(folder: Path) -> bool:
    try:
        with Reader(folder):
            return True
    except Exception:
        # Whatever the readers of YAML and MCAP make of a damaged file.
        return False


def repair(folder: Path) -> Repaired:
    """Make a bag readable that was not closed.

    Args:
        folder: The bag; it is replaced by the repaired one, the old one is kept as
            `<folder>.damaged`.

    Raises:
        ConfigError: It is no folder with an MCAP file, nothing in it can be saved, or something
            is in the way.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder, want that of a bag")
    if _sound(folder):
        return Repaired(0, 0, None)
    files = sorted(folder.glob("*.mcap"))
    if len(files) != 1:
        raise ConfigError(
            f"{folder} has {len(files)} MCAP files, want the one that `rrto bag record` writes. "
            "Bags of other tools: `ros2 bag reindex`"
        )
    until = whole_until(files[0])
    lost = files[0].stat().st_size - until
    if until == len(MAGIC):
        raise ConfigError(f"{files[0]} ends before its first record: there is nothing to save")
    kept = folder.with_name(folder.name + DAMAGED)
    new = folder.with_name(folder.name + ".repairing")
    for path in (kept, new):
        if path.exists():
            raise ConfigError(f"{path} is in the way; move it elsewhere and try again")
    try:
        with _readable(files[0], until) as reader:
            messages = _copy(reader, new)
    except Exception as error:
        # Whatever the readers of MCAP and of message types make of a damaged file.
        shutil.rmtree(new, ignore_errors=True)
        raise ConfigError(f"{folder} cannot be repaired: {error}") from error
    folder.rename(kept)
    # The file in a bag is named after its folder, in the metadata too, which any name satisfies.
    new.rename(folder)
    return Repaired(messages, lost, kept)


def _copy(reader: McapReader, folder: Path) -> int:
    """Write everything that a reader has into a new bag; returns how many messages."""
    messages = 0
    # The types as they were when the bag was recorded: the file holds them.
    store = get_typestore(Stores.EMPTY)
    for one in reader.connections:
        store.register(get_types_from_msg(one.msgdef.data, one.msgtype))
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            one.id: writer.add_connection(one.topic, one.msgtype, typestore=store)
            for one in reader.connections
        }
        for connection, time_ns, data in reader.messages(reader.connections):
            writer.write(connections[connection.id], time_ns, data)
            messages += 1
    return messages
