"""What the recorder tells the shim about plans, and what the shim answers.

Control records go through the reply ring, as results do (docs/wire_format.md, "Plans in the
shim").
"""

from __future__ import annotations

import struct
from enum import IntEnum

from rrto_ros.wire.format import RESULT_CONTROL, RESULT_HEADER, Buffer, pad8

PIECE_BYTES = 64 << 10
"""A plan is told in pieces of so many bytes: any reply ring holds one."""
_CONTROL = struct.Struct("<4I")


class Control(IntEnum):
    """What a control record tells the shim."""

    PLAN = 1
    REMOVE = 2
    SETTINGS = 3


class Taken(IntEnum):
    """What the shim says about a plan."""

    INSTALLED = 1
    REMOVED = 2
    REFUSED = 3


def pack_control(kind: Control, *numbers: int, content: Buffer = b"") -> bytes:
    """A record for the reply ring that is no result.

    Args:
        kind: What it is.
        *numbers: Up to four words: plan number, total bytes, offset; or 0, apart, microseconds.
        content: Bytes of a plan.
    """
    words = _CONTROL.pack(*numbers, *[0] * (4 - len(numbers)))
    length = len(words) + len(content)
    header = RESULT_HEADER.pack(
        RESULT_HEADER.size + pad8(length), int(kind), 0, length, RESULT_CONTROL
    )
    return b"".join((header, words, content, bytes(-length % 8)))


def pack_install(number: int, data: Buffer, piece_bytes: int = PIECE_BYTES) -> list[bytes]:
    """The records that bring a plan's canonical bytes to the shim."""
    view = memoryview(data).cast("B")
    return [
        pack_control(Control.PLAN, number, len(view), at, content=view[at : at + piece_bytes])
        for at in range(0, len(view), piece_bytes)
    ]


def pack_remove(number: int) -> bytes:
    """The record after which the shim forgets a plan."""
    return pack_control(Control.REMOVE, number)


def pack_settings(*, apart: bool, flush_us: int = 0) -> bytes:
    """The record that says how the shim matches.

    Args:
        apart: Each thread is matched on its own.
        flush_us: After so many microseconds an open reference leaves, 0: the shim's choice.
    """
    return pack_control(Control.SETTINGS, 0, int(apart), flush_us)
