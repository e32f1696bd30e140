"""Pieces of a checkpoint: owns their bytes, both ways (docs/wire_format.md, "Checkpoints").

A checkpoint says what device memory holds that the robot does not know yet. Memory is looked at in
blocks of `BLOCK_BYTES`, counted from the start of each live range. Per range there is one piece
that says that it lives; then one for each of its blocks whose content the robot lacks, with the
content itself, or with the upload whose content it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from rrto_ros.errors import ProtocolError
from rrto_ros.wire.format import Buffer
from rrto_ros.zstd import codec, unpack

BLOCK_BYTES = 64 << 10
MAX_BLOCKS_BYTES = 1 << 20
"""Of content in one result record, before it is packed."""
MAX_PIECES = 1024
"""In one result record."""
_PIECE = struct.Struct("<IIQQQQ")


class PieceKind(IntEnum):
    """What a piece says."""

    LIVE = 0
    """This range holds memory of the session."""
    CONTENT = 1
    """These bytes are in a block."""
    UPLOAD = 2
    """A block holds what an upload brought, from an offset on."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece.

    Attributes:
        kind: What it says.
        address: Of the range or block.
        size: Its bytes.
        call: Index of the upload's call.
        offset: Of the block in that upload.
        content: Of the block.
    """

    kind: PieceKind
    address: int
    size: int
    call: int = 0
    offset: int = 0
    content: Buffer = b""


def pack_pieces(pieces: list[Piece]) -> bytes:
    """The payload of one result record."""
    out: list[Buffer] = []
    for p in pieces:
        out.append(_PIECE.pack(p.kind, 0, p.address, p.size, p.call, p.offset))
        out.append(p.content)
    return bytes(codec().compress(b"".join(out), 1))


def read_pieces(payload: Buffer) -> Iterator[Piece]:
    """The pieces that `pack_pieces` packed.

    Raises:
        ProtocolError: They do not fit the format.
    """
    most = MAX_BLOCKS_BYTES + MAX_PIECES * _PIECE.size
    try:
        data = memoryview(unpack(payload, most))
    except ValueError as error:
        raise ProtocolError(f"pieces of a checkpoint: {error}") from error
    at = 0
    while at < len(data):
        if len(data) - at < _PIECE.size:
            raise ProtocolError(f"piece of a checkpoint: {len(data) - at} bytes are left for it")
        kind, _, address, size, call, offset = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        content: Buffer = b""
        if kind not in iter(PieceKind) or address + size >= 1 << 64:
            raise ProtocolError(f"piece of a checkpoint of kind {kind} at 0x{address:x}+{size}")
        if kind == PieceKind.CONTENT:
            content = bytes(data[at : at + size])
            at += size
            if len(content) != size or size > BLOCK_BYTES:
                raise ProtocolError(f"block of {size} bytes, {len(content)} came")
        yield Piece(PieceKind(kind), address, size, call, offset, content)
