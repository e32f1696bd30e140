"""A profile's pieces: owns their bytes, both ways (docs/wire_format.md, "Profiles").

A profile says what the calls of an inference cost and touch where a worker executed them. Per call
there is one piece, or one for each node of the graph that it launches.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rrto_ros.api.ops import Kind
from rrto_ros.errors import ProtocolError
from rrto_ros.wire.accesses import Range, merged
from rrto_ros.wire.format import RESULT_PROFILE, Buffer
from rrto_ros.wire.result_codec import ResultRecord
from rrto_ros.zstd import codec, unpack

MAX_CALLS = 1 << 15
"""Of an inference that is profiled."""
MAX_PIECES = 1 << 17
MAX_PROFILE_BYTES = 64 << 20
"""Of all pieces of a profile, before they are packed."""
MAX_RECORD_BYTES = 1 << 20
"""Of pieces in one result record, before they are packed; any piece is shorter."""
MAX_NAME_BYTES = 4096
MAX_RANGES = 1 << 14
"""That a piece reads, writes or covers."""
_PIECE = struct.Struct("<IHHIIIIIQd")
_READS_UNKNOWN, _WRITES_UNKNOWN, _CONSTANT = 1, 2, 4
_ALL_FLAGS = _READS_UNKNOWN | _WRITES_UNKNOWN | _CONSTANT
_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class ProfiledCall:
    """A call as it was executed, or a node of a graph that it launches.

    Ranges are in order and apart from each other.

    Attributes:
        call: Place of the call in the inference, from 0.
        kind: The operation's kind.
        name: The kernel's name, or the operation's.
        reads: Ranges that it may read; None: any memory.
        writes: Ranges that it may write; None: any memory.
        covers: Ranges that it writes for certain, whole.
        uploaded: Bytes that it brings from the program.
        constant: Whether they were the same each time, and it was executed more than once.
        times: How often it was executed.
        typical: Seconds of one execution.
    """

    call: int
    kind: Kind
    name: str
    reads: tuple[Range, ...] | None = ()
    writes: tuple[Range, ...] | None = ()
    covers: tuple[Range, ...] = ()
    uploaded: int = 0
    constant: bool = False
    times: int = 0
    typical: float = 0.0


def pack_profile(calls: Iterable[ProfiledCall]) -> list[bytes]:
    """The payloads of the result records that tell a profile.

    Ranges that are too many, or no memory, are told as not known: that is never wrong.

    Args:
        calls: In order.

    Raises:
        ValueError: They are too many.
    """
    out: list[bytes] = []
    part: list[bytes] = []
    size = total = 0
    for pieces, one in enumerate(calls, 1):
        data = _pack(one)
        total += len(data)
        if pieces > MAX_PIECES or total > MAX_PROFILE_BYTES:
            raise ValueError(
                f"a profile of more than {MAX_PIECES} pieces or {MAX_PROFILE_BYTES} bytes"
            )
        if part and size + len(data) >= MAX_RECORD_BYTES:
            out.append(_compressed(part))
            part, size = [], 0
        part.append(data)
        size += len(data)
    if part:
        out.append(_compressed(part))
    return out


def _compressed(part: list[bytes]) -> bytes:
    return bytes(codec().compress(b"".join(part), 1))


def _pack(one: ProfiledCall) -> bytes:
    name = one.name.encode(errors="replace")[:MAX_NAME_BYTES]
    if len(name) == MAX_NAME_BYTES:
        name = name.decode(errors="ignore").encode()  # not in the middle of a character
    reads, writes = _told(one.reads), _told(one.writes)
    covers = _told(one.covers) or []
    flags = (
        _READS_UNKNOWN * (reads is None)
        | _WRITES_UNKNOWN * (writes is None)
        | _CONSTANT * one.constant
    )
    spans = [*(reads or ()), *(writes or ()), *covers]
    head = _PIECE.pack(
        one.call, one.kind, flags, one.times, len(name), len(reads or ()), len(writes or ()),
        len(covers), one.uploaded, one.typical,
    )  # fmt: skip
    flat = [address for span in spans for address in span]
    return b"".join((head, name, struct.pack(f"<{len(flat)}Q", *flat)))


def _told(spans: tuple[Range, ...] | None) -> list[Range] | None:
    found = None if spans is None else merged(spans)
    if found and (len(found) > MAX_RANGES or found[-1][1] >= 1 << 64):
        return None
    return found


class ProfileReader:
    """Puts a profile together from its result records. Not thread-safe.

    Args:
        number: Of the profile.

    Attributes:
        calls: What was told so far, in order.
        done: Whether that is all, or there will be none.
        error: Why there is none, if so.
    """

    def __init__(self, number: int) -> None:
        self.calls: list[ProfiledCall] = []
        self.done = False
        self.error = ""
        self._number = number
        self._bytes = 0

    def take(self, result: ResultRecord) -> None:
        """Take the next record.

        Raises:
            ProtocolError: It is not one of this profile, or does not fit the format.
        """
        if result.flags != RESULT_PROFILE or result.index != self._number or self.done:
            raise ProtocolError(
                f"a part of profile {result.index} with flags 0x{result.flags:x}, "
                f"{'nothing' if self.done else f'profile {self._number}'} was expected"
            )
        if result.status:
            self.error = bytes(result.payload).decode(errors="replace") or "it failed"
            self.calls.clear()
            self.done = True
        elif len(result.payload):
            self._read(result.payload)
        else:
            self.done = True

    def _read(self, payload: Buffer) -> None:
        try:
            data = memoryview(unpack(payload, MAX_RECORD_BYTES))
        except ValueError as error:
            raise ProtocolError(f"pieces of a profile: {error}") from error
        self._bytes += len(data)
        if not data or self._bytes > MAX_PROFILE_BYTES:
            raise ProtocolError(
                f"pieces of a profile: {len(data)} bytes, {self._bytes} with those before, "
                f"at most {MAX_PROFILE_BYTES}"
            )
        for one in _pieces(data):
            if self.calls and one.call < self.calls[-1].call:
                raise ProtocolError(
                    f"piece of a profile: call {one.call} after call {self.calls[-1].call}"
                )
            if len(self.calls) >= MAX_PIECES:
                raise ProtocolError(f"a profile of more than {MAX_PIECES} pieces")
            self.calls.append(one)


def _pieces(data: memoryview) -> Iterator[ProfiledCall]:
    at = 0
    while at < len(data):
        if len(data) - at < _PIECE.size:
            raise ProtocolError(f"piece of a profile: {len(data) - at} bytes are left for it")
        call, kind, flags, times, name_bytes, *counts, uploaded, seconds = _PIECE.unpack_from(
            data, at
        )
        at += _PIECE.size
        if call >= MAX_CALLS or kind not in _KINDS or flags & ~_ALL_FLAGS:
            raise ProtocolError(
                f"piece of a profile: call {call} of {MAX_CALLS}, kind {kind}, flags 0x{flags:x}"
            )
        any_read, any_written = bool(flags & _READS_UNKNOWN), bool(flags & _WRITES_UNKNOWN)
        if max(counts) > MAX_RANGES or (any_read and counts[0]) or (any_written and counts[1]):
            raise ProtocolError(
                f"piece of a profile: {counts} ranges that it reads, writes and covers, at most "
                f"{MAX_RANGES} each, none where that is not known (flags 0x{flags:x})"
            )
        end = at + name_bytes + 16 * sum(counts)
        if name_bytes > MAX_NAME_BYTES or end > len(data):
            raise ProtocolError(
                f"piece of a profile: a name of {name_bytes} bytes and {counts} ranges in "
                f"{len(data) - at} bytes"
            )
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ProtocolError(f"piece of a profile: {seconds} seconds")
        try:
            name = bytes(data[at : at + name_bytes]).decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"piece of a profile: its name is no UTF-8: {error}") from error
        at += name_bytes
        spans: list[tuple[Range, ...]] = []
        for count in counts:
            spans.append(_ranges(data, at, count))
            at += 16 * count
        reads, writes, covers = spans
        yield ProfiledCall(
            call, Kind(kind), name, None if any_read else reads, None if any_written else writes,
            covers, uploaded, bool(flags & _CONSTANT), times, seconds,
        )  # fmt: skip


def _ranges(data: memoryview, at: int, count: int) -> tuple[Range, ...]:
    flat = struct.unpack_from(f"<{2 * count}Q", data, at)
    spans = tuple(zip(flat[::2], flat[1::2], strict=True))
    before = -1
    for start, end in spans:
        if not before < start < end:
            raise ProtocolError(
                f"piece of a profile: range 0x{start:x} to 0x{end:x} after one that ends at "
                f"0x{max(before, 0):x}"
            )
        before = end
    return spans
