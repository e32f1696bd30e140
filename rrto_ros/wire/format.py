"""Numbers and small rules of the wire format that every part shares (docs/wire_format.md)."""

from __future__ import annotations

import hashlib
import struct
from typing import TypeAlias

from rrto_ros.api.ops import CONTROL, OPS
from rrto_ros.api.ring_layout import LAYOUT
from rrto_ros.errors import ProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

PROTOCOL_VERSION = 1

FLAG_WAITED = 1
"""A program thread waits for this call's result now: flush."""
FLAG_REPLY = 2
"""Send a result record for this call."""
FLAG_BLOB_REF = 4
"""The payload is a blob reference."""
FLAG_KEEP = 8
"""Keep the payload as a blob under its SHA-256."""
ALL_FLAGS = FLAG_WAITED | FLAG_REPLY | FLAG_BLOB_REF | FLAG_KEEP
FLAG_SPECULATIVE = 16
"""In a reference's marks only: the result is wanted unless it was pushed already."""

RESULT_STICKY = 1
"""An asynchronous call failed; every later call fails with this status."""
RESULT_BLOB_WANTED = 2
"""The server lacks the blob that the call refers to; never given to the program."""
RESULT_CONTROL = 4
"""No result: recorder_replayer tells the shim about plans. Only in the reply ring."""
RESULT_SPECULATIVE = 8
"""The result that a call will have if the program goes on as its plan does; not given to the
program before it makes that call."""
RESULT_ROLLED_BACK = 16
"""No result: what speculation has cost so far; never given to the program."""
RESULT_PRINTED = 32
"""No result: what kernels printed, for the program's standard output."""
RESULT_ERRORS = 64
"""With RESULT_PRINTED: what assertions said, for the program's standard error output."""
RESULT_STATE = 128
"""No result: a piece of a checkpoint, whose number is in the index's place; never given to the
program."""
RESULT_PROFILE = 256
"""No result: a part of a profile, whose number is in the index's place; never given to the
program."""
RESULT_CONTAINED = 512
"""No result: of the plan whose number is in the index's place it is known from a call on, whose
number is the data, that nothing of an inference but its last one's writes outlives it; never given
to the program."""
ALL_RESULT_FLAGS = (
    RESULT_STICKY
    | RESULT_BLOB_WANTED
    | RESULT_SPECULATIVE
    | RESULT_ROLLED_BACK
    | RESULT_PRINTED
    | RESULT_ERRORS
    | RESULT_STATE
    | RESULT_PROFILE
    | RESULT_CONTAINED
)

(
    BLOB_DATA_OP, PLAN_DEFINE_OP, PLAN_REF_OP, PLAN_TAKEN_OP, RESULTS_WANTED_OP,
    CHECKPOINT_OP, MEMORY_RESTORE_OP, PROFILE_OP, QUANTISED_READ_OP, QUANTISED_WRITE_OP,
) = (op.code for op in CONTROL)  # fmt: skip

CALL_HEADER = struct.Struct("<IHHQII")
RESULT_HEADER = struct.Struct("<IIQII")
HEADER_BYTES = 24
PADDING_OP = 0
PADDING_STATUS = 0xFFFFFFFF
BLOB_REF = struct.Struct("<32sQ")


def _table_text() -> str:
    """Canonical text of records, ring and messages: one line each, in order."""
    lines = [f"rrto ops {PROTOCOL_VERSION}"]
    lines += [
        f"{op.code} {op.name} {' '.join(f'{n}:{t}' for n, t in op.fields)} -> {op.reply}"
        for op in (*OPS, *CONTROL)
    ]
    lines += [f"{name} {value}" for name, value in LAYOUT.items()]
    lines += ["packed messages: zstd filtered shuffled palette"]
    return "\n".join(lines) + "\n"


TABLE_HASH = hashlib.sha256(_table_text().encode()).digest()
"""32 bytes by which two ends know that they speak the same records through the same ring."""


def pad8(size: int) -> int:
    """`size` rounded up to a multiple of 8."""
    return (size + 7) & ~7


def check_padding(offset: int, size: int, limit: int) -> None:
    """Check the 8 bytes' worth of padding record at `offset` (any size from 8 up)."""
    if size < 8 or size % 8 or offset + size > limit:
        raise ProtocolError(
            f"padding record at byte {offset}: size {size} is not a multiple of 8 within the "
            f"buffer's {limit} bytes"
        )
