"""The content of a message in fewer bytes, bit for bit: owns the forms, and both directions.

docs/wire_format.md, "Packed messages". Zstandard alone finds little in a camera's picture or in
numbers of a network. So what is in a message is first made regular, in one of three ways:

- `filtered`: bytes less their neighbours, of the same channel (`distance`) and of the line before
  (`pitch`), as PNG's filters Sub and Up (W3C PNG, 9.2), one after the other. Pictures.
- `shuffled`: all first bytes of the words, then all second ones (as in Blosc and HDF5). Numbers.
- `palette`: the places of 32-bit words in tables of 256, and those filtered. Floats that were the
  bytes of a picture; a table for each channel where they are interleaved (`lanes`).

What is best, and whether it pays, is `packing.py`'s to say. Nothing of a message is believed
before it was checked against the message's bound.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rrto_ros.errors import ProtocolError, UnavailableError
from rrto_ros.wire.format import Buffer
from rrto_ros.zstd import codec, unpack

MAGIC = b"RC1"
"""No Zstandard frame begins so."""
LEVEL = 1
BLOCK_WORDS = 1024
"""Of one table, or of none."""
MOST_TABLES, MOST_LANES = 16, 4
ENTRIES = 256
MOST_DISTANCE, MOST_PITCH = 16, 1 << 20
NO_TABLE = 255
FILTERED, SHUFFLED, PALETTE = 1, 2, 3
_HEAD = struct.Struct("<3sBI")
_STREAM = struct.Struct("<BxxxIII")
_WIDTH = struct.Struct("<I")
_TABLES = struct.Struct("<BBxx")

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Filter:
    """What is subtracted from a byte; 0: nothing.

    Attributes:
        distance: Bytes to the same channel of the neighbour.
        pitch: Bytes to the line before.
    """

    distance: int = 0
    pitch: int = 0

    def apply(self, data: Bytes) -> Bytes:
        """The differences."""
        for step in (self.distance, self.pitch):
            if 0 < step < len(data):
                out = np.empty_like(data)
                out[:step] = data[:step]
                np.subtract(data[step:], data[:-step], out=out[step:])
                data = out
        return data

    def undo(self, data: Bytes) -> Bytes:
        """What had these differences."""
        for step in (self.pitch, self.distance):
            if 0 < step < len(data):
                data = _summed(data, step)
        return data


@dataclass(frozen=True, slots=True)
class Tables:
    """Words in the places of a message, by table and lane.

    Attributes:
        words: [tables, lanes, ENTRIES].
        blocks: Table of each block of `BLOCK_WORDS`, or `NO_TABLE`.
        places: Of the words of blocks with a table, in their order.
    """

    words: Words
    blocks: Bytes
    places: Bytes


def filtered(data: Buffer, how: Filter) -> bytes:
    """A message, filtered."""
    return _HEAD.pack(MAGIC, FILTERED, len(data)) + _stream(np.frombuffer(data, np.uint8), how)


def shuffled(data: Buffer, width: int = 4) -> bytes:
    """A message, its bytes sorted by their place in the word; what is over at its end stays."""
    whole = np.frombuffer(data, np.uint8)
    size = len(whole) - len(whole) % width
    planes = whole[:size].reshape(-1, width).T.reshape(-1)
    head = _HEAD.pack(MAGIC, SHUFFLED, len(whole)) + _WIDTH.pack(width)
    return head + _stream(planes, Filter()) + whole[size:].tobytes()


def with_palette(data: Buffer, tables: Tables, how: Filter) -> bytes:
    """A message whose words are in tables, as far as they are.

    Args:
        data: The message.
        tables: Of its words.
        how: The filter of the places.
    """
    whole = np.frombuffer(data, np.uint8)
    blocks = len(tables.blocks)
    size = blocks * BLOCK_WORDS * 4
    plain = whole[:size].reshape(blocks, -1)[tables.blocks == NO_TABLE].reshape(-1)
    count, lanes, _ = tables.words.shape
    return b"".join((
        _HEAD.pack(MAGIC, PALETTE, len(whole)),
        _TABLES.pack(count, lanes),
        tables.words.astype("<u4").tobytes(),
        tables.blocks.tobytes(),
        _stream(tables.places, how),
        _stream(plain, Filter()),
        whole[size:].tobytes(),
    ))  # fmt: skip


def decoded(data: Buffer, most: int) -> bytes:
    """The message that one of the above was made of.

    Args:
        data: As it came.
        most: The message has at most so many bytes.

    Raises:
        ProtocolError: It is damaged, or holds more.
    """
    view = memoryview(data).cast("B")
    if len(view) < _HEAD.size:
        raise ProtocolError(f"{len(view)} bytes are no coded message")
    magic, form, size = _HEAD.unpack_from(view)
    if magic != MAGIC or form not in _FORMS:
        raise ProtocolError(f"a message is coded in form {form}, which is none")
    if size > most:
        raise ProtocolError(f"a coded message holds {size} bytes, at most {most} agreed")
    try:
        return _FORMS[form](view[_HEAD.size :], size)
    except (ValueError, struct.error, IndexError, UnavailableError) as error:
        raise ProtocolError(f"a coded message of {len(view)} bytes: {error}") from error


def _stream(data: Bytes, how: Filter) -> bytes:
    """Bytes, filtered and packed: how, sizes, and they themselves."""
    packed = codec().compress(np.ascontiguousarray(how.apply(data)), LEVEL)
    return _STREAM.pack(how.distance, how.pitch, len(data), len(packed)) + bytes(packed)


def _read_stream(view: memoryview, most: int) -> tuple[Bytes, memoryview]:
    """What `_stream` made, still filtered by nothing, and what follows it."""
    distance, pitch, size, packed = _STREAM.unpack_from(view)
    rest = view[_STREAM.size :]
    if distance > MOST_DISTANCE or pitch > MOST_PITCH or size > most or packed > len(rest):
        raise ValueError(f"{packed} bytes of {size}, at most {most}, by {distance} and {pitch}")
    data = np.frombuffer(unpack(rest[:packed], size), np.uint8) if size else np.empty(0, np.uint8)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, {size} were said")
    return Filter(distance, pitch).undo(data), rest[packed:]


def _of_filtered(view: memoryview, size: int) -> bytes:
    data, rest = _read_stream(view, size)
    if len(data) != size or len(rest):
        raise ValueError("it has another size")
    return data.tobytes()


def _of_shuffled(view: memoryview, size: int) -> bytes:
    (width,) = _WIDTH.unpack_from(view)
    if width not in (2, 4, 8):
        raise ValueError(f"words of {width} bytes")
    planes, rest = _read_stream(view[_WIDTH.size :], size)
    if len(planes) != size - size % width or len(rest) != size % width:
        raise ValueError("it has another size")
    whole: bytes = planes.reshape(width, -1).T.tobytes()
    return whole + bytes(rest)


def _of_palette(view: memoryview, size: int) -> bytes:
    count, lanes = _TABLES.unpack_from(view)
    if count > MOST_TABLES or not 1 <= lanes <= MOST_LANES:
        raise ValueError(f"{count} tables of {lanes} lanes")
    blocks = size // (BLOCK_WORDS * 4)
    at = _TABLES.size + count * lanes * ENTRIES * 4
    words = np.frombuffer(view[_TABLES.size : at], "<u4").reshape(count, lanes * ENTRIES)
    kinds = np.frombuffer(view[at : at + blocks], np.uint8)
    if len(kinds) != blocks or np.any((kinds >= count) & (kinds != NO_TABLE)):
        raise ValueError("its blocks are of tables that it has not")
    coded = kinds != NO_TABLE
    places, rest = _read_stream(view[at + blocks :], size)
    plain, rest = _read_stream(rest, size)
    used = int(coded.sum())
    over = size - blocks * BLOCK_WORDS * 4
    if (
        len(places) != used * BLOCK_WORDS
        or len(plain) != (blocks - used) * BLOCK_WORDS * 4
        or len(rest) != over
    ):
        raise ValueError("its parts have other sizes")
    out = np.empty((blocks, BLOCK_WORDS), "<u4")
    lane = lanes_of(blocks, lanes)
    rows = places.reshape(used, BLOCK_WORDS).astype(np.int32)
    rows += lane[coded] * ENTRIES
    which = kinds[coded]
    found = np.empty((used, BLOCK_WORDS), "<u4")
    for table in range(count):
        mine = which == table
        if mine.any():
            found[mine] = words[table][rows[mine]]
    out[coded] = found
    out[~coded] = plain.view("<u4").reshape(-1, BLOCK_WORDS)
    return out.tobytes() + bytes(rest)


def lanes_of(blocks: int, lanes: int) -> Any:
    """The lane of each word, [blocks, BLOCK_WORDS], small integers."""
    if lanes == 1:
        return np.zeros((blocks, 1), np.int32)
    places = np.arange(blocks * BLOCK_WORDS, dtype=np.int32)
    return (places % lanes).reshape(blocks, BLOCK_WORDS)


def _summed(data: Bytes, step: int) -> Bytes:
    """Each byte plus those that are 1, 2, ... steps before it."""
    rows = -(-len(data) // step)
    padded = np.zeros(rows * step, np.uint8)
    padded[: len(data)] = data
    table = padded.reshape(rows, step)
    if step >= 64:
        # Few long lines: adding line to line goes along them.
        for row in range(1, rows):
            table[row] += table[row - 1]
    else:
        np.cumsum(table, axis=0, dtype=np.uint8, out=table)
    return padded[: len(data)]


_FORMS = {FILTERED: _of_filtered, SHUFFLED: _of_shuffled, PALETTE: _of_palette}
