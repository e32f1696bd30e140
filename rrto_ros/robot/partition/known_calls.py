"""What the robot knows of a session's calls: owns what they touch, from PTX and arguments."""

from __future__ import annotations

from collections.abc import Sequence

from rrto_ros.api.ops import Work
from rrto_ros.execution.access_ranges import FOLLOWED, AccessRanges
from rrto_ros.schedule.dataflow import Touched
from rrto_ros.wire.accesses import Range, Typed, named
from rrto_ros.wire.codec import CallRecord
from rrto_ros.wire.descriptions import unpack_module_info

COPIES = frozenset((Work.NONE, Work.COPY))
"""Operations that write all of the range that they name."""


class KnownCalls:
    """One session's (`session.Knowledge`). Not thread-safe.

    Args:
        compute_capability: Of the device.
        beside: Kernels are looked at in a thread of its own, and unknown until then.
    """

    def __init__(self, compute_capability: tuple[int, int], *, beside: bool = True) -> None:
        self._ranges = AccessRanges(compute_capability, beside=beside)
        self._memory: tuple[Range, ...] = ()
        self._signature = self._ranges.memory.signature

    @property
    def code(self) -> tuple[int, int]:
        """Another value whenever modules or graphs are others."""
        return self._ranges.code

    @property
    def memory(self) -> Sequence[Range]:
        """Live memory, by address."""
        if self._signature != self._ranges.memory.signature:
            self._signature = self._ranges.memory.signature
            self._memory = tuple((base, base + size) for base, size in self._ranges.memory)
        return self._memory

    def follow(self, record: CallRecord) -> None:
        """A call is executed."""
        if record.op.code in FOLLOWED:
            self._ranges.followed(record)

    def loaded(self, record: CallRecord, info: bytes) -> None:
        """A module was loaded.

        Raises:
            ProtocolError: The answer is no description of a module.
        """
        image = bytes(record.payload or b"")
        self._ranges.loaded(record.values[0], unpack_module_info(info), image)

    def touched(self, record: CallRecord) -> Touched:
        """What a call touches; what a launch writes for certain is not known here."""
        _ = self._ranges.learnt  # takes what was found since
        op = record.op
        if op.work is Work.NONE:
            spans = named(op, record.fields(), len(record.payload or b""))
            return Touched(spans.reads, spans.writes, spans.writes)
        reads, writes = self._ranges.reads(record), self._ranges.writes(record)
        return Touched(reads, writes, (writes or ()) if op.work in COPIES else ())

    def written(self, record: CallRecord) -> Touched:
        """What a call of work may write, as if it read nothing; cheaper by far than all of it."""
        _ = self._ranges.learnt
        writes = self._ranges.writes(record)
        return Touched((), writes, writes or ())

    def close(self) -> None:
        """The session is over; its thread ends by itself."""
        self._ranges.close()

    def typed(self, record: CallRecord) -> Typed | None:
        """Which elements a call of work may access; None if that is not known."""
        _ = self._ranges.learnt
        return self._ranges.typed(record)

    def statistics(self) -> dict[str, int]:
        """Modules whose kernels were looked at, and kernels of which it is known."""
        return self._ranges.statistics()
