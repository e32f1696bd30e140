"""What a search is asked, and what it answers."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from rrto_ros.api.ops import Kind
from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.wire.format import HEADER_BYTES
from rrto_ros.wire.plan import Plan, Varying, check
from rrto_ros.wire.templates import CallTemplate


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Parameters of a search.

    Attributes:
        min_repetitions: How often a sequence must have been seen, from 2.
        min_length: Shortest sequence, calls.
        max_length: Longest sequence, calls.
        max_varying: 8-byte words that may differ from one inference to the next.
        memory_limit_bytes: What the search may hold, by estimate.
    """

    min_repetitions: int = 2
    min_length: int = 3
    max_length: int = 32768
    max_varying: int = 256
    memory_limit_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.min_repetitions < 2:
            raise ConfigError(f"min_repetitions {self.min_repetitions}: at least 2 are needed")
        if not 1 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"sequence lengths from {self.min_length} to {self.max_length}: wanted are "
                "1 <= min_length <= max_length"
            )
        if self.max_varying < 0 or self.memory_limit_bytes < 1 << 20:
            raise ConfigError("max_varying must not be negative, memory_limit_bytes 1 MiB or more")


@dataclass(frozen=True)
class Sequence:
    """An inference operator sequence that was found.

    Attributes:
        items: Its calls. Where bytes vary, an item has those of the newest inference.
        varying: What differs between inferences, ascending.
        start: Position in the log where it was first seen.
        last: Position in the log where it was last seen (its first call).
        repetitions: How often it was seen, set-up witnesses not counted.
        thread: None if it was found in the session's order, else the thread whose own order it
            follows (other threads' calls come between).
        is_round: It begins with input from the program; else it is a piece of longer inferences
            that do not repeat as a whole.
    """

    items: tuple[CallTemplate, ...]
    varying: tuple[Varying, ...] = ()
    start: int = 0
    last: int = 0
    repetitions: int = 0
    thread: int | None = None
    is_round: bool = True

    def __len__(self) -> int:
        return len(self.items)

    def _of_kind(self, kind: Kind) -> tuple[int, ...]:
        return tuple(i for i, item in enumerate(self.items) if item.kind is kind)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Indices of the calls that bring data from the program (`memcpy_htod`)."""
        return self._of_kind(Kind.INPUT)

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """Indices of the calls that bring data to the program (`memcpy_dtoh`)."""
        return tuple(i for i, item in enumerate(self.items) if item.op.brings_memory)

    @cached_property
    def sync_points(self) -> tuple[int, ...]:
        """Indices of all calls whose result the program can observe."""
        return tuple(sorted(self._of_kind(Kind.SYNC) + self._of_kind(Kind.POLL)))

    @cached_property
    def polls(self) -> tuple[int, ...]:
        """Indices of queries that the program may make any number of times in a row."""
        return self._of_kind(Kind.POLL)

    @property
    def input_bytes(self) -> int:
        """Bytes that one inference brings from the program."""
        return sum(self.items[i].payload_bytes for i in self.inputs)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name the sequence: its calls with what varies blanked out."""
        state = hashlib.sha256(struct.pack("<q", -1 if self.thread is None else self.thread))
        blank: dict[int, list[Varying]] = {}
        for v in self.varying:
            blank.setdefault(v.call, []).append(v)
        for i, item in enumerate(self.items):
            body = bytearray(item.body)
            for v in blank.get(i, ()):
                at = v.offset - HEADER_BYTES
                body[at : at + v.size] = bytes(v.size)
            state.update(struct.pack("<HII", item.code, item.payload_bytes, len(body)))
            state.update(body)
        for v in self.varying:
            state.update(struct.pack("<III", v.call, v.offset, v.size))
        return state.digest()


class Search(Protocol):
    """A search over one log."""

    def update(self, *, last: bool = False) -> bool:
        """Look at the calls that were logged since the last time.

        Args:
            last: No others will come.

        Returns:
            Whether `found` may have changed.
        """
        ...

    def found(self) -> tuple[Sequence, ...]:
        """The sequences known now, the most useful first."""
        ...

    def statistics(self) -> Mapping[str, int | float | str]: ...


def shared_prefix(a: Sequence, b: Sequence) -> int:
    """How many first calls two sequences share; variants of one inference share some."""
    count = 0
    for x, y in zip(a.items, b.items, strict=False):
        if x != y:
            break
        count += 1
    return count


def plan_of(sequence: Sequence) -> Plan:
    """The plan of a sequence that was found.

    Raises:
        ProtocolError: The sequence cannot be a plan (too long, or it varies outside its bodies).
    """
    bodies = {v.call: bytearray(sequence.items[v.call].body) for v in sequence.varying}
    for v in sequence.varying:
        at = v.offset - HEADER_BYTES
        if at < 0 or at + v.size > len(bodies[v.call]):
            raise ProtocolError(f"call {v.call} of the sequence varies outside its fields")
        bodies[v.call][at : at + v.size] = bytes(v.size)
    calls = tuple(
        CallTemplate(item.code, item.payload_bytes, bytes(bodies.get(i, item.body)))
        for i, item in enumerate(sequence.items)
    )
    plan = Plan(calls, tuple(sorted(sequence.varying)))
    check(plan)
    return plan
